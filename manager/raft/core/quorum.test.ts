import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { quorumIndex, quorumOf, VoteTally } from "./quorum.ts";

const reachedBy = fc
  .uniqueArray(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 9 })
  .chain((voters) =>
    fc.array(fc.nat(20), { minLength: voters.length, maxLength: voters.length }).map((indexes) => {
      return { voters, reached: new Map(voters.map((voter, at) => [voter, indexes[at] ?? 0])) };
    }),
  );

test("quorumIndex() is the highest index that a majority holds, found by trying all", () => {
  fc.assert(
    fc.property(reachedBy, ({ voters, reached }) => {
      const holds = (index: number): boolean =>
        voters.filter((voter) => (reached.get(voter) ?? 0) >= index).length >= quorumOf(voters.length);
      let expected = 0;
      while (holds(expected + 1)) expected += 1;
      assert.equal(
        quorumIndex(voters, (voter) => reached.get(voter) ?? 0),
        expected,
      );
    }),
  );
});

test("quorumIndex() never grows when one voter falls back", () => {
  fc.assert(
    fc.property(reachedBy, fc.nat(8), ({ voters, reached }, at) => {
      const before = quorumIndex(voters, (voter) => reached.get(voter) ?? 0);
      const loser = voters[at % voters.length] ?? 0;
      const after = quorumIndex(voters, (voter) => (voter === loser ? 0 : (reached.get(voter) ?? 0)));
      assert.ok(after <= before);
    }),
  );
});

test("quorumIndex() of no voters is 0", () => {
  assert.equal(
    quorumIndex([], () => 7),
    0,
  );
});

test("two quorums of configurations that differ by one voter always meet", () => {
  for (let count = 1; count <= 9; count += 1) {
    assert.ok(quorumOf(count) + quorumOf(count + 1) > count + 1, `${count} and ${count + 1}`);
    assert.ok(2 * quorumOf(count) > count, `${count}`);
  }
});

test("VoteTally counts the first answer of a voter only, and no one else's", () => {
  const tally = new VoteTally();
  tally.record(1, true);
  tally.record(1, true);
  tally.record(9, true);
  assert.equal(tally.outcome([1, 2, 3]), "pending");
  tally.record(2, false);
  tally.record(2, true);
  assert.equal(tally.outcome([1, 2, 3]), "pending");
  tally.record(3, true);
  assert.equal(tally.outcome([1, 2, 3]), "won");
});

test("VoteTally is lost as soon as no majority is possible", () => {
  const tally = new VoteTally();
  tally.record(1, false);
  tally.record(2, false);
  assert.equal(tally.outcome([1, 2, 3]), "lost");
  assert.equal(tally.outcome([1, 2, 3, 4, 5]), "pending");
});
