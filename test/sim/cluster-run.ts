/**
 * What a run of the consensus layer and one of the whole cluster have in common: virtual time with its bound, the members,
 * what is noted of them, and checks after each event.
 */
import type { SeededRandom } from "../../common/testing/seeded-random.ts";
import { Checks } from "./checks.ts";
import type { Machine } from "./machine.ts";
import { Network } from "./network.ts";
import type { ProfileName } from "./profiles.ts";
import { Violation, World } from "./world.ts";

export interface RunOptions {
  readonly seed: number;
  readonly profile: ProfileName;
  /** Virtual time of the first phase. */
  readonly faultyMs: number;
  readonly keepsTimeline: boolean;
}

export interface RunResult {
  readonly seed: number;
  readonly profile: string;
  readonly failure: { readonly check: string; readonly text: string } | undefined;
  readonly virtualMs: number;
  readonly eventCount: number;
  readonly digest: number;
  readonly operations: number;
  readonly undecided: number;
  readonly leaderChanges: number;
  readonly appliedIndex: number;
  readonly timeline: readonly string[];
}

export interface RunBounds {
  /** What is waited for must come about within this virtual time. */
  readonly convergeMs: number;
  /** Deep checks look at whole logs, so they run only each so many events. */
  readonly deepCheckEvents: number;
  /** How long the process of a removed member goes on at most, as one that nobody stopped. */
  readonly afterlifeMs: number;
}

export abstract class ClusterRun {
  protected readonly options: RunOptions;
  protected readonly world: World;
  protected readonly random: SeededRandom;
  protected readonly checks: Checks = new Checks();
  protected readonly network: Network;
  /** All that ever were, in the order of their making. */
  protected readonly machines: Machine[] = [];
  /** Those to look at after each event: at least all that have a node. */
  protected running: readonly Machine[] = this.machines;
  protected leaderChanges = 0;
  readonly #bounds: RunBounds;
  #eventsToDeepCheck: number;

  protected constructor(options: RunOptions, bounds: RunBounds) {
    this.options = options;
    this.#bounds = bounds;
    this.#eventsToDeepCheck = bounds.deepCheckEvents;
    this.world = new World(options.seed, options.keepsTimeline);
    this.random = this.world.random.fork();
    this.network = new Network(this.world, (message) => this.checks.sent(message));
  }

  /** Makes a machine, which is not started yet. */
  protected abstract addMachine(raftId: number, mode: Machine["mode"]): Machine;
  /** What is too much work for each event. */
  protected abstract deepCheck(): void;
  /** What keeps the cluster from its goal, in a few words, with a space before them. */
  protected missing(): string {
    return "";
  }

  protected live(): readonly Machine[] {
    return this.machines.filter((machine) => !machine.isRetired);
  }

  /** The first members, with raft ids from 1. */
  protected found(memberCount: number): void {
    const members = Array.from({ length: memberCount }, (_, at) => ({
      raftId: at + 1,
      nodeId: `node-${at + 1}`,
      addr: `${at + 1}:1`,
      isLearner: false,
    }));
    for (const { raftId } of members) this.addMachine(raftId, { kind: "bootstrap", members }).start();
  }

  /** Notes who leads in the eyes of a machine that has started, and ends it some time after its removal. */
  protected follow(machine: Machine): void {
    const { node, raftId } = machine;
    node?.onLeadership((change) => {
      this.world.note(4, change.term, () => `${raftId} sees leader ${change.leader} in term ${change.term}`);
      if (change.isLeader) this.leaderChanges += 1;
    });
    node?.onRemoved(() => {
      this.world.note(5, raftId, () => `${raftId} was removed`);
      this.world.after(this.random.float() * this.#bounds.afterlifeMs, () => {
        machine.isRetired = true;
        machine.kill();
      });
    });
  }

  protected async advance(ms: number): Promise<void> {
    await this.world.run(this.world.nowMs + ms, () => this.#afterEvent());
    if (this.world.failure !== undefined) throw this.world.failure;
  }

  protected async until(what: string, holds: () => boolean): Promise<void> {
    const { convergeMs } = this.#bounds;
    const deadlineMs = this.world.nowMs + convergeMs;
    while (!holds()) {
      if (this.world.nowMs >= deadlineMs) {
        throw new Violation("O10", `${what}: not within ${convergeMs / 1000} s${this.missing()}`);
      }
      await this.advance(100);
    }
  }

  #afterEvent(): void {
    for (const { node, raftId } of this.running) {
      if (node?.core.leadership !== undefined) this.checks.led({ raftId, core: node.core });
    }
    this.#eventsToDeepCheck -= 1;
    if (this.#eventsToDeepCheck > 0) return;
    this.#eventsToDeepCheck = this.#bounds.deepCheckEvents;
    this.deepCheck();
  }

  /** Ends all machines. */
  protected result(
    facts: Pick<RunResult, "profile" | "operations" | "undecided" | "appliedIndex">,
  ): RunResult {
    const { failure } = this.world;
    const text = failure instanceof Error ? (failure.stack ?? failure.message) : String(failure);
    const check =
      failure instanceof Violation ? failure.check : failure instanceof Error ? failure.name : "?";
    for (const machine of this.machines) machine.kill();
    return {
      ...facts,
      seed: this.options.seed,
      failure: failure === undefined ? undefined : { check, text },
      virtualMs: this.world.nowMs,
      eventCount: this.world.eventCount,
      digest: this.world.digest,
      leaderChanges: this.leaderChanges,
      timeline: this.world.timeline,
    };
  }
}
