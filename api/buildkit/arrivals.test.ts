import assert from "node:assert/strict";
import { test } from "node:test";
import { FakeClock } from "../../common/testing/fake-clock.ts";
import { Arrivals } from "./arrivals.ts";

const NEVER = new AbortController().signal;

function arrivals(countMax = 10): { readonly clock: FakeClock; readonly things: Arrivals<string> } {
  const clock = new FakeClock();
  return { clock, things: new Arrivals({ noun: "session", countMax, waitMs: 5000, timers: clock }) };
}

test("Arrivals.get() waits for what comes a moment later", async () => {
  const { things } = arrivals();
  const waiting = [things.get("a", NEVER), things.get("a", NEVER)];
  things.add("a", "here");
  assert.deepEqual(await Promise.all(waiting), ["here", "here"]);
  assert.equal(await things.get("a", NEVER), "here");
});

test("Arrivals.get() gives up in time, and when nobody asks any more", async () => {
  const { clock, things } = arrivals();
  const late = things.get("a", NEVER);
  clock.advance(5000);
  await assert.rejects(late, { code: "not_found", message: "no such session: a" });
  const controller = new AbortController();
  const left = things.get("a", controller.signal);
  controller.abort();
  await assert.rejects(left, { code: "not_found" });
});

test("Arrivals.add() refuses what is there already, and more than may be open", () => {
  const { things } = arrivals(1);
  things.add("a", "1");
  assert.throws(() => things.add("a", "2"), { code: "already_exists" });
  assert.throws(() => things.add("b", "2"), { code: "resource_exhausted" });
  things.remove("a");
  things.add("b", "2");
});
