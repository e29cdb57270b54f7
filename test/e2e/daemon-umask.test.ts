/** A daemon started under a umask of somebody's own: modes of what it makes are its own all the same. Needs root. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { describe, test } from "node:test";
import { START, stopChild } from "../../bench/contenders.ts";
import { ask, request } from "../../bench/docker-http.ts";
import { packageRoot } from "../../common/package-root.ts";
import { until } from "../../dev/until.ts";

const skip = process.getuid?.() === 0 ? false : "needs root";

describe("a daemon started under another umask", { skip }, () => {
  for (const umask of ["000", "077"]) {
    test(`${umask} makes the same folders, and its children start with 022`, async (context) => {
      const folder = mkdtempSync(path.join(tmpdir(), "shoal-umask-"));
      const socket = path.join(folder, "api.sock");
      const flags = ["data-root", "exec-root", "pidfile"].map(
        (name) => `--${name} ${path.join(folder, name)}`,
      );
      const program = path.join(packageRoot(import.meta.dirname), "bin/shoal");
      const line = `umask ${umask}; exec ${program} daemon ${flags.join(" ")} --host unix://${socket}`;
      const child = spawn("sh", ["-c", line], { stdio: "ignore" });
      context.after(async () => {
        await stopChild(child);
        rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
      });
      await until("the daemon answers", START, async () => {
        if (!existsSync(socket)) return false;
        return (await request(socket, "GET", "/version").catch(() => undefined))?.status === 200;
      });
      await ask(socket, "POST", "/volumes/create", { Name: "v1" });
      const mode = (name: string): string => (statSync(path.join(folder, name)).mode & 0o777).toString(8);
      assert.deepEqual(
        ["data-root", "data-root/volumes", "data-root/volumes/v1/_data", "exec-root", "pidfile"].map(mode),
        ["711", "711", "755", "711", "644"],
      );
      const pid = readFileSync(path.join(folder, "pidfile"), "utf8").trim();
      assert.match(readFileSync(`/proc/${pid}/status`, "utf8"), /^Umask:\s+0022$/m);
    });
  }
});
