/**
 * The last resorts, tried at the end of a run: a backup becomes a new cluster on another machine, and one manager alone
 * goes on with what it has. O8: nothing of the state is lost or changed by that.
 */
import { createHash } from "node:crypto";
import { silentLogger } from "../../common/log.ts";
import type { StateEntry } from "../../manager/raft/checkpoint-store.ts";
import { readBackup, writeBackup } from "../../manager/backup.ts";
import { MemoryStore } from "../../manager/store/memory-store.ts";
import type { RaftLimits } from "../../manager/raft/limits.ts";
import { Machine } from "./machine.ts";
import type { Leading } from "./manager-operator.ts";
import { Network } from "./network.ts";
import { Violation, type World } from "./world.ts";

export function stateDigest(entries: Iterable<StateEntry>): string {
  const hash = createHash("md5");
  for (const [key, value] of [...entries].sort(([a], [b]) => (a < b ? -1 : 1)))
    hash.update(key).update(value);
  return hash.digest("base64");
}

export interface DisasterOptions {
  readonly world: World;
  readonly limits: Partial<RaftLimits>;
  /** Runs the world until `holds`, or fails the run. */
  readonly until: (what: string, holds: () => boolean) => Promise<void>;
}

/** A backup of the leader's state, on a machine that has nothing to do with the cluster. */
export async function restoreElsewhere(leading: Leading, options: DisasterOptions): Promise<void> {
  const cluster = leading.store.view().list("cluster")[0];
  if (cluster === undefined) return;
  const { appliedIndex: index, term } = leading.raft;
  const entries = [...leading.store.snapshot().entries()];
  const backup = readBackup(writeBackup({ cluster, entries, index, term, takenAt: "" }));
  const raftId = 1_000_001;
  const members = [{ raftId, nodeId: "restored", addr: "restored:1", isLearner: false }];
  const { machine, store } = sole(raftId, options, {
    kind: "restore",
    members,
    index: backup.index,
    term: backup.term,
    state: backup.entries,
  });
  await options.until("a cluster from a backup: a leader", () => machine.node?.isLeader === true);
  compare("restored from a backup", store(), entries);
  machine.kill();
}

/** All managers but one are gone for ever. */
export async function forceNewCluster(machine: Machine, options: DisasterOptions): Promise<void> {
  const before = machine.state instanceof MemoryStore ? [...machine.state.snapshot().entries()] : [];
  machine.kill();
  machine.mode = { kind: "forceNewCluster", addr: `${machine.raftId}:1`, formerRaftId: machine.raftId };
  machine.start();
  await options.until("a cluster forced of one: a leader", () => machine.node?.isLeader === true);
  const { members } = machine.node ?? { members: [] };
  if (members.length !== 1)
    throw new Violation("O8", `a cluster forced of one has ${members.length} members`);
  if (machine.state instanceof MemoryStore) compare("forced of one", machine.state, before);
}

function sole(
  raftId: number,
  options: DisasterOptions,
  mode: Machine["mode"],
): { readonly machine: Machine; readonly store: () => MemoryStore } {
  const { limits, world } = options;
  const network = new Network(world, () => undefined);
  let store: MemoryStore | undefined;
  const machine = new Machine(
    {
      world,
      network,
      raftId,
      limits,
      encryptionKey: undefined,
      makeState: (env) => {
        store = new MemoryStore({ clock: env.clock, timers: env.timers, log: silentLogger });
        return store;
      },
      onStarted: () => undefined,
      onDied: () => undefined,
    },
    mode,
  );
  machine.start();
  return {
    machine,
    store: () => {
      if (store === undefined) throw new Violation("O8", "the restored member has no state");
      return store;
    },
  };
}

function compare(what: string, store: MemoryStore, wanted: readonly StateEntry[]): void {
  if (stateDigest(store.snapshot().entries()) !== stateDigest(wanted)) {
    throw new Violation("O8", `the state of a cluster ${what} is another`);
  }
}
