import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { RaftLog } from "./log.ts";
import { type Entry, EntryKind, NO_PAYLOAD } from "./messages.ts";

const ALL = { bytesMax: 1e9, countMax: 1e9 };

function entries(from: number, ...terms: readonly number[]): Entry[] {
  return terms.map((term, at) => ({ index: from + at, term, kind: EntryKind.normal, payload: NO_PAYLOAD }));
}

function logOf(...terms: readonly number[]): RaftLog {
  return new RaftLog({ index: 0, term: 0 }, entries(1, ...terms), { commit: 0, applied: 0 });
}

function termsOf(log: RaftLog): number[] {
  return log.slice(log.firstIndex, ALL).map((entry) => entry.term);
}

test("RaftLog.isUpToDate() compares the term of the last entry before the length", () => {
  const log = logOf(1, 2, 2);
  assert.equal(log.isUpToDate(9, 1), false);
  assert.equal(log.isUpToDate(2, 2), false);
  assert.equal(log.isUpToDate(3, 2), true);
  assert.equal(log.isUpToDate(1, 3), true);
});

test("RaftLog.accept() refuses entries that don't follow on", () => {
  const log = logOf(1, 1);
  assert.equal(log.accept(3, 1, []), undefined);
  assert.equal(log.accept(2, 2, entries(3, 2)), undefined);
  assert.deepEqual(termsOf(log), [1, 1]);
});

test("RaftLog.accept() of an old, shorter message removes nothing", () => {
  const log = logOf(1, 1, 2, 2);
  const accepted = log.accept(0, 0, entries(1, 1, 1));
  assert.deepEqual(accepted, { lastIndex: 2, removedFrom: undefined });
  assert.deepEqual(termsOf(log), [1, 1, 2, 2]);
});

test("RaftLog.accept() replaces from the first conflict on", () => {
  const log = logOf(1, 1, 2, 2);
  const accepted = log.accept(1, 1, entries(2, 1, 3));
  assert.deepEqual(accepted, { lastIndex: 3, removedFrom: 3 });
  assert.deepEqual(termsOf(log), [1, 1, 3]);
  assert.equal(log.durableIndex, 2, "what replaced them is not durable yet");
});

test("RaftLog never removes what is committed", () => {
  const log = logOf(1, 1, 2);
  log.commitTo(3);
  assert.throws(() => log.accept(1, 1, entries(2, 3)), /committed entries are never removed/);
});

test("RaftLog.durableThrough() ignores a write whose entries were replaced meanwhile", () => {
  const log = logOf(1);
  log.append(entries(2, 2, 2));
  const written = log.takeUnwritten(ALL);
  assert.equal(written.length, 2);
  log.accept(1, 1, entries(2, 3, 3));
  log.durableThrough(3, 2);
  assert.equal(log.durableIndex, 1);
  assert.deepEqual(
    log.takeUnwritten(ALL).map((entry) => entry.term),
    [3, 3],
  );
  log.durableThrough(3, 3);
  assert.equal(log.durableIndex, 3);
});

test("RaftLog.takeCommitted() never gives out what is not durable here", () => {
  const log = logOf(1);
  log.append(entries(2, 1, 1));
  log.commitTo(3);
  assert.deepEqual(
    log.takeCommitted(ALL).map((entry) => entry.index),
    [1],
  );
  log.takeUnwritten(ALL);
  log.durableThrough(3, 1);
  assert.deepEqual(
    log.takeCommitted(ALL).map((entry) => entry.index),
    [2, 3],
  );
  assert.equal(log.takeCommitted(ALL).length, 0, "and each entry once");
});

test("RaftLog.hasCommitted tells what a bounded takeCommitted() left", () => {
  const log = logOf(1, 1);
  assert.equal(log.hasCommitted, false, "nothing is committed");
  log.append(entries(3, 1));
  log.commitTo(3);
  log.takeCommitted({ bytesMax: 1, countMax: 10 });
  assert.equal(log.hasCommitted, true);
  log.takeCommitted(ALL);
  assert.equal(log.hasCommitted, false, "the last one is not durable here");
  log.takeUnwritten(ALL);
  log.durableThrough(3, 1);
  assert.equal(log.hasCommitted, true);
});

test("RaftLog.slice() gives at least one entry however large it is", () => {
  const log = logOf(1, 1, 1);
  assert.equal(log.slice(1, { bytesMax: 1, countMax: 10 }).length, 1);
  assert.equal(log.slice(1, { bytesMax: 1e9, countMax: 2 }).length, 2);
});

test("RaftLog.compact() keeps the rest and knows the term before it", () => {
  const log = logOf(1, 2, 3, 3);
  log.commitTo(4);
  log.takeCommitted(ALL);
  log.compact(3);
  assert.deepEqual([log.baseIndex, log.baseTerm, log.lastIndex, log.termAt(2)], [3, 3, 4, undefined]);
  assert.throws(() => log.slice(3, ALL), /compacted entries are never read/);
});

test("RaftLog.agreeIndex() finds where two logs can agree without stepping through a term", () => {
  const log = logOf(1, 1, 1, 5, 5, 5);
  assert.equal(log.agreeIndex(6, 4), 3);
  assert.equal(log.agreeIndex(6, 5), 6);
  assert.equal(log.agreeIndex(99, 5), 6);
  assert.equal(log.agreeIndex(2, 0), 0);
});

test("RaftLog.accept() makes any follower's log a copy of the leader's", () => {
  const ascending = fc.array(fc.nat(2), { minLength: 1, maxLength: 12 }).map((steps) => {
    let term = 1;
    return steps.map((step) => (term += step));
  });
  fc.assert(
    fc.property(ascending, ascending, fc.nat(11), (leaderTerms, ownTerms, sharedCount) => {
      const shared = Math.min(sharedCount, leaderTerms.length, ownTerms.length);
      const prefix = leaderTerms.slice(0, shared);
      const floor = prefix.at(-1) ?? 1;
      // Terms of the rest differ from the leader's, as log matching demands of different entries.
      const rest = ownTerms.slice(shared).map((term) => floor + term + 0.5);
      const log = logOf(...prefix, ...rest);
      const accepted = log.accept(0, 0, entries(1, ...leaderTerms));
      assert.equal(accepted?.lastIndex, leaderTerms.length);
      assert.deepEqual(termsOf(log).slice(0, leaderTerms.length), leaderTerms);
    }),
  );
});
