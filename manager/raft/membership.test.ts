import assert from "node:assert/strict";
import { test } from "node:test";
import { ClusterError } from "../../common/errors.ts";
import type { Configuration } from "./core/messages.ts";
import { Membership, type MembershipCore } from "./membership.ts";

interface Scene {
  readonly membership: Membership;
  /** What was proposed last. */
  readonly proposed: () => readonly number[] | undefined;
}

const PATIENCE_TICKS = 10;
const FIRST_ROUND = 7;

/** A leader with voters 1 to `count`; `healthy` answer each heartbeat, `answers` from the next tick on. */
function lead(
  count: number,
  healthy: readonly number[],
  answers: readonly number[] = [],
  learner = 0,
): Scene {
  const config = Array.from({ length: count }, (_, at) => {
    return { raftId: at + 1, nodeId: `n${at + 1}`, addr: `h${at + 1}:1`, isLearner: at + 1 === learner };
  });
  let proposed: Configuration | undefined;
  let round = FIRST_ROUND;
  const everyone = config.map((member) => member.raftId);
  const alive = new Set(healthy);
  const core: MembershipCore = {
    status: { config, configIndex: 1 },
    get leadership() {
      return { isEstablished: true, round, learnersCaughtUp: () => [] };
    },
    log: { commitIndex: 1 },
    // To what was sent before it was asked, all have answered, also those that have died since.
    healthy: (sinceRound) => new Set(sinceRound < FIRST_ROUND ? everyone : sinceRound < round ? alive : [1]),
    proposeConfig: (next) => {
      proposed = next;
      return { kind: "accepted", index: 2, term: 1 };
    },
  };
  const membership = new Membership(
    {
      core,
      notLeader: () => new ClusterError("unavailable", "not the leader"),
      nextTick: () => {
        round += 1;
        for (const raftId of answers) alive.add(raftId);
        return Promise.resolve();
      },
      committed: () => Promise.resolve(),
      wake: () => undefined,
    },
    { learnerLagMax: 10, patienceTicks: PATIENCE_TICKS },
  );
  return { membership, proposed: () => proposed?.map((member) => member.raftId) };
}

test("Membership.remove() takes out a dead voter, but no healthy one whose votes are needed", async () => {
  for (const { count, healthy, victim, want } of [
    { count: 3, healthy: [1, 2, 3], victim: 2, want: [1, 3] },
    { count: 3, healthy: [1, 2], victim: 3, want: [1, 2] },
    // 3 is dead, stands still, or refetches its log: with 1 alone of two nobody could be elected.
    { count: 3, healthy: [1, 2], victim: 2, want: undefined },
    { count: 2, healthy: [1, 2], victim: 2, want: [1] },
    { count: 2, healthy: [1], victim: 2, want: [1] },
    { count: 2, healthy: [1, 2], victim: 1, want: [2] },
    { count: 2, healthy: [1], victim: 1, want: undefined },
    { count: 5, healthy: [1, 2, 3], victim: 5, want: [1, 2, 3, 4] },
    { count: 5, healthy: [1, 2, 3], victim: 3, want: undefined },
    { count: 1, healthy: [1], victim: 1, want: undefined },
  ]) {
    const { membership, proposed } = lead(count, healthy);
    const what = `remove ${victim} of ${count}, healthy ${healthy.join(",")}`;
    const removal = membership.remove(victim, { force: false });
    if (want === undefined) await assert.rejects(removal, { code: "failed_precondition" }, what);
    else await removal;
    assert.deepEqual(proposed(), want, what);
  }
});

test("Membership.remove() by force takes out any but the last", async () => {
  const forced = lead(3, [1, 2]);
  await forced.membership.remove(2, { force: true });
  assert.deepEqual(forced.proposed(), [1, 3]);
  await assert.rejects(lead(1, [1]).membership.remove(1, { force: true }), /it is the last one/);
});

test("Membership.remove() waits for answers of those that would remain", async () => {
  const { membership, proposed } = lead(3, [1], [3]);
  await membership.remove(2, { force: false });
  assert.deepEqual(proposed(), [1, 3]);
});

test("Membership.remove() of a learner only leaves one alone that has become a voter", async () => {
  for (const { learner, want } of [
    { learner: 3, want: [1, 2] },
    { learner: 0, want: undefined },
  ]) {
    const { membership, proposed } = lead(3, [1, 2], [], learner);
    await membership.remove(3, { force: false, onlyLearner: true });
    assert.deepEqual(proposed(), want);
  }
});
