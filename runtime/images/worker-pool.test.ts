import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";

const run = promisify(execFile);

/** TypeScript when run unbuilt, JavaScript in dist/. */
function moduleUrl(name: string): string {
  return new URL(`${name}${import.meta.url.endsWith(".ts") ? ".ts" : ".js"}`, import.meta.url).href;
}

/** In each thread of the pool: loads a native module when the other three are about to do that, too. */
const PRELOAD = `
  const { readdirSync, writeFileSync } = require("node:fs");
  const { isMainThread, threadId } = require("node:worker_threads");
  const load = process.dlopen;
  if (!isMainThread) process.dlopen = (...args) => {
    writeFileSync(process.env.LOADING + "/" + threadId, "");
    while (readdirSync(process.env.LOADING).length < 4) continue;
    return load.apply(process, args);
  };
`;

/** Stops a pool in that moment. */
const STOP = `
  import { readdirSync } from "node:fs";
  import { setImmediate as nextTurn } from "node:timers/promises";
  const { realTimers } = await import(process.argv[1]);
  const { WorkerPool } = await import(process.argv[2]);
  const pool = new WorkerPool(realTimers, 4);
  const jobs = Array.from({ length: 4 }, () => pool.run({ kind: "usage", path: process.env.LOADING }));
  const settled = Promise.allSettled(jobs);
  while (readdirSync(process.env.LOADING).length < 4) await nextTurn();
  await pool.stop();
  console.log((await settled).map(({ status }) => status).join(" "));
`;

/** Whether the moment is hit is chance: about every second time. */
const ROUND_COUNT = 4;

test("WorkerPool.stop() while its threads load a native module does not end the process", async () => {
  const folder = mkdtempSync(path.join(tmpdir(), "shoal-pool-"));
  try {
    const preload = path.join(folder, "preload.cjs");
    writeFileSync(preload, PRELOAD);
    const modules = [moduleUrl("../../common/real-env"), moduleUrl("./worker-pool")];
    for (let round = 0; round < ROUND_COUNT; round++) {
      const env = { ...process.env, LOADING: mkdtempSync(path.join(folder, "loading-")) };
      // A process of its own: what goes wrong takes all of it along, or lets it end early without a word.
      const { stdout } = await run(process.execPath, ["--require", preload, "-e", STOP, ...modules], { env });
      assert.match(stdout, /^(?:(?:rejected|fulfilled)\s){4}$/);
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
});
