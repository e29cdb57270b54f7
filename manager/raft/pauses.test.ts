import assert from "node:assert/strict";
import { test } from "node:test";
import { FakeClock } from "../../common/testing/fake-clock.ts";
import { Pauses } from "./pauses.ts";

test("Pauses keeps nothing of those that ended, and ends the others at once", async () => {
  const clock = new FakeClock();
  const pauses = new Pauses(clock);
  for (let round = 0; round < 100; round += 1) {
    const wait = pauses.wait(500);
    clock.advance(500);
    await wait;
  }
  assert.equal(pauses.count, 0);
  const last = pauses.wait(500);
  assert.equal(pauses.count, 1);
  pauses.endAll();
  await last;
  assert.equal(pauses.count, 0);
});
