/** Runs one seed of a profile: the consensus layer under clients, or the whole cluster under an operator. */
import { runCluster } from "./cluster.ts";
import type { RunOptions, RunResult } from "./cluster-run.ts";
import { runFullCluster } from "./full-cluster.ts";

const FULL: ReadonlySet<RunOptions["profile"]> = new Set(["full", "handover", "steady"]);

export function runSeed(options: RunOptions): Promise<RunResult> {
  return FULL.has(options.profile) ? runFullCluster(options) : runCluster(options);
}
