/**
 * Changes of the configuration, one after the other, on the leader: add as learner, promote, remove, new address.
 * node.ts drives it; the rules for what may be proposed when are the core's.
 */
import { ClusterError } from "../../common/errors.ts";
import type { Leader } from "./core/leader.ts";
import type { Configuration } from "./core/messages.ts";
import type { ConfigOutcome, CoreStatus } from "./core/options.ts";
import { quorumOf } from "./core/quorum.ts";
import type { Member, RemoveOptions } from "./replicated-log.ts";

/** What is used of the core. */
export interface MembershipCore {
  readonly status: Pick<CoreStatus, "config" | "configIndex">;
  readonly leadership: Pick<Leader, "isEstablished" | "learnersCaughtUp" | "round"> | undefined;
  readonly log: { readonly commitIndex: number };
  healthy(sinceRound: number): ReadonlySet<number>;
  proposeConfig(next: Configuration): ConfigOutcome;
}

export interface MembershipHost {
  readonly core: MembershipCore;
  /** Raft id and address of the known leader for the error; "" if none. */
  notLeader(): ClusterError;
  /** Resolves at the next tick (or sooner), rejects when the member stops or `signal` aborts. */
  nextTick(signal: AbortSignal | undefined): Promise<void>;
  /** Resolves when the entry is committed and applied here; rejects if leadership was lost. */
  committed(index: number, term: number): Promise<unknown>;
  wake(): void;
}

export interface MembershipOptions {
  /** Entries that a learner may be behind when it becomes a voter. */
  readonly learnerLagMax: number;
  /** How long those that would remain have to answer before a removal is refused. */
  readonly patienceTicks: number;
}

export class Membership {
  readonly #host: MembershipHost;
  readonly #options: MembershipOptions;
  #queue: Promise<unknown> = Promise.resolve();
  #isPromoting = false;

  constructor(host: MembershipHost, options: MembershipOptions) {
    this.#host = host;
    this.#options = options;
  }

  async add(member: Omit<Member, "isLearner">, signal: AbortSignal, onListed?: () => void): Promise<void> {
    await this.#change(signal, (config) => {
      const known = config.find((each) => each.raftId === member.raftId);
      if (known !== undefined && known.nodeId !== member.nodeId) {
        const text = `Cannot add manager "${member.nodeId}": want an unused raft id, got that of "${known.nodeId}"`;
        throw new ClusterError("already_exists", text);
      }
      const others = config.filter((each) => each.raftId !== member.raftId);
      return known?.addr === member.addr
        ? undefined
        : [...others, { ...member, isLearner: known?.isLearner ?? true }];
    });
    onListed?.();
    // It is promoted by tick() below, also if another leader takes over; here we only wait for it.
    while (this.#host.core.status.config.find((each) => each.raftId === member.raftId)?.isLearner !== false) {
      await this.#host.nextTick(signal);
      if (this.#host.core.leadership === undefined) throw this.#host.notLeader();
    }
    await this.#settled(signal);
  }

  async remove(raftId: number, { force, onlyLearner = false }: RemoveOptions): Promise<void> {
    await this.#change(undefined, async (config) => {
      const rest = config.filter((each) => each.raftId !== raftId);
      if (rest.length === config.length) {
        throw new ClusterError("not_found", `Cannot remove manager: no member has raft id ${raftId}`);
      }
      const isLearner = config.some((each) => each.raftId === raftId && each.isLearner);
      if (onlyLearner && !isLearner) return undefined;
      if (votersOf(rest).length === 0)
        throw new ClusterError("failed_precondition", "Cannot remove manager: it is the last one");
      if (!force) await this.#checkQuorum(rest);
      return rest;
    });
  }

  async update(member: Omit<Member, "isLearner">): Promise<void> {
    await this.#change(undefined, (config) => {
      const known = config.find((each) => each.raftId === member.raftId);
      if (known === undefined) {
        throw new ClusterError("not_found", `Cannot update manager: no member has raft id ${member.raftId}`);
      }
      if (known.addr === member.addr && known.nodeId === member.nodeId) return undefined;
      return config.map((each) => (each === known ? { ...member, isLearner: known.isLearner } : each));
    });
  }

  /** Once per tick: makes a learner that caught up a voter. */
  tick(): void {
    const leadership = this.#host.core.leadership;
    if (this.#isPromoting || leadership === undefined || !leadership.isEstablished) return;
    const raftId = leadership.learnersCaughtUp(this.#options.learnerLagMax)[0];
    if (raftId === undefined) return;
    this.#isPromoting = true;
    const promote = (config: Configuration): Configuration =>
      config.map((each) => (each.raftId === raftId ? { ...each, isLearner: false } : each));
    this.#change(undefined, promote)
      // Leadership went elsewhere: the next leader promotes.
      .catch(() => undefined)
      .finally(() => {
        this.#isPromoting = false;
      });
  }

  /**
   * Rejects unless a quorum of `config` is healthy, which takes answers to heartbeats that were sent after this was called: who
   * was heard within an election time-out may have died since.
   */
  async #checkQuorum(config: Configuration): Promise<void> {
    const { core } = this.#host;
    const voters = votersOf(config);
    const quorum = quorumOf(voters.length);
    const sinceRound = core.leadership?.round ?? 0;
    for (let ticks = 0; ; ticks += 1) {
      const healthy = core.healthy(sinceRound);
      const alive = voters.filter((voter) => healthy.has(voter)).length;
      if (alive >= quorum) return;
      if (ticks >= this.#options.patienceTicks) {
        throw new ClusterError(
          "failed_precondition",
          `Cannot remove manager: want ${quorum} of the remaining ${voters.length} managers reachable and with a whole log, got ${alive}`,
          { details: { quorum, alive, managers: voters.length } },
        );
      }
      await this.#host.nextTick(undefined);
      if (core.leadership === undefined) throw this.#host.notLeader();
    }
  }

  /** Proposes what `plan` makes of the newest configuration, when its turn comes; undefined means nothing to do. */
  #change(
    signal: AbortSignal | undefined,
    plan: (config: Configuration) => Configuration | undefined | Promise<Configuration | undefined>,
  ): Promise<void> {
    const run = async (): Promise<void> => {
      await this.#settled(signal);
      const { core } = this.#host;
      const { config, configIndex } = core.status;
      const next = await plan(config);
      if (next === undefined) return;
      // Another leader has changed it meanwhile.
      if (core.status.configIndex !== configIndex) throw this.#host.notLeader();
      const outcome = core.proposeConfig(next);
      switch (outcome.kind) {
        case "accepted":
          this.#host.wake();
          await this.#host.committed(outcome.index, outcome.term);
          return;
        case "notLeader":
        case "notReady":
          throw this.#host.notLeader();
        case "invalid":
          throw new ClusterError("failed_precondition", `Cannot change the managers: ${outcome.reason}`);
      }
    };
    const result = this.#queue.then(run);
    this.#queue = result.catch(() => undefined);
    return result;
  }

  /** Resolves when this leader may change the configuration: nothing earlier is open. */
  async #settled(signal: AbortSignal | undefined): Promise<void> {
    const { core } = this.#host;
    while (true) {
      if (core.leadership === undefined) throw this.#host.notLeader();
      if (core.leadership.isEstablished && core.status.configIndex <= core.log.commitIndex) return;
      await this.#host.nextTick(signal);
    }
  }
}

function votersOf(config: Configuration): readonly number[] {
  return config.flatMap(({ isLearner, raftId }) => (isLearner ? [] : [raftId]));
}
