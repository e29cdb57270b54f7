/**
 * A log of one member in memory, for tests, benches and tools: what is proposed is committed, in order, after
 * `commitDelayMs` (0: at the end of the turn, all that was proposed in it as one group). Can be told to lose or refuse.
 */
import type { Timers } from "../../../common/env.ts";
import { ClusterError } from "../../../common/errors.ts";
import type { LeadershipChange, Member, ReplicatedLog, StateMachine } from "../../raft/replicated-log.ts";

export interface SingleMemberLogOptions {
  readonly machine: StateMachine;
  readonly nodeId?: string;
  /** Needed for a delay above 0. */
  readonly timers?: Pick<Timers, "after">;
  readonly commitDelayMs?: number;
  /** Proposals in flight before further ones are refused. */
  readonly inFlightMax?: number;
}

interface Pending {
  readonly payload: Uint8Array;
  readonly resolve: (outcome: unknown) => void;
  readonly reject: (error: ClusterError) => void;
}

export class SingleMemberLog implements ReplicatedLog {
  readonly raftId = 1;
  readonly members: readonly Member[];
  readonly reachable: ReadonlySet<number> = new Set([1]);
  readonly healthy: ReadonlySet<number> = new Set([1]);
  readonly #options: SingleMemberLogOptions;
  readonly #listeners = new Set<(change: LeadershipChange) => void>();
  #pending: Pending[] = [];
  #isFlushScheduled = false;
  #appliedIndex = 0;
  #term = 1;
  #isLeader = true;
  /** Bytes of everything committed. */
  payloadBytes = 0;

  constructor(options: SingleMemberLogOptions) {
    this.#options = options;
    this.members = [
      { raftId: 1, nodeId: options.nodeId ?? "manager-1", addr: "127.0.0.1:2377", isLearner: false },
    ];
  }

  get isLeader(): boolean {
    return this.#isLeader;
  }

  get term(): number {
    return this.#term;
  }

  get leader(): number {
    return this.#isLeader ? 1 : 0;
  }

  get appliedIndex(): number {
    return this.#appliedIndex;
  }

  start(): void {}

  stop(): void {
    this.stepDown();
  }

  propose(payload: Uint8Array): Promise<unknown> {
    if (!this.#isLeader) {
      const options = { notLeader: { leaderAddress: "" }, retryable: true };
      return Promise.reject(
        new ClusterError("unavailable", "Propose: wanted the leader, got a follower", options),
      );
    }
    if (this.#pending.length >= (this.#options.inFlightMax ?? Number.POSITIVE_INFINITY)) {
      return Promise.reject(new ClusterError("resource_exhausted", "Propose: too much in flight"));
    }
    return new Promise((resolve, reject) => {
      this.#pending.push({ payload, resolve, reject });
      this.#schedule();
    });
  }

  readBarrier(): Promise<void> {
    return Promise.resolve();
  }

  addMember(): Promise<void> {
    return Promise.reject(new ClusterError("unimplemented", "Add a member: this log has one member"));
  }

  removeMember(): Promise<void> {
    return Promise.reject(new ClusterError("unimplemented", "Remove a member: this log has one member"));
  }

  updateMember(): Promise<void> {
    return Promise.resolve();
  }

  transferLeadership(): Promise<void> {
    return Promise.reject(
      new ClusterError("failed_precondition", "Transfer leadership: this log has one member"),
    );
  }

  onLeadership(listener: (change: LeadershipChange) => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  onRemoved(): () => void {
    return () => {};
  }

  /** Loses leadership: what is in flight is rejected, the first `keptCount` of it are committed all the same. */
  stepDown(keptCount = 0): void {
    this.#isLeader = false;
    const lost = this.#pending;
    this.#pending = [];
    for (const pending of lost.slice(0, keptCount)) this.#commit(pending.payload);
    this.#options.machine.applied(this.#appliedIndex);
    const error = new ClusterError("unavailable", "Propose: leadership was lost", { retryable: true });
    for (const pending of lost) pending.reject(error);
    this.#tell();
  }

  /** Leads again, in a new term. */
  lead(): void {
    this.#term += 1;
    this.#isLeader = true;
    this.#tell();
  }

  #tell(): void {
    const change: LeadershipChange = { isLeader: this.#isLeader, term: this.#term, leader: this.leader };
    for (const listener of this.#listeners) listener(change);
  }

  #schedule(): void {
    if (this.#isFlushScheduled) return;
    this.#isFlushScheduled = true;
    const { commitDelayMs = 0, timers } = this.#options;
    const flush = (): void => this.#flush();
    if (commitDelayMs > 0 && timers !== undefined) timers.after(commitDelayMs, flush);
    else queueMicrotask(flush);
  }

  #flush(): void {
    this.#isFlushScheduled = false;
    const group = this.#pending;
    this.#pending = [];
    for (const pending of group) pending.resolve(this.#commit(pending.payload));
    if (group.length > 0) this.#options.machine.applied(this.#appliedIndex);
  }

  #commit(payload: Uint8Array): unknown {
    this.#appliedIndex += 1;
    this.payloadBytes += payload.byteLength;
    return this.#options.machine.apply({ index: this.#appliedIndex, term: this.#term, payload });
  }
}
