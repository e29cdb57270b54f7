/** An update whose service is given another spec just before its plan is carried out. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { silentLogger } from "../../common/log.ts";
import type { ServiceSpec } from "../../model/specs.ts";
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
