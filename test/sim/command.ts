/**
 * `npm run sim -- --help` says how it is called. Prints the seed first, then what the run did; exits with 1 if a check
 * failed, with 2 if it was called wrongly.
 */
import { setImmediate as nextTurn } from "node:timers/promises";
import { choice, count, quantity, toggle, toolOptions } from "../../dev/tool-options.ts";
import type { RunResult } from "./cluster-run.ts";
import { runSeed } from "./run.ts";
import { PROFILE_NAMES, type ProfileName } from "./profiles.ts";

/** What a hunt goes round: all but the one that is for measuring. */
const HUNTED: readonly ProfileName[] = PROFILE_NAMES.filter((name) => name !== "steady");

/** `usedMs`: processor time, which says more than the clock where others work too. */
function describe(result: RunResult, usedMs: number): string {
  const virtualS = result.virtualMs / 1000;
  const head = `seed ${result.seed} ${result.profile}: ${virtualS.toFixed(0)} s virtual, ${result.eventCount} events`;
  const speed = `${((virtualS / usedMs) * 1000).toFixed(0)} s per processor second`;
  const rest = `${result.operations} operations, ${result.leaderChanges} leaders, ${result.appliedIndex} entries`;
  return `${head}, ${speed}, ${rest}, digest ${result.digest.toString(16)}`;
}

async function once(
  seed: number,
  options: { profile: ProfileName; minutes: number; replay: boolean },
): Promise<boolean> {
  const before = process.cpuUsage();
  const result = await runSeed({
    seed,
    profile: options.profile,
    faultyMs: options.minutes * 60_000,
    keepsTimeline: options.replay,
  });
  if (options.replay) for (const line of result.timeline) console.log(line);
  const { system, user } = process.cpuUsage(before);
  console.log(describe(result, (system + user) / 1000));
  if (result.failure === undefined) return true;
  console.log(`FAILED ${result.failure.text}`);
  console.log(
    `again: npm run sim -- --seed ${seed} --profile ${options.profile} --minutes ${options.minutes} --replay`,
  );
  return false;
}

/** One seed after the other, each with the next of the profiles. SIGINT and SIGTERM end it after the seed that runs. */
async function hunt(
  seconds: number,
  from: number,
  options: { readonly profiles: readonly ProfileName[]; readonly minutes: number },
): Promise<boolean> {
  const { minutes, profiles } = options;
  let endMs = performance.now() + seconds * 1000;
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    process.once(signal, () => {
      endMs = 0;
    });
  }
  let virtualMs = 0;
  let seed = from;
  let failedCount = 0;
  for (; performance.now() < endMs; seed += 1) {
    const profile = profiles[seed % profiles.length] ?? "swarm";
    const result = await runSeed({ seed, profile, faultyMs: minutes * 60_000, keepsTimeline: false });
    virtualMs += result.virtualMs;
    // Signals come between turns of the event loop.
    await nextTurn();
    if (result.undecided > 0) console.log(`seed ${seed} ${profile}: ${result.undecided} histories undecided`);
    if (result.failure === undefined) continue;
    failedCount += 1;
    console.log(`seed ${seed} ${profile}: ${result.failure.text.split("\n")[0]}`);
    console.log(`  again: npm run sim -- --seed ${seed} --profile ${profile} --minutes ${minutes} --replay`);
  }
  const days = virtualMs / 86_400_000;
  console.log(`${seed - from} seeds from ${from}, ${days.toFixed(2)} virtual days, ${failedCount} failed`);
  return failedCount === 0;
}

const options = toolOptions(
  {
    run: "npm run sim --",
    about:
      "Runs a simulated cluster from a seed, with faults, and checks it after every event. Of one seed, or with --hunt of fresh seeds until the time is over. Exit status 1: a check failed.",
  },
  {
    seed: count("what the run comes from (default: from the clock)", { min: 0, fallback: undefined }),
    minutes: quantity("virtual time with faults", { unit: "minutes", fallback: 0.5 }),
    profile: choice("size, load and faults of a run (default: swarm, or all in turn with --hunt)", {
      names: PROFILE_NAMES,
      fallback: undefined,
    }),
    replay: toggle("print the timeline of the run"),
    hunt: quantity("try seed after seed for so long", { unit: "seconds", fallback: undefined }),
    from: count("the hunt's first seed (default: from the clock)", { min: 0, fallback: undefined }),
  },
);
const { hunt: huntSeconds, minutes, profile, replay } = options;
const fresh = Date.now() % 1_000_000_000;
let isGood: boolean;
if (huntSeconds === undefined) {
  const { seed = fresh } = options;
  console.log(`seed ${seed}`);
  isGood = await once(seed, { profile: profile ?? "swarm", minutes, replay });
} else {
  const { from = fresh } = options;
  console.log(`hunting from seed ${from}`);
  isGood = await hunt(huntSeconds, from, { profiles: profile === undefined ? HUNTED : [profile], minutes });
}
process.exitCode = isGood ? 0 : 1;
