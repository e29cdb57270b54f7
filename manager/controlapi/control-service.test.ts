import assert from "node:assert/strict";
import { test } from "node:test";
import { ClusterError, hasCode } from "../../common/errors.ts";
import { silentLogger } from "../../common/log.ts";
import { realEnv } from "../../common/real-env.ts";
import { FakeClock } from "../../common/testing/fake-clock.ts";
import type { Node } from "../../model/objects.ts";
import { MemoryStore } from "../store/memory-store.ts";
import { SingleMemberLog } from "../store/testing/single-member-log.ts";
import { controlHandlers } from "./control-service.ts";
import { ControlWriter } from "./control-writer.ts";

interface Leader {
  /** Asks as node `nodeId` to become a member at `addr`. */
  readonly join: (nodeId: string, addr: string) => Promise<unknown>;
  readonly added: readonly string[];
  readonly asked: readonly string[];
}

/** A leader that knows the manager "m" and the worker "w", and reaches only addresses that begin with "near". */
async function leader(): Promise<Leader> {
  const clock = new FakeClock();
  const store = new MemoryStore({ clock, timers: clock, log: silentLogger });
  const raft = new SingleMemberLog({ machine: store, timers: clock, commitDelayMs: 0 });
  store.attach(raft);
  const change = store.update((tx) => {
    tx.create("node", { id: "m", spec: { Role: "manager" } } as Node);
    tx.create("node", { id: "w", spec: { Role: "worker" } } as Node);
  });
  await clock.advanceAsync(1);
  await change;
  const added: string[] = [];
  const asked: string[] = [];
  const growing = Object.assign(raft, {
    addMember: ({ addr }: { readonly addr: string }): Promise<void> => {
      added.push(addr);
      return Promise.resolve();
    },
    readBarrier: (): Promise<void> => new Promise(() => undefined),
  });
  const { joinRaft } = controlHandlers({
    view: () => store.view(),
    reach: (addr, nodeId) => {
      asked.push(`${nodeId} at ${addr}`);
      if (addr.startsWith("near")) return Promise.resolve();
      return Promise.reject(new ClusterError("unavailable", "no connection within 5000 ms"));
    },
    writer: new ControlWriter({ store, raft, clock, random: realEnv.random, log: silentLogger }),
    raft: growing,
    nodeImages: () => undefined,
    link: { leaderAddress: "" },
    log: silentLogger,
  });
  assert.ok("unary" in joinRaft);
  const { unary } = joinRaft;
  return {
    join: (nodeId, addr) => {
      const peer = { nodeId, clusterId: "c", role: "manager", serial: "" } as const;
      const context = { peer, remoteAddress: "", signal: new AbortController().signal };
      return Promise.resolve().then(() => unary({ raftId: 7, addr }, context));
    },
    added,
    asked,
  };
}

test("a manager is taken into Raft once the leader reaches it where it says it is", async () => {
  const { join, added, asked } = await leader();
  await assert.rejects(join("m", "far:2377"), (error) => {
    assert.ok(hasCode(error, "failed_precondition"), "it is of no use to ask again");
    assert.match(
      error.message,
      /node "m" must be reached at its advertise-addr "far:2377" from the leader, got: no connection/,
    );
    return true;
  });
  assert.deepEqual(added, []);
  await join("m", "near:2377");
  assert.deepEqual(added, ["near:2377"]);
  assert.deepEqual(asked, ["m at far:2377", "m at near:2377"]);
});

test("a node whose role is not manager (any more) is not taken into Raft, whatever its certificate says", async () => {
  const { join, added } = await leader();
  for (const [nodeId, got] of [
    ["w", "worker"],
    ["gone", "no such node"],
  ] as const) {
    await assert.rejects(join(nodeId, "near:2377"), (error) => {
      return hasCode(error, "permission_denied") && error.message.includes(`must be manager, got "${got}"`);
    });
  }
  assert.deepEqual(added, []);
});
