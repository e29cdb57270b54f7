/** A dev cluster for as long as a chaos tool runs on it. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { type DevCluster, removeCluster, startDevCluster } from "../../dev/cluster.ts";

export interface ChaosCluster {
  readonly name: string;
  readonly managers: number;
  readonly workers: number;
  /** Where the run is not good, the logs of the nodes stay, and it says where. */
  readonly keep: boolean;
}

/** `run` resolves with whether all was good; so does this, with nothing left of the cluster. */
export async function runOnCluster(
  { keep, ...options }: ChaosCluster,
  run: (cluster: DevCluster) => Promise<boolean>,
): Promise<boolean> {
  const { name } = options;
  const stateFolder = mkdtempSync(path.join(tmpdir(), `shoal-${name}-`));
  let isGood = false;
  try {
    isGood = await run(await startDevCluster({ ...options, stateFolder }));
    return isGood;
  } finally {
    await removeCluster({ name, stateFolder });
    if (isGood || !keep) rmSync(stateFolder, { recursive: true, force: true });
    else console.log(`logs are kept in ${stateFolder}`);
  }
}
