/**
 * `npm run sim -- --seed N [--minutes M] [--profile NAME] [--replay]`, `npm run sim -- --hunt SECONDS [--from SEED]
 * [--profile NAME]`, which goes round all profiles unless told one.
 * Prints the seed first, then what the run did; exits with 1 if a check failed, with 2 if it was called wrongly.
 */
import { setImmediate as nextTurn } from "node:timers/promises";
import { parseArgs } from "node:util";
import type { RunResult } from "./cluster-run.ts";
import { runSeed } from "./run.ts";
import { PROFILE_NAMES, type ProfileName } from "./profiles.ts";

const DEFAULT_MINUTES = 0.5;
/** What a hunt goes round: all but the one that is for measuring. */
const HUNTED: readonly ProfileName[] = PROFILE_NAMES.filter((name) => name !== "steady");

function profileName(text: string): ProfileName {
  const found = PROFILE_NAMES.find((name) => name === text);
  if (found === undefined)
    throw new Error(`--profile must be one of ${PROFILE_NAMES.join(", ")}, got "${text}"`);
  return found;
}

function number(text: string, name: string): number {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value) || value < 0)
    throw new Error(`--${name} must be a number of at least 0, got "${text}"`);
  return value;
}

function whole(text: string, name: string): number {
  const value = number(text, name);
  if (!Number.isSafeInteger(value)) throw new Error(`--${name} must be a whole number, got "${text}"`);
  return value;
}

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

async function main(): Promise<boolean> {
  const { values } = parseArgs({
    options: {
      seed: { type: "string" },
      minutes: { type: "string", default: String(DEFAULT_MINUTES) },
      profile: { type: "string" },
      replay: { type: "boolean", default: false },
      hunt: { type: "string" },
      from: { type: "string" },
    },
  });
  const minutes = number(values.minutes, "minutes");
  const fresh = Date.now() % 1_000_000_000;
  if (values.hunt !== undefined) {
    const from = values.from === undefined ? fresh : whole(values.from, "from");
    const profiles = values.profile === undefined ? HUNTED : [profileName(values.profile)];
    const seconds = number(values.hunt, "hunt");
    console.log(`hunting from seed ${from}`);
    return hunt(seconds, from, { profiles, minutes });
  }
  const seed = values.seed === undefined ? fresh : whole(values.seed, "seed");
  const profile = profileName(values.profile ?? "swarm");
  console.log(`seed ${seed}`);
  return once(seed, { profile, minutes, replay: values.replay });
}

try {
  process.exitCode = (await main()) ? 0 : 1;
} catch (caught) {
  console.error(`sim: ${caught instanceof Error ? caught.message : String(caught)}`);
  process.exitCode = 2;
}
