/** What the history that is kept must hold for the restart policy to count on. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ModelCluster } from "../testing/model-cluster.ts";

const SECOND = 1_000_000_000;
const ATTEMPT_COUNT = 5;

test("a task that dies beside the one that it is to replace is tried as often as its policy says, and no more", async () => {
  const cluster = new ModelCluster();
  cluster.start();
  await cluster.addNode();
  const id = await cluster.createService({
    Name: "web",
    TaskTemplate: { ContainerSpec: { Image: "ok" } },
    Mode: { Replicated: { Replicas: 1 } },
    UpdateConfig: { Order: "start-first", FailureAction: "continue", Monitor: SECOND },
  });
  await cluster.until("it runs", () => cluster.running(id).length === 1);
  const tried = new Set<string>();
  cluster.onEvent(({ table, action, object }) => {
    if (table === "task" && action === "create") tried.add(object.id);
  });
  await cluster.updateService(id, (spec) => ({
    ...spec,
    TaskTemplate: {
      ContainerSpec: { Image: "reject" },
      RestartPolicy: { Condition: "any", Delay: SECOND, MaxAttempts: ATTEMPT_COUNT },
    },
  }));
  await cluster.advance(60_000);
  assert.equal(tried.size, 1 + ATTEMPT_COUNT);
  assert.deepEqual(
    cluster.running(id).map((task) => task.spec.ContainerSpec.Image),
    ["ok"],
  );
  assert.equal(cluster.service(id).updateStatus?.state, "completed");
  await cluster.stop();
});
