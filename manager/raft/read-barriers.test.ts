import assert from "node:assert/strict";
import { test } from "node:test";
import { hasCode } from "../../common/errors.ts";
import { ReadBarriers } from "./read-barriers.ts";

const TIMEOUT_MS = 5_000;
const RETRY_MS = 300;

/** The barriers of a follower, with what it asked and a leader that may be missing. */
class Reader {
  readonly asked: number[] = [];
  nowMs = 0;
  hasLeader = true;
  readonly barriers: ReadBarriers = new ReadBarriers({
    nowMs: () => this.nowMs,
    timeoutMs: TIMEOUT_MS,
    retryMs: RETRY_MS,
    countMax: 10,
    ask: (readId) => {
      if (this.hasLeader) this.asked.push(readId);
      return this.hasLeader;
    },
    firstReadId: 100,
  });

  /** Outcomes in the order in which they came. */
  readonly outcomes: string[] = [];

  read(name: string): void {
    this.barriers.add(undefined).then(
      () => this.outcomes.push(`${name} served`),
      (error: unknown) =>
        this.outcomes.push(`${name} ${hasCode(error, "unavailable") ? "unavailable" : "?"}`),
    );
  }

  async settled(): Promise<readonly string[]> {
    await new Promise((resolve) => setImmediate(resolve));
    return this.outcomes;
  }
}

test("ReadBarriers asks once for all callers of a turn and serves them when the index is applied", async () => {
  const reader = new Reader();
  reader.read("a");
  reader.read("b");
  reader.barriers.askPending();
  reader.barriers.askPending();
  assert.deepEqual(reader.asked, [101]);
  reader.barriers.answered([{ readId: 101, index: 7 }], 6);
  assert.deepEqual(await reader.settled(), []);
  reader.barriers.applied(7);
  assert.deepEqual(await reader.settled(), ["a served", "b served"]);
});

test("ReadBarriers asks the next leader at once what the former one did not answer", async () => {
  const reader = new Reader();
  reader.read("a");
  reader.barriers.askPending();
  reader.hasLeader = false;
  reader.barriers.leaderChanged();
  reader.barriers.askPending();
  assert.deepEqual(reader.asked, [101], "nobody to ask");
  reader.hasLeader = true;
  reader.barriers.leaderChanged();
  reader.barriers.askPending();
  const again = reader.asked.at(-1) ?? 0;
  assert.ok(again > 101, "under a number of its own");
  reader.barriers.answered([{ readId: 101, index: 1 }], 9);
  assert.deepEqual(await reader.settled(), [], "the former leader's late answer counts for nothing");
  reader.barriers.answered([{ readId: again, index: 9 }], 9);
  assert.deepEqual(await reader.settled(), ["a served"]);
});

test("ReadBarriers asks again after a lost answer, and gives up in time", async () => {
  const reader = new Reader();
  reader.read("a");
  reader.barriers.askPending();
  reader.nowMs = RETRY_MS;
  reader.barriers.tick();
  reader.barriers.askPending();
  assert.equal(reader.asked.length, 2);
  reader.nowMs = TIMEOUT_MS;
  reader.barriers.tick();
  assert.deepEqual(await reader.settled(), ["a unavailable"]);
});
