/**
 * Where checkpoints of the state go. What node.ts needs of it is the interface; level-checkpoints.ts keeps it in `level`,
 * the simulator in memory with the same promises.
 */
import type { SnapshotMeta } from "./core/messages.ts";
import type { Checkpoint } from "./replicated-log.ts";

export type StateEntry = readonly [key: string, value: Uint8Array];

export interface LoadedCheckpoint {
  readonly meta: SnapshotMeta;
  readonly entries: readonly StateEntry[];
}

export interface CheckpointStore {
  /** Undefined if nothing was ever written. Throws failed_precondition if what is there can't be trusted. */
  load(): Promise<LoadedCheckpoint | undefined>;
  /** Changed keys, index, term and configuration: all or nothing, durable when it resolves. */
  write(meta: SnapshotMeta, changes: Checkpoint): Promise<void>;
  /** A whole new state; a crash leaves the old one or the new one. */
  replace(meta: SnapshotMeta, entries: Iterable<StateEntry>): Promise<void>;
  close(): Promise<void>;
}
