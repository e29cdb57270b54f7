import assert from "node:assert/strict";
import { test } from "node:test";
import { ClusterError, hasCode } from "../common/errors.ts";
import { silentLogger } from "../common/log.ts";
import { FakeClock } from "../common/testing/fake-clock.ts";
import { LiveIdentity } from "../proto/rpc-identity.ts";
import { LeaderLink, type Attempt } from "./leader-link.ts";
import { LEADER_WAIT_MS } from "./limits.ts";
import { MemoryStore } from "./store/memory-store.ts";
import { SingleMemberLog } from "./store/testing/single-member-log.ts";

function fixture(): { readonly clock: FakeClock; readonly link: LeaderLink } {
  const clock = new FakeClock();
  const machine = new MemoryStore({ clock, timers: clock, log: silentLogger });
  const raft = new SingleMemberLog({ machine });
  machine.attach(raft);
  const nobody = {
    nodeId: "m1",
    clusterId: "c1",
    role: "manager",
    certificate: "",
    key: "",
    rootCa: "",
  } as const;
  return { clock, link: new LeaderLink({ clock, timers: clock, identity: new LiveIdentity(nobody), raft }) };
}

function local<T>(run: (attempt: Attempt) => Promise<T>): {
  readonly local: (attempt: Attempt) => Promise<T>;
  readonly remote: () => Promise<T>;
} {
  return { local: run, remote: () => Promise.reject(new Error("this member leads")) };
}

/** Lets time pass until the promise settles. */
async function settled<T>(clock: FakeClock, promise: Promise<T>): Promise<T> {
  let isDone = false;
  const watched = promise.finally(() => (isDone = true));
  watched.catch(() => undefined);
  for (let turn = 0; turn < 1000 && !isDone; turn += 1) await clock.advanceAsync(50);
  return watched;
}

test("LeaderLink.run() makes work again after trouble with the leader, and says whether it may have taken effect", async () => {
  const { clock, link } = fixture();
  const troubles = [
    new ClusterError("unavailable", "not the leader", { notLeader: { leaderAddress: "" } }),
    new ClusterError("unavailable", "leadership was lost"),
    undefined,
  ];
  const seen: boolean[] = [];
  const work = local((attempt) => {
    seen.push(attempt.maybeApplied);
    const trouble = troubles.shift();
    return trouble === undefined ? Promise.resolve("done") : Promise.reject(trouble);
  });
  assert.equal(await settled(clock, link.run(work)), "done");
  assert.deepEqual(seen, [false, false, true]);
});

test("LeaderLink.run() hands refusals on at once", async () => {
  const { clock, link } = fixture();
  for (const code of ["unimplemented", "invalid_argument", "out_of_sequence", "not_found"] as const) {
    let tries = 0;
    const work = local(() => {
      tries += 1;
      return Promise.reject(new ClusterError(code, "no"));
    });
    await assert.rejects(settled(clock, link.run(work)), (error) => hasCode(error, code));
    assert.equal(tries, 1, code);
  }
});

test("LeaderLink.run() gives up after a while, and at once when it is stopped", async () => {
  const { clock, link } = fixture();
  const lost = local(() => Promise.reject(new ClusterError("unavailable", "lost")));
  const beganMs = clock.monotonicMs();
  await assert.rejects(settled(clock, link.run(lost)), /The swarm does not have a leader/);
  assert.ok(clock.monotonicMs() - beganMs >= LEADER_WAIT_MS);
  const run = link.run(lost);
  link.stop();
  await assert.rejects(settled(clock, run), (error) => hasCode(error, "unavailable"));
  assert.ok(clock.monotonicMs() - beganMs < 2 * LEADER_WAIT_MS);
});
