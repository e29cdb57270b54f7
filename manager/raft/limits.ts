/** Every bound and time-out of consensus, with unit and reason. Tests and the simulator pass smaller ones. */
import type { CoreBounds } from "./core/options.ts";

export interface RaftLimits extends CoreBounds {
  /** One tick. Elections and heartbeats are whole numbers of ticks. */
  readonly tickMs: number;
  /** A leader says so often that it is there. */
  readonly heartbeatMs: number;
  /** Silence of the leader after which followers campaign, plus up to half as much by chance. */
  readonly electionMs: number;
  /** Payload of one proposal. */
  readonly proposalBytesMax: number;
  /** How long readBarrier() waits for a leader and its confirmation. */
  readonly readMs: number;
  /** A file of the write-ahead log, unless one record needs more. */
  readonly segmentBytes: number;
  /** From one checkpoint of the state to the next, while entries are applied. */
  readonly checkpointMs: number;
  /** Entries kept behind a checkpoint for slow followers, as long as the log stays below logBytesMax. */
  readonly tailCountMax: number;
  /** Payload of the log in memory; beyond it a part of the tail is kept, and slower followers are sent the state. */
  readonly logBytesMax: number;
  /** Compaction moves by at least this many entries, since each move copies the rest. */
  readonly compactCountMin: number;
  /** A learner this close to the leader's last entry becomes a voter. */
  readonly learnerLagMax: number;
  /** Pause before a write that found the disk full is tried again. */
  readonly diskFullRetryMs: number;
}

export const RAFT_LIMITS: RaftLimits = {
  tickMs: 50,
  heartbeatMs: 100,
  // Ten heartbeats: a busy 2-core machine stalls a process for hundreds of milliseconds; a dead leader is mostly noticed
  // by its connection long before.
  electionMs: 900,
  proposalBytesMax: 4 * 1024 * 1024,
  uncommittedBytesMax: 64 * 1024 * 1024,
  appendBytesMax: 512 * 1024,
  appendCountMax: 4096,
  inflightCountMax: 256,
  // Two keep network and both disks busy; more only make the batches smaller.
  pipelineCount: 2,
  // Some milliseconds of the leader's work: meanwhile the followers deal with the portion before.
  gatherCountMax: 64,
  inflightBytesMax: 8 * 1024 * 1024,
  writeBytesMax: 4 * 1024 * 1024,
  applyBytesMax: 1024 * 1024,
  readCountMax: 100_000,
  readMs: 5_000,
  segmentBytes: 16 * 1024 * 1024,
  checkpointMs: 1_000,
  tailCountMax: 10_000,
  logBytesMax: 64 * 1024 * 1024,
  compactCountMin: 2_000,
  learnerLagMax: 1_000,
  diskFullRetryMs: 500,
};
