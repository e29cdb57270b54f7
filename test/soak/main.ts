/** `node test/soak/main.ts --cycles 5000 --parallel 8 --kill-every 30`: see soak.ts. Root, after a build. Exit status 1 on any loss. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { runSoak } from "./soak.ts";

const { values } = parseArgs({
  options: {
    cycles: { type: "string", default: "5000" },
    parallel: { type: "string", default: "8" },
    "kill-every": { type: "string", default: "30" },
    keep: { type: "boolean", default: false },
  },
});

function positive(name: "cycles" | "parallel" | "kill-every"): number {
  const number = Number(values[name]);
  if (Number.isFinite(number) && number > 0) return number;
  throw new Error(`--${name} must be a number above 0, got "${values[name]}"`);
}

let isStopped = false;
process.once("SIGINT", () => {
  isStopped = true;
});
const options = {
  cycles: positive("cycles"),
  parallel: positive("parallel"),
  killEvery: positive("kill-every"),
};
const root = mkdtempSync(path.join(tmpdir(), "shoal-soak-"));
const startMs = performance.now();
const result = await runSoak({
  root,
  cycles: options.cycles,
  parallel: options.parallel,
  killEveryMs: options.killEvery * 1000,
  isStopped: () => isStopped,
  say: (text) => console.log(`${((performance.now() - startMs) / 1000).toFixed(0)} s: ${text}`),
});
for (const thing of result.left) console.log(`left: ${thing}`);
console.log(
  `${result.cycles} cycles, ${options.parallel} at a time, daemon killed ${result.kills} times, ${result.lines} log lines, ` +
    `${result.retries} requests sent again; ${result.losses.length} losses, ${result.left.length} things left`,
);
const isClean = result.losses.length === 0 && result.left.length === 0;
if (isClean && !values.keep) rmSync(root, { recursive: true, force: true });
else console.log(`kept: ${root}`);
process.exitCode = isClean ? 0 : 1;
