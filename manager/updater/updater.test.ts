/** Updates whose service is given another spec just before a plan is carried out, or whose leader is replaced. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { silentLogger } from "../../common/log.ts";
import { rfc3339 } from "../../common/time.ts";
import type { ServiceSpec } from "../../model/specs.ts";
import { TaskState } from "../../model/task-state.ts";
import type { Store } from "../store/store.ts";
import { ModelCluster } from "../testing/model-cluster.ts";
import { Updater } from "./updater.ts";

function withImage(image: string): (spec: ServiceSpec) => ServiceSpec {
  return (spec) => ({ ...spec, TaskTemplate: { ContainerSpec: { Image: image } } });
}

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
      if (name === "batch") newest ??= cluster.updateService(id, withImage("ok:3"));
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
  await cluster.updateService(id, withImage("ok:2"));
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
    await cluster.updateService(id, withImage("never"));
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
