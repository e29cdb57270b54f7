/** What a new task takes from its service and from the cluster. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Cluster, Service } from "../../model/objects.ts";
import type { Driver } from "../../model/specs.ts";
import { TaskState } from "../../model/task-state.ts";
import type { Transaction } from "../store/store.ts";
import { newTask } from "./actions.ts";

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
