/** `node test/soak/main.ts` (`--help` names its options): see soak.ts. Root, after a build. Exit status 1 on any loss. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { count, toggle, toolOptions } from "../../dev/tool-options.ts";
import { runSoak } from "./soak.ts";

const { cycles, keep, killEvery, parallel } = toolOptions(
  {
    run: "node test/soak/main.ts",
    about:
      "Makes, runs, stops and removes containers that write numbered lines, while their daemon is killed again and again, and looks for what is lost or left. Exit status 1: something was. Needs root and a build.",
  },
  {
    cycles: count("containers' lives in all", { fallback: 5000 }),
    parallel: count("of them at a time", { fallback: 8 }),
    killEvery: count("seconds from one kill of the daemon to the next", { fallback: 30 }),
    keep: toggle("keep the folders even if nothing was lost"),
  },
);

let isStopped = false;
process.once("SIGINT", () => {
  isStopped = true;
});
const root = mkdtempSync(path.join(tmpdir(), "shoal-soak-"));
const startMs = performance.now();
const result = await runSoak({
  root,
  cycles,
  parallel,
  killEveryMs: killEvery * 1000,
  isStopped: () => isStopped,
  say: (text) => console.log(`${((performance.now() - startMs) / 1000).toFixed(0)} s: ${text}`),
});
for (const thing of result.left) console.log(`left: ${thing}`);
console.log(
  `${result.cycles} cycles, ${parallel} at a time, daemon killed ${result.kills} times, ${result.lines} log lines, ` +
    `${result.retries} requests sent again; ${result.losses.length} losses, ${result.left.length} things left`,
);
const isClean = result.losses.length === 0 && result.left.length === 0;
if (isClean && !keep) rmSync(root, { recursive: true, force: true });
else console.log(`kept: ${root}`);
process.exitCode = isClean ? 0 : 1;
