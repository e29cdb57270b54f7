import assert from "node:assert/strict";
import { mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { realDisk, realTimers } from "./real-env.ts";

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

test("realTimers.after() waits for longer than a timer of Node's can, and can be cancelled then", async () => {
  let isFired = false;
  const thirtyDaysMs = 30 * 86_400_000;
  const cancel = realTimers.after(thirtyDaysMs, () => (isFired = true));
  // It would fire before this one, which is asked for later.
  await new Promise<void>((resolve) => realTimers.after(5, resolve));
  assert.equal(isFired, false);
  cancel();
});

test("realTimers.after() fires when what is longer than a timer of Node's has passed in parts", (context) => {
  context.mock.timers.enable({ apis: ["setTimeout"] });
  let firedCount = 0;
  const longestMs = 2 ** 31 - 1;
  const wanted = { delayMs: 2 * longestMs + 1_000, run: () => void (firedCount += 1) };
  realTimers.after(wanted.delayMs, wanted.run);
  for (const passedMs of [longestMs, longestMs, 999]) context.mock.timers.tick(passedMs);
  assert.equal(firedCount, 0);
  context.mock.timers.tick(1);
  assert.equal(firedCount, 1);
  const cancel = realTimers.after(wanted.delayMs, wanted.run);
  context.mock.timers.tick(longestMs);
  cancel();
  for (const passedMs of [longestMs, 1_000]) context.mock.timers.tick(passedMs);
  assert.equal(firedCount, 1);
});
