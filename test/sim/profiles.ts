/** How bad a run is. Swarm testing: most runs draw their own mix of faults from the seed, so that each may dominate. */
import type { RaftLimits } from "../../manager/raft/limits.ts";
import type { SeededRandom } from "../../common/testing/seeded-random.ts";
import type { WeatherName } from "./weather.ts";

export interface Profile {
  readonly name: string;
  readonly memberCount: number;
  readonly clientCount: number;
  readonly keyCount: number;
  /** Mean pause of a client between two operations. */
  readonly thinkMs: number;
  readonly lossRate: number;
  readonly duplicateRate: number;
  readonly meanDelayMs: number;
  /** Messages that arrive within so long are handled in one turn. */
  readonly chunkMs: number;
  readonly diskLatencyMs: number;
  /** Some machines' disks are slower than others', by as much as this factor; 1: all are alike. */
  readonly diskSpread: number;
  readonly syncFailureRate: number;
  readonly isEncrypted: boolean;
  /** Mean virtual seconds between faults of a kind; 0 for never. */
  readonly every: {
    readonly crash: number;
    readonly partition: number;
    readonly pause: number;
    readonly slowLink: number;
    readonly stalledDisk: number;
    readonly fullDisk: number;
    readonly rot: number;
    readonly membership: number;
    readonly transfer: number;
    readonly falseRefusal: number;
    readonly allCrash: number;
    /** Cuts off one that doesn't lead: nobody may lose office for it. */
    readonly lonelyFollower: number;
    /** The leader's disk or network fails for long, and nothing else: another one must take over. */
    readonly badLeader: number;
    /** Cuts off the leader for a while, clients and all. */
    readonly cutLeader: number;
  };
  readonly clockDrift: number;
  /** A sequence of faults that goes on all the time, beside the others. */
  readonly weather: WeatherName | undefined;
  readonly limits: Partial<RaftLimits>;
}

/** Tiny, so that a run passes every boundary many times. */
const SMALL: Partial<RaftLimits> = {
  tickMs: 50,
  heartbeatMs: 100,
  electionMs: 1_000,
  segmentBytes: 4096,
  appendBytesMax: 512,
  appendCountMax: 8,
  inflightCountMax: 3,
  pipelineCount: 2,
  gatherCountMax: 4,
  inflightBytesMax: 1024,
  writeBytesMax: 1024,
  applyBytesMax: 1024,
  uncommittedBytesMax: 16 * 1024,
  checkpointMs: 500,
  tailCountMax: 10,
  compactCountMin: 5,
  learnerLagMax: 5,
  readMs: 3_000,
};

const NEVER: Profile["every"] = {
  crash: 0,
  partition: 0,
  pause: 0,
  slowLink: 0,
  stalledDisk: 0,
  fullDisk: 0,
  rot: 0,
  membership: 0,
  transfer: 0,
  falseRefusal: 0,
  allCrash: 0,
  lonelyFollower: 0,
  badLeader: 0,
  cutLeader: 0,
};

const CALM: Profile = {
  name: "calm",
  memberCount: 3,
  clientCount: 4,
  keyCount: 3,
  thinkMs: 60,
  lossRate: 0,
  duplicateRate: 0,
  meanDelayMs: 0.5,
  chunkMs: 0,
  diskLatencyMs: 0.5,
  diskSpread: 1,
  syncFailureRate: 0,
  isEncrypted: false,
  every: NEVER,
  clockDrift: 0,
  weather: undefined,
  limits: SMALL,
};

export const PROFILE_NAMES = [
  "swarm",
  "calm",
  "network",
  "disk",
  "crash",
  "membership",
  "quiet",
  "stuck",
  "cutoff",
  "seesaw",
  "figure8",
  "refusal",
  "promotion",
  "witness",
  "relapse",
  "comeback",
  "shatter",
  "full",
  "handover",
  "steady",
] as const;
export type ProfileName = (typeof PROFILE_NAMES)[number];

function pick<T>(random: SeededRandom, values: readonly [T, ...T[]]): T {
  return values[random.below(values.length)] ?? values[0];
}

function cutoff(random: SeededRandom, memberCount: number): Profile {
  return {
    ...CALM,
    name: "cutoff",
    memberCount,
    clientCount: 8,
    thinkMs: 30,
    diskLatencyMs: 5,
    every: { ...NEVER, cutLeader: 2, crash: pick(random, [0, 2, 6]) },
    limits: { ...SMALL, appendCountMax: 2 },
  };
}

export function profileOf(name: ProfileName, random: SeededRandom): Profile {
  const memberCount = pick(random, [3, 3, 5, 5, 4, 7]);
  switch (name) {
    case "calm":
      return { ...CALM, memberCount };
    case "quiet":
      return { ...CALM, name, memberCount, thinkMs: 2_000, every: { ...NEVER, lonelyFollower: 4 } };
    case "cutoff":
      return cutoff(random, memberCount);
    case "stuck":
      return { ...CALM, name, memberCount, every: { ...NEVER, badLeader: 2 } };
    case "network":
      return {
        ...CALM,
        name,
        memberCount,
        lossRate: 0.05,
        duplicateRate: 0.05,
        meanDelayMs: 10,
        every: { ...NEVER, partition: 4, slowLink: 5, pause: 10, transfer: 2, falseRefusal: 5 },
      };
    case "disk":
      return {
        ...CALM,
        name,
        memberCount,
        diskLatencyMs: 5,
        syncFailureRate: 0.0005,
        every: { ...NEVER, crash: 5, stalledDisk: 8, fullDisk: 8, rot: 15 },
      };
    case "crash":
      return {
        ...CALM,
        name,
        memberCount,
        // Slow, so that a crash often meets a write on its way.
        diskLatencyMs: 20,
        meanDelayMs: 3,
        every: { ...NEVER, crash: 1, allCrash: 15, partition: 15, transfer: 4 },
      };
    case "membership":
      return {
        ...CALM,
        name,
        memberCount: 3,
        lossRate: 0.02,
        meanDelayMs: 5,
        every: { ...NEVER, membership: 3, crash: 6, transfer: 8, partition: 8 },
      };
    case "seesaw":
    case "figure8":
    case "refusal":
    case "promotion":
    case "witness":
    case "relapse":
    case "comeback":
    case "shatter":
      return weatherProfile(name, random);
    case "full":
    case "handover":
    case "steady":
      return fullProfile(random).managers;
    case "swarm":
      return swarm(random, memberCount);
  }
}

/** Several elections per virtual second. */
const HASTY: Partial<RaftLimits> = {
  ...SMALL,
  tickMs: 20,
  heartbeatMs: 40,
  electionMs: 300,
  readMs: 1_000,
};

function weatherProfile(weather: WeatherName, random: SeededRandom): Profile {
  const memberCount = pick(random, [3, 5, 5, 7]);
  const meanDelayMs = pick(random, [0.5, 2, 8]);
  const diskLatencyMs = pick(random, [0.5, 5]);
  const base: Profile = { ...CALM, name: weather, memberCount, meanDelayMs, diskLatencyMs, weather };
  const busy = { clientCount: 8, thinkMs: 20 };
  switch (weather) {
    case "seesaw":
      return { ...base, ...busy, limits: { ...HASTY, appendCountMax: pick(random, [1, 2, 8]) } };
    case "figure8":
      return { ...base, ...busy, memberCount: 5, meanDelayMs: 8, limits: { ...HASTY, appendCountMax: 1 } };
    case "refusal":
      return { ...base, ...busy, keyCount: 2, clockDrift: pick(random, [0, 0.2]), limits: SMALL };
    case "promotion":
      return { ...base, memberCount: 3, meanDelayMs: 5 };
    case "witness":
      return {
        ...base,
        ...busy,
        memberCount: pick(random, [3, 3, 5]),
        limits: { ...HASTY, tailCountMax: 200, appendCountMax: 2, segmentBytes: 16 * 1024 },
      };
    case "relapse":
      return {
        ...base,
        ...busy,
        memberCount: pick(random, [3, 3, 5]),
        // Entries stay in the log for longer than it takes to replace them.
        limits: { ...HASTY, tailCountMax: 200, checkpointMs: 3_000, appendCountMax: pick(random, [1, 4]) },
      };
    case "comeback":
      return {
        ...base,
        ...busy,
        chunkMs: pick(random, [0, 5, 20]),
        limits: { ...HASTY, tailCountMax: 3, compactCountMin: 3, checkpointMs: 100 },
      };
    case "shatter":
      return { ...base, duplicateRate: 0.5, limits: HASTY };
  }
}

function swarm(random: SeededRandom, memberCount: number): Profile {
  const maybe = (chance: number, seconds: readonly [number, ...number[]]): number =>
    random.float() < chance ? pick(random, seconds) : 0;
  return {
    name: "swarm",
    memberCount,
    clientCount: 1 + random.below(6),
    keyCount: 1 + random.below(4),
    thinkMs: pick(random, [20, 60, 60, 500]),
    lossRate: pick(random, [0, 0, 0.01, 0.05, 0.15, 0.3]),
    duplicateRate: pick(random, [0, 0, 0.02, 0.1, 0.3]),
    meanDelayMs: pick(random, [0.5, 2, 10, 30, 80]),
    chunkMs: pick(random, [0, 0, 5]),
    diskLatencyMs: pick(random, [0.1, 1, 5, 20, 100]),
    diskSpread: 1,
    syncFailureRate: pick(random, [0, 0, 0, 0.0005, 0.003]),
    isEncrypted: random.float() < 0.1,
    every: {
      crash: maybe(0.7, [1, 3, 8, 15]),
      partition: maybe(0.6, [3, 8, 15]),
      pause: maybe(0.4, [3, 10]),
      slowLink: maybe(0.4, [3, 10]),
      stalledDisk: maybe(0.3, [5, 15]),
      fullDisk: maybe(0.25, [5, 15]),
      rot: maybe(0.2, [10, 20]),
      membership: maybe(0.4, [2, 5, 12]),
      transfer: maybe(0.4, [3, 10]),
      falseRefusal: maybe(0.3, [2, 8]),
      allCrash: maybe(0.2, [15, 30]),
      lonelyFollower: 0,
      badLeader: 0,
      cutLeader: maybe(0.3, [3, 8]),
    },
    clockDrift: pick(random, [0, 0.02, 0.2]),
    // Promotion, witness and relapse rest on nothing else failing.
    weather: pick(random, [undefined, undefined, undefined, "seesaw", "refusal", "comeback", "shatter"]),
    limits: {
      ...SMALL,
      tailCountMax: pick(random, [5, 20, 100]),
      segmentBytes: pick(random, [2048, 4096, 16384]),
    },
  };
}

/** The whole cluster: managers' faults, and what happens to workers and by the operator. */
export interface FullProfile {
  readonly managers: Profile;
  readonly workerCount: number;
  readonly workerFaultEveryMs: number;
  readonly operatorEveryMs: number;
  /** Mean pause between what is done to managers, CA and cluster; 0: never. */
  readonly managersEveryMs: number;
}

export function fullProfile(random: SeededRandom): FullProfile {
  const maybe = (chance: number, seconds: readonly [number, ...number[]]): number =>
    random.float() < chance ? pick(random, seconds) : 0;
  const managers: Profile = {
    ...CALM,
    name: "full",
    memberCount: pick(random, [3, 3, 5]),
    lossRate: pick(random, [0, 0, 0.02]),
    duplicateRate: pick(random, [0, 0.02]),
    meanDelayMs: pick(random, [0.5, 2, 10]),
    diskLatencyMs: pick(random, [0.1, 1, 5]),
    every: {
      ...NEVER,
      crash: maybe(0.6, [4, 10, 20]),
      partition: maybe(0.4, [8, 20]),
      pause: maybe(0.3, [10]),
      transfer: maybe(0.4, [2, 5, 15]),
      cutLeader: maybe(0.4, [3, 8, 20]),
      allCrash: maybe(0.15, [30]),
    },
    limits: {
      tickMs: 50,
      heartbeatMs: 100,
      electionMs: 1_000,
      segmentBytes: 256 * 1024,
      checkpointMs: 1_000,
      // A leader may be one before it has applied all that it found committed.
      applyBytesMax: pick(random, [2_048, 1024 * 1024]),
      tailCountMax: 50,
      compactCountMin: 20,
    },
  };
  return {
    managers,
    workerCount: pick(random, [3, 8, 20]),
    workerFaultEveryMs: pick(random, [1_000, 3_000, 10_000]),
    operatorEveryMs: pick(random, [500, 1_500, 4_000]),
    managersEveryMs: pick(random, [0, 1_500, 4_000]),
  };
}

/**
 * Leadership moves all the time while much is asked for, and some disks are far slower than a quorum's: a leader has much to
 * apply that others committed before it, and much of its own under way when it goes.
 */
export function handoverProfile(random: SeededRandom): FullProfile {
  const { managers } = fullProfile(random);
  return {
    managers: {
      ...managers,
      name: "handover",
      memberCount: 3,
      meanDelayMs: pick(random, [0.5, 2]),
      diskLatencyMs: pick(random, [0.5, 2]),
      diskSpread: 40,
      every: {
        ...NEVER,
        transfer: pick(random, [1, 2]),
        crash: pick(random, [0, 3]),
        cutLeader: pick(random, [0, 3]),
      },
      limits: { ...managers.limits, applyBytesMax: 2_048 },
    },
    workerCount: 5,
    workerFaultEveryMs: 3_000,
    operatorEveryMs: 400,
    managersEveryMs: 0,
  };
}

/** Of one size and with a fault or a change every few seconds: for measuring, and for long runs. */
export function steadyProfile(random: SeededRandom): FullProfile {
  const { managers } = fullProfile(random);
  return {
    managers: {
      ...managers,
      name: "steady",
      memberCount: 5,
      every: { ...NEVER, crash: 20, partition: 30, pause: 30, transfer: 60, cutLeader: 60 },
    },
    workerCount: 20,
    workerFaultEveryMs: 10_000,
    operatorEveryMs: 10_000,
    managersEveryMs: 60_000,
  };
}
