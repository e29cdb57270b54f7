import assert from "node:assert/strict";
import { test } from "node:test";
import { WATCH_HISTORY_BYTES_MAX, WATCH_HISTORY_EVENT_COUNT_MAX } from "../limits.ts";
import { type CommittedEvents, WatchHistory } from "./watch-history.ts";

function commit(version: number, { eventCount = 1, bytes = 100 } = {}): CommittedEvents {
  return { version, bytes, changes: Array.from({ length: eventCount }, () => ({ kind: "event" }) as never) };
}

function versions(history: WatchHistory, after: number): readonly number[] | undefined {
  return history.after(after)?.map((each) => each.version);
}

test("after() gives what came after a version, also one that no commit has", () => {
  const history = new WatchHistory();
  for (const version of [3, 4, 9]) history.push(commit(version));
  assert.deepEqual(versions(history, 0), [3, 4, 9]);
  assert.deepEqual(versions(history, 4), [9]);
  assert.deepEqual(versions(history, 6), [9]);
  assert.deepEqual(versions(history, 12), []);
});

test("both bounds forget the oldest, and what was forgotten is not passed over in silence", () => {
  const byCount = new WatchHistory();
  for (let version = 1; version <= WATCH_HISTORY_EVENT_COUNT_MAX + 3000; version += 1)
    byCount.push(commit(version));
  assert.equal(byCount.after(2999), undefined);
  assert.equal(byCount.after(3000)?.length, WATCH_HISTORY_EVENT_COUNT_MAX);
  assert.equal(byCount.after(3000)?.[0]?.version, 3001);
  const byBytes = new WatchHistory();
  for (let version = 1; version <= 5; version += 1)
    byBytes.push(commit(version, { bytes: WATCH_HISTORY_BYTES_MAX / 2 }));
  assert.deepEqual([versions(byBytes, 2), versions(byBytes, 3)], [undefined, [4, 5]]);
  byBytes.push(commit(6, { bytes: WATCH_HISTORY_BYTES_MAX + 1 }));
  assert.deepEqual([versions(byBytes, 5), versions(byBytes, 6)], [undefined, []]);
  byBytes.push(commit(7, { eventCount: 2 }));
  assert.deepEqual(versions(byBytes, 6), [7]);
});

test("what is forgotten is let go of, also where few commits fill the room", () => {
  const history = new WatchHistory();
  for (let version = 1; version <= 3000; version += 1) {
    history.push(commit(version, { bytes: WATCH_HISTORY_BYTES_MAX / 4 }));
    assert.ok(history.heldCount <= 2 * 4 + 1, `${history.heldCount} commits in memory for the newest 4`);
  }
  assert.deepEqual(versions(history, 2996), [2997, 2998, 2999, 3000]);
});

test("reset() forgets all before the new state", () => {
  const history = new WatchHistory();
  history.push(commit(1));
  history.reset(8);
  assert.deepEqual([versions(history, 7), versions(history, 8)], [undefined, []]);
});
