import assert from "node:assert/strict";
import { test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { progressOf } from "./progress.ts";

const PIECE = "x".repeat(100_000);
const PIECE_COUNT = 100;

test("progressOf() holds work back whose text nobody reads", async () => {
  let [told, taken, waitingMax] = [0, 0, 0];
  const lines = progressOf(async (report, room) => {
    for (; told < PIECE_COUNT; told++) {
      report({ stream: PIECE });
      await room();
    }
  });
  for await (const line of lines) {
    assert.equal(line["stream"], PIECE);
    taken += 1;
    // The work goes as far as it may.
    await turn();
    waitingMax = Math.max(waitingMax, told - taken);
  }
  assert.equal(taken, PIECE_COUNT);
  assert.equal(waitingMax <= 11, true, `${waitingMax} pieces waited`);
});

test("progressOf() lets work go on whose reader went away", async () => {
  const ended = Promise.withResolvers<void>();
  const lines = progressOf(async (report, room) => {
    for (let count = 0; count < PIECE_COUNT; count++) {
      report({ stream: PIECE });
      await room();
    }
    ended.resolve();
  });
  for await (const _ of lines) {
    // It is held back by now.
    await turn();
    break;
  }
  await ended.promise;
});
