/**
 * Weather: sequences of faults that belong together and that independent faults meet too seldom, each the setting in
 * which a known kind of error of consensus shows. When, who and how long come from the seed. Started by nemesis.ts, one
 * kind per run; ends with it.
 */
import type { SeededRandom } from "../../common/testing/seeded-random.ts";
import type { Checks } from "./checks.ts";
import type { Machine } from "./machine.ts";
import type { Network } from "./network.ts";
import { rotTarget } from "./rot.ts";
import { Violation, type World } from "./world.ts";

export const WEATHER_NAMES = [
  "seesaw",
  "figure8",
  "refusal",
  "promotion",
  "witness",
  "relapse",
  "comeback",
  "shatter",
] as const;
export type WeatherName = (typeof WEATHER_NAMES)[number];

/** A whole network and living voters: within this time somebody leads. Election time-outs are a second at most. */
const ELECT_MS = 12_000;
const WAIT_MS_MAX = 6_000;

export interface WeatherOptions {
  readonly world: World;
  readonly network: Network;
  readonly checks: Checks;
  readonly machines: () => readonly Machine[];
  readonly changeMembership: () => void;
}

export class Weather {
  readonly #options: WeatherOptions;
  readonly #random: SeededRandom;
  #isOver = false;

  constructor(options: WeatherOptions) {
    this.#options = options;
    this.#random = options.world.random.fork();
  }

  start(name: WeatherName): void {
    this.#blow(name).catch((caught: unknown) => this.#options.world.fail(caught));
  }

  stop(): void {
    this.#isOver = true;
  }

  async #blow(name: WeatherName): Promise<void> {
    while (!this.#isOver) {
      switch (name) {
        case "seesaw":
          await this.#seesaw();
          break;
        case "figure8":
          await this.#figure8();
          break;
        case "refusal":
          await this.#refusal();
          break;
        case "promotion":
          await this.#promotion();
          break;
        case "witness":
          await this.#witness();
          break;
        case "relapse":
          await this.#relapse();
          break;
        case "comeback":
          await this.#comeback();
          break;
        case "shatter":
          await this.#shatter();
          break;
      }
    }
  }

  /**
   * Leaders fall soon after they came, each with a small part of the others on its side, and come back when the next one
   * falls: entries that few hold, of many terms, are extended, replaced and counted (paper, figure 8).
   */
  async #seesaw(): Promise<void> {
    // Also one that has committed nothing yet: what it counts first is what others left behind.
    const isFresh = this.#random.float() < 0.5;
    const leader = await this.#someLeader(isFresh ? "fresh" : "established");
    await this.#sleep(this.#random.float() * (isFresh ? 40 : 400));
    if (leader === undefined || this.#isOver) return;
    this.#options.network.heal();
    if (this.#random.float() < 0.35) {
      this.#say(() => `seesaw: power off leader ${leader.raftId}`);
      leader.kill();
      this.#later(this.#random.float() * 1_500, () => leader.start());
    } else {
      const side = this.#minorityWith(leader);
      this.#say(() => `seesaw: leader ${leader.raftId} left with ${[...side].join(",")}`);
      this.#separate((raftId) => (side.has(raftId) ? 1 : 0));
    }
    await this.#sleep(200);
  }

  /**
   * Figure 8 of the paper, act by act: a leader writes what only a minority holds, its successor falls with an entry
   * that nobody else has, the first one comes back and hands on what it wrote; it falls in the midst of it, and the
   * second returns.
   */
  async #figure8(): Promise<void> {
    const first = await this.#someLeader();
    if (first === undefined || this.#isOver) return;
    const { network } = this.#options;
    const side = this.#minorityWith(first);
    this.#say(() => `figure 8: leader ${first.raftId} left with ${[...side].join(",")}`);
    this.#separate((raftId) => (side.has(raftId) ? 1 : 0));
    await this.#until(() => this.#leadsBeside(side) !== undefined, 2, WAIT_MS_MAX);
    const second = this.#leadsBeside(side);
    if (second === undefined || this.#isOver) return network.heal();
    this.#say(() => `figure 8: leader ${second.raftId} falls at once`);
    this.#separate((raftId) => (raftId === second.raftId ? 1 : 0));
    const back = new Set([second.raftId]);
    const before = second.node?.term ?? 0;
    const third = (): Machine | undefined => {
      const found = this.#leadsBeside(back);
      return (found?.node?.term ?? 0) > before ? found : undefined;
    };
    await this.#until(() => third() !== undefined, 1, WAIT_MS_MAX);
    await this.#sleep(this.#random.float() * 40);
    const again = third();
    if (again === undefined || this.#isOver) return network.heal();
    this.#say(() => `figure 8: leader ${again.raftId} falls, ${second.raftId} is back`);
    this.#separate((raftId) => (raftId === again.raftId ? 1 : 0));
    await this.#sleep(600 + this.#random.float() * 600);
    network.heal();
  }

  /** Whoever leads, however fresh, of those that are not in `side`; of the highest term. */
  #leadsBeside(side: ReadonlySet<number>): Machine | undefined {
    return this.#options
      .machines()
      .filter(({ node, raftId }) => node?.core.leadership !== undefined && !side.has(raftId))
      .sort((a, b) => (b.node?.term ?? 0) - (a.node?.term ?? 0))[0];
  }

  /** Cuts all links between members of different groups, and no others. */
  #separate(groupOf: (raftId: number) => number): void {
    const { machines, network } = this.#options;
    network.heal();
    for (const { raftId: a } of machines()) {
      for (const { raftId: b } of machines()) if (groupOf(a) !== groupOf(b)) network.cut(a, b);
    }
  }

  /**
   * The leader is cut off by something that answers for it: its followers' connections are refused at once, so that they
   * elect another one long before it gives up office.
   */
  async #refusal(): Promise<void> {
    const leader = await this.#someLeader();
    await this.#sleep(this.#random.float() * 1_000);
    if (leader?.node?.isLeader !== true || this.#isOver) return;
    const { machines, network } = this.#options;
    this.#say(() => `leader ${leader.raftId} is refused by all`);
    this.#isolate(leader);
    for (const other of machines()) {
      if (other !== leader) network.refuseFalsely(other.raftId, leader.raftId);
    }
    await this.#sleep(300 + this.#random.float() * 2_500);
    network.heal();
  }

  /** The leader dies just when a learner became a voter, which most didn't hear of yet. Those who live must agree. */
  async #promotion(): Promise<void> {
    const { changeMembership, machines, network } = this.#options;
    const leader = await this.#someLeader();
    if (leader?.node === undefined) return;
    await this.#sleep(200 + this.#random.float() * 1_000);
    if (!this.#isOver) changeMembership();
    const learners = new Set<number>();
    const promoted = (): number | undefined => {
      const { core, members = [] } = leader.node ?? {};
      for (const member of members) if (member.isLearner) learners.add(member.raftId);
      if (core === undefined || core.status.configIndex <= core.log.commitIndex) return undefined;
      return members.find((each) => !each.isLearner && learners.has(each.raftId))?.raftId;
    };
    await this.#until(() => promoted() !== undefined || leader.node?.isLeader !== true, 1, 2_000);
    const newVoter = promoted();
    if (newVoter === undefined || this.#isOver || this.#random.float() < 0.3) return;
    this.#say(() => `leader ${leader.raftId} dies while ${newVoter} becomes a voter`);
    network.cut(leader.raftId, newVoter);
    await this.#sleep(this.#random.float() * 30);
    leader.kill();
    network.heal();
    await this.#mustElect(machines().filter((each) => each !== leader && each.isRunning));
    leader.start();
    await this.#sleep(2_000);
  }

  /**
   * Of the few that hold what was committed one loses a part of its log, and just when it hears its leader again that one
   * dies, and those come back who never had it. A damaged member that votes too soon loses entries here.
   */
  async #witness(): Promise<void> {
    const { machines, network } = this.#options;
    const leader = await this.#someLeader();
    await this.#until(() => this.#isWhole(), 50, WAIT_MS_MAX);
    if (leader?.node?.isLeader !== true || !this.#isWhole() || this.#isOver) return;
    const others = this.#shuffled(machines().filter((each) => each !== leader));
    const absentCount = machines().length - (Math.floor(machines().length / 2) + 1);
    const [victim, ...rest] = others;
    if (victim === undefined) return;
    for (const absent of rest.slice(0, absentCount)) this.#isolate(absent);
    await this.#sleep(200 + this.#random.float() * 1_500);
    if (leader.node?.isLeader !== true || this.#isOver) return this.#recover(leader);
    if (this.#random.float() < 0.4) await this.#leaveUnderWay(leader, victim);
    this.#damage(victim);
    if (this.#random.float() < 0.5) network.slow(leader.raftId, victim.raftId, this.#random.float() * 60);
    victim.start();
    await this.#until(() => victim.node?.leader === leader.raftId, 1, 1_500);
    await this.#sleep(this.#random.float() * 40);
    await this.#recover(leader);
  }

  /**
   * A leader that was cut off has entries which its successor's replace, and then loses the part of its log that says so:
   * what is good there is what was replaced, and all that the others say of that member is of what it lost.
   */
  async #relapse(): Promise<void> {
    const former = await this.#someLeader();
    await this.#until(() => this.#isWhole(), 50, WAIT_MS_MAX);
    if (former?.node?.isLeader !== true || !this.#isWhole() || this.#isOver) return;
    this.#say(() => `relapse: leader ${former.raftId} cut off`);
    this.#isolate(former);
    const side = new Set([former.raftId]);
    const { term } = former.node;
    const successor = (): Machine | undefined => {
      const found = this.#leadsBeside(side);
      return (found?.node?.term ?? 0) > term ? found : undefined;
    };
    await this.#until(() => successor()?.node?.isLeader === true, 5, WAIT_MS_MAX);
    const replacedThrough = former.node?.core.log.lastIndex ?? 0;
    if (this.#isOver) return;
    this.#options.network.heal();
    const isReplaced = (): boolean => (former.node?.core.log.commitIndex ?? 0) >= replacedThrough;
    await this.#until(isReplaced, 1, WAIT_MS_MAX);
    await this.#sleep(this.#random.float() * 60);
    if (this.#isOver || !former.isRunning) return;
    this.#damage(former);
    await this.#sleep(this.#random.float() * 300);
    if (this.#isOver) return;
    former.start();
    await this.#sleep(this.#random.float() * 1_000);
  }

  /** Power off, and a bit of its log rots. */
  #damage(victim: Machine): void {
    victim.kill();
    const target = rotTarget(victim, this.#random);
    if (target === undefined) return;
    this.#say(() => `bit rot on ${victim.raftId}: ${target.path} at ${target.offset}`);
    victim.disk.rot(target.path, target.offset, this.#random.below(8));
    this.#options.checks.damaged(victim.raftId);
  }

  /** Some of what `from` says to `to` will arrive long after what it says next. */
  async #leaveUnderWay(from: Machine, to: Machine): Promise<void> {
    const { network } = this.#options;
    const lateMs = 50 + this.#random.float() * 250;
    network.slow(from.raftId, to.raftId, lateMs);
    await this.#sleep(20 + this.#random.float() * 60);
    network.slow(from.raftId, to.raftId, 0);
    await this.#sleep(this.#random.float() * lateMs);
  }

  /** Power off the leader for a while, with all links whole. */
  async #recover(leader: Machine): Promise<void> {
    if (this.#isOver) return;
    this.#say(() => `power off leader ${leader.raftId}`);
    leader.kill();
    this.#options.network.heal();
    await this.#sleep(1_500 + this.#random.float() * 3_000);
    if (!this.#isOver) leader.start();
    await this.#sleep(500);
  }

  /** A member comes back that needs a snapshot, just when the leader stops for longer than the others wait. */
  async #comeback(): Promise<void> {
    const { machines, network } = this.#options;
    const leader = await this.#someLeader();
    const lagging = this.#shuffled(machines().filter((each) => each !== leader && each.isRunning))[0];
    if (leader === undefined || lagging === undefined || this.#isOver) return;
    this.#isolate(lagging);
    const isBehind = (): boolean =>
      (leader.node?.core.log.baseIndex ?? 0) > (lagging.node?.core.log.lastIndex ?? Infinity);
    await this.#until(isBehind, 20, WAIT_MS_MAX);
    if (this.#isOver) return;
    network.heal();
    await this.#sleep(this.#random.float() * 120);
    const ms = 500 + this.#random.float() * 1_500;
    this.#say(() => `${lagging.raftId} is back, leader ${leader.raftId} stops for ${Math.round(ms)} ms`);
    leader.pause(ms);
    await this.#sleep(ms + this.#random.float() * 1_000);
  }

  /** Groups that don't see each other, of any size, while all hurry to elect. */
  async #shatter(): Promise<void> {
    const { machines, network } = this.#options;
    const leader = await this.#someLeader();
    await this.#sleep(this.#random.float() * 500);
    if (this.#isOver) return;
    const groupCount = 2 + this.#random.below(2);
    const groups = new Map(machines().map((each) => [each.raftId, this.#random.below(groupCount)]));
    if (leader !== undefined && this.#random.float() < 0.7) groups.set(leader.raftId, groupCount);
    this.#say(() => `groups ${[...groups].map(([raftId, group]) => `${raftId}:${group}`).join(" ")}`);
    for (const [a, groupA] of groups) {
      for (const [b, groupB] of groups) if (groupA !== groupB) network.cut(a, b);
    }
    await this.#sleep(500 + this.#random.float() * 2_500);
    network.heal();
  }

  /** O10: with the network whole and nobody else failing, one of them leads soon, if one of them can. */
  async #mustElect(living: readonly Machine[]): Promise<void> {
    const cores = living.flatMap((each) => (each.node === undefined ? [] : [each.node.core]));
    const canWin = cores.some(({ log, status }) => {
      const voters = status.config.filter((each) => !each.isLearner);
      const votes = living.filter(
        (each) =>
          voters.some((voter) => voter.raftId === each.raftId) &&
          each.node?.core.log.isUpToDate(log.lastIndex, log.lastTerm) === true,
      ).length;
      return votes >= Math.floor(voters.length / 2) + 1;
    });
    const hasLeader = (): boolean => living.some((each) => each.node?.isLeader === true);
    await this.#until(hasLeader, 50, ELECT_MS);
    if (canWin && !hasLeader() && !this.#isOver && living.every((each) => each.node !== undefined)) {
      const ids = living.map((each) => each.raftId).join(", ");
      throw new Violation("O10", `members ${ids} live and see each other, and elect nobody`);
    }
  }

  #isWhole(): boolean {
    const { checks, machines } = this.#options;
    return machines().every(
      (each) => !checks.isDamaged(each.raftId) && each.node?.core.status.isRecovering === false,
    );
  }

  /** The leader and fewer of the others than a quorum needs. */
  #minorityWith(leader: Machine): ReadonlySet<number> {
    const machines = this.#options.machines();
    const companions = this.#random.below(Math.ceil(machines.length / 2));
    const others = this.#shuffled(machines.filter((each) => each !== leader));
    return new Set([leader, ...others.slice(0, companions)].map((each) => each.raftId));
  }

  #isolate(machine: Machine): void {
    const { machines, network } = this.#options;
    for (const other of machines()) {
      network.cut(other.raftId, machine.raftId);
      network.cut(machine.raftId, other.raftId);
    }
  }

  #shuffled<T>(values: readonly T[]): readonly T[] {
    const drawn = values.map((value) => ({ value, order: this.#random.float() }));
    return drawn.sort((a, b) => a.order - b.order).map(({ value }) => value);
  }

  /** The newest one that leads; waits for it. A fresh one need not have committed anything of its term. */
  async #someLeader(want: "established" | "fresh" = "established"): Promise<Machine | undefined> {
    const leads = ({ isPaused, node }: Machine): boolean =>
      !isPaused &&
      node !== undefined &&
      (want === "fresh" ? node.core.leadership !== undefined : node.isLeader);
    const find = (): Machine | undefined =>
      this.#options
        .machines()
        .filter(leads)
        .sort((a, b) => (b.node?.term ?? 0) - (a.node?.term ?? 0))[0];
    await this.#until(() => find() !== undefined, want === "fresh" ? 2 : 10, WAIT_MS_MAX);
    return find();
  }

  async #until(holds: () => boolean, stepMs: number, limitMs: number): Promise<void> {
    const endMs = this.#options.world.nowMs + limitMs;
    do await this.#sleep(stepMs);
    while (!holds() && !this.#isOver && this.#options.world.nowMs < endMs);
  }

  #sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      this.#options.world.after(ms, resolve);
    });
  }

  #later(ms: number, act: () => void): void {
    this.#options.world.after(ms, () => {
      if (!this.#isOver) act();
    });
  }

  #say(text: () => string): void {
    this.#options.world.note(1, 0, text);
  }
}
