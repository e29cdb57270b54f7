/**
 * Raft as a pure state machine: ticks, messages and proposals in; messages, entries to write and entries to apply out.
 * Same inputs, same outputs: no clock, no disk, no promise. The driver is raft/node.ts (and the simulator's harness).
 *
 * Rules that hold it together: term, vote and entries are durable before any answer that depends on them leaves (such
 * answers wait in the outbox for the next append); a member's own vote and acknowledgement count only once durable; a
 * leader's appends alone may overtake its disk. PreVote keeps a member that was cut off from disturbing, CheckQuorum
 * makes a leader that was cut off step down, and both rest on followers being loyal to a leader they hear.
 */
import { assert, unreachable } from "../../../common/assert.ts";
import { Configurations } from "./configs.ts";
import { Leader, type LeaderHost } from "./leader.ts";
import { RaftLog } from "./log.ts";
import type {
  AppendMessage,
  Configuration,
  HardState,
  Heartbeat,
  Message,
  SnapshotMessage,
  SnapshotMeta,
  VoteReply,
  VoteRequest,
} from "./messages.ts";
import type {
  Append,
  ConfigOutcome,
  CoreOptions,
  CoreStatus,
  Output,
  ProposeOutcome,
  ReadResult,
  RestoredState,
  Role,
} from "./options.ts";
import { VoteTally } from "./quorum.ts";

/** Most entries given out to write or apply at once; bytes are bounded by the options. */
const BATCH_COUNT_MAX = 10_000;
/** Tries with short time-outs after a leader was found dead, before going back to normal ones. */
const HURRIED_CAMPAIGNS_MAX = 10;
/** The first try comes within so many ticks. Each further one waits a tick longer: a vote on a busy machine takes time. */
const HURRIED_TICKS_MAX = 3;
/** In a hurry, one that was voted for or encouraged has at least so long to win. */
const HURRIED_PATIENCE_TICKS = 4;
/** Numbers of incarnations are drawn from so many, that no two lives of a member have the same. */
const INCARNATION_BOUND = 2 ** 47;

export class RaftCore {
  readonly #options: CoreOptions;
  readonly #log: RaftLog;
  readonly #configs: Configurations;
  #term: number;
  #vote: number;
  /** What the disk has, and what was last handed to it. */
  #durableTerm: number;
  #writtenHardState: HardState;
  #role: Role = "follower";
  #leaderId = 0;
  #leader: Leader | undefined;
  #tally = new VoteTally();
  #electionElapsed = 0;
  #electionTimeoutTicks = 0;
  #hurriedCampaigns = 0;
  #isTransferCampaign = false;
  /** Ticks since the write that is out, or waiting, made no progress. */
  #writeElapsed = 0;
  #isDiskFull = false;
  #outstanding: Append | undefined;
  /** This member's messages to itself (its own vote) that the outstanding append makes true. */
  #toSelf: readonly Message[] = [];
  #snapshot: SnapshotMeta | undefined;
  #isInstalling = false;
  #isRecovering: boolean;
  /** Of this life, by which a heartbeat shows that it was sent in it; 0 once recovered. */
  #incarnation = 0;
  /** While recovering: the last index of the leader of `#recoverTerm` when it first spoke to this incarnation. */
  #recoverTerm = 0;
  #recoverIndex = 0;
  /**
   * While recovering: up to here the log is what a leader of this term has. Entries behind it were good when they were
   * written, but what was lost may have replaced them, and what this member acknowledged may have been the replacement.
   */
  #matchedIndex: number;
  #wasRemoved = false;
  #now: Message[] = [];
  #afterWrite: Message[] = [];
  #reads: ReadResult[] = [];
  #snapshotsTo: number[] = [];

  constructor(options: CoreOptions, restored: RestoredState) {
    const { base, entries, hardState, applied } = restored;
    this.#options = options;
    this.#log = new RaftLog(base, entries, { commit: hardState.commit, applied });
    this.#configs = new Configurations(base.config, base.configIndex);
    this.#configs.appended(entries);
    this.#term = Math.max(hardState.term, this.#log.lastTerm);
    this.#vote = this.#term === hardState.term ? hardState.vote : 0;
    this.#durableTerm = hardState.term;
    this.#writtenHardState = hardState;
    this.#isRecovering = restored.isRecovering;
    if (this.#isRecovering) this.#incarnation = 1 + options.random(INCARNATION_BOUND);
    this.#matchedIndex = this.#log.commitIndex;
    this.#resetElection();
  }

  /** Members of the newest configuration in the log. */
  get config(): Configuration {
    return this.#configs.current;
  }

  /** Index of the entry that made it. */
  get configIndex(): number {
    return this.#configs.currentIndex;
  }

  get isRecovering(): boolean {
    return this.#isRecovering;
  }

  get wasRemoved(): boolean {
    return this.#wasRemoved;
  }

  get status(): CoreStatus {
    return {
      role: this.#role,
      term: this.#term,
      leader: this.#leaderId,
      isEstablished: this.#leader?.isEstablished ?? false,
      commitIndex: this.#log.commitIndex,
      lastIndex: this.#log.lastIndex,
      config: this.#configs.current,
      configIndex: this.#configs.currentIndex,
      isRecovering: this.#isRecovering,
      wasRemoved: this.#wasRemoved,
    };
  }

  get term(): number {
    return this.#term;
  }

  /** Raft id of the known leader, 0 for none. */
  get leader(): number {
    return this.#leaderId;
  }

  get isEstablished(): boolean {
    return this.#leader?.isEstablished ?? false;
  }

  get log(): Omit<RaftLog, "append" | "accept" | "reset" | "compact" | "takeCommitted" | "takeUnwritten"> {
    return this.#log;
  }

  /** The leader's duties, while it leads. For reading. */
  get leadership(): Leader | undefined {
    return this.#leader;
  }

  get hasOutstandingAppend(): boolean {
    return this.#outstanding !== undefined;
  }

  /** Entries wait to be applied that the last output had no room for. */
  get hasCommitted(): boolean {
    return !this.#isInstalling && this.#log.hasCommitted;
  }

  /** A snapshot is being installed: the state machine is not to be touched. */
  get isInstallPending(): boolean {
    return this.#isInstalling;
  }

  /** The configuration in force at an applied index. */
  configAt(index: number): { readonly config: Configuration; readonly configIndex: number } {
    const step = this.#configs.at(index);
    return { config: step.config, configIndex: step.index };
  }

  /** Members heard of lately; only a leader knows. */
  reachable(): ReadonlySet<number> {
    if (this.#leader !== undefined) return this.#leader.reachable();
    return new Set([this.#options.raftId, ...(this.#leaderId === 0 ? [] : [this.#leaderId])]);
  }

  /** Members that count towards a quorum; only a leader knows of others. See Leader.healthy(). */
  healthy(sinceRound = 0): ReadonlySet<number> {
    return this.#leader?.healthy(sinceRound) ?? new Set(this.#isRecovering ? [] : [this.#options.raftId]);
  }

  tick(): void {
    const isWriteWaiting = this.#outstanding !== undefined || this.#isDiskFull;
    this.#writeElapsed = isWriteWaiting ? this.#writeElapsed + 1 : 0;
    this.#electionElapsed += 1;
    if (this.#leader !== undefined) {
      this.#tickLeader(this.#leader);
      return;
    }
    if (this.#electionElapsed < this.#electionTimeoutTicks) return;
    if (this.#mayCampaign()) {
      this.#campaign("preVote", false);
      return;
    }
    // It can't win, so it has nothing to hurry for: voters that encourage it wait for it.
    this.#hurriedCampaigns = 0;
    // Nor does it stay loyal to who is silent: its vote may be the one that another lacks, if it counts there as a voter already.
    this.#becomeFollower(this.#term, 0);
    this.#askWhetherRemoved();
  }

  /** Campaigns now: a sole voter at its start, or a test. */
  campaign(): void {
    if (this.#leader === undefined && this.#mayCampaign()) this.#campaign("preVote", false);
  }

  propose(payload: Uint8Array): ProposeOutcome {
    return this.#leader?.propose(payload) ?? { kind: "notLeader" };
  }

  proposeConfig(next: Configuration): ConfigOutcome {
    const outcome = this.#leader?.proposeConfig(next) ?? { kind: "notLeader" };
    return outcome;
  }

  /** Asks for a read index; the answer comes in Output.reads. False: no leader is known, or too many wait. */
  read(readId: number): boolean {
    if (this.#leader !== undefined) return this.#leader.read(this.#options.raftId, readId);
    if (this.#leaderId === 0) return false;
    this.#send({ type: "readRequest", ...this.#envelope(this.#leaderId), readId });
    return true;
  }

  /** Hands leadership to `to`, or to the best follower for 0. False if there is nobody to take it. */
  transfer(to: number): boolean {
    if (this.#leader === undefined) return false;
    const successor = to === 0 ? this.#leader.bestSuccessor() : to;
    return successor !== 0 && this.#leader.transfer(successor);
  }

  /**
   * The connection to `raftId` broke and a new one was refused: nothing listens there. If it led, waiting out the
   * time-out gains nothing. Safe, since elections are safe at any time; quiet, since it begins with a PreVote that
   * others refuse while they hear the leader.
   */
  peerRefused(raftId: number): void {
    this.unreachable(raftId);
    if (this.#leader !== undefined || this.#leaderId !== raftId) return;
    this.#leaderId = 0;
    this.#hurriedCampaigns = HURRIED_CAMPAIGNS_MAX;
    this.#resetElection();
  }

  unreachable(raftId: number): void {
    this.#leader?.unreachable(raftId);
  }

  snapshotStarted(raftId: number, index: number): void {
    this.#leader?.snapshotStarted(raftId, index);
  }

  snapshotSent(raftId: number, delivered: boolean): void {
    this.#leader?.snapshotSent(raftId, delivered);
  }

  /** A full disk can promise nothing: a leader steps down and nobody campaigns until there is room. */
  setDiskFull(isFull: boolean): void {
    this.#isDiskFull = isFull;
    if (isFull && this.#leader !== undefined) this.#becomeFollower(this.#term, 0);
  }

  /** Forgets entries up to `index`, which a durable checkpoint covers. */
  compact(index: number): void {
    this.#log.compact(index);
    this.#configs.compacted(this.#log.baseIndex);
  }

  step(message: Message): void {
    if (message.to !== this.#options.raftId) return;
    if (message.type === "removedNotice") {
      this.#wasRemoved = true;
      return;
    }
    if (message.term > this.#term) {
      if (!this.#onHigherTerm(message)) return;
    } else if (message.term < this.#term) {
      this.#onLowerTerm(message);
      return;
    }
    this.#stepCurrent(message);
  }

  /** What may happen at once. Taking it is doing it: committed entries count as applied. */
  takeOutput(): Output {
    this.#leader?.flush();
    const limits = { bytesMax: this.#options.applyBytesMax, countMax: BATCH_COUNT_MAX };
    const committed = this.#isInstalling ? [] : this.#log.takeCommitted(limits);
    const output = { messages: this.#now, committed, reads: this.#reads, snapshotsTo: this.#snapshotsTo };
    this.#now = [];
    this.#reads = [];
    this.#snapshotsTo = [];
    return output;
  }

  /** The next write, or undefined if there is nothing to write or one is out. */
  takeAppend(): Append | undefined {
    if (this.#outstanding !== undefined) return undefined;
    const snapshot = this.#snapshot;
    const limits = { bytesMax: this.#options.writeBytesMax, countMax: BATCH_COUNT_MAX };
    const entries = this.#log.takeUnwritten(limits);
    const hardState = this.#changedHardState(entries.length > 0 || snapshot !== undefined);
    // Acknowledgements speak of all entries that were taken in; they wait until the last of them is handed out.
    const isAllTaken = this.#log.handedIndex === this.#log.lastIndex;
    const waiting = isAllTaken ? this.#afterWrite : [];
    if (snapshot === undefined && entries.length === 0 && hardState === undefined && waiting.length === 0) {
      return undefined;
    }
    if (isAllTaken) this.#afterWrite = [];
    this.#snapshot = undefined;
    const { raftId } = this.#options;
    this.#toSelf = waiting.filter((message) => message.to === raftId);
    const messages = this.#toSelf.length === 0 ? waiting : waiting.filter((message) => message.to !== raftId);
    this.#outstanding = { hardState, snapshot, entries, messages };
    return this.#outstanding;
  }

  /** The append that was taken last is durable and its messages were sent. */
  appended(): void {
    const append = this.#outstanding;
    assert(append !== undefined, "an append is out");
    this.#outstanding = undefined;
    this.#writeElapsed = 0;
    if (append.hardState !== undefined) {
      this.#durableTerm = append.hardState.term;
    }
    if (append.snapshot !== undefined) this.#isInstalling = false;
    const last = append.entries.at(-1);
    if (last !== undefined) this.#log.durableThrough(last.index, last.term);
    const toSelf = this.#toSelf;
    this.#toSelf = [];
    for (const message of toSelf) this.step(message);
    if (this.#leader !== undefined) {
      this.#leader.maybeCommit();
      this.#stepDownIfRemoved(this.#leader);
    }
    this.#checkRecovered();
  }

  // --- terms ---

  /** False: the message is to be ignored. */
  #onHigherTerm(message: Message): boolean {
    switch (message.type) {
      case "preVote":
      case "vote":
        if (this.#refuseRemoved(message)) return false;
        // Loyalty: whoever hears a leader doesn't help to replace it, and its term doesn't move either.
        if (!message.isTransfer && this.#hearsLeader()) return false;
        if (message.type === "vote") this.#becomeFollower(message.term, 0);
        return true;
      case "preVoteReply":
        // A grant carries the term that was asked for; a refusal carries the refuser's own.
        if (!message.granted) this.#becomeFollower(message.term, 0);
        return message.granted;
      case "append":
      case "heartbeat":
      case "snapshot":
        this.#becomeFollower(message.term, message.from);
        return true;
      case "voteReply":
      case "appendOk":
      case "appendReject":
      case "heartbeatReply":
      case "termNotice":
      case "timeoutNow":
      case "readRequest":
      case "readReply":
      case "removedNotice":
        this.#becomeFollower(message.term, 0);
        return true;
    }
  }

  /**
   * A leader of an older term must learn the newer one, or a member whose term ran ahead (it campaigned while cut off)
   * would refuse that leader forever while CheckQuorum and loyalty keep everyone else with it.
   */
  #onLowerTerm(message: Message): void {
    switch (message.type) {
      case "append":
      case "heartbeat":
      case "snapshot":
        this.#sendDurable({ type: "termNotice", ...this.#envelope(message.from) });
        return;
      case "preVote":
        this.#sendDurable({ type: "preVoteReply", ...this.#envelope(message.from), granted: false });
        return;
      case "vote":
      case "preVoteReply":
      case "voteReply":
      case "appendOk":
      case "appendReject":
      case "heartbeatReply":
      case "termNotice":
      case "timeoutNow":
      case "readRequest":
      case "readReply":
      case "removedNotice":
        return;
    }
  }

  #stepCurrent(message: Message): void {
    switch (message.type) {
      case "preVote":
      case "vote":
        this.#onVoteRequest(message);
        return;
      case "preVoteReply":
      case "voteReply":
        this.#onVoteReply(message);
        return;
      case "append":
        this.#follow(message.from);
        this.#onAppend(message);
        return;
      case "heartbeat":
        this.#follow(message.from);
        this.#onHeartbeat(message);
        return;
      case "snapshot":
        this.#follow(message.from);
        this.#onSnapshot(message);
        return;
      case "appendOk":
      case "appendReject":
      case "heartbeatReply":
      case "readRequest":
        if (this.#leader !== undefined) this.#stepLeader(this.#leader, message);
        return;
      case "readReply":
        this.#reads.push({ readId: message.readId, index: message.index });
        return;
      case "timeoutNow":
        if (this.#leader === undefined && this.#mayCampaign()) this.#campaign("vote", true);
        return;
      case "termNotice":
      case "removedNotice":
        return;
      default:
        unreachable(message);
    }
  }

  #stepLeader(leader: Leader, message: Extract<Message, { from: number }>): void {
    leader.heard(message.from);
    if (message.type === "appendOk") leader.onAppendOk(message);
    else if (message.type === "appendReject") leader.onAppendReject(message);
    else if (message.type === "heartbeatReply") leader.onHeartbeatReply(message);
    else if (message.type === "readRequest") leader.onReadRequest(message);
    this.#stepDownIfRemoved(leader);
  }

  // --- elections ---

  #hearsLeader(): boolean {
    if (this.#leader !== undefined) return true;
    return this.#leaderId !== 0 && this.#electionElapsed < this.#options.electionTicks;
  }

  #mayCampaign(): boolean {
    return (
      this.#configs.mayCampaign(this.#options.raftId, this.#log.commitIndex) &&
      !this.#isRecovering &&
      !this.#isInstalling &&
      !this.#isDiskFull &&
      this.#writeElapsed < this.#options.electionTicks
    );
  }

  #resetElection(): void {
    const { electionSpreadTicks, electionTicks, random } = this.#options;
    this.#electionElapsed = 0;
    if (this.#hurriedCampaigns === 0) {
      this.#electionTimeoutTicks = electionTicks + random(electionSpreadTicks + 1);
      return;
    }
    const tried = HURRIED_CAMPAIGNS_MAX - this.#hurriedCampaigns;
    const leastTicks = tried === 0 ? 1 : 2 + tried;
    this.#electionTimeoutTicks = Math.min(electionTicks, leastTicks + random(HURRIED_TICKS_MAX + tried));
  }

  /** Somebody got this member's vote, or the promise of it: being in a hurry too would only unseat it. */
  #waitForOther(): void {
    if (this.#hurriedCampaigns === 0) return;
    this.#electionElapsed = 0;
    const patience = HURRIED_PATIENCE_TICKS + this.#options.random(HURRIED_TICKS_MAX);
    this.#electionTimeoutTicks = Math.max(this.#electionTimeoutTicks, patience);
  }

  #becomeFollower(term: number, leader: number): void {
    assert(term >= this.#term, "the term never goes back");
    if (term > this.#term) {
      this.#term = term;
      this.#vote = 0;
      // What an older leader had may be replaced by this one's: only what is committed is in both.
      this.#matchedIndex = this.#log.commitIndex;
    }
    this.#role = "follower";
    this.#leaderId = leader;
    const old = this.#leader;
    // One that won and lost again before it could commit anything is as leaderless as before.
    if (leader !== 0 || old?.isEstablished === true) this.#hurriedCampaigns = 0;
    this.#leader = undefined;
    old?.dropReads();
    // Not sent yet: they would go out under a term that somebody else leads.
    this.#snapshotsTo = [];
    this.#resetElection();
  }

  /** A leader of this term spoke. */
  #follow(leader: number): void {
    assert(this.#leader === undefined, "one leader per term");
    this.#hurriedCampaigns = 0;
    if (this.#role === "follower" && this.#leaderId === leader) {
      this.#resetElection();
      return;
    }
    assert(this.#leaderId === 0 || this.#leaderId === leader, "one leader per term");
    this.#becomeFollower(this.#term, leader);
  }

  #campaign(kind: "preVote" | "vote", isTransfer: boolean): void {
    if (this.#hurriedCampaigns > 0) this.#hurriedCampaigns -= 1;
    // Who campaigns knows no leader. Kept, it would refuse the very votes that end the stalemate.
    this.#leaderId = 0;
    this.#tally = new VoteTally();
    this.#isTransferCampaign = isTransfer;
    this.#resetElection();
    const { raftId } = this.#options;
    if (kind === "preVote") {
      this.#role = "preCandidate";
      this.#requestVotes(kind, this.#term + 1);
      this.#onVoteReply({
        type: "preVoteReply",
        from: raftId,
        to: raftId,
        term: this.#term + 1,
        granted: true,
      });
      return;
    }
    this.#role = "candidate";
    this.#term += 1;
    this.#vote = raftId;
    this.#requestVotes(kind, this.#term);
    // The own vote counts when it is durable, as everyone's does.
    this.#sendDurable({ type: "voteReply", ...this.#envelope(raftId), granted: true });
  }

  /**
   * The notice of a removal may be lost, and nothing else is sent to who was removed. A voter learns of it when it
   * campaigns; one that may not (a learner, a member that refetches its log) asks all the same, or it would wait for ever:
   * a PreVote promises nothing, and the answers of those that still count it in are not awaited.
   */
  #askWhetherRemoved(): void {
    if (this.#isInstalling) return;
    this.#isTransferCampaign = false;
    this.#requestVotes("preVote", this.#term + 1);
  }

  #requestVotes(kind: "preVote" | "vote", term: number): void {
    const isStranger = !this.#configs.knows(this.#options.raftId);
    for (const voter of this.#configs.voters) {
      if (voter === this.#options.raftId) continue;
      const request: VoteRequest = {
        type: kind,
        from: this.#options.raftId,
        to: voter,
        term,
        lastIndex: this.#log.lastIndex,
        lastTerm: this.#log.lastTerm,
        isTransfer: this.#isTransferCampaign,
        isStranger,
      };
      if (kind === "vote") this.#sendDurable(request);
      else this.#send(request);
    }
  }

  #onVoteRequest(request: VoteRequest): void {
    const isPre = request.type === "preVote";
    const mayVote =
      this.#vote === request.from ||
      (this.#vote === 0 && this.#leaderId === 0) ||
      (isPre && request.term > this.#term);
    const isChosen =
      this.#log.isUpToDate(request.lastIndex, request.lastTerm) && !(isPre && this.#isRival(request));
    const granted = mayVote && !this.#isRecovering && isChosen;
    const type = isPre ? "preVoteReply" : "voteReply";
    const term = granted ? request.term : this.#term;
    const reply: VoteReply = { type, from: this.#options.raftId, to: request.from, term, granted };
    if (isPre) {
      if (granted && this.#configs.isVoter(request.from)) this.#waitForOther();
      // A grant promises nothing; a refusal speaks of our term, which must be durable to be spoken of.
      if (granted) this.#send(reply);
      else this.#sendDurable(reply);
      return;
    }
    if (granted) {
      this.#vote = request.from;
      this.#electionElapsed = 0;
      this.#waitForOther();
    }
    this.#sendDurable(reply);
  }

  #onVoteReply(reply: VoteReply): void {
    const isAwaited =
      reply.type === "preVoteReply"
        ? this.#role === "preCandidate" && (!reply.granted || reply.term === this.#term + 1)
        : this.#role === "candidate";
    if (!isAwaited) return;
    this.#tally.record(reply.from, reply.granted);
    const outcome = this.#tally.outcome(this.#configs.voters);
    if (outcome === "lost") {
      this.#becomeFollower(this.#term, 0);
    } else if (outcome === "won") {
      if (reply.type === "preVoteReply") this.#campaign("vote", false);
      else this.#becomeLeader();
    }
  }

  /**
   * All followers of a leader that died notice it at once and ask at once. Would they encourage each other, all would
   * vote for themselves and nobody win; or one wins and the other's higher term unseats it. So a candidate encourages
   * no equal, and of two that only ask the one with the lower id gives way. Only for the few hurried tries: whoever
   * doesn't give way may be unable to win.
   */
  #isRival(request: VoteRequest): boolean {
    if (this.#hurriedCampaigns === 0) return false;
    const isAhead =
      this.#role === "candidate" || (this.#role === "preCandidate" && request.from < this.#options.raftId);
    return isAhead && request.lastIndex === this.#log.lastIndex && request.lastTerm === this.#log.lastTerm;
  }

  #becomeLeader(): void {
    assert(this.#role === "candidate", "only a candidate wins");
    assert(this.#durableTerm === this.#term, "the own vote is durable");
    this.#role = "leader";
    this.#leaderId = this.#options.raftId;
    this.#leader = new Leader(this.#host());
    this.#electionElapsed = 0;
    this.#leader.maybeCommit();
  }

  #host(): LeaderHost {
    return {
      options: this.#options,
      term: this.#term,
      log: this.#log,
      configs: this.#configs,
      send: (message) => this.#send(message),
      readDone: (result) => {
        this.#reads.push(result);
      },
      snapshotNeeded: (raftId) => {
        this.#snapshotsTo.push(raftId);
      },
    };
  }

  #tickLeader(leader: Leader): void {
    const isStuck = this.#writeElapsed >= this.#options.electionTicks;
    // A leader that can't write, or that a quorum no longer answers, only keeps others from choosing a better one.
    const isCutOff = this.#electionElapsed >= this.#options.electionTicks && !leader.hasReachableQuorum();
    if (isStuck || isCutOff) {
      this.#becomeFollower(this.#term, 0);
      return;
    }
    leader.tick();
  }

  /** A leader whose own removal is committed has done its part (thesis 4.2.2). */
  #stepDownIfRemoved(leader: Leader): void {
    if (this.#leader !== leader || this.#configs.isVoter(this.#options.raftId)) return;
    if (this.#configs.currentIndex > this.#log.commitIndex) return;
    leader.sendCommitNews();
    this.#becomeFollower(this.#term, 0);
  }

  /**
   * A member that our committed configuration removed and that knows less than it is told so. Who doesn't know yet that it was
   * ever a member is told by a leader alone: anyone else may be the one that has not heard of its joining, and nobody joins
   * with a number that was used before.
   */
  #refuseRemoved(request: VoteRequest): boolean {
    if (request.isStranger && this.#leader === undefined) return false;
    const committed = this.#configs.at(this.#log.commitIndex);
    if (committed.config.some((member) => member.raftId === request.from)) return false;
    if (request.lastIndex >= committed.index || this.#configs.member(request.from) !== undefined)
      return false;
    this.#send({ type: "removedNotice", ...this.#envelope(request.from) });
    return true;
  }

  // --- following ---

  #onAppend(message: AppendMessage): void {
    // Compared with a snapshot's index, not with the durable log, since the acknowledgement waits for durability.
    if (message.prevIndex < this.#log.commitIndex) {
      this.#acknowledge(message.from, this.#log.commitIndex);
      return;
    }
    const accepted = this.#log.accept(message.prevIndex, message.prevTerm, message.entries);
    if (accepted === undefined) {
      this.#rejectAppend(message);
      return;
    }
    if (accepted.removedFrom !== undefined) this.#configs.removedFrom(accepted.removedFrom);
    this.#configs.appended(message.entries);
    this.#matchedIndex = Math.max(this.#matchedIndex, accepted.lastIndex);
    // Only up to what this message proved: beyond it there may be leftovers of another leader.
    this.#log.commitTo(Math.min(message.commit, accepted.lastIndex));
    this.#acknowledge(message.from, accepted.lastIndex);
  }

  #rejectAppend(message: AppendMessage): void {
    const hintIndex = this.#log.agreeIndex(
      Math.min(message.prevIndex, this.#log.lastIndex),
      message.prevTerm,
    );
    this.#sendDurable({
      type: "appendReject",
      ...this.#envelope(message.from),
      rejectedIndex: message.prevIndex,
      hintIndex,
      hintTerm: this.#log.termAt(hintIndex) ?? 0,
      isRecovering: this.#isRecovering,
      incarnation: this.#incarnation,
    });
  }

  /**
   * A leader that counts this member for all it has sends nothing as long as nothing is proposed. Index 0 refuses no append:
   * all that it says is how far this member's log is known to be the leader's, and only a leader that believes more of it
   * takes notice.
   */
  #askForLost(leader: number): void {
    const hintIndex = this.#knownIndex;
    this.#send({
      type: "appendReject",
      ...this.#envelope(leader),
      rejectedIndex: 0,
      hintIndex,
      hintTerm: this.#log.termAt(hintIndex) ?? 0,
      isRecovering: true,
      incarnation: this.#incarnation,
    });
  }

  #acknowledge(to: number, matchIndex: number): void {
    this.#sendDurable({ type: "appendOk", ...this.#envelope(to), matchIndex });
  }

  #onHeartbeat(message: Heartbeat): void {
    // One that was under way when this member crashed may say less than it acknowledged before that.
    const isOfThisLife = message.incarnation === this.#incarnation;
    if (this.#isRecovering && isOfThisLife && this.#recoverTerm !== message.term) {
      this.#recoverTerm = message.term;
      this.#recoverIndex = message.lastIndex;
    }
    // It rests on acknowledgements, and those of a former life may have been for entries that are lost.
    this.#log.commitTo(Math.min(message.commit, this.#knownIndex));
    this.#checkRecovered();
    if (this.#isRecovering && this.#knownIndex < message.lastIndex) this.#askForLost(message.from);
    const reply: Message = {
      type: "heartbeatReply",
      ...this.#envelope(message.from),
      round: message.round,
      isRecovering: this.#isRecovering,
      incarnation: this.#incarnation,
    };
    // It promises the term only. A member whose disk hangs keeps silent: it can't help to commit anything.
    const isWriting = this.#writeElapsed < this.#options.heartbeatTicks;
    if (this.#durableTerm === this.#term && isWriting) this.#send(reply);
    else this.#sendDurable(reply);
  }

  #onSnapshot(message: SnapshotMessage): void {
    const { snapshot } = message;
    if (snapshot.index <= this.#log.commitIndex || this.#isInstalling) {
      this.#acknowledge(message.from, this.#log.commitIndex);
      return;
    }
    if (this.#log.termAt(snapshot.index) === snapshot.term) {
      // Everything in it is in the log already; it only proves that it is committed.
      this.#log.commitTo(snapshot.index);
      this.#acknowledge(message.from, snapshot.index);
      return;
    }
    this.#log.reset(snapshot.index, snapshot.term);
    this.#configs.reset(snapshot.config, snapshot.configIndex);
    this.#snapshot = snapshot;
    this.#isInstalling = true;
    this.#acknowledge(message.from, snapshot.index);
  }

  /**
   * A member that lost acknowledged entries may vote again when it holds all that the leader had when it first answered
   * this incarnation: that includes whatever that leader, or one before it, counts it for.
   */
  #checkRecovered(): void {
    if (!this.#isRecovering || this.#recoverTerm !== this.#term || this.#recoverTerm === 0) return;
    if (this.#isInstalling || this.#log.durableIndex < this.#recoverIndex) return;
    if (this.#log.commitIndex < this.#recoverIndex) return;
    this.#isRecovering = false;
    this.#incarnation = 0;
  }

  /** Up to here an acknowledgement of whatever life speaks of the entries that are in the log. */
  get #knownIndex(): number {
    return this.#isRecovering ? Math.max(this.#matchedIndex, this.#log.commitIndex) : this.#log.lastIndex;
  }

  // --- outbox ---

  #envelope(to: number): { readonly from: number; readonly to: number; readonly term: number } {
    return { from: this.#options.raftId, to, term: this.#term };
  }

  #send(message: Message): void {
    this.#now.push(message);
  }

  #sendDurable(message: Message): void {
    this.#afterWrite.push(message);
  }

  #changedHardState(isWriting: boolean): HardState | undefined {
    const written = this.#writtenHardState;
    const current = { term: this.#term, vote: this.#vote, commit: this.#log.commitIndex };
    const isPromiseChanged = current.term !== written.term || current.vote !== written.vote;
    // The commit index alone is worth no write; it goes along with others.
    if (!isPromiseChanged && !(isWriting && current.commit !== written.commit)) return undefined;
    this.#writtenHardState = current;
    return current;
  }
}
