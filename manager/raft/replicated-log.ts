/**
 * What the store and the manager need of consensus, and what consensus needs of them. raft/node.ts implements
 * ReplicatedLog over the pure core; the store implements StateMachine. The simulator uses the same two.
 */
import type { Component } from "../../common/env.ts";

export interface CommittedEntry {
  readonly index: number;
  readonly term: number;
  readonly payload: Uint8Array;
}

/** Changed keys since the last checkpoint, to be written to `level` in one synced, atomic batch with index and membership. */
export interface Checkpoint {
  readonly puts: readonly (readonly [key: string, value: Uint8Array])[];
  readonly removes: readonly string[];
}

/** A whole state at one index, cheap to take (a persistent structure), read while later entries are applied. */
export interface StateSnapshot {
  entries(): Iterable<readonly [key: string, value: Uint8Array]>;
}

/** The replicated state. Every method is called from one place, never two at a time; apply must be deterministic. */
export interface StateMachine {
  /**
   * Applies one committed entry and returns the outcome for the proposer (on other replicas it is dropped).
   * Must not throw for any payload that was ever proposed by any released version.
   */
  apply(entry: CommittedEntry): unknown;
  /** Called after a run of apply() calls, when watchers may be told. */
  applied(index: number): void;
  /** Keys changed since the last call; the caller makes them durable or calls restore() later from older data. */
  takeCheckpoint(): Checkpoint;
  snapshot(): StateSnapshot;
  /** Replaces the whole state by that of a snapshot or of the checkpoint on disk. */
  restore(index: number, entries: Iterable<readonly [key: string, value: Uint8Array]>): void;
}

export interface Member {
  /** Raft id: a positive integer below 2^53, random, never used again after removal. */
  readonly raftId: number;
  readonly nodeId: string;
  /** "host:port". */
  readonly addr: string;
  readonly isLearner: boolean;
}

export interface LeadershipChange {
  readonly isLeader: boolean;
  readonly term: number;
  /** Raft id of the leader that is known now, 0 for none. */
  readonly leader: number;
}

export interface ProposeOptions {
  readonly signal?: AbortSignal;
}

export interface RemoveOptions {
  readonly force: boolean;
  /** Does nothing if it has become a voter meanwhile. */
  readonly onlyLearner?: boolean;
}

export interface ReplicatedLog extends Component {
  readonly raftId: number;
  readonly isLeader: boolean;
  readonly term: number;
  /** Raft id of the known leader, 0 for none. */
  readonly leader: number;
  readonly appliedIndex: number;
  readonly members: readonly Member[];
  /** Members heard of within an election time-out (leader only; others answer with themselves and the leader). */
  readonly reachable: ReadonlySet<number>;
  /** Those of them that vote: they have answered this leader, and aren't refetching what their disk lost. */
  readonly healthy: ReadonlySet<number>;
  /**
   * Appends `payload` and resolves with what apply() returned for it, once committed on a quorum and applied here.
   * Leader only. Rejects: unavailable with notLeader set (not the leader: nothing was appended); resource_exhausted
   * (too much in flight: nothing was appended); unavailable without notLeader (leadership lost meanwhile:
   * it may or may not be committed).
   */
  propose(payload: Uint8Array, options?: ProposeOptions): Promise<unknown>;
  /**
   * Resolves when this member has applied everything that was committed when the call was made (Raft thesis 6.4,
   * ReadIndex). Works on followers, which ask the leader. Rejects with unavailable without a quorum.
   */
  readBarrier(options?: ProposeOptions): Promise<void>;
  /**
   * Adds a learner that becomes a voter once it has caught up. Calls `onListed` when the configuration that has it is
   * committed, resolves when it is a voter. Leader only.
   */
  addMember(member: Omit<Member, "isLearner">, signal: AbortSignal, onListed?: () => void): Promise<void>;
  /** Leader only. Rejects with failed_precondition if the rest could not form a quorum of healthy members, unless forced. */
  removeMember(raftId: number, options: RemoveOptions): Promise<void>;
  /** Records a member's new address. Leader only. */
  updateMember(member: Omit<Member, "isLearner">): Promise<void>;
  /** Hands leadership to `to`, or to the most up-to-date follower. Resolves when another leads. */
  transferLeadership(to?: number): Promise<void>;
  /** Called at each change, in order. The leader is told only once it has committed an entry of its own term. */
  onLeadership(listener: (change: LeadershipChange) => void): () => void;
  /** Called when this member learns that it was removed. */
  onRemoved(listener: () => void): () => void;
}
