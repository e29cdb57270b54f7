import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { FolderLock } from "./folder-lock.ts";
import { PidFile } from "./pid-file.ts";

describe("one daemon for a folder", () => {
  let folder = "";
  before(async () => void (folder = await mkdtemp(path.join(tmpdir(), "shoal-lock-"))));
  after(() => rm(folder, { recursive: true }));

  test("FolderLock names the process that holds it, and is free once that process was killed", async () => {
    const source = `
      import { FolderLock } from ${JSON.stringify(path.join(import.meta.dirname, `folder-lock${path.extname(import.meta.filename)}`))};
      await FolderLock.take(${JSON.stringify(folder)}, "data root");
      console.log("held");
      setInterval(() => {}, 1000);`;
    const holder = spawn(process.execPath, ["--input-type=module", "-e", source], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    await once(holder.stdout, "data");
    await assert.rejects(
      FolderLock.take(folder, "data root", 0),
      new RegExp(`\\(process ${holder.pid}\\) uses data root "${folder}"`),
    );
    holder.kill("SIGKILL");
    const lock = await FolderLock.take(folder, "data root");
    await assert.rejects(FolderLock.take(folder, "data root", 0), new RegExp(`process ${process.pid}\\)`));
    lock.release();
    (await FolderLock.take(folder, "data root", 0)).release();
  });

  test("PidFile holds the pid and nothing else, and refuses only where a daemon runs under it", async () => {
    const file = path.join(folder, "run", "shoal.pid");
    const claimed = await PidFile.claim(file);
    assert.equal(await readFile(file, "utf8"), `${process.pid}\n`);
    await claimed.release();
    const source = `
      import { PidFile } from ${JSON.stringify(path.join(import.meta.dirname, `pid-file${path.extname(import.meta.filename)}`))};
      await PidFile.claim(${JSON.stringify(file)});
      console.log("held");
      setInterval(() => {}, 1000);`;
    const daemon = spawn(process.execPath, ["--input-type=module", "-e", source], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    await once(daemon.stdout, "data");
    await assert.rejects(PidFile.claim(file, 0), new RegExp(`process ${daemon.pid} runs with pid file`));
    daemon.kill("SIGKILL");
    await once(daemon, "exit");
    await (await PidFile.claim(file)).release();
    // Left over from before a crash of the machine: its number is another process' now, with a command line like a daemon's.
    const other = spawn(process.execPath, ["-e", "setInterval(() => {}, 1000)", "daemon"]);
    try {
      await writeFile(file, `${other.pid}\n`);
      await (await PidFile.claim(file)).release();
    } finally {
      other.kill("SIGKILL");
    }
    await assert.rejects(readFile(file), /ENOENT/);
  });
});
