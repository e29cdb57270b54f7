/**
 * One raft member: drives the core with ticks, messages, proposals and disk results, and does what it says. The store
 * talks to it through ReplicatedLog. It decides nothing about consensus; core/ does.
 *
 * One turn (#pump) takes what gathered since the last one: messages go out, the write starts, committed entries are
 * applied. While a write is out, the next one gathers: group commit without a timer. A leader sends entries while its
 * own write is still on its way. Applying is synchronous, so state, applied index and checkpoint always agree.
 */
import { assert } from "../../common/assert.ts";
import type { Cancel, Env } from "../../common/env.ts";
import { ClusterError, hasNodeCode } from "../../common/errors.ts";
import type { Logger } from "../../common/log.ts";
import type { CheckpointStore, StateEntry } from "./checkpoint-store.ts";
import { RaftCore } from "./core/core.ts";
import { type Entry, EntryKind, type SnapshotMessage } from "./core/messages.ts";
import type { Append } from "./core/options.ts";
import { EntryEncoder } from "./entry-codec.ts";
import { type RaftLimits, RAFT_LIMITS } from "./limits.ts";
import { Membership } from "./membership.ts";
import { markRecovered, type OpenedState, openState, savePeers, type StartMode } from "./open-state.ts";
import { Pauses } from "./pauses.ts";
import { ReadBarriers } from "./read-barriers.ts";
import type {
  LeadershipChange,
  Member,
  ProposeOptions,
  RemoveOptions,
  ReplicatedLog,
  StateMachine,
} from "./replicated-log.ts";
import type { RaftTransport } from "./transport.ts";
import type { Wal } from "./wal.ts";

export interface RaftNodeOptions {
  readonly env: Env;
  readonly log: Logger;
  /** Positive, below 2^53, random, never used again after removal. */
  readonly raftId: number;
  readonly nodeId: string;
  readonly clusterId: string;
  /** Absolute; made if missing. Holds the write-ahead log. */
  readonly folder: string;
  readonly checkpoints: CheckpointStore;
  readonly transport: RaftTransport;
  readonly stateMachine: StateMachine;
  readonly mode: StartMode;
  /** 32 bytes; encrypts the write-ahead log. */
  readonly encryptionKey?: Uint8Array;
  readonly limits?: Partial<RaftLimits>;
  /** Called once when the member can't go on (a failed sync, a broken invariant): the process must end. */
  readonly onFatal: (error: unknown) => void;
  /** Shared with the transport, so that a batch is encoded once for disk and peers. */
  readonly encoder?: EntryEncoder;
}

type WholeOptions = RaftNodeOptions & { readonly encoder: EntryEncoder };

interface Waiter {
  readonly term: number;
  readonly resolve: (outcome: unknown) => void;
  readonly reject: (error: ClusterError) => void;
}

interface ArrivedSnapshot {
  readonly entries: readonly StateEntry[];
  readonly index: number;
  readonly done: () => void;
}

/** Opens the state on disk and gives a member that is ready to start(). The state machine holds the checkpoint by then. */
export async function createRaftNode(options: RaftNodeOptions): Promise<RaftNode> {
  const limits = { ...RAFT_LIMITS, ...options.limits };
  const encoder = options.encoder ?? new EntryEncoder();
  const { raftId, nodeId, clusterId, folder, checkpoints, mode, log } = options;
  const opened = await openState({
    disk: options.env.disk,
    random: options.env.random,
    log,
    folder,
    identity: { raftId, nodeId, clusterId },
    encryptionKey: options.encryptionKey,
    segmentBytes: limits.segmentBytes,
    checkpoints,
    encoder,
    mode,
  });
  options.stateMachine.restore(opened.checkpointIndex, opened.state);
  options.stateMachine.takeCheckpoint();
  return new RaftNode({ ...options, encoder }, limits, opened);
}

export class RaftNode implements ReplicatedLog {
  readonly #options: WholeOptions;
  readonly #limits: RaftLimits;
  readonly #core: RaftCore;
  readonly #wal: Wal;
  readonly #reads: ReadBarriers;
  readonly #membership: Membership;
  readonly #waiters = new Map<number, Waiter>();
  readonly #leadershipListeners = new Set<(change: LeadershipChange) => void>();
  readonly #removedListeners = new Set<() => void>();
  readonly #tickWaiters = new Set<() => void>();
  readonly #snapshotsOut = new Map<number, AbortController>();
  readonly #pauses: Pauses;
  #cancelTicks: Cancel | undefined;
  #appliedIndex: number;
  #appliedConfigIndex = 0;
  #checkpointIndex: number;
  #checkpointing: Promise<void> | undefined;
  #checkpointDueMs = 0;
  #arrived: ArrivedSnapshot | undefined;
  #announced: LeadershipChange = { isLeader: false, term: 0, leader: 0 };
  #peersConfigIndex = -1;
  readonly #peersAtStart: readonly Member[];
  #notingPeers: Promise<void> = Promise.resolve();
  #isPumpScheduled = false;
  #isPumping = false;
  /** Since the last pump. */
  #proposedCount = 0;
  #wasMember = false;
  #isRemovedTold = false;
  #wasRecovering: boolean;
  #isStarted = false;
  #isStopped = false;
  #writing: Promise<void> = Promise.resolve();
  #isWriting = false;
  /** Which writes found no room when last tried. */
  readonly #full = { log: false, state: false };
  /** Since the last tick: the log is sealed once nothing has been written for a whole one. */
  #hasWritten = false;

  /** Use createRaftNode(). */
  constructor(options: WholeOptions, limits: RaftLimits, opened: OpenedState) {
    this.#options = options;
    this.#limits = limits;
    this.#wal = opened.wal;
    this.#peersAtStart = opened.peers;
    this.#appliedIndex = opened.checkpointIndex;
    this.#checkpointIndex = opened.checkpointIndex;
    this.#wasRecovering = opened.restored.isRecovering;
    const { env } = options;
    this.#pauses = new Pauses(env.timers);
    const ticks = (ms: number): number => Math.max(1, Math.round(ms / limits.tickMs));
    const electionTicks = ticks(limits.electionMs);
    this.#core = new RaftCore(
      {
        raftId: options.raftId,
        electionTicks,
        electionSpreadTicks: Math.ceil(electionTicks / 2),
        heartbeatTicks: ticks(limits.heartbeatMs),
        random: (bound) => env.random.below(bound),
        ...limits,
      },
      opened.restored,
    );
    this.#reads = new ReadBarriers({
      nowMs: () => env.clock.monotonicMs(),
      timeoutMs: limits.readMs,
      retryMs: limits.heartbeatMs * 3,
      countMax: limits.readCountMax,
      ask: (readId) => this.#core.read(readId),
      firstReadId: env.random.below(2 ** 31) * 2 ** 20,
    });
    this.#membership = new Membership(
      {
        core: this.#core,
        notLeader: () => this.#notLeader(),
        nextTick: (signal) => this.#nextTick(signal),
        committed: (index, term) => this.#waitFor(index, term, undefined),
        wake: () => this.#wake(),
      },
      { learnerLagMax: limits.learnerLagMax, patienceTicks: electionTicks },
    );
  }

  get raftId(): number {
    return this.#options.raftId;
  }

  /**
   * Leads, has committed an entry of its term, and has applied it. What a leader plans must rest on all that its
   * predecessors committed, and applying may lag behind the commit: its own disk is slower than a quorum's, or there is much.
   */
  get isLeader(): boolean {
    const { leadership } = this.#core;
    return leadership?.isEstablished === true && this.#appliedIndex >= leadership.firstIndexOfTerm;
  }

  get term(): number {
    return this.#core.term;
  }

  get leader(): number {
    return this.#core.leader;
  }

  get appliedIndex(): number {
    return this.#appliedIndex;
  }

  get members(): readonly Member[] {
    return this.#core.config;
  }

  get reachable(): ReadonlySet<number> {
    return this.#core.reachable();
  }

  get healthy(): ReadonlySet<number> {
    return this.#core.healthy();
  }

  /** For tests, the simulator and metrics; not to be changed. */
  get core(): RaftCore {
    return this.#core;
  }

  get walBytes(): number {
    return this.#wal.bytes;
  }

  start(): void {
    assert(!this.#isStarted && !this.#isStopped, "a member starts once");
    this.#isStarted = true;
    const { env, mode, transport } = this.#options;
    transport.start({
      onMessages: (messages) => {
        this.#guard(() => {
          for (const message of messages) this.#core.step(message);
        });
        this.#wake();
      },
      onUnreachable: (raftId) => {
        this.#core.unreachable(raftId);
        this.#wake();
      },
      onRefused: (raftId) => {
        this.#core.peerRefused(raftId);
        this.#wake();
      },
      onSnapshot: (message, entries) => this.#onSnapshot(message, entries),
    });
    if (mode.kind === "join") transport.setPeers(mode.peers);
    else if (this.#peersAtStart.length > 0) transport.setPeers(this.#peersAtStart);
    this.#checkpointDueMs = env.clock.monotonicMs() + this.#limits.checkpointMs;
    this.#cancelTicks = env.timers.every(this.#limits.tickMs, () => this.#tick());
    this.#wal.prepareSpare();
    const voters = this.members.filter((member) => !member.isLearner);
    if (voters.length === 1 && voters[0]?.raftId === this.raftId) this.#core.campaign();
    this.#wake();
  }

  async stop(): Promise<void> {
    if (this.#isStopped) return;
    this.#isStopped = true;
    this.#cancelTicks?.();
    this.#pauses.endAll();
    for (const controller of this.#snapshotsOut.values()) controller.abort();
    this.#failWaiters("the member stops");
    this.#reads.stop();
    this.#wakeTickWaiters();
    this.#arrived?.done();
    await this.#options.transport.stop();
    await this.#writing.catch(() => undefined);
    await this.#notingPeers;
    await this.#checkpointing?.catch(() => undefined);
    await this.#wal.close();
  }

  propose(payload: Uint8Array, options: ProposeOptions = {}): Promise<unknown> {
    const { proposalBytesMax } = this.#limits;
    if (payload.byteLength > proposalBytesMax) {
      const text = `Cannot propose: want at most ${proposalBytesMax} bytes, got ${payload.byteLength}`;
      return Promise.reject(new ClusterError("resource_exhausted", text));
    }
    if (this.#isStopped || !this.isLeader) return Promise.reject(this.#notLeader());
    if (options.signal?.aborted === true) {
      return Promise.reject(new ClusterError("cancelled", "The proposal was given up before it was made"));
    }
    const outcome = this.#core.propose(this.#options.encoder.own(payload));
    switch (outcome.kind) {
      case "notLeader":
        return Promise.reject(this.#notLeader());
      case "overloaded":
        return Promise.reject(
          new ClusterError("resource_exhausted", "Cannot propose: too much is waiting to be committed", {
            retryable: true,
          }),
        );
      case "accepted":
        this.#proposed();
        return this.#waitFor(outcome.index, outcome.term, options.signal);
    }
  }

  readBarrier(options: ProposeOptions = {}): Promise<void> {
    if (this.#isStopped) return Promise.reject(this.#notLeader());
    const barrier = this.#reads.add(options.signal);
    this.#wake();
    return barrier;
  }

  async addMember(
    member: Omit<Member, "isLearner">,
    signal: AbortSignal,
    onListed?: () => void,
  ): Promise<void> {
    await this.#membership.add(member, signal, onListed);
  }

  async removeMember(raftId: number, options: RemoveOptions): Promise<void> {
    await this.#membership.remove(raftId, options);
  }

  async updateMember(member: Omit<Member, "isLearner">): Promise<void> {
    await this.#membership.update(member);
  }

  async transferLeadership(to = 0): Promise<void> {
    if (this.#core.leadership === undefined) throw this.#notLeader();
    if (!this.#core.transfer(to)) {
      throw new ClusterError(
        "failed_precondition",
        "Cannot hand over leadership: no other manager can take it",
      );
    }
    this.#wake();
    const deadlineMs = this.#options.env.clock.monotonicMs() + 2 * this.#limits.electionMs;
    while (this.leader === this.raftId || this.leader === 0) {
      if (this.#options.env.clock.monotonicMs() > deadlineMs) {
        throw new ClusterError(
          "unavailable",
          "Cannot hand over leadership: the other manager did not take it",
          {
            retryable: true,
          },
        );
      }
      await this.#nextTick(undefined);
    }
  }

  onLeadership(listener: (change: LeadershipChange) => void): () => void {
    this.#leadershipListeners.add(listener);
    return () => {
      this.#leadershipListeners.delete(listener);
    };
  }

  onRemoved(listener: () => void): () => void {
    this.#removedListeners.add(listener);
    return () => {
      this.#removedListeners.delete(listener);
    };
  }

  // --- drive ---

  #tick(): void {
    this.#guard(() => {
      this.#core.tick();
      this.#membership.tick();
    });
    this.#reads.tick();
    this.#wakeTickWaiters();
    this.#maybeCheckpoint();
    this.#pump();
    this.#maybeSeal();
  }

  #wakeTickWaiters(): void {
    if (this.#tickWaiters.size === 0) return;
    const waiters = [...this.#tickWaiters];
    this.#tickWaiters.clear();
    for (const wake of waiters) wake();
  }

  /** Later damage of the newest entries can be told from an unfinished write only if something stands behind them. */
  #maybeSeal(): void {
    const isIdle = !this.#isWriting && !this.#hasWritten && !this.#isStopped;
    this.#hasWritten = false;
    if (!isIdle || this.#wal.isSealed) return;
    this.#wal.seal().catch((caught: unknown) => {
      // Nothing is lost: the next idle moment tries again, and the next write finds out whether there is room.
      if (!hasNodeCode(caught, "ENOSPC")) this.#fatal(caught);
    });
  }

  /**
   * Proposals of one turn share messages and the write. A turn with hundreds of them would leave followers and disks idle
   * until its end, though: they get them in portions. A lone one has nothing to wait for: its messages are to be with the
   * connections before the turn ends, and the write, which costs a wake-up of another thread, comes after them.
   */
  #proposed(): void {
    this.#proposedCount += 1;
    if (this.#proposedCount % this.#limits.gatherCountMax === 0) {
      queueMicrotask(() => this.#pump());
      return;
    }
    if (this.#waiters.size === 0) queueMicrotask(() => this.#pump("messages"));
    this.#wake();
  }

  /** One pump after the current turn, so that everything of this turn shares messages and the write. */
  #wake(): void {
    if (this.#isPumpScheduled || this.#isStopped || !this.#isStarted) return;
    this.#isPumpScheduled = true;
    this.#options.env.timers.soon(() => {
      this.#isPumpScheduled = false;
      this.#pump();
    });
  }

  #pump(what: "all" | "messages" = "all"): void {
    if (this.#isPumping || this.#isStopped) return;
    this.#isPumping = true;
    this.#proposedCount = 0;
    this.#guard(() => {
      this.#reads.askPending();
      // A leader's messages first: the way to a follower and its disk is longer than the own disk's. What waits for the
      // disk is not among them. Then the write, so that the disk works while entries are applied.
      const output = this.#core.takeOutput();
      if (output.messages.length > 0) this.#options.transport.send(output.messages);
      const append = what === "all" ? this.#core.takeAppend() : undefined;
      if (append !== undefined) this.#startWrite(append);
      if (output.committed.length > 0) this.#apply(output.committed);
      if (output.reads.length > 0) this.#reads.answered(output.reads, this.#appliedIndex);
      for (const raftId of output.snapshotsTo) this.#sendSnapshot(raftId);
      this.#announce();
      if (this.#core.hasCommitted) this.#wake();
    });
    this.#isPumping = false;
  }

  #startWrite(append: Append): void {
    if (append.hardState === undefined && append.snapshot === undefined && append.entries.length === 0) {
      this.#options.transport.send(append.messages);
      this.#core.appended();
      this.#wake();
      return;
    }
    this.#isWriting = true;
    this.#hasWritten = true;
    this.#writing = this.#write(append).then(
      () => {
        this.#isWriting = false;
        if (this.#isStopped) return;
        if (append.messages.length > 0) this.#options.transport.send(append.messages);
        this.#guard(() => this.#core.appended());
        this.#pump();
      },
      (caught: unknown) => this.#fatal(caught),
    );
  }

  async #write(append: Append): Promise<void> {
    const { hardState, snapshot, entries } = append;
    const base = snapshot === undefined ? undefined : { index: snapshot.index, term: snapshot.term };
    let isInstalled = snapshot === undefined;
    while (!this.#isStopped) {
      try {
        if (!isInstalled) await this.#install(append);
        isInstalled = true;
        await this.#wal.append({ hardState, base, entries });
        this.#setFull("log", false);
        return;
      } catch (caught) {
        if (!hasNodeCode(caught, "ENOSPC")) throw caught;
        this.#setFull("log", true);
        this.#pump();
        await this.#pauses.wait(this.#limits.diskFullRetryMs);
      }
    }
  }

  /**
   * A member without room for its log can promise nothing. One without room for checkpoints still has the log's prepared
   * segments: it leaves leading to others, where there are others.
   */
  #setFull(what: "log" | "state", isFull: boolean): void {
    const { log, folder } = this.#options;
    if (isFull !== this.#full[what]) {
      if (isFull) log.error("raft disk full, not leading until there is room", { what, folder });
      else log.info("raft disk has room again", { what, folder });
    }
    this.#full[what] = isFull;
    const isSole = this.members.every((member) => member.isLearner || member.raftId === this.raftId);
    this.#core.setDiskFull(this.#full.log || (this.#full.state && !isSole));
  }

  /** The state must be durable before the log says that it starts there. */
  async #install(append: Append): Promise<void> {
    const { snapshot } = append;
    const arrived = this.#arrived;
    assert(snapshot !== undefined && arrived?.index === snapshot.index, "the snapshot's data is here");
    await this.#checkpointing;
    await this.#options.checkpoints.replace(snapshot, arrived.entries);
    const { stateMachine, log } = this.#options;
    stateMachine.restore(snapshot.index, arrived.entries);
    stateMachine.takeCheckpoint();
    this.#appliedIndex = snapshot.index;
    this.#checkpointIndex = snapshot.index;
    log.info("raft snapshot installed", { index: snapshot.index, keys: arrived.entries.length });
    arrived.done();
    stateMachine.applied(snapshot.index);
    this.#reads.applied(snapshot.index);
  }

  #apply(entries: readonly Entry[]): void {
    const { stateMachine } = this.#options;
    for (const entry of entries) {
      const outcome = entry.kind === EntryKind.normal ? stateMachine.apply(entry) : undefined;
      this.#appliedIndex = entry.index;
      const waiter = this.#waiters.get(entry.index);
      if (waiter === undefined) continue;
      this.#waiters.delete(entry.index);
      if (waiter.term === entry.term) waiter.resolve(outcome);
      else waiter.reject(lost("another leader's entry took its place"));
    }
    stateMachine.applied(this.#appliedIndex);
    this.#reads.applied(this.#appliedIndex);
  }

  /** Tells what changed since the last turn. */
  #announce(): void {
    const { config, configIndex, leader, leadership, term, isRecovering } = this.#core;
    const { isLeader } = this;
    const leads = leadership !== undefined;
    if (configIndex !== this.#peersConfigIndex && config.length > 0) {
      this.#peersConfigIndex = configIndex;
      this.#options.transport.setPeers(config);
      this.#notePeers(config);
    }
    if (!leads && this.#waiters.size > 0) this.#failWaiters("leadership was lost");
    const announced = leads && !isLeader ? 0 : leader;
    const before = this.#announced;
    if (isLeader !== before.isLeader || announced !== before.leader || term !== before.term) {
      const change = { isLeader, term, leader: announced };
      this.#announced = change;
      if (announced !== before.leader) {
        this.#options.log.info("raft leader changed", { leader: announced, term, raftId: this.raftId });
        this.#reads.leaderChanged();
        // Who hands over waits for this, not for the next tick.
        this.#wakeTickWaiters();
        this.#wake();
      }
      for (const listener of this.#leadershipListeners) listener(change);
    }
    if (this.#wasRecovering && !isRecovering) {
      this.#wasRecovering = false;
      this.#markRecovered().catch((caught) => this.#fatal(caught));
    }
    // Between taking a snapshot in and having it, state and configuration are of different indexes.
    if (!this.#core.isInstallPending) this.#announceRemoval();
  }

  async #markRecovered(): Promise<void> {
    while (!this.#isStopped) {
      try {
        await markRecovered({ disk: this.#options.env.disk, ...this.#options });
        return;
      } catch (caught) {
        if (!hasNodeCode(caught, "ENOSPC")) throw caught;
        // Until it is written a restart makes the member ask its peers once more: safe.
        await this.#pauses.wait(this.#limits.diskFullRetryMs);
      }
    }
  }

  /** In the background, the newest last; nothing depends on it but the way back after great damage. */
  #notePeers(members: readonly Member[]): void {
    const { env, folder, log } = this.#options;
    this.#notingPeers = this.#notingPeers
      .then(() => (this.#isStopped ? undefined : savePeers({ disk: env.disk, folder }, members)))
      .catch((caught: unknown) => log.warn("addresses of managers could not be noted", { error: caught }));
  }

  #announceRemoval(): void {
    const { wasRemoved } = this.#core;
    const { config, configIndex } = this.#core.configAt(this.#appliedIndex);
    const isMember = config.some((member) => member.raftId === this.raftId);
    if (configIndex !== this.#appliedConfigIndex || !this.#wasMember) {
      this.#appliedConfigIndex = configIndex;
      if (isMember) this.#wasMember = true;
    }
    const isRemoved = wasRemoved || (this.#wasMember && !isMember);
    if (!isRemoved || this.#isRemovedTold) return;
    this.#isRemovedTold = true;
    this.#options.log.warn("raft member was removed from the cluster", { raftId: this.raftId });
    for (const listener of this.#removedListeners) listener();
  }

  // --- snapshots and checkpoints ---

  #sendSnapshot(to: number): void {
    if (this.#snapshotsOut.has(to)) return;
    const index = this.#appliedIndex;
    const snapshotTerm = this.#core.log.termAt(index);
    assert(snapshotTerm !== undefined, "the applied entry's term is known");
    const { transport, stateMachine, log } = this.#options;
    const message: SnapshotMessage = {
      type: "snapshot",
      from: this.raftId,
      to,
      term: this.term,
      snapshot: { index, term: snapshotTerm, ...this.#core.configAt(index) },
    };
    const controller = new AbortController();
    this.#snapshotsOut.set(to, controller);
    this.#core.snapshotStarted(to, index);
    log.info("raft snapshot being sent", { to, index });
    transport
      .sendSnapshot(message, stateMachine.snapshot(), controller.signal)
      .then(
        () => true,
        (caught: unknown) => {
          log.warn("raft snapshot not delivered", { to, index, error: caught });
          return false;
        },
      )
      .then((delivered) => {
        this.#snapshotsOut.delete(to);
        this.#core.snapshotSent(to, delivered);
        this.#wake();
      })
      .catch((caught) => this.#fatal(caught));
  }

  #onSnapshot(message: SnapshotMessage, entries: readonly StateEntry[]): Promise<void> {
    // One at a time, until it is also noted in the log: a second one would wait for an installation that never comes.
    if (this.#isStopped || this.#arrived !== undefined || this.#core.isInstallPending) {
      return Promise.reject(
        new ClusterError("unavailable", "Cannot take a snapshot now", { retryable: true }),
      );
    }
    return new Promise((resolve) => {
      const done = (): void => {
        this.#arrived = undefined;
        resolve();
      };
      this.#arrived = { entries, index: message.snapshot.index, done };
      this.#guard(() => this.#core.step(message));
      // Not needed: the log already reaches beyond it, or the sender no longer leads.
      if (!this.#core.isInstallPending) done();
      this.#wake();
    });
  }

  #maybeCheckpoint(): void {
    const nowMs = this.#options.env.clock.monotonicMs();
    if (this.#checkpointing !== undefined || this.#isStopped || this.#core.isInstallPending) return;
    if (nowMs < this.#checkpointDueMs || this.#appliedIndex === this.#checkpointIndex) return;
    this.#checkpointDueMs = nowMs + this.#limits.checkpointMs;
    this.#checkpointing = this.#checkpoint()
      .catch((caught: unknown) => this.#fatal(caught))
      .finally(() => {
        this.#checkpointing = undefined;
      });
  }

  async #checkpoint(): Promise<void> {
    const index = this.#appliedIndex;
    const term = this.#core.log.termAt(index);
    assert(term !== undefined, "the applied entry's term is known");
    const meta = { index, term, ...this.#core.configAt(index) };
    const changes = this.#options.stateMachine.takeCheckpoint();
    while (!this.#isStopped) {
      try {
        await this.#options.checkpoints.write(meta, changes);
        this.#setFull("state", false);
        break;
      } catch (caught) {
        if (!hasNodeCode(caught, "ENOSPC")) throw caught;
        this.#setFull("state", true);
        await this.#pauses.wait(this.#limits.diskFullRetryMs);
      }
    }
    if (this.#isStopped) return;
    this.#checkpointIndex = index;
    const { bytes, firstIndex } = this.#core.log;
    const { compactCountMin, logBytesMax, tailCountMax } = this.#limits;
    const tail = bytes > logBytesMax ? Math.floor((tailCountMax * logBytesMax) / bytes / 2) : tailCountMax;
    const target = index - tail;
    if (target - firstIndex < compactCountMin) return;
    this.#core.compact(target);
    await this.#wal.compact(target);
  }

  // --- waiting ---

  #waitFor(index: number, term: number, signal: AbortSignal | undefined): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (signal === undefined) {
        this.#waiters.set(index, { term, resolve, reject });
        return;
      }
      const onAbort = (): void => {
        this.#waiters.delete(index);
        reject(new ClusterError("cancelled", "The proposal was given up; it may still be committed"));
      };
      signal.addEventListener("abort", onAbort, { once: true });
      this.#waiters.set(index, {
        term,
        resolve: (outcome) => {
          signal.removeEventListener("abort", onAbort);
          resolve(outcome);
        },
        reject: (error) => {
          signal.removeEventListener("abort", onAbort);
          reject(error);
        },
      });
    });
  }

  #failWaiters(why: string): void {
    const waiters = [...this.#waiters.values()];
    this.#waiters.clear();
    for (const waiter of waiters) waiter.reject(lost(why));
  }

  #nextTick(signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#tickWaiters.add(() => {
        if (this.#isStopped) reject(new ClusterError("unavailable", "The raft member stops"));
        else if (signal?.aborted === true) reject(new ClusterError("cancelled", "The change was given up"));
        else resolve();
      });
    });
  }

  #notLeader(): ClusterError {
    const leader = this.leader === this.raftId ? undefined : this.leader;
    const leaderAddress = this.members.find((member) => member.raftId === leader)?.addr ?? "";
    return new ClusterError("unavailable", "Cannot write: this manager is not the leader", {
      retryable: true,
      notLeader: { leaderAddress },
    });
  }

  /** A broken invariant must not spread: nothing more is written or sent. */
  #guard(run: () => void): void {
    try {
      run();
    } catch (caught) {
      this.#fatal(caught);
    }
  }

  #fatal(caught: unknown): void {
    if (this.#isStopped) return;
    this.#options.log.error("raft member can't go on", { error: caught });
    this.stop().catch(() => undefined);
    this.#options.onFatal(caught);
  }
}

function lost(why: string): ClusterError {
  const text = `Cannot say whether the proposal was committed: ${why}`;
  return new ClusterError("unavailable", text, { retryable: true });
}
