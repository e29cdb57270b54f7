import assert from "node:assert/strict";
import { test } from "node:test";
import { ClusterError } from "../common/errors.ts";
import { silentLogger } from "../common/log.ts";
import { FakeClock } from "../common/testing/fake-clock.ts";
import type { Node } from "../model/objects.ts";
import type { NodeSpec } from "../model/specs.ts";
import { updateNode } from "./controlapi/nodes.ts";
import { LEARNER_WAIT_MS } from "./limits.ts";
import { RoleKeeper } from "./role-keeper.ts";
import { MemoryStore } from "./store/memory-store.ts";
import { SingleMemberLog } from "./store/testing/single-member-log.ts";

interface Managers {
  readonly clock: FakeClock;
  readonly store: MemoryStore;
  readonly raft: SingleMemberLog & {
    readonly removed: readonly number[];
    readonly handovers: readonly string[];
  };
  /** Lets the operator demote one; rejects as the control API would. */
  readonly demote: (nodeId: string) => Promise<void>;
}

/** Managers n1 (the leader) to n`count`, Raft members of the same numbers, all promoted, of which `healthy` are. */
async function managersOf(count: number, healthy: readonly number[]): Promise<Managers> {
  const clock = new FakeClock();
  const store = new MemoryStore({ clock, timers: clock, log: silentLogger });
  const log = new SingleMemberLog({ machine: store, timers: clock, nodeId: "n1" });
  store.attach(log);
  const members = Array.from({ length: count }, (_, at) => {
    return { raftId: at + 1, nodeId: `n${at + 1}`, addr: `h${at + 1}:1`, isLearner: false };
  });
  const removed: number[] = [];
  const handovers: string[] = [];
  const raft = Object.assign(log, {
    members,
    healthy: new Set(healthy),
    reachable: new Set(healthy),
    removed,
    handovers,
    removeMember: (raftId: number): Promise<void> => {
      if (raftId === 2) return Promise.reject(new ClusterError("failed_precondition", "no quorum"));
      removed.push(raftId);
      members.splice(
        members.findIndex((member) => member.raftId === raftId),
        1,
      );
      return Promise.resolve();
    },
    transferLeadership: (): Promise<void> => {
      handovers.push("handed over");
      return Promise.resolve();
    },
  });
  const settle = async (work: Promise<unknown>): Promise<void> => {
    work.catch(() => undefined);
    await clock.advanceAsync(10);
    await work;
  };
  await settle(
    store.update((tx) => {
      for (const { nodeId, raftId, addr } of members) {
        const spec: NodeSpec = { Labels: {}, Role: "manager", Availability: "active" };
        tx.create("node", { id: nodeId, spec, manager: { raftId, addr } } as Node);
      }
    }),
  );
  const demote = (id: string): Promise<void> =>
    settle(
      store.update((tx) => {
        const node = tx.get("node", id);
        const spec = { ...node?.spec, Role: "worker" };
        updateNode(tx, { id, version: node?.version ?? 0, spec, raft });
      }),
    );
  return { clock, store, raft, demote };
}

test("a demotion is refused where the managers that stay would be no quorum", async () => {
  for (const { count, healthy, demoted, refused } of [
    { count: 1, healthy: [1], demoted: ["n1"], refused: /demote the last manager/ },
    { count: 2, healthy: [1, 2], demoted: ["n1"], refused: undefined },
    { count: 2, healthy: [1, 2], demoted: ["n2", "n1"], refused: /demote the last manager/ },
    { count: 2, healthy: [1], demoted: ["n2"], refused: undefined },
    { count: 2, healthy: [1], demoted: ["n1"], refused: /want 1 of the remaining 1 managers .* got 0/ },
    { count: 3, healthy: [1, 2], demoted: ["n3"], refused: undefined },
    { count: 3, healthy: [1, 2], demoted: ["n2"], refused: /want 2 of the remaining 2 managers .* got 1/ },
    // Before the first demotion has come to an end: n1 with the dead n4 would be left.
    { count: 4, healthy: [1, 2, 3], demoted: ["n2", "n3"], refused: /want 2 of the remaining 2 .* got 1/ },
    { count: 4, healthy: [1, 2, 3, 4], demoted: ["n2", "n3"], refused: undefined },
  ]) {
    const { demote } = await managersOf(count, healthy);
    const what = `${demoted.join(", ")} of ${count}, healthy ${healthy.join(",")}`;
    for (const nodeId of demoted.slice(0, -1)) await demote(nodeId);
    const last = demote(demoted.at(-1) ?? "");
    if (refused === undefined) await last;
    else await assert.rejects(last, refused, what);
  }
});

test("RoleKeeper expels whom it can, also when another one can't leave yet", async () => {
  const { clock, store, raft, demote } = await managersOf(5, [1, 2, 3, 4, 5]);
  await demote("n2");
  await demote("n4");
  const keeper = new RoleKeeper({ store, raft, clock, timers: clock, log: silentLogger });
  keeper.start();
  await clock.advanceAsync(2_000);
  keeper.stop();
  assert.deepEqual(raft.removed, [4], "n2 is refused, n4 goes");
  assert.equal(store.view().get("node", "n4")?.manager, undefined);
  assert.equal(store.view().get("node", "n2")?.manager?.raftId, 2);
});

test("RoleKeeper lets a leader that is demoted hand over first", async () => {
  const { clock, store, raft, demote } = await managersOf(2, [1, 2]);
  await demote("n1");
  const keeper = new RoleKeeper({ store, raft, clock, timers: clock, log: silentLogger });
  keeper.start();
  await clock.advanceAsync(100);
  keeper.stop();
  assert.ok(raft.handovers.length > 0);
  assert.deepEqual(raft.removed, []);
});

test("RoleKeeper gives up a learner that is silent for long, but no voter, and none that was heard meanwhile", async () => {
  const { clock, store, raft } = await managersOf(5, [1, 2]);
  for (const { raftId } of raft.members.slice(3)) {
    Object.assign(raft.members[raftId - 1] ?? {}, { isLearner: true });
  }
  const keeper = new RoleKeeper({ store, raft, clock, timers: clock, log: silentLogger });
  keeper.start();
  await clock.advanceAsync(LEARNER_WAIT_MS - 2_000);
  Object.assign(raft, { reachable: new Set([1, 2, 4]) });
  await clock.advanceAsync(1_000);
  Object.assign(raft, { reachable: new Set([1, 2]) });
  assert.deepEqual(raft.removed, []);
  await clock.advanceAsync(2_000);
  assert.deepEqual(raft.removed, [5], "4 was heard, 3 is a voter");
  assert.equal(store.view().get("node", "n5")?.manager, undefined);
  assert.equal(store.view().get("node", "n4")?.manager?.raftId, 4);
  await clock.advanceAsync(LEARNER_WAIT_MS);
  keeper.stop();
  assert.deepEqual(raft.removed, [5, 4]);
});
