/**
 * What members say to each other and what the log holds: plain data, one exact shape per `type`.
 * Written by core.ts and leader.ts, carried by a transport, never looked into by it except for routing.
 */

export const EntryKind = { normal: 0, config: 1, empty: 2 } as const;
export type EntryKind = (typeof EntryKind)[keyof typeof EntryKind];

export interface Entry {
  readonly index: number;
  readonly term: number;
  readonly kind: EntryKind;
  /** Opaque; encoded once by the proposer and passed on as the same bytes to disk and peers. */
  readonly payload: Uint8Array;
}

/** A raft peer as the configuration names it. Structurally the Member of replicated-log.ts. */
export interface ConfigMember {
  readonly raftId: number;
  readonly nodeId: string;
  readonly addr: string;
  readonly isLearner: boolean;
}

/** Sorted by raftId. */
export type Configuration = readonly ConfigMember[];

export interface HardState {
  readonly term: number;
  /** Whom this member voted for in `term`; 0 for nobody. */
  readonly vote: number;
  readonly commit: number;
}

/** Names a state: what was applied up to `index`, and the configuration in force there. */
export interface SnapshotMeta {
  readonly index: number;
  readonly term: number;
  readonly config: Configuration;
  /** Index of the entry that `config` came from. */
  readonly configIndex: number;
}

interface Envelope {
  readonly from: number;
  readonly to: number;
  readonly term: number;
}

export interface VoteRequest extends Envelope {
  /** "preVote" asks whether "vote" would succeed; its term is the one that would be used and changes nobody's term. */
  readonly type: "preVote" | "vote";
  readonly lastIndex: number;
  readonly lastTerm: number;
  /** The old leader asked for it, so being loyal to that leader is no reason to refuse. */
  readonly isTransfer: boolean;
  /** No configuration in the asker's own log has it: one that joins has not come so far yet. */
  readonly isStranger: boolean;
}

export interface VoteReply extends Envelope {
  readonly type: "preVoteReply" | "voteReply";
  readonly granted: boolean;
}

export interface AppendMessage extends Envelope {
  readonly type: "append";
  readonly prevIndex: number;
  readonly prevTerm: number;
  readonly entries: readonly Entry[];
  readonly commit: number;
}

export interface AppendOk extends Envelope {
  readonly type: "appendOk";
  /** Everything up to here is equal to the leader's log and durable at the sender. */
  readonly matchIndex: number;
}

export interface AppendReject extends Envelope {
  readonly type: "appendReject";
  /** prevIndex of the refused message. */
  readonly rejectedIndex: number;
  /** Highest index at or below which sender and leader may agree, and the sender's term there. */
  readonly hintIndex: number;
  readonly hintTerm: number;
  /** The sender lost part of what it once acknowledged: forget what it said before. */
  readonly isRecovering: boolean;
  /** Of a sender that recovers; see HeartbeatReply. */
  readonly incarnation: number;
}

export interface Heartbeat extends Envelope {
  readonly type: "heartbeat";
  readonly commit: number;
  /** Number of this leader's heartbeat round; confirms leadership for reads when it comes back. */
  readonly round: number;
  readonly lastIndex: number;
  /** What the receiver last named as its own; 0 if it named none, so that this says nothing of its present life. */
  readonly incarnation: number;
}

export interface HeartbeatReply extends Envelope {
  readonly type: "heartbeatReply";
  readonly round: number;
  /** The sender doesn't vote until the leader has given back what it lost. */
  readonly isRecovering: boolean;
  /**
   * While it recovers, a number drawn when it started: a heartbeat that comes back with it was sent after that. 0 if it
   * doesn't recover.
   */
  readonly incarnation: number;
}

/** The state itself travels beside this message; a member steps it once the data has arrived whole. */
export interface SnapshotMessage extends Envelope {
  readonly type: "snapshot";
  readonly snapshot: SnapshotMeta;
}

/** Answer to a message of an old term, so that a stale leader or candidate learns the new one. */
export interface TermNotice extends Envelope {
  readonly type: "termNotice";
}

/** Campaign at once: the leader hands over. */
export interface TimeoutNow extends Envelope {
  readonly type: "timeoutNow";
}

export interface ReadRequest extends Envelope {
  readonly type: "readRequest";
  readonly readId: number;
}

export interface ReadReply extends Envelope {
  readonly type: "readReply";
  readonly readId: number;
  readonly index: number;
}

/** Tells a member that campaigns without knowing it was removed. */
export interface RemovedNotice extends Envelope {
  readonly type: "removedNotice";
}

export type Message =
  | VoteRequest
  | VoteReply
  | AppendMessage
  | AppendOk
  | AppendReject
  | Heartbeat
  | HeartbeatReply
  | SnapshotMessage
  | TermNotice
  | TimeoutNow
  | ReadRequest
  | ReadReply
  | RemovedNotice;

export const NO_PAYLOAD: Uint8Array = new Uint8Array(0);
