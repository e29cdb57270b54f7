/**
 * `node test/chaos/main.ts` (`--help` names its options): a dev cluster whose managers are killed, cut off and restarted at
 * random while clients write and read through all of them. Prints counts and a verdict; exits with 1 if an acknowledged
 * write was lost or the history is not linearizable. Needs root.
 */
import { count, text, toggle, toolOptions } from "../../dev/tool-options.ts";
import { type ManagerChaosReport, runManagerChaos, verdictOf } from "./run-managers.ts";
import { runOnCluster } from "./run-on-cluster.ts";

function print(report: ManagerChaosReport): void {
  for (const [kind, times] of [...report.faults].sort(([a], [b]) => (a < b ? -1 : 1)))
    console.log(`  ${String(times).padStart(4)} × ${kind}`);
  console.log(
    `  ${report.ok} operations answered (${report.reads} reads, ${report.writes} writes, ${report.stale} compare-and-sets that lost), ` +
      `${report.refused} refused, ${report.unknown} unknown (${report.unknownApplied} of them took effect)`,
  );
  for (const [why, times] of [...report.reasons].sort(([, a], [, b]) => b - a))
    console.log(`  ${String(times).padStart(4)} × no answer: ${why}`);
  console.log(
    `  ${report.registers} registers, answers again ${(report.backMs / 1000).toFixed(2)} s after the last fault`,
  );
  console.log(`  acknowledged writes lost: ${report.lost.length}`);
  const verdict = verdictOf(report);
  console.log(
    `  linearizable: ${report.notLinearizable.length + report.undecided.length === 0 ? "yes" : "no"}`,
  );
  if (verdict === undefined) return;
  console.log(`FAILED ${verdict}`);
  for (const line of report.stories) console.log(line);
}

const { clients, cycles, keep, managers, name, seed } = toolOptions(
  {
    run: "node test/chaos/main.ts",
    about:
      "Kills, cuts off and restarts the managers of a dev cluster at random while clients write and read through all of them. Exit status 1: an acknowledged write was lost, or the history is not linearizable. Needs root.",
  },
  {
    cycles: count("faults, one after the other", { fallback: 200 }),
    seed: count("which faults, and when", { fallback: 1 }),
    clients: count("clients that write and read at a time", { fallback: 8 }),
    managers: count("managers of the cluster", { fallback: 3 }),
    name: text("name of the cluster", { placeholder: "<name>", fallback: "chaos" }),
    keep: toggle("keep the nodes' logs if the run is not good"),
  },
);
console.log(`seed ${seed}: ${cycles} cycles, ${managers} managers, ${clients} clients`);
const isGood = await runOnCluster({ name, managers, workers: 0, keep }, async (cluster) => {
  const startedMs = performance.now();
  const seconds = (): string => ((performance.now() - startedMs) / 1000).toFixed(0);
  const report = await runManagerChaos({
    cluster,
    cycles,
    seed,
    clients,
    onCycle: (cycle, kind, okCount) =>
      console.log(`  ${seconds()} s: cycle ${cycle}: ${kind} (${okCount} answers so far)`),
  });
  console.log(`${cycles} cycles in ${seconds()} s:`);
  print(report);
  return verdictOf(report) === undefined;
});
process.exitCode = isGood ? 0 : 1;
