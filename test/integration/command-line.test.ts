import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { packageRoot } from "../../common/package-root.ts";

const PROGRAM = path.join(packageRoot(import.meta.dirname), "bin/shoal");

/** What the command says on its error output, where no daemon is. */
function complaint(...argv: readonly string[]): string {
  const folder = mkdtempSync(path.join(tmpdir(), "shoal-command-line-"));
  try {
    writeFileSync(path.join(folder, "odd.env"), "two words=1\n");
    const result = spawnSync(PROGRAM, ["--host", `unix://${folder}/none.sock`, ...argv], {
      cwd: folder,
      encoding: "utf8",
    });
    assert.notEqual(result.status, 0);
    return result.stderr;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

test("bin/shoal keeps flags to itself that Node.js has too", () => {
  assert.match(complaint("run", "--env-file", "missing.env", "x"), /Cannot read --env-file "missing.env"/);
  assert.match(complaint("run", "--env-file=missing.env", "x"), /Cannot read --env-file "missing.env"/);
  assert.match(complaint("run", "--env-file", "odd.env", "x"), /odd.env:1: expected NAME=value/);
  assert.match(
    complaint("run", "--env-file-if-exists=missing.env", "x"),
    /^unknown flag: --env-file-if-exists/,
  );
});
