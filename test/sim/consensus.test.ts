/**
 * The simulator's share of `npm test`: the seeds that once found something, a fixed budget of fresh ones, and the proof
 * that a seed determines a run.
 */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import type { RunResult } from "./cluster-run.ts";
import { runSeed } from "./run.ts";
import { PROFILE_NAMES, type ProfileName } from "./profiles.ts";
import { WEATHER_NAMES } from "./weather.ts";

/** Fresh seeds per `npm test`, and where they start: another range each day. */
const FRESH_SEED_COUNT = 8;
const FRESH_SEED_START = Math.floor(Date.now() / 86_400_000) * 1000;
const FAULTY_MS = 15_000;

function profileOf(text: string): ProfileName {
  const found = PROFILE_NAMES.find((name) => name === text);
  assert.ok(found !== undefined, `no profile "${text}"`);
  return found;
}

async function run(seed: number, profile: ProfileName, faultyMs: number): Promise<RunResult> {
  const result = await runSeed({ seed, profile, faultyMs, keepsTimeline: false });
  const again = `npm run sim -- --seed ${seed} --profile ${profile} --minutes ${faultyMs / 60_000} --replay`;
  assert.equal(result.failure, undefined, `${result.failure?.text ?? ""}\nagain: ${again}`);
  return result;
}

/** Built files run from dist/test/sim; the seeds lie beside the sources. */
const root = path.join(import.meta.dirname.replace(`${path.sep}dist${path.sep}`, path.sep), "seeds");
for (const name of readdirSync(root).sort()) {
  for (const line of readFileSync(path.join(root, name), "utf8").split("\n")) {
    const [profile, seed, minutes] = line.split(" ");
    if (profile === undefined || seed === undefined || minutes === undefined || line.startsWith("#"))
      continue;
    test(`stored seed ${seed} of ${profile} stays good`, async () => {
      await run(Number(seed), profileOf(profile), Number(minutes) * 60_000);
    });
  }
}

test(`${FRESH_SEED_COUNT} fresh seeds from ${FRESH_SEED_START} find nothing`, async () => {
  for (let seed = FRESH_SEED_START; seed < FRESH_SEED_START + FRESH_SEED_COUNT; seed += 1) {
    await run(seed, "swarm", FAULTY_MS);
  }
});

test("the whole cluster comes together again after faults", async () => {
  for (let seed = FRESH_SEED_START; seed < FRESH_SEED_START + 2; seed += 1) await run(seed, "full", 8_000);
});

test("each kind of weather passes", async () => {
  for (const name of WEATHER_NAMES) await run(FRESH_SEED_START, name, 6_000);
});

test("no election happens when nothing fails", async () => {
  await run(FRESH_SEED_START, "calm", FAULTY_MS);
});

test("the same seed gives the same run", async () => {
  const first = await run(FRESH_SEED_START, "crash", 5_000);
  const second = await run(FRESH_SEED_START, "crash", 5_000);
  assert.equal(second.digest, first.digest);
  assert.equal(second.eventCount, first.eventCount);
});
