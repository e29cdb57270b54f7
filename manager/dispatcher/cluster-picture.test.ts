import assert from "node:assert/strict";
import { test } from "node:test";
import type { Task } from "../../model/objects.ts";
import { TaskState } from "../../model/task-state.ts";
import { ModelCluster } from "../testing/model-cluster.ts";
import { ClusterPicture } from "./cluster-picture.ts";

test("ClusterPicture.settle() leaves out a node of whose tasks only what it said itself has changed", async () => {
  const cluster = new ModelCluster();
  cluster.start();
  const nodeId = await cluster.addNode();
  const id = await cluster.createService({
    Name: "web",
    TaskTemplate: { ContainerSpec: { Image: "ok" } },
    Mode: { Replicated: { Replicas: 1 } },
  });
  await cluster.until("it runs", () => cluster.running(id).length === 1);
  const [running] = cluster.running(id);
  assert.ok(running !== undefined);
  const inState = (task: Task, state: TaskState): Task => ({ ...task, status: { ...task.status, state } });
  const picture = new ClusterPicture(cluster.store.view());
  picture.settle();
  const isTold = (previous: Task, object: Task): boolean => {
    picture.apply({ table: "task", action: "update", object, previous, version: 1 });
    return picture.settle().has(nodeId);
  };
  const pending = { ...inState(running, TaskState.pending), nodeId: "" };
  const assigned = inState(running, TaskState.assigned);
  const stopping = { ...running, desiredState: TaskState.shutdown };
  assert.equal(isTold(pending, assigned), true, "it is the node's from now on");
  assert.equal(isTold(assigned, inState(running, TaskState.preparing)), false);
  assert.equal(isTold(inState(running, TaskState.preparing), running), false);
  assert.equal(isTold(running, { ...running, networks: [] }), true);
  assert.equal(isTold(running, stopping), true);
  assert.equal(isTold(stopping, inState(stopping, TaskState.shutdown)), true, "its secrets may go");
  await cluster.stop();
});
