/** Runs one seed of a profile: the consensus layer under clients, or the whole cluster under an operator. */
import { runCluster, type RunOptions, type RunResult } from "./cluster.ts";
import { runFullCluster } from "./full-cluster.ts";

export function runSeed(options: RunOptions): Promise<RunResult> {
  const isFull = options.profile === "full" || options.profile === "steady";
  return isFull ? runFullCluster(options) : runCluster(options);
}
