import assert from "node:assert/strict";
import { mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { realDisk } from "./real-env.ts";

test("realDisk.writeFileAtomic() names the file that a full disk had no room for", async (context) => {
  const folder = mkdtempSync(path.join(tmpdir(), "shoal-real-env-"));
  context.after(() => rmSync(folder, { recursive: true }));
  const file = path.join(folder, "record.json");
  symlinkSync("/dev/full", `${file}.${process.pid}.tmp`);
  await assert.rejects(realDisk.writeFileAtomic(file, Buffer.from("{}")), {
    code: "ENOSPC",
    message: `ENOSPC: no space left on device, write '${file}'`,
  });
});
