/** How long a manager waits for nodes without a session, above all for many at once and after it has come to lead. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ARRIVAL_PAUSE_MS, MASS_SILENCE_MS, NEW_LEADER_GRACE_MS, NODE_DOWN_MS } from "./limits.ts";
import { MissingNodes } from "./missing-nodes.ts";

const START_MS = 100_000;

function awaiting(count: number): { readonly missing: MissingNodes; readonly ids: readonly string[] } {
  const ids = Array.from({ length: count }, (_, index) => `n${index}`);
  const missing = new MissingNodes();
  missing.await(ids, START_MS);
  return { missing, ids };
}

test("MissingNodes gives up each node so long after it was last heard", () => {
  const missing = new MissingNodes();
  missing.lost("a", START_MS);
  missing.lost("b", START_MS + 10);
  missing.lost("c", START_MS);
  missing.found("c", START_MS);
  assert.deepEqual(missing.takeOverdue(START_MS + NODE_DOWN_MS - 1, 9), []);
  assert.deepEqual(missing.takeOverdue(START_MS + NODE_DOWN_MS, 9), ["a"]);
  assert.deepEqual(missing.takeOverdue(START_MS + NODE_DOWN_MS + 10, 9), ["b"]);
  assert.equal(missing.count, 0);
});

test("MissingNodes waits longer while more than half of all nodes are missing", () => {
  const missing = new MissingNodes();
  for (const id of ["a", "b", "c"]) missing.lost(id, START_MS);
  assert.deepEqual(missing.takeOverdue(START_MS + NODE_DOWN_MS, 2), []);
  assert.deepEqual(missing.takeOverdue(START_MS + MASS_SILENCE_MS - 1, 2), []);
  missing.found("c", START_MS + MASS_SILENCE_MS - 1);
  assert.deepEqual(missing.takeOverdue(START_MS + MASS_SILENCE_MS - 1, 3), ["a", "b"]);
  missing.lost("d", START_MS);
  assert.deepEqual(missing.takeOverdue(START_MS + MASS_SILENCE_MS - 1, 0), []);
  assert.deepEqual(missing.takeOverdue(START_MS + MASS_SILENCE_MS, 0), ["d"]);
});

test("MissingNodes of a new leader that most nodes have found gives up the rest after a grace", () => {
  const { missing, ids } = awaiting(5);
  for (const id of ids.slice(2)) missing.found(id, START_MS + 1_000);
  assert.deepEqual(missing.takeOverdue(START_MS + NEW_LEADER_GRACE_MS - 1, 3), []);
  assert.deepEqual(missing.takeOverdue(START_MS + NEW_LEADER_GRACE_MS, 3), ["n0", "n1"]);
});

test("MissingNodes of a new leader gives up nobody as long as nodes still come", () => {
  const { missing, ids } = awaiting(500);
  let nowMs = START_MS;
  for (const [index, id] of ids.slice(1).entries()) {
    nowMs += 100;
    missing.found(id, nowMs);
    assert.deepEqual(missing.takeOverdue(nowMs, index), []);
  }
  // One that comes again and again is none of those that were waited for; one that was lost again waits with the rest.
  missing.lost("n7", nowMs - NODE_DOWN_MS);
  missing.lost("n8", nowMs);
  missing.found("n8", nowMs + ARRIVAL_PAUSE_MS - 1);
  assert.deepEqual(missing.takeOverdue(nowMs + ARRIVAL_PAUSE_MS - 1, 498), []);
  assert.deepEqual(missing.takeOverdue(nowMs + ARRIVAL_PAUSE_MS, 498), ["n0", "n7"]);
});

test("MissingNodes doesn't wait for nodes that were removed", () => {
  const { missing } = awaiting(3);
  missing.removed("n0");
  missing.removed("n1");
  assert.deepEqual(missing.takeOverdue(START_MS + NEW_LEADER_GRACE_MS, 1), ["n2"]);
});

test("MissingNodes holds the time in which the manager itself stood still against nobody", () => {
  const { missing } = awaiting(1);
  missing.lost("late", START_MS);
  missing.postpone(60_000);
  assert.deepEqual(missing.takeOverdue(START_MS + 60_000 + NODE_DOWN_MS - 1, 9), []);
  assert.deepEqual(missing.takeOverdue(START_MS + 60_000 + NODE_DOWN_MS, 9), ["late"]);
  assert.deepEqual(missing.takeOverdue(START_MS + 60_000 + NEW_LEADER_GRACE_MS, 9), ["n0"]);
});
