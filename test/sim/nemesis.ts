/** Breaks things, each kind at its own rate, and mends them all at the end. Knows nothing of what the members do. */
import type { SeededRandom } from "../../common/testing/seeded-random.ts";
import type { Checks } from "./checks.ts";
import type { Machine } from "./machine.ts";
import type { Network } from "./network.ts";
import type { Profile } from "./profiles.ts";
import { rotTarget } from "./rot.ts";
import { Weather } from "./weather.ts";
import { Violation, type World } from "./world.ts";

/** Election time-out of the profiles is 1 s; the full disk shows only at the next segment. */
const SPOILED_MS = 12_000;

export interface NemesisOptions {
  readonly world: World;
  readonly network: Network;
  readonly profile: Profile;
  readonly checks: Checks;
  readonly machines: () => readonly Machine[];
  /** Adds, removes: what an operator does. */
  readonly changeMembership: () => void;
}

export class Nemesis {
  readonly #options: NemesisOptions;
  readonly #random: SeededRandom;
  readonly #weather: Weather;
  #isOver = false;
  #isSpoiled = false;

  constructor(options: NemesisOptions) {
    this.#options = options;
    this.#random = options.world.random.fork();
    this.#weather = new Weather(options);
  }

  start(): void {
    const { network, profile } = this.#options;
    network.faults.lossRate = profile.lossRate;
    network.faults.duplicateRate = profile.duplicateRate;
    network.faults.meanDelayMs = profile.meanDelayMs;
    network.faults.chunkMs = profile.chunkMs;
    if (profile.weather !== undefined) this.#weather.start(profile.weather);
    for (const machine of this.#options.machines()) this.prepare(machine);
    const { every } = profile;
    this.#repeat(every.crash, () => this.#crash());
    this.#repeat(every.allCrash, () => this.#crashAll());
    this.#repeat(every.partition, () => this.#partition());
    this.#repeat(every.pause, () => this.#pause());
    this.#repeat(every.slowLink, () => this.#slowLink());
    this.#repeat(every.stalledDisk, () => this.#stallDisk());
    this.#repeat(every.fullDisk, () => this.#fillDisk());
    this.#repeat(every.rot, () => this.#rot());
    this.#repeat(every.transfer, () => this.#transfer());
    this.#repeat(every.falseRefusal, () => this.#refuse());
    this.#repeat(every.lonelyFollower, () => this.#isolateFollower());
    this.#repeat(every.cutLeader, () => this.#cutLeader());
    this.#repeat(every.badLeader, () => this.#spoilLeader());
    this.#repeat(every.membership, () => this.#options.changeMembership());
  }

  /** Disk and clock of a new machine. */
  prepare(machine: Machine): void {
    const { profile } = this.#options;
    const isSlow = profile.diskSpread > 1 && this.#random.float() < 0.4;
    const mean = profile.diskLatencyMs * (isSlow ? 1 + this.#random.float() * (profile.diskSpread - 1) : 1);
    machine.disk.faults.latencyMs = () => mean * (0.2 - Math.log(1 - this.#random.float()));
    machine.disk.faults.syncFailureRate = profile.syncFailureRate;
    const drift = profile.clockDrift;
    machine.clock = {
      rate: 1 + (this.#random.float() * 2 - 1) * drift,
      wallOffsetMs: (this.#random.float() - 0.5) * 1e6 * drift,
    };
  }

  /** Mends network, disks and clocks. The dead stay dead. */
  stop(): void {
    this.#isOver = true;
    this.#weather.stop();
    const { network } = this.#options;
    network.heal();
    Object.assign(network.faults, {
      lossRate: 0,
      duplicateRate: 0,
      minDelayMs: 0.2,
      meanDelayMs: 0.5,
      chunkMs: 0,
    });
    for (const machine of this.#options.machines()) {
      machine.disk.faults.syncFailureRate = 0;
      machine.disk.faults.capacityBytes = Number.MAX_SAFE_INTEGER;
      machine.disk.faults.latencyMs = () => 0.2;
      machine.disk.resume();
    }
  }

  #repeat(meanSeconds: number, act: () => void): void {
    if (meanSeconds === 0) return;
    const waitMs = -Math.log(1 - this.#random.float()) * meanSeconds * 1000;
    this.#options.world.after(waitMs, () => {
      if (this.#isOver) return;
      act();
      this.#repeat(meanSeconds, act);
    });
  }

  #later(ms: number, act: () => void): void {
    this.#options.world.after(ms, () => {
      if (!this.#isOver) act();
    });
  }

  #oneRunning(): Machine | undefined {
    const running = this.#options.machines().filter((machine) => machine.isRunning);
    return running[this.#random.below(Math.max(1, running.length))];
  }

  #say(text: () => string): void {
    this.#options.world.note(1, 0, text);
  }

  #crash(): void {
    const machine = this.#oneRunning();
    if (machine === undefined) return;
    this.#say(() => `power off ${machine.raftId}`);
    machine.kill();
    this.#later(this.#random.float() * (this.#random.float() < 0.5 ? 300 : 6_000), () => machine.start());
  }

  #crashAll(): void {
    this.#say(() => "power off everything");
    for (const machine of this.#options.machines()) {
      machine.kill();
      this.#later(this.#random.float() * 3_000, () => machine.start());
    }
  }

  #partition(): void {
    const { network } = this.#options;
    const ids = this.#options.machines().map((machine) => machine.raftId);
    const kind = this.#random.below(4);
    const oneWay = this.#random.float() < 0.3;
    const side = new Set(ids.filter(() => this.#random.float() < 0.5));
    const lonely = ids[this.#random.below(ids.length)] ?? 0;
    const isCut = (a: number, b: number): boolean => {
      if (kind === 0) return side.has(a) !== side.has(b);
      if (kind === 1) return a === lonely || b === lonely;
      // A bridge: two halves that see each other only through one.
      if (kind === 2) return a !== lonely && b !== lonely && side.has(a) !== side.has(b);
      return this.#random.float() < 0.3;
    };
    this.#say(() => `partition of kind ${kind}${oneWay ? ", one way" : ""}`);
    for (const a of ids) {
      for (const b of ids) {
        if (a >= b || !isCut(a, b)) continue;
        network.cut(a, b);
        if (!oneWay) network.cut(b, a);
      }
    }
    this.#later(500 + this.#random.float() * 8_000, () => {
      this.#say(() => "partition heals");
      network.heal();
    });
  }

  #pause(): void {
    const machine = this.#oneRunning();
    const ms = 100 + this.#random.float() * 5_000;
    if (machine === undefined) return;
    this.#say(() => `pause ${machine.raftId} for ${Math.round(ms)} ms`);
    machine.pause(ms);
  }

  #slowLink(): void {
    const ids = this.#options.machines().map((machine) => machine.raftId);
    const from = ids[this.#random.below(ids.length)] ?? 0;
    const to = ids[this.#random.below(ids.length)] ?? 0;
    const delayMs = this.#random.float() * 2_000;
    this.#say(() => `link ${from} to ${to} slow by ${Math.round(delayMs)} ms`);
    this.#options.network.slow(from, to, delayMs);
  }

  #stallDisk(): void {
    const machine = this.#oneRunning();
    if (machine === undefined) return;
    this.#say(() => `disk of ${machine.raftId} stalls`);
    machine.disk.faults.isStalled = true;
    this.#later(200 + this.#random.float() * 5_000, () => machine.disk.resume());
  }

  #fillDisk(): void {
    const machine = this.#oneRunning();
    if (machine === undefined) return;
    this.#say(() => `disk of ${machine.raftId} full`);
    machine.disk.faults.capacityBytes = machine.disk.usedBytes + this.#random.below(4096);
    this.#later(500 + this.#random.float() * 6_000, () => {
      machine.disk.faults.capacityBytes = Number.MAX_SAFE_INTEGER;
    });
  }

  /** Only one member at a time has damage: more could destroy the only copies, and losing data would be right. */
  #rot(): void {
    const { checks } = this.#options;
    const machines = this.#options.machines();
    const isWhole = machines.every(
      (each) => !checks.isDamaged(each.raftId) && each.node?.core.status.isRecovering === false,
    );
    const machine = this.#oneRunning();
    const voters = machine?.node?.members.filter((member) => !member.isLearner).length ?? 0;
    // Of two members both are needed: with one damaged nothing could ever be decided.
    if (!isWhole || machine === undefined || voters < 3) return;
    machine.kill();
    const target = rotTarget(machine, this.#random);
    if (target !== undefined) {
      this.#say(() => `bit rot on ${machine.raftId}: ${target.path} at ${target.offset}`);
      machine.disk.rot(target.path, target.offset, this.#random.below(8));
      checks.damaged(machine.raftId);
    }
    this.#later(this.#random.float() * 2_000, () => machine.start());
  }

  #leader(): Machine | undefined {
    return this.#options.machines().find((machine) => machine.node?.isLeader === true);
  }

  #cutOff(raftId: number, oneWay: boolean): void {
    for (const other of this.#options.machines()) {
      this.#options.network.cut(other.raftId, raftId);
      if (!oneWay) this.#options.network.cut(raftId, other.raftId);
    }
  }

  #isolateFollower(): void {
    const followers = this.#options.machines().filter((machine) => machine.node?.isLeader === false);
    const lonely = followers[this.#random.below(Math.max(1, followers.length))];
    if (lonely === undefined || this.#isSpoiled) return;
    this.#isSpoiled = true;
    this.#say(() => `${lonely.raftId} cut off`);
    this.#cutOff(lonely.raftId, this.#random.float() < 0.3);
    this.#later(1_000 + this.#random.float() * 6_000, () => {
      this.#say(() => "and back");
      this.#options.network.heal();
      this.#isSpoiled = false;
    });
  }

  #cutLeader(): void {
    const leader = this.#leader();
    if (leader === undefined) return;
    this.#say(() => `leader ${leader.raftId} cut off`);
    this.#cutOff(leader.raftId, this.#random.float() < 0.2);
    this.#later(500 + this.#random.float() * 4_000, () => this.#options.network.heal());
  }

  /** O10: nothing else is broken, so within SPOILED_MS another one must lead. */
  #spoilLeader(): void {
    const leader = this.#leader();
    if (leader === undefined || this.#isSpoiled) return;
    this.#isSpoiled = true;
    const kind = this.#random.below(4);
    this.#say(() => `leader ${leader.raftId} spoiled, kind ${kind}`);
    if (kind === 0) leader.disk.faults.isStalled = true;
    else if (kind === 1) leader.disk.faults.capacityBytes = leader.disk.usedBytes;
    else this.#cutOff(leader.raftId, kind === 2);
    const appliedBefore = leader.node?.appliedIndex ?? 0;
    this.#later(SPOILED_MS, () => {
      const next = this.#leader();
      // A full disk doesn't stop a log that uses its own old segments again.
      const goesOn = kind === 1 && (leader.node?.appliedIndex ?? 0) > appliedBefore + 20;
      const isStale = leader.node?.core.leadership !== undefined;
      if (!goesOn && (next === undefined || next === leader || isStale)) {
        throw new Violation("O10", `leader ${leader.raftId}, spoiled in way ${kind}, was not replaced`);
      }
      leader.disk.resume();
      leader.disk.faults.capacityBytes = Number.MAX_SAFE_INTEGER;
      this.#options.network.heal();
      this.#later(3_000, () => {
        this.#isSpoiled = false;
      });
    });
  }

  #transfer(): void {
    const leader = this.#options.machines().find((machine) => machine.node?.isLeader === true);
    this.#say(() => `hand over from ${leader?.raftId ?? 0}`);
    // Whether it succeeds doesn't matter here.
    leader?.node?.transferLeadership().catch(() => undefined);
  }

  #refuse(): void {
    const ids = this.#options.machines().map((machine) => machine.raftId);
    const from = ids[this.#random.below(ids.length)] ?? 0;
    const to = ids[this.#random.below(ids.length)] ?? 0;
    if (from !== to) this.#options.network.refuseFalsely(from, to);
  }
}
