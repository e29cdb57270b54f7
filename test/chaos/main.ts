/**
 * `node test/chaos/main.ts [--cycles N] [--seed S] [--clients N] [--managers N] [--name CLUSTER]`: a dev cluster whose managers are
 * killed, cut off and restarted at random while clients write and read through all of them. Prints counts and a verdict;
 * exits with 1 if an acknowledged write was lost or the history is not linearizable. Needs root.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { removeCluster, startDevCluster } from "../../dev/cluster.ts";
import { type ManagerChaosReport, runManagerChaos, verdictOf } from "./run-managers.ts";

function count(text: string, name: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1)
    throw new Error(`--${name} must be a whole number of 1 or more, got "${text}"`);
  return value;
}

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

async function main(): Promise<boolean> {
  const { values } = parseArgs({
    options: {
      cycles: { type: "string", default: "200" },
      seed: { type: "string", default: "1" },
      clients: { type: "string", default: "8" },
      managers: { type: "string", default: "3" },
      name: { type: "string", default: "chaos" },
      keep: { type: "boolean", default: false },
    },
  });
  const cycles = count(values.cycles, "cycles");
  const seed = count(values.seed, "seed");
  const clients = count(values.clients, "clients");
  const managers = count(values.managers, "managers");
  console.log(`seed ${seed}: ${cycles} cycles, ${managers} managers, ${clients} clients`);
  const stateFolder = mkdtempSync(path.join(tmpdir(), `shoal-${values.name}-`));
  const cluster = await startDevCluster({ name: values.name, managers, workers: 0, stateFolder });
  const startedMs = performance.now();
  let isGood = false;
  try {
    const report = await runManagerChaos({
      cluster,
      cycles,
      seed,
      clients,
      onCycle: (cycle, kind, okCount) => {
        const seconds = ((performance.now() - startedMs) / 1000).toFixed(0);
        console.log(`  ${seconds} s: cycle ${cycle}: ${kind} (${okCount} answers so far)`);
      },
    });
    console.log(`${cycles} cycles in ${((performance.now() - startedMs) / 1000).toFixed(0)} s:`);
    print(report);
    isGood = verdictOf(report) === undefined;
    return isGood;
  } finally {
    await removeCluster({ name: values.name, stateFolder });
    if (isGood || !values.keep) rmSync(stateFolder, { recursive: true, force: true });
    else console.log(`logs are kept in ${stateFolder}`);
  }
}

process.exitCode = (await main()) ? 0 : 1;
