import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Inflights, Progress } from "./progress.ts";

const LIMITS = { countMax: 3, bytesMax: 100 };

test("Inflights stops at its count and at its bytes, and one message may be larger than all", () => {
  const byCount = new Inflights(LIMITS);
  for (const index of [1, 2, 3]) byCount.add(index, 1);
  assert.equal(byCount.isFull, true);
  const byBytes = new Inflights(LIMITS);
  byBytes.add(1, 1_000);
  assert.equal(byBytes.isFull, true);
  assert.throws(() => byBytes.add(2, 1), /window is full/);
});

test("Inflights.freeThrough() frees exactly what is acknowledged", () => {
  const window = new Inflights(LIMITS);
  window.add(5, 10);
  window.add(8, 20);
  window.freeThrough(7);
  assert.deepEqual([window.count, window.bytes], [1, 20]);
  window.freeThrough(8);
  assert.deepEqual([window.count, window.bytes], [0, 0]);
});

test("Inflights keeps its sums under any use", () => {
  fc.assert(
    fc.property(fc.array(fc.oneof(fc.nat(60), fc.constant(-1)), { maxLength: 60 }), (steps) => {
      const window = new Inflights(LIMITS);
      let index = 0;
      const model: { index: number; bytes: number }[] = [];
      for (const step of steps) {
        if (step >= 0 && !window.isFull) {
          index += 1;
          window.add(index, step);
          model.push({ index, bytes: step });
        } else {
          window.freeFirst();
          model.shift();
        }
        assert.equal(window.count, model.length);
        assert.equal(
          window.bytes,
          model.reduce((sum, each) => sum + each.bytes, 0),
        );
      }
    }),
  );
});

test("Progress probes with one message at a time", () => {
  const progress = new Progress(2, 11, 0, LIMITS);
  progress.sent(15, 5, 50);
  assert.equal(progress.isPaused, true);
  assert.equal(progress.next, 11);
  assert.equal(progress.reject(9, 3), false, "a refusal of something else is stale");
  assert.equal(progress.reject(10, 3), true);
  assert.deepEqual([progress.next, progress.isPaused], [4, false]);
});

test("Progress in replicate ignores refusals below what was acknowledged", () => {
  const progress = new Progress(2, 11, 0, LIMITS);
  progress.acknowledge(10);
  progress.becomeReplicate();
  progress.sent(12, 2, 20);
  assert.equal(progress.next, 13);
  assert.equal(progress.reject(9, 2), false);
  assert.equal(progress.mode, "replicate");
  assert.equal(progress.reject(12, 2), true);
  assert.deepEqual([progress.mode, progress.next], ["probe", 11]);
});

test("Progress after a snapshot goes on behind it, or starts over when it was lost", () => {
  const delivered = new Progress(2, 1, 0, LIMITS);
  delivered.becomeSnapshot(30);
  assert.equal(delivered.isPaused, true);
  delivered.becomeProbe();
  assert.equal(delivered.next, 31);
  const lost = new Progress(2, 1, 0, LIMITS);
  lost.becomeSnapshot(30);
  lost.abandonSnapshot();
  assert.equal(lost.next, 1);
});

test("Progress.reset() forgets what a damaged member once had", () => {
  const progress = new Progress(2, 11, 0, LIMITS);
  progress.acknowledge(40);
  progress.becomeReplicate();
  progress.reset(12);
  assert.deepEqual([progress.mode, progress.match, progress.next], ["probe", 12, 13]);
});

test("Progress keeps next above match whatever arrives", () => {
  const step = fc.oneof(
    fc.record({ kind: fc.constant("ack" as const), index: fc.nat(40) }),
    fc.record({ kind: fc.constant("reject" as const), index: fc.nat(40) }),
    fc.record({ kind: fc.constant("send" as const), index: fc.nat(5) }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
      const progress = new Progress(2, 21, 0, LIMITS);
      for (const { index, kind } of steps) {
        if (kind === "ack") {
          progress.acknowledge(index);
          progress.inflights.freeThrough(index);
          if (progress.mode === "probe") progress.becomeReplicate();
        } else if (kind === "reject") progress.reject(index, Math.max(0, index - 2));
        else if (!progress.isPaused) progress.sent(progress.next - 1 + index, index, index);
        assert.ok(progress.next > progress.match);
        assert.ok(progress.inflights.count <= LIMITS.countMax);
      }
    }),
  );
});
