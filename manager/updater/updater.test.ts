/** Updates whose service is given another spec just before a plan is carried out, or whose leader is replaced. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { silentLogger } from "../../common/log.ts";
import { rfc3339 } from "../../common/time.ts";
import { TaskState } from "../../model/task-state.ts";
import { newTask } from "../orchestrator/actions.ts";
import { Orchestrator } from "../orchestrator/orchestrator.ts";
import type { Store } from "../store/store.ts";
import { ModelCluster } from "../testing/model-cluster.ts";
import { Updater } from "./updater.ts";

test("a plan for one spec makes no tasks of the next: its own update does, which watches them", async () => {
  const cluster = new ModelCluster();
  cluster.start();
  await cluster.addNode();
  const id = await cluster.createService({
    Name: "web",
    TaskTemplate: { ContainerSpec: { Image: "ok:1" } },
    Mode: { Replicated: { Replicas: 2 } },
    UpdateConfig: { Parallelism: 0 },
  });
  await cluster.until("it runs", () => cluster.running(id).length === 2);
  await cluster.stop();

  let newest: Promise<void> | undefined;
  const { clock, random } = cluster;
  const store = new Proxy<Store>(cluster.store, {
    get: (target, name) => {
      // Planned, but not committed when the batch is planned after it: what the batch was made from does not show it.
      if (name === "batch") newest ??= cluster.updateImage(id, "ok:3");
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
  const stateAtBirth: (string | undefined)[] = [];
  cluster.onEvent((event) => {
    if (event.table !== "task" || event.action !== "create") return;
    assert.equal(event.object.spec.ContainerSpec.Image, "ok:3");
    stateAtBirth.push(cluster.service(id).updateStatus?.state);
  });
  const updater = new Updater({ store, clock, timers: clock, random, log: silentLogger });
  updater.start();
  await cluster.updateImage(id, "ok:2");
  await cluster.until("both replaced", () => stateAtBirth.length === 2);
  await newest;
  assert.deepEqual(stateAtBirth, ["updating", "updating"]);
  await updater.stop();
});

for (const [what, ranForMs, want] of [
  ["never ran, however long it was prepared, has failed", undefined, "paused"],
  ["ran for less than the monitoring time has failed", 4_000, "paused"],
  ["ran for longer has not", 6_000, "completed"],
] as const) {
  test(`a task that died while nobody led: one that ${what}`, async () => {
    const cluster = new ModelCluster();
    cluster.start();
    await cluster.addNode();
    const id = await cluster.createService({
      Name: "web",
      TaskTemplate: { ContainerSpec: { Image: "ok" } },
      Mode: { Replicated: { Replicas: 1 } },
      UpdateConfig: { FailureAction: "pause", Monitor: 5_000_000_000 },
    });
    await cluster.until("it runs", () => cluster.running(id).length === 1);
    await cluster.updateImage(id, "never");
    const tried = () => cluster.tasks(id).find((task) => task.status.state === TaskState.preparing);
    await cluster.until("the new one is prepared", () => tried() !== undefined);
    await cluster.advance(60_000);
    await cluster.stop();
    const task = tried();
    assert.ok(task);
    const wallMs = cluster.clock.wallMs();
    const ran = ranForMs === undefined ? {} : { ranAt: rfc3339(wallMs - ranForMs) };
    const status = {
      state: TaskState.failed,
      timestamp: rfc3339(wallMs),
      message: "",
      err: "exit 1",
      ...ran,
    };
    await cluster.write((tx) => tx.update("task", { ...task, status }));

    const { clock, random, store } = cluster;
    const updater = new Updater({ store, clock, timers: clock, random, log: silentLogger });
    updater.start();
    await cluster.until("judged", () => cluster.service(id).updateStatus?.state !== "updating", 20_000);
    assert.equal(cluster.service(id).updateStatus?.state, want);
    await updater.stop();
  });
}

for (const [what, mode, condition, ends] of [
  ["died, and is restarted", { Replicated: { Replicas: 1 } }, "any", TaskState.failed],
  ["died on its node, and is restarted", { Global: {} }, "any", TaskState.failed],
  ["was stopped with its node", { Replicated: { Replicas: 1 } }, "none", TaskState.shutdown],
] as const) {
  test(`a spec whose only task is of it before the updater looks, since the old one ${what}, is watched and rolled back`, async () => {
    const cluster = new ModelCluster();
    cluster.start();
    await cluster.addNode();
    const id = await cluster.createService({
      Name: "web",
      TaskTemplate: { ContainerSpec: { Image: "ok" }, RestartPolicy: { Condition: condition } },
      Mode: mode,
      UpdateConfig: { FailureAction: "rollback" },
    });
    await cluster.until("it runs", () => cluster.running(id).length === 1);
    const [old] = cluster.running(id);
    assert.ok(old);
    await cluster.stop();
    const status = { ...old.status, state: ends };
    const desiredState = ends === TaskState.shutdown ? TaskState.shutdown : old.desiredState;
    await cluster.write((tx) => tx.update("task", { ...old, desiredState, status }));
    await cluster.updateService(id, (spec) => ({
      ...spec,
      TaskTemplate: { ...spec.TaskTemplate, ContainerSpec: { Image: "reject" } },
    }));

    const { clock, random, store } = cluster;
    const orchestrator = new Orchestrator({ store, clock, timers: clock, random, log: silentLogger });
    orchestrator.start();
    const made = () => cluster.tasks(id).find((task) => task.spec.ContainerSpec.Image === "reject");
    await cluster.until("a task of the new spec", () => made() !== undefined);
    await orchestrator.stop();
    const { updateStatus } = cluster.service(id);
    assert.equal(updateStatus?.state, "updating");
    assert.equal(updateStatus.startedAt, made()?.createdAt);

    await cluster.failOver();
    await cluster.until(
      "rolled back",
      () => cluster.service(id).updateStatus?.state === "rollback_completed",
    );
    await cluster.until("what ran before runs again", () => cluster.running(id).length === 1);
    await cluster.stop();
  });
}

test("a node that comes back to a global service begins no update of what was updated without it", async () => {
  const cluster = new ModelCluster();
  cluster.start();
  const nodeId = await cluster.addNode();
  await cluster.addNode();
  const id = await cluster.createService({
    Name: "web",
    TaskTemplate: { ContainerSpec: { Image: "ok:1" } },
    Mode: { Global: {} },
  });
  const setAvailability = (Availability: "active" | "drain") =>
    cluster.changeNode(nodeId, (node) => ({ ...node, spec: { ...node.spec, Availability } }));
  await cluster.until("on both", () => cluster.running(id).length === 2);
  await setAvailability("drain");
  await cluster.until("on one", () => cluster.running(id).length === 1);
  await cluster.updateImage(id, "ok:2");
  await cluster.until("updated", () => cluster.service(id).updateStatus?.state === "completed");
  // The same spec once more, as a stack that is deployed again gives it.
  const { updateStatus: _completed, ...again } = cluster.service(id);
  await cluster.write((tx) => tx.update("service", again));
  await setAvailability("active");
  await cluster.until("on both again", () => cluster.running(id).length === 2);
  assert.equal(cluster.service(id).updateStatus, undefined);
  await cluster.stop();
});

test("an update of a global service leaves alone what died on a node that is drained", async () => {
  const cluster = new ModelCluster();
  cluster.start();
  const nodeId = await cluster.addNode();
  await cluster.addNode();
  const id = await cluster.createService({
    Name: "web",
    TaskTemplate: { ContainerSpec: { Image: "ok:1" }, RestartPolicy: { Condition: "none" } },
    Mode: { Global: {} },
  });
  await cluster.until("on both", () => cluster.running(id).length === 2);
  cluster.report(cluster.running(id).find((each) => each.nodeId === nodeId)?.id ?? "", TaskState.failed);
  await cluster.until("on one", () => cluster.running(id).length === 1);
  await cluster.changeNode(nodeId, (node) => ({ ...node, spec: { ...node.spec, Availability: "drain" } }));
  await cluster.updateImage(id, "ok:2");
  await cluster.until("updated", () => cluster.service(id).updateStatus?.state === "completed");
  const images = cluster.running(id).map((each) => each.spec.ContainerSpec?.Image);
  assert.deepEqual(images, ["ok:2"]);
  assert.deepEqual(
    cluster.tasks(id).filter((each) => each.status.state < TaskState.running),
    [],
  );
  await cluster.stop();
});

test("an update of a global service passes over a node that is paused until it takes tasks again", async () => {
  const cluster = new ModelCluster();
  cluster.start();
  const nodeId = await cluster.addNode();
  await cluster.addNode();
  const id = await cluster.createService({
    Name: "web",
    TaskTemplate: { ContainerSpec: { Image: "ok:1" } },
    Mode: { Global: {} },
  });
  const setAvailability = (Availability: "active" | "pause") =>
    cluster.changeNode(nodeId, (node) => ({ ...node, spec: { ...node.spec, Availability } }));
  const isEverywhere = (image: string) =>
    cluster.running(id).filter((each) => each.spec.ContainerSpec?.Image === image).length === 2;
  await cluster.until("on both", () => isEverywhere("ok:1"));
  await setAvailability("pause");
  await cluster.updateImage(id, "ok:2");
  await cluster.until("updated", () => cluster.service(id).updateStatus?.state === "completed");
  const kept = cluster.running(id).find((each) => each.nodeId === nodeId);
  assert.equal(kept?.spec.ContainerSpec?.Image, "ok:1");
  await setAvailability("active");
  await cluster.until("updated there too", () => isEverywhere("ok:2"));
  await cluster.stop();
});

test("restarts, more replicas and jobs begin no update", async () => {
  const cluster = new ModelCluster();
  cluster.start();
  await cluster.addNode();
  const RestartPolicy = { Delay: 100_000_000 };
  const id = await cluster.createService({
    Name: "web",
    TaskTemplate: { ContainerSpec: { Image: "crash:50" }, RestartPolicy },
    Mode: { Replicated: { Replicas: 1 } },
  });
  const job = await cluster.createService({
    Name: "job",
    TaskTemplate: { ContainerSpec: { Image: "crash:50" }, RestartPolicy },
    Mode: { ReplicatedJob: { TotalCompletions: 1 } },
  });
  await cluster.updateService(id, (spec) => ({ ...spec, Mode: { Replicated: { Replicas: 2 } } }));
  await cluster.updateImage(job, "crash:60");
  await cluster.advance(2_000);
  assert.ok(cluster.tasks(id).length > 4);
  assert.equal(cluster.service(id).updateStatus, undefined);
  assert.equal(cluster.service(job).updateStatus, undefined);
  await cluster.stop();
});

test("a paused update is remembered no more of than the tasks that are there, however many come and go", async () => {
  const cluster = new ModelCluster();
  const { clock, random, store } = cluster;
  const startedAt = rfc3339(clock.wallMs());
  await cluster.write((tx) =>
    tx.create("service", {
      id: "s",
      spec: { Name: "web", TaskTemplate: { ContainerSpec: { Image: "ok" } } },
      specVersion: 1,
      updateStatus: { state: "paused", startedAt, message: "" },
    }),
  );
  const updater = new Updater({ store, clock, timers: clock, random, log: silentLogger });
  updater.start();
  const comeAndGo = async (id: string, between: () => Promise<void>): Promise<void> => {
    await cluster.write((tx) => {
      const service = tx.get("service", "s");
      assert.ok(service !== undefined);
      const context = { random, now: () => startedAt, desiredState: TaskState.shutdown };
      tx.create("task", { ...newTask(tx, service, { slot: 1, nodeId: "" }, context), id });
    });
    await cluster.advance(200);
    await between();
    await cluster.write((tx) => tx.remove("task", id));
    await cluster.advance(200);
  };
  for (const id of ["a", "b", "c"]) {
    await comeAndGo(id, async () => assert.equal(updater.sightingCount, 1));
    assert.equal(updater.sightingCount, 0);
  }
  // It is removed where nobody tells the updater.
  await comeAndGo("d", () => updater.stop());
  updater.start();
  assert.equal(updater.sightingCount, 0);
  await updater.stop();
});
