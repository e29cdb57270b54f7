/** What happens to managers of a real cluster: one fault at a time, chosen by chance, held for a moment, then undone. */
import { setTimeout as sleep } from "node:timers/promises";
import type { SeededRandom } from "../../common/testing/seeded-random.ts";
import type { DevCluster } from "../../dev/cluster.ts";
import { sendSignal } from "../../dev/processes.ts";

const FAULT_KINDS = [
  "kill -9 of the leader's daemon",
  "kill -9 of a follower's daemon",
  "kill -9 of a majority's daemons",
  "kill -9 of all managers' daemons",
  "restart of the leader's daemon",
  "restart of a follower's daemon",
  "power cut of the leader's host",
  "power cut of a follower's host",
  "partition: the leader alone",
  "partition: a follower alone",
  "partition: all managers apart",
  "the leader's daemon stands still (SIGSTOP)",
] as const;
export type FaultKind = (typeof FAULT_KINDS)[number];

/** How long a fault lasts, ms: from shorter than an election to longer than two. */
const HOLD_MIN_MS = 100;
const HOLD_MAX_MS = 2_500;
/** Between two faults: from none at all to time enough to agree on a leader. */
const CALM_MAX_MS = 1_500;

export class ManagerFaults {
  readonly #cluster: DevCluster;
  readonly #random: SeededRandom;
  readonly counts: Map<FaultKind, number> = new Map();

  constructor(cluster: DevCluster, random: SeededRandom) {
    this.#cluster = cluster;
    this.#random = random;
  }

  /** One cycle; resolves when everything runs again and all cables are plugged in, not when the cluster has a leader. */
  async cycle(): Promise<FaultKind> {
    const kind = FAULT_KINDS[this.#random.below(FAULT_KINDS.length)] ?? FAULT_KINDS[0];
    this.counts.set(kind, (this.counts.get(kind) ?? 0) + 1);
    const names = this.#cluster.managers.map((manager) => manager.name);
    const leader = (await this.#cluster.leader())?.name ?? this.#pick(names);
    const follower = this.#pick(names.filter((name) => name !== leader));
    const others = names.filter((name) => name !== leader);
    await this.#strike(kind, { leader, follower, names, others });
    await sleep(this.#random.float() ** 2 * CALM_MAX_MS);
    return kind;
  }

  async #strike(
    kind: FaultKind,
    who: { leader: string; follower: string; names: readonly string[]; others: readonly string[] },
  ): Promise<void> {
    switch (kind) {
      case "kill -9 of the leader's daemon":
        return this.#kill([who.leader]);
      case "kill -9 of a follower's daemon":
        return this.#kill([who.follower]);
      case "kill -9 of a majority's daemons":
        return this.#kill([who.leader, who.follower]);
      case "kill -9 of all managers' daemons":
        return this.#kill(who.names);
      case "restart of the leader's daemon":
        return this.#restart(who.leader);
      case "restart of a follower's daemon":
        return this.#restart(who.follower);
      case "power cut of the leader's host":
        return this.#cutPower(who.leader);
      case "power cut of a follower's host":
        return this.#cutPower(who.follower);
      case "partition: the leader alone":
        return this.#partition([[who.leader]]);
      case "partition: a follower alone":
        return this.#partition([[who.follower]]);
      case "partition: all managers apart":
        return this.#partition(who.names.map((name) => [name]));
      case "the leader's daemon stands still (SIGSTOP)":
        return this.#freeze(who.leader);
    }
  }

  async #kill(names: readonly string[]): Promise<void> {
    await Promise.all(names.map((name) => this.#cluster.killDaemon(name)));
    await this.#hold();
    await Promise.all(names.map((name) => this.#cluster.startDaemon(name)));
  }

  async #restart(name: string): Promise<void> {
    await this.#cluster.stopDaemon(name);
    await this.#cluster.startDaemon(name);
  }

  async #cutPower(name: string): Promise<void> {
    await this.#cluster.killHost(name);
    await this.#hold();
    await this.#cluster.startHost(name);
  }

  async #partition(groups: readonly (readonly string[])[]): Promise<void> {
    await this.#cluster.partition(groups);
    await this.#hold();
    await this.#cluster.heal();
  }

  async #freeze(name: string): Promise<void> {
    const pid = this.#cluster.daemonPid(name);
    if (pid === undefined) return;
    sendSignal(pid, "SIGSTOP");
    try {
      await this.#hold();
    } finally {
      sendSignal(pid, "SIGCONT");
    }
  }

  async #hold(): Promise<void> {
    await sleep(HOLD_MIN_MS + this.#random.float() * (HOLD_MAX_MS - HOLD_MIN_MS));
  }

  #pick(names: readonly string[]): string {
    return names[this.#random.below(names.length)] ?? "";
  }
}
