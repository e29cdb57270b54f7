/**
 * A leader's duties for one term: replicate, commit, confirm reads, hand over. Made by core.ts on winning an election
 * and dropped on losing office; it changes the log and fills the outbox, and never decides about terms.
 */
import { assert } from "../../../common/assert.ts";
import type { Configurations } from "./configs.ts";
import { encodeConfiguration, sortedMembers, voterDifference } from "./configs.ts";
import { entryBytes, type RaftLog } from "./log.ts";
import type {
  AppendOk,
  AppendReject,
  Configuration,
  Entry,
  HeartbeatReply,
  Message,
  ReadRequest,
} from "./messages.ts";
import { EntryKind, NO_PAYLOAD } from "./messages.ts";
import type { ConfigOutcome, CoreOptions, ProposeOutcome, ReadResult } from "./options.ts";
import { Progress } from "./progress.ts";
import { quorumIndex, quorumOf } from "./quorum.ts";

export interface LeaderHost {
  readonly options: CoreOptions;
  readonly term: number;
  readonly log: RaftLog;
  readonly configs: Configurations;
  /** Goes out at once: a leader's term is durable before it leads. */
  send(message: Message): void;
  readDone(result: ReadResult): void;
  snapshotNeeded(raftId: number): void;
}

interface PendingRead {
  readonly readId: number;
  readonly from: number;
  readonly index: number;
  /** Heartbeat round that a quorum must have answered. Began after the read was asked for. */
  readonly round: number;
}

export class Leader {
  readonly #host: LeaderHost;
  readonly #term: number;
  readonly #firstIndexOfTerm: number;
  readonly #progress = new Map<number, Progress>();
  #tick = 0;
  #heartbeatElapsed = 0;
  #uncommittedBytes = 0;
  #round = 0;
  #reads: PendingRead[] = [];
  /** Asked for before the first commit of the term: what is committed was not known yet (thesis 6.4, step 1). */
  #earlyReads: { readonly readId: number; readonly from: number }[] = [];
  #transferTo = 0;
  #transferElapsed = 0;
  #isTransferSent = false;
  /** Members that the newest configuration no longer has, until that is committed. */
  readonly #leaving = new Set<number>();
  #commitNewsDue = false;

  constructor(host: LeaderHost) {
    this.#host = host;
    this.#term = host.term;
    const next = host.log.lastIndex + 1;
    this.#firstIndexOfTerm = next;
    for (const member of host.configs.current) this.#track(member.raftId, next);
    for (let index = host.log.commitIndex + 1; index < next; index += 1) {
      this.#uncommittedBytes += host.log.at(index)?.payload.byteLength ?? 0;
    }
    this.#append(EntryKind.empty, NO_PAYLOAD);
  }

  /** An entry of this term is committed, hence everything before it that ever was committed is known. */
  get isEstablished(): boolean {
    return this.#host.log.commitIndex >= this.#firstIndexOfTerm;
  }

  /** Number of the last heartbeat round that was sent; 0 before the first. */
  get round(): number {
    return this.#round;
  }

  /** Index of the entry that opens the term. Who has applied it has applied all that earlier leaders committed. */
  get firstIndexOfTerm(): number {
    return this.#firstIndexOfTerm;
  }

  get transferTo(): number {
    return this.#transferTo;
  }

  get uncommittedBytes(): number {
    return this.#uncommittedBytes;
  }

  progressOf(raftId: number): Progress | undefined {
    return this.#progress.get(raftId);
  }

  /** Members heard of within an election time-out, this one included. */
  reachable(): ReadonlySet<number> {
    const { options } = this.#host;
    const heard = new Set([options.raftId]);
    for (const progress of this.#progress.values()) {
      if (this.#tick - progress.heardTick <= options.electionTicks) heard.add(progress.raftId);
    }
    return heard;
  }

  /**
   * Members that would vote and write, were an election due: reachable, known to have answered a heartbeat of a round after
   * `sinceRound`, and not fetching again what they lost. A new leader knows it of nobody but itself until its first
   * heartbeat is answered.
   */
  healthy(sinceRound = 0): ReadonlySet<number> {
    const reachable = this.reachable();
    const healthy = new Set([this.#host.options.raftId]);
    for (const { raftId, ackedRound, isRecovering } of this.#progress.values()) {
      if (ackedRound > sinceRound && !isRecovering && reachable.has(raftId)) healthy.add(raftId);
    }
    return healthy;
  }

  hasReachableQuorum(): boolean {
    const { voters } = this.#host.configs;
    const reachable = this.reachable();
    return voters.filter((voter) => reachable.has(voter)).length >= quorumOf(voters.length);
  }

  tick(): void {
    const { options } = this.#host;
    this.#tick += 1;
    this.#heartbeatElapsed += 1;
    if (this.#transferTo !== 0) {
      this.#transferElapsed += 1;
      if (this.#transferElapsed >= options.electionTicks) this.#endTransfer();
    }
    if (this.#heartbeatElapsed >= options.heartbeatTicks) {
      this.#heartbeatElapsed = 0;
      this.#heartbeat();
    }
    if (this.#commitNewsDue) this.#sendCommitNews();
  }

  propose(payload: Uint8Array): ProposeOutcome {
    if (this.#transferTo !== 0) return { kind: "notLeader" };
    const bytes = payload.byteLength;
    // The first may be of any size, else a payload above the bound could never pass.
    if (
      this.#uncommittedBytes > 0 &&
      this.#uncommittedBytes + bytes > this.#host.options.uncommittedBytesMax
    ) {
      return { kind: "overloaded" };
    }
    const entry = this.#append(EntryKind.normal, payload);
    return { kind: "accepted", index: entry.index, term: entry.term };
  }

  /**
   * One change at a time, and none before an entry of this term is committed: the thesis's rule (4.1) as corrected in
   * 2015. Without it two leaders could use configurations whose quorums don't meet.
   */
  proposeConfig(next: Configuration): ConfigOutcome {
    const { configs, log } = this.#host;
    if (this.#transferTo !== 0) return { kind: "notLeader" };
    if (!this.isEstablished || configs.currentIndex > log.commitIndex) return { kind: "notReady" };
    if (voterDifference(configs.current, next) > 1) {
      return { kind: "invalid", reason: "more than one voter would change" };
    }
    if (!next.some((member) => !member.isLearner))
      return { kind: "invalid", reason: "no voter would remain" };
    const entry = this.#append(EntryKind.config, encodeConfiguration(sortedMembers(next)));
    return { kind: "accepted", index: entry.index, term: entry.term };
  }

  read(from: number, readId: number): boolean {
    if (this.#reads.length + this.#earlyReads.length >= this.#host.options.readCountMax) return false;
    if (!this.isEstablished) this.#earlyReads.push({ readId, from });
    else this.#addRead(readId, from);
    return true;
  }

  onReadRequest(message: ReadRequest): void {
    // A refused one is asked again by its sender after a while.
    this.read(message.from, message.readId);
  }

  /** Every message of a member shows that it lives and accepts this leader's term. */
  heard(raftId: number): void {
    const progress = this.#progress.get(raftId);
    if (progress !== undefined) progress.heardTick = this.#tick;
  }

  onAppendOk(message: AppendOk): void {
    const progress = this.#progress.get(message.from);
    if (progress === undefined || message.matchIndex > this.#host.log.lastIndex) return;
    const isNew = progress.acknowledge(message.matchIndex);
    progress.inflights.freeThrough(message.matchIndex);
    const isProbeAnswer = progress.mode === "probe";
    const isSnapshotPassed = progress.mode === "snapshot" && progress.match + 1 >= this.#host.log.firstIndex;
    if (isProbeAnswer || isSnapshotPassed) progress.becomeReplicate();
    if (!isNew) return;
    this.maybeCommit();
    if (message.from === this.#transferTo) this.#tryTransfer();
  }

  /** A refusal never commits anything: it proves nothing about what the follower holds. */
  onAppendReject(message: AppendReject): void {
    const progress = this.#progress.get(message.from);
    if (progress === undefined) return;
    if (message.isRecovering) progress.recovers(message);
    if (message.isRecovering && message.hintIndex < progress.match) {
      progress.reset(message.hintIndex);
      return;
    }
    // Skip our own entries of higher terms than the follower has there: they can't match either.
    const agree = this.#host.log.agreeIndex(message.hintIndex, message.hintTerm);
    progress.reject(message.rejectedIndex, agree);
  }

  onHeartbeatReply(message: HeartbeatReply): void {
    const progress = this.#progress.get(message.from);
    if (progress === undefined) return;
    // An older answer that was overtaken would speak of what is past.
    if (message.round >= progress.ackedRound) progress.recovers(message);
    progress.ackedRound = Math.max(progress.ackedRound, message.round);
    progress.isProbeSent = false;
    if (progress.inflights.isFull) progress.inflights.freeFirst();
    // Something was lost: in replicate mode an empty append after the last entry sent asks where the follower is.
    if (progress.match < this.#host.log.lastIndex) this.#sendAppend(progress, true);
    this.#serveReads();
  }

  /** The connection broke: what was sent ahead may be lost. */
  unreachable(raftId: number): void {
    const progress = this.#progress.get(raftId);
    if (progress?.mode === "replicate") progress.becomeProbe();
  }

  snapshotSent(raftId: number, delivered: boolean): void {
    const progress = this.#progress.get(raftId);
    if (progress === undefined || progress.mode !== "snapshot") return;
    if (delivered) progress.becomeProbe();
    else progress.abandonSnapshot();
    // Wait for a sign of life (heartbeat reply or acknowledgement) before the next append.
    progress.isProbeSent = true;
  }

  /** The snapshot being sent to `raftId` was taken at `index`. */
  snapshotStarted(raftId: number, index: number): void {
    const progress = this.#progress.get(raftId);
    if (progress?.mode === "snapshot") progress.snapshotIndex = index;
  }

  transfer(to: number): boolean {
    const { configs, options } = this.#host;
    const progress = this.#progress.get(to);
    if (to === options.raftId || !configs.isVoter(to) || progress === undefined) return false;
    if (progress.isRecovering) return false;
    this.#transferTo = to;
    this.#transferElapsed = 0;
    this.#isTransferSent = false;
    this.#tryTransfer();
    return true;
  }

  /** Voter with the longest log among those that could win an election, or 0. */
  bestSuccessor(): number {
    const { configs, options } = this.#host;
    const reachable = this.reachable();
    let best: Progress | undefined;
    for (const voter of configs.voters) {
      const progress = this.#progress.get(voter);
      if (progress === undefined || voter === options.raftId || !reachable.has(voter)) continue;
      if (progress.isRecovering) continue;
      if (best === undefined || progress.match > best.match) best = progress;
    }
    return best?.raftId ?? 0;
  }

  /** Learners that are no more than `lagMax` entries behind and would vote. */
  learnersCaughtUp(lagMax: number): readonly number[] {
    const { configs, log } = this.#host;
    const learners = configs.current.filter((member) => member.isLearner);
    // Asked for after every step, and nearly always there are none.
    if (learners.length === 0) return [];
    const healthy = this.healthy();
    return learners
      .filter((member) => healthy.has(member.raftId))
      .map((member) => member.raftId)
      .filter((raftId) => {
        const progress = this.#progress.get(raftId);
        return progress?.mode === "replicate" && log.lastIndex - progress.match <= lagMax;
      });
  }

  /** Called when the configuration in force changed. */
  configChanged(): void {
    const { configs, log } = this.#host;
    for (const raftId of this.#progress.keys()) {
      if (configs.member(raftId) !== undefined) continue;
      this.#progress.delete(raftId);
      if (raftId !== this.#host.options.raftId) this.#leaving.add(raftId);
    }
    for (const { raftId } of configs.current) this.#leaving.delete(raftId);
    for (const member of configs.current) {
      if (!this.#progress.has(member.raftId)) this.#track(member.raftId, log.lastIndex + 1);
    }
    if (this.#transferTo !== 0 && !configs.isVoter(this.#transferTo)) this.#endTransfer();
  }

  /**
   * Commits what a quorum has made durable, if the entry is of this term: an older one on a quorum may still be
   * replaced (paper 5.4.2, figure 8). The leader counts itself by what is durable here, not by what it has.
   */
  maybeCommit(): void {
    const { configs, log, options } = this.#host;
    const index = quorumIndex(configs.voters, (voter) =>
      voter === options.raftId ? log.durableIndex : (this.#progress.get(voter)?.match ?? 0),
    );
    if (index <= log.commitIndex || log.termAt(index) !== this.#term) return;
    for (let each = log.commitIndex + 1; each <= index; each += 1) {
      this.#uncommittedBytes -= log.at(each)?.payload.byteLength ?? 0;
    }
    log.commitTo(index);
    this.#commitNewsDue = true;
    if (this.#leaving.size > 0 && configs.currentIndex <= index) this.#dismiss();
    if (this.#earlyReads.length > 0 && this.isEstablished) {
      const early = this.#earlyReads;
      this.#earlyReads = [];
      for (const read of early) this.#addRead(read.readId, read.from);
    }
  }

  /**
   * The removal is committed: those who left are told, since nothing else is sent to them. A voter that misses it learns it
   * when it campaigns; a learner never does.
   */
  #dismiss(): void {
    const from = this.#host.options.raftId;
    for (const to of this.#leaving) this.#host.send({ type: "removedNotice", from, to, term: this.#term });
    this.#leaving.clear();
  }

  /** Sends what the windows allow. Called once per turn, so that proposals of one turn share messages. */
  flush(): void {
    if (this.#isReadRoundDue()) this.#heartbeat();
    for (const progress of this.#progress.values()) {
      if (progress.raftId === this.#host.options.raftId) continue;
      while (
        progress.next <= this.#host.log.lastIndex &&
        !progress.isPaused &&
        !this.#isGathering(progress)
      ) {
        if (!this.#sendAppend(progress, false)) break;
      }
    }
  }

  /** An answer that is on its way will let what gathered meanwhile go as one message. */
  #isGathering(progress: Progress): boolean {
    const { log, options } = this.#host;
    if (progress.mode !== "replicate" || progress.inflights.count < options.pipelineCount) return false;
    return log.lastIndex - progress.next + 1 < options.gatherCountMax;
  }

  /** Tells everyone the commit index now; used before a leader that was removed steps down. */
  sendCommitNews(): void {
    this.#sendCommitNews();
  }

  /** Leadership is lost: nobody will confirm these. */
  dropReads(): void {
    for (const read of [...this.#reads, ...this.#earlyReads]) {
      if (read.from === this.#host.options.raftId) {
        this.#host.readDone({ readId: read.readId, index: undefined });
      }
    }
    this.#reads = [];
    this.#earlyReads = [];
  }

  #track(raftId: number, next: number): void {
    const { inflightBytesMax, inflightCountMax } = this.#host.options;
    const limits = { countMax: inflightCountMax, bytesMax: inflightBytesMax };
    this.#progress.set(raftId, new Progress(raftId, next, this.#tick, limits));
  }

  #append(kind: EntryKind, payload: Uint8Array): Entry {
    const { configs, log } = this.#host;
    const entry: Entry = { index: log.lastIndex + 1, term: this.#term, kind, payload };
    log.append([entry]);
    this.#uncommittedBytes += payload.byteLength;
    if (configs.appended([entry])) this.configChanged();
    return entry;
  }

  /** One append message, or the request for a snapshot. False if nothing was sent. */
  #sendAppend(progress: Progress, mayBeEmpty: boolean): boolean {
    const { log, options } = this.#host;
    if (progress.raftId === options.raftId || progress.isPaused) return false;
    const prevIndex = progress.next - 1;
    const prevTerm = log.termAt(prevIndex);
    if (prevTerm === undefined) {
      // Not to a silent member: it would be taken and held for nothing.
      if (this.#tick - progress.heardTick > options.electionTicks) return false;
      progress.becomeSnapshot(log.commitIndex);
      this.#host.snapshotNeeded(progress.raftId);
      return false;
    }
    const limits = { bytesMax: options.appendBytesMax, countMax: options.appendCountMax };
    const entries = progress.next <= log.lastIndex ? log.slice(progress.next, limits) : [];
    if (entries.length === 0 && !mayBeEmpty) return false;
    let bytes = 0;
    for (const entry of entries) bytes += entryBytes(entry);
    this.#host.send({
      type: "append",
      from: options.raftId,
      to: progress.raftId,
      term: this.#term,
      prevIndex,
      prevTerm,
      entries,
      commit: log.commitIndex,
    });
    progress.sentCommit = log.commitIndex;
    progress.sent(prevIndex + entries.length, entries.length, bytes);
    return true;
  }

  #sendCommitNews(): void {
    const { log } = this.#host;
    this.#commitNewsDue = false;
    for (const progress of this.#progress.values()) {
      if (progress.mode === "replicate" && progress.sentCommit < log.commitIndex)
        this.#sendAppend(progress, true);
    }
  }

  #heartbeat(): void {
    const { log, options } = this.#host;
    this.#round += 1;
    for (const progress of this.#progress.values()) {
      if (progress.raftId === options.raftId) continue;
      this.#host.send({
        type: "heartbeat",
        from: options.raftId,
        to: progress.raftId,
        term: this.#term,
        // Never beyond what is known to be equal there: the follower can't check it.
        commit: Math.min(progress.match, log.commitIndex),
        round: this.#round,
        lastIndex: log.lastIndex,
        incarnation: progress.incarnation,
      });
    }
    this.#serveReads();
  }

  #addRead(readId: number, from: number): void {
    this.#reads.push({ readId, from, index: this.#host.log.commitIndex, round: this.#round + 1 });
  }

  /** A new round for reads starts when the last one was answered; until then they gather. */
  #isReadRoundDue(): boolean {
    const last = this.#reads.at(-1);
    return last !== undefined && last.round > this.#round && this.#confirmedRound() >= this.#round;
  }

  #confirmedRound(): number {
    const { configs, options } = this.#host;
    return quorumIndex(configs.voters, (voter) =>
      voter === options.raftId ? this.#round : (this.#progress.get(voter)?.ackedRound ?? 0),
    );
  }

  #serveReads(): void {
    if (this.#reads.length === 0) return;
    const confirmed = this.#confirmedRound();
    const served = this.#reads.filter((read) => read.round <= confirmed);
    if (served.length === 0) return;
    this.#reads = this.#reads.filter((read) => read.round > confirmed);
    for (const read of served) this.#serveRead(read);
  }

  #serveRead(read: PendingRead): void {
    const { log, options } = this.#host;
    if (read.from === options.raftId) {
      this.#host.readDone({ readId: read.readId, index: read.index });
      return;
    }
    const progress = this.#progress.get(read.from);
    // So that it can apply up to there without waiting for the next entry or heartbeat.
    if (progress?.mode === "replicate" && progress.sentCommit < log.commitIndex)
      this.#sendAppend(progress, true);
    this.#host.send({
      type: "readReply",
      from: options.raftId,
      to: read.from,
      term: this.#term,
      readId: read.readId,
      index: read.index,
    });
  }

  #tryTransfer(): void {
    const { log, options } = this.#host;
    const progress = this.#progress.get(this.#transferTo);
    assert(progress !== undefined, "the successor is a member");
    if (this.#isTransferSent || progress.match < log.lastIndex) return;
    this.#isTransferSent = true;
    this.#host.send({ type: "timeoutNow", from: options.raftId, to: progress.raftId, term: this.#term });
  }

  #endTransfer(): void {
    this.#transferTo = 0;
    this.#transferElapsed = 0;
    this.#isTransferSent = false;
  }
}
