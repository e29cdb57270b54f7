/** What a new task takes from its service and from the cluster, and what becomes of actions whose time has passed. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Cluster, Service, Task } from "../../model/objects.ts";
import type { Driver } from "../../model/specs.ts";
import { TaskState } from "../../model/task-state.ts";
import type { Transaction } from "../store/store.ts";
import { ModelCluster } from "../testing/model-cluster.ts";
import { applyAction, newTask } from "./actions.ts";

function made(service: Driver | undefined, cluster: Driver | undefined): { readonly logDriver?: Driver } {
  const template = {
    ContainerSpec: { Image: "x" },
    ...(service === undefined ? {} : { LogDriver: service }),
  };
  const object = {
    id: "s",
    spec: { Name: "web", TaskTemplate: template },
    specVersion: 1,
  } as unknown as Service;
  const spec = cluster === undefined ? {} : { TaskDefaults: { LogDriver: cluster } };
  const tx = { list: () => [{ spec } as Cluster] } as unknown as Transaction;
  const context = {
    random: { bytes: (count: number) => new Uint8Array(count) },
    now: () => "2026-01-01T00:00:00Z",
  };
  return newTask(tx, object, { slot: 1, nodeId: "" }, { ...context, desiredState: TaskState.running });
}

test("newTask() takes the cluster's log driver where the service names none", () => {
  const local = { Name: "local", Options: { "max-size": "1m" } };
  assert.deepEqual(made(undefined, local).logDriver, local);
  assert.equal(made({ Name: "none" }, local).logDriver, undefined);
  assert.equal(made(undefined, { Name: "" }).logDriver, undefined);
  assert.equal(made(undefined, undefined).logDriver, undefined);
});

test("applyAction() does not stop, nor replace, what runs by now if it was to be stopped only while it does not", async () => {
  const cluster = new ModelCluster();
  cluster.start();
  await cluster.addNode();
  const template = { ContainerSpec: { Image: "ok" } };
  const id = await cluster.createService({ Name: "web", TaskTemplate: template });
  await cluster.until("it runs", () => cluster.running(id).length === 1);
  const [task] = cluster.running(id);
  assert(task !== undefined);
  const context = { random: cluster.random, now: () => "2026-01-01T00:00:00Z" };
  const stop = { kind: "stop", taskId: task.id, desired: "shutdown" } as const;
  const replace = (isIdleOnly: boolean): Promise<void> =>
    cluster.write((tx) => {
      applyAction(tx, { ...stop, isIdleOnly }, context);
      applyAction(tx, { kind: "create", serviceId: id, slot: task.slot, nodeId: "" }, context);
    });
  await replace(true);
  assert.deepEqual(
    cluster.tasks(id).map((each) => [each.id, each.desiredState]),
    [[task.id, TaskState.running]],
  );
  await replace(false);
  assert.equal(cluster.tasks(id).length, 2);
  await cluster.stop();
});

test("applyAction() writes into a new task in whose place it comes, unless that one has ended", async () => {
  const cluster = new ModelCluster();
  cluster.start();
  await cluster.addNode();
  const id = await cluster.createService({ Name: "web", TaskTemplate: { ContainerSpec: { Image: "ok" } } });
  await cluster.until("it runs", () => cluster.running(id).length === 1);
  const [task] = cluster.running(id);
  assert(task !== undefined);
  assert.equal(task.inPlaceOf, undefined);
  const context = { random: cluster.random, now: () => "2026-01-01T00:00:00Z" };
  const add = { kind: "add", serviceId: id, slot: task.slot, nodeId: "" } as const;
  const successorOf = async (state: TaskState): Promise<string | undefined> => {
    let successor: Task | undefined;
    const nothingWritten = new Error("only to look");
    const look = cluster.write((tx) => {
      const service = tx.get("service", id);
      assert(service !== undefined);
      const TaskTemplate = { ContainerSpec: { Image: "ok:2" } };
      tx.update("service", { ...service, specVersion: 9, spec: { ...service.spec, TaskTemplate } });
      tx.update("task", { ...task, status: { ...task.status, state } });
      applyAction(tx, add, context);
      successor = tx.list("task").find((each) => each.id !== task.id);
      throw nothingWritten;
    });
    await assert.rejects(look, nothingWritten);
    assert(successor !== undefined);
    return successor.inPlaceOf;
  };
  assert.equal(await successorOf(TaskState.running), task.id);
  assert.equal(await successorOf(TaskState.failed), undefined);
  await cluster.stop();
});

test("applyAction() moves a task only within its restart policy if it died since that was planned", async () => {
  const cluster = new ModelCluster();
  cluster.start();
  await cluster.addNode();
  const policies = [
    { RestartPolicy: { Condition: "none" }, state: TaskState.failed },
    { RestartPolicy: { Condition: "any", MaxAttempts: 1 }, state: TaskState.failed },
    { RestartPolicy: { Condition: "on-failure" }, state: TaskState.complete },
    { RestartPolicy: { Condition: "any" }, state: TaskState.complete },
    { RestartPolicy: { Condition: "none" }, state: TaskState.shutdown },
  ] as const;
  const context = { random: cluster.random, now: () => "2026-01-01T00:00:00Z" };
  const madeCounts: number[] = [];
  for (const [index, { RestartPolicy, state }] of policies.entries()) {
    const TaskTemplate = { ContainerSpec: { Image: "ok" }, RestartPolicy: { ...RestartPolicy, Delay: 0 } };
    const id = await cluster.createService({ Name: `web${index}`, TaskTemplate });
    await cluster.until("it runs", () => cluster.running(id).length === 1);
    if ("MaxAttempts" in RestartPolicy) {
      const taskId = cluster.running(id)[0]?.id ?? "";
      cluster.report(taskId, TaskState.failed, "exit 1");
      const isOther = ({ id: each }: Task): boolean => each !== taskId;
      await cluster.until("its restart runs", () => cluster.running(id).some(isOther));
    }
    const task = cluster.running(id).at(-1);
    assert(task !== undefined);
    const nothingWritten = new Error("only to look");
    const before = cluster.tasks(id).length;
    const look = cluster.write((tx) => {
      tx.update("task", { ...task, status: { ...task.status, state } });
      applyAction(tx, { kind: "replace", taskId: task.id, isDelayed: false }, context);
      madeCounts.push(tx.list("task", { kind: "service", serviceId: id }).length - before);
      throw nothingWritten;
    });
    await assert.rejects(look, nothingWritten);
  }
  assert.deepEqual(madeCounts, [0, 0, 0, 1, 1]);
  await cluster.stop();
});
