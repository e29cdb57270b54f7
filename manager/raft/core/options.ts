/** What the core is given at the start and what it gives out. Plain data; the driver (raft/node.ts) moves it. */
import type { Configuration, Entry, HardState, Message, SnapshotMeta } from "./messages.ts";

export interface CoreBounds {
  /** Payload bytes in one append message, which has one entry at least. */
  readonly appendBytesMax: number;
  /** Entries in one append message. */
  readonly appendCountMax: number;
  /** Append messages to one follower that are not answered yet. */
  readonly inflightCountMax: number;
  /**
   * With so many unanswered, new entries gather until an answer comes or there are gatherCountMax: larger batches, less
   * work.
   */
  readonly pipelineCount: number;
  readonly gatherCountMax: number;
  /** Payload bytes in append messages to one follower that are not answered yet. */
  readonly inflightBytesMax: number;
  /** Payload bytes a leader takes that are not yet committed; beyond it proposals are refused. */
  readonly uncommittedBytesMax: number;
  /** Payload bytes written to disk at once. */
  readonly writeBytesMax: number;
  /** Bytes of committed entries given out at once, so that applying doesn't hold up heartbeats. */
  readonly applyBytesMax: number;
  /** Reads waiting for confirmation; beyond it they are refused. */
  readonly readCountMax: number;
}

export interface CoreOptions extends CoreBounds {
  readonly raftId: number;
  /** Ticks without a word of the leader after which a follower campaigns; also the leader's patience for a quorum. */
  readonly electionTicks: number;
  /** Added to electionTicks by chance: 0 to this, so that followers don't campaign at once. */
  readonly electionSpreadTicks: number;
  readonly heartbeatTicks: number;
  /** Uniform integer in [0, bound). The only randomness there is. */
  readonly random: (bound: number) => number;
}

/** What the disk held. */
export interface RestoredState {
  readonly hardState: HardState;
  /** The entry before the first one held, and the configuration in force there. */
  readonly base: SnapshotMeta;
  readonly entries: readonly Entry[];
  /** Index of the state that was loaded. */
  readonly applied: number;
  /** Acknowledged entries were lost: no vote until the leader has given them back. */
  readonly isRecovering: boolean;
}

export type Role = "follower" | "preCandidate" | "candidate" | "leader";

export interface CoreStatus {
  readonly role: Role;
  readonly term: number;
  /** 0 for none. */
  readonly leader: number;
  /** Leads and has committed an entry of its own term: it knows all that is committed. */
  readonly isEstablished: boolean;
  readonly commitIndex: number;
  readonly lastIndex: number;
  readonly config: Configuration;
  readonly configIndex: number;
  readonly isRecovering: boolean;
  readonly wasRemoved: boolean;
}

/** A read may be served once `index` is applied; undefined: leadership was not confirmed, ask again. */
export interface ReadResult {
  readonly readId: number;
  readonly index: number | undefined;
}

/** What may happen at once. */
export interface Output {
  readonly messages: readonly Message[];
  readonly committed: readonly Entry[];
  readonly reads: readonly ReadResult[];
  /** Members that need the state itself, since the log no longer reaches back to where they are. */
  readonly snapshotsTo: readonly number[];
}

/** One write: all of it durable, then `messages` may go and appended() is called. At most one is out at a time. */
export interface Append {
  readonly hardState: HardState | undefined;
  /** The state to install before the entries. */
  readonly snapshot: SnapshotMeta | undefined;
  readonly entries: readonly Entry[];
  readonly messages: readonly Message[];
}

export type ProposeOutcome =
  | { readonly kind: "accepted"; readonly index: number; readonly term: number }
  | { readonly kind: "notLeader" }
  | { readonly kind: "overloaded" };

export type ConfigOutcome =
  | { readonly kind: "accepted"; readonly index: number; readonly term: number }
  | { readonly kind: "notLeader" }
  /** An earlier change or the first entry of the term is not committed yet: ask again. */
  | { readonly kind: "notReady" }
  | { readonly kind: "invalid"; readonly reason: string };
