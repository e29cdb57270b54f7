import assert from "node:assert/strict";
import { test } from "node:test";
import { silentLogger } from "../../common/log.ts";
import type { Task } from "../../model/objects.ts";
import { TaskState } from "../../model/task-state.ts";
import { ModelCluster } from "../testing/model-cluster.ts";
import { StatusWriter } from "./status-writer.ts";

const LATER = "2100-01-01T00:00:00Z";

test("StatusWriter acknowledges what a node says again without a write, and writes what is new in it", async () => {
  const cluster = new ModelCluster();
  cluster.start();
  const nodeId = await cluster.addNode();
  const id = await cluster.createService({
    Name: "web",
    TaskTemplate: { ContainerSpec: { Image: "ok" } },
    Mode: { Replicated: { Replicas: 1 } },
  });
  await cluster.until("running", () => cluster.running(id).length === 1);
  await cluster.advance(1_000);
  const writer = new StatusWriter({
    store: cluster.store,
    timers: cluster.clock,
    log: silentLogger,
    failed: (error) => assert.fail(String(error)),
  });
  const task = (): Task => {
    const [found] = cluster.running(id);
    assert.ok(found !== undefined);
    return found;
  };
  let committedCount = 0;
  const say = async (status: Task["status"]): Promise<void> => {
    writer.add([{ nodeId, taskId: task().id, status }], () => {
      committedCount += 1;
    });
    await cluster.advance(100);
  };
  const before = task();
  await say({ ...before.status, timestamp: LATER });
  assert.deepEqual([task(), committedCount], [before, 1]);
  const container = { containerId: "c1", pid: 7, exitCode: 0 };
  await say({ ...before.status, timestamp: LATER, container });
  assert.deepEqual(task().status, { ...before.status, timestamp: LATER, container });
  assert.equal(committedCount, 2);
  const ended = task();
  // Whatever a node says of it, when the leader heard of the end is the leader's to say, and the first time counts.
  const failed = {
    ...ended.status,
    state: TaskState.failed,
    timestamp: LATER,
    appliedAt: LATER,
    err: "exit 1",
  };
  const report = async (status: Task["status"]): Promise<Task | undefined> => {
    writer.add([{ nodeId, taskId: ended.id, status }], () => undefined);
    await cluster.advance(100);
    return cluster.store.view().get("task", ended.id);
  };
  const sinceMs = cluster.clock.wallMs();
  const first = await report(failed);
  const appliedMs = Date.parse(first?.status.appliedAt ?? "");
  assert.ok(appliedMs >= Math.floor(sinceMs) && appliedMs <= cluster.clock.wallMs() + 1);
  assert.equal(first?.status.timestamp, LATER);
  const again = await report({ ...failed, container: { ...container, exitCode: 1 } });
  assert.equal(again?.status.container?.exitCode, 1);
  assert.equal(again.status.appliedAt, first.status.appliedAt);
  writer.stop();
  await cluster.stop();
});
