/** What a plan says about fields and tasks. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { ServiceSpec } from "../../model/specs.ts";
import { TaskState } from "../../model/task-state.ts";
import { FakeSwarm } from "../testing/fake-swarm.ts";
import { planService } from "./plan.ts";

const web: ServiceSpec = {
  Name: "web",
  TaskTemplate: { ContainerSpec: { Image: "x:1" } },
  Mode: { Replicated: { Replicas: 2 } },
};
const withImage = (Image: string, Replicas: number): ServiceSpec => ({
  ...web,
  TaskTemplate: { ContainerSpec: { Image } },
  Mode: { Replicated: { Replicas } },
});

test("planService() tells creation, scaling, replacement and nothing apart", async () => {
  const swarm = new FakeSwarm();
  await swarm.init();
  const created = planService(swarm.store, undefined, web);
  assert.deepEqual(
    [created.action, created.tasks],
    ["create", { kept: 0, replaced: 0, added: 2, removed: 0 }],
  );
  assert.equal(created.update.FailureAction, "rollback");

  const service = swarm.store.put("service", { id: swarm.store.newId(), spec: web, specVersion: 1 });
  swarm.putTask(service, { slot: 1 });
  swarm.putTask(service, { slot: 2 });
  // What has ended, or is told to stop, is no task of the service any more.
  const ended = { state: TaskState.failed, timestamp: "", message: "", err: "" };
  swarm.putTask(service, { slot: 2, status: ended });
  swarm.putTask(service, { slot: 1, desiredState: TaskState.shutdown });
  const planned = (spec: ServiceSpec): ReturnType<typeof planService> =>
    planService(swarm.store, service, spec);
  assert.deepEqual(planned(web).tasks, { kept: 2, replaced: 0, added: 0, removed: 0 });
  assert.equal(planned(web).action, "none");
  assert.deepEqual(planned(withImage("x:1", 3)).tasks, { kept: 2, replaced: 0, added: 1, removed: 0 });
  const rolled = planned(withImage("x:2", 1));
  assert.deepEqual(rolled.tasks, { kept: 0, replaced: 1, added: 0, removed: 1 });
  assert.deepEqual(rolled.fields, [
    { path: "Mode.Replicated.Replicas", before: 2, after: 1 },
    { path: "TaskTemplate.ContainerSpec.Image", before: "x:1", after: "x:2" },
  ]);
});

test("planService() shows defaults that a change brings along", async () => {
  const swarm = new FakeSwarm();
  await swarm.init();
  const service = swarm.store.put("service", { id: swarm.store.newId(), spec: web, specVersion: 1 });
  const { fields, update } = planService(swarm.store, service, {
    ...web,
    EndpointSpec: { Ports: [{ TargetPort: 80 }] },
  });
  assert.equal(update.Order, "start-first");
  assert.ok(fields.some(({ path, after }) => path === "UpdateConfig.Order" && after === "start-first"));
});
