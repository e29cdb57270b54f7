/**
 * The way to the leader from any manager: runs a piece of work here when this member leads, else over a channel to the
 * member that does. Waits through elections. When it is not known whether a try took effect it is made again with
 * `maybeApplied` set: the work itself must be such that a repetition does no harm, or recognise its own first try.
 */
import type { Client } from "@grpc/grpc-js";
import type { Clock, Timers } from "../common/env.ts";
import { ClusterError, hasCode } from "../common/errors.ts";
import { dial } from "../proto/rpc-client.ts";
import type { LiveIdentity } from "../proto/rpc-identity.ts";
import { LEADER_RETRY_MS, LEADER_WAIT_MS } from "./limits.ts";
import type { ReplicatedLog } from "./raft/replicated-log.ts";

export interface LeaderLinkDeps {
  readonly clock: Pick<Clock, "monotonicMs">;
  readonly timers: Pick<Timers, "after">;
  readonly identity: LiveIdentity;
  readonly raft: ReplicatedLog;
}

export interface Attempt {
  /** An earlier try of the same work may have taken effect. */
  readonly maybeApplied: boolean;
  /** Aborted when the leader that is asked is no longer the leader. */
  readonly signal: AbortSignal;
}

/** Detail of an error that no other try can change: whether an earlier one took effect will not be known any more. */
export const OUTCOME_UNKNOWN = "outcomeUnknown";

export interface LeaderWork<T> {
  readonly local: (attempt: Attempt) => Promise<T>;
  readonly remote: (client: Client, attempt: Attempt) => Promise<T>;
}

export class LeaderLink {
  readonly #deps: LeaderLinkDeps;
  readonly #unsubscribe: () => void;
  #client: { readonly address: string; readonly client: Client } | undefined;
  /** Aborted at each change of leader. */
  #era = new AbortController();
  readonly #changed = new Set<() => void>();
  #isStopped = false;

  constructor(deps: LeaderLinkDeps) {
    this.#deps = deps;
    let leader = deps.raft.leader;
    this.#unsubscribe = deps.raft.onLeadership((change) => {
      for (const wake of this.#changed) wake();
      if (change.leader === leader) return;
      leader = change.leader;
      this.#era.abort();
      this.#era = new AbortController();
    });
  }

  /** "host:port" of the leader, "" while none is known. */
  get leaderAddress(): string {
    const { raft } = this.#deps;
    if (raft.leader === 0) return "";
    return raft.members.find((member) => member.raftId === raft.leader)?.addr ?? "";
  }

  stop(): void {
    this.#isStopped = true;
    this.#unsubscribe();
    this.#era.abort();
    this.#client?.client.close();
    this.#client = undefined;
    for (const wake of this.#changed) wake();
  }

  async run<T>(work: LeaderWork<T>, signal?: AbortSignal): Promise<T> {
    const { clock } = this.#deps;
    const deadlineMs = clock.monotonicMs() + LEADER_WAIT_MS;
    let maybeApplied = false;
    let last: ClusterError | undefined;
    while (clock.monotonicMs() < deadlineMs && !this.#isStopped) {
      signal?.throwIfAborted();
      try {
        const outcome = await this.#tryOnce(work, maybeApplied);
        if (outcome !== undefined) return outcome.value;
      } catch (caught) {
        last = ClusterError.from(caught);
        if (!isLeaderTrouble(last)) throw last;
        if (last.notLeader === undefined) maybeApplied = true;
      }
      await this.#pause();
    }
    const unknown = maybeApplied ? " The leader was lost meanwhile: the change may still be made." : "";
    throw new ClusterError(
      "unavailable",
      `The swarm does not have a leader. It's possible that too few managers are online. Make sure more than half of the managers are online.${unknown}`,
      { retryable: true, ...(last === undefined ? {} : { cause: last }) },
    );
  }

  async #tryOnce<T>(work: LeaderWork<T>, maybeApplied: boolean): Promise<{ readonly value: T } | undefined> {
    const attempt = { maybeApplied, signal: this.#era.signal };
    if (this.#deps.raft.isLeader) return { value: await work.local(attempt) };
    const address = this.leaderAddress;
    // A leader that has not yet committed in its term is this member and not yet of use.
    if (address === "" || this.#deps.raft.leader === this.#deps.raft.raftId) return undefined;
    return { value: await work.remote(this.#clientTo(address), attempt) };
  }

  #clientTo(address: string): Client {
    if (this.#client?.address !== address) {
      this.#client?.client.close();
      this.#client = { address, client: dial(address, this.#deps.identity, { manager: true }) };
    }
    return this.#client.client;
  }

  /** Until leadership changes, or a moment. */
  #pause(): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        cancel();
        this.#changed.delete(done);
        resolve();
      };
      const cancel = this.#deps.timers.after(LEADER_RETRY_MS, done);
      this.#changed.add(done);
    });
  }
}

function isLeaderTrouble(error: ClusterError): boolean {
  if (error.notLeader !== undefined) return true;
  if (error.details[OUTCOME_UNKNOWN] === true) return false;
  // The call was given up because the leader changed; callers' own signals are checked before each try.
  if (hasCode(error, "unimplemented")) return error.retryable;
  return hasCode(error, "unavailable", "cancelled", "deadline_exceeded");
}
