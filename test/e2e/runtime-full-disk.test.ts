/**
 * Containers whose disk is full: they are held back at their next output and lose no line if room comes, and all that would make
 * room (a signal, the end, the removal, a new daemon) works meanwhile.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import {
  closeSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { hasNodeCode } from "../../common/errors.ts";
import type { HostConfig } from "../../model/engine.ts";
import { RuntimeLab } from "./support/runtime-lab.ts";
import { until, WAIT_MS } from "./support/wait.ts";

const BLOCK_BYTES = 4_096;
const LOOP = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.005; done";

describe("a full disk", () => {
  let lab: RuntimeLab;
  let disk: string;
  let filler: string;

  before(async () => {
    lab = await RuntimeLab.open();
    disk = path.join(lab.root, "data/containers");
    filler = path.join(disk, ".filler");
    await lab.restart(() => {
      execFileSync("mount", ["-t", "tmpfs", "-o", "size=2m", "tmpfs", disk]);
      return Promise.resolve();
    });
  });

  after(async () => {
    makeRoom();
    for (const { id } of lab.engine.containers.summaries({}))
      await lab.engine.containers.remove(id, { force: true, volumes: true, link: false });
    execFileSync("umount", ["--lazy", disk]);
    await lab.close();
  });

  function fill(): void {
    const file = openSync(filler, "a");
    try {
      for (;;) writeSync(file, Buffer.alloc(BLOCK_BYTES));
    } catch (caught) {
      assert.ok(hasNodeCode(caught, "ENOSPC"));
    } finally {
      closeSync(file);
    }
  }

  function makeRoom(): void {
    rmSync(filler, { force: true });
  }

  function logFile(id: string): string {
    return path.join(disk, id, `${id}-json.log`);
  }

  /** A container that writes, and whose log has no room for its next line. */
  async function stuckContainer(hostConfig: HostConfig = {}): Promise<string> {
    const id = await lab.create(["sh", "-c", LOOP], hostConfig);
    await lab.engine.containers.start(id);
    await until("it has said something", WAIT_MS, () => statSync(logFile(id)).size > 0);
    fill();
    // The last block of the file has room for some more.
    await until(
      "its log is at the disk's end",
      WAIT_MS,
      () => statSync(logFile(id)).size % BLOCK_BYTES === 0,
    );
    return id;
  }

  /** Numbers of the lines in the log, each of which must be a whole one. */
  function lineNumbers(id: string): readonly number[] {
    const lines = readFileSync(logFile(id), "utf8").split("\n");
    assert.equal(lines.pop(), "", "the last line has its end");
    return lines.map((line) => Number(/^line (\d+)\n$/.exec((JSON.parse(line) as { log: string }).log)?.[1]));
  }

  test("holds a container back, which goes on where it was when there is room; a daemon that starts takes it over", async () => {
    const id = await stuckContainer();
    await lab.restart();
    assert.equal(lab.engine.containers.summary(id).state.isRunning, true);
    const { size } = statSync(logFile(id));
    makeRoom();
    await until("it goes on", WAIT_MS, () => statSync(logFile(id)).size > size);
    await lab.engine.containers.kill(id, "SIGKILL");
    await lab.engine.containers.wait(id, "not-running", {});
    const numbers = lineNumbers(id);
    assert.deepEqual(
      numbers,
      numbers.map((_, index) => index + 1),
    );
  });

  for (const mode of ["blocking", "non-blocking"]) {
    test(`keeps nobody from killing a container whose log mode is ${mode}, starting it anew and removing it`, async () => {
      const id = await stuckContainer({ LogConfig: { Type: "json-file", Config: { mode } } });
      const { containers } = lab.engine;
      await containers.kill(id, "SIGKILL");
      assert.equal((await containers.wait(id, "not-running", {})).exitCode, 137);
      makeRoom();
      const before = lineNumbers(id).length;
      await containers.start(id);
      await until("it writes whole lines again", WAIT_MS, () => lineNumbers(id).length > before);
      fill();
      await containers.remove(id, { force: true, volumes: true, link: false });
      makeRoom();
      assert.ok(containers.summaries({}).every((each) => each.id !== id));
    });
  }
});

describe("a full data root", () => {
  test("refuses a new container by name, and keeps nothing of it", async () => {
    const disk = mkdtempSync(path.join(tmpdir(), "shoal-full-root-"));
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=32m", "tmpfs", disk]);
    const lab = await RuntimeLab.open({ dataRoot: disk });
    const filler = path.join(disk, ".filler");
    try {
      const present = readdirSync(disk, { recursive: true }).length;
      assert.throws(() => writeFileSync(filler, Buffer.alloc(64 * 1024 ** 2)), { code: "ENOSPC" });
      const refusal = { code: "resource_exhausted", message: /no space left on device: / };
      for (const _ of [1, 2, 3]) await assert.rejects(lab.create(["true"]), refusal);
      rmSync(filler);
      assert.equal(readdirSync(disk, { recursive: true }).length, present);
      assert.equal((await lab.run(["true"])).exitCode, 0);
    } finally {
      rmSync(filler, { force: true });
      await lab.close();
      execFileSync("umount", ["--lazy", disk]);
      rmSync(disk, { recursive: true });
    }
  });
});
