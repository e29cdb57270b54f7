/** Verdicts on roll-outs from readings of service, tasks and nodes. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { ApiNode, ApiService, ApiTask } from "../client/types.ts";
import { readProgress } from "./convergence.ts";

const service = (replicas: number, extra: Partial<ApiService> = {}): ApiService => ({
  ID: "s",
  Version: { Index: 1 },
  CreatedAt: "",
  UpdatedAt: "",
  Spec: {
    Name: "web",
    TaskTemplate: { ContainerSpec: { Image: "x" } },
    Mode: { Replicated: { Replicas: replicas } },
  },
  ...extra,
});
const node = (id: string, state = "ready"): ApiNode => ({
  ID: id,
  Version: { Index: 1 },
  CreatedAt: "",
  UpdatedAt: "",
  Spec: { Role: "worker", Availability: "active" },
  Status: { State: state },
});
let made = 0;
const task = (
  slot: number,
  state: string,
  extra: { desired?: string; err?: string; node?: string } = {},
): ApiTask => {
  made += 1;
  return {
    ID: `t${made}`,
    Version: { Index: 1 },
    CreatedAt: `2026-01-01T00:00:${String(made).padStart(2, "0")}Z`,
    UpdatedAt: "",
    Spec: { ContainerSpec: { Image: "x" } },
    ServiceID: "s",
    Slot: slot,
    NodeID: extra.node ?? "n1",
    Status: { Timestamp: "", State: state, ...(extra.err === undefined ? {} : { Err: extra.err }) },
    DesiredState: extra.desired ?? "running",
  };
};
const nodes = [node("n1"), node("n2", "down")];

test("readProgress() is converged when every slot runs", () => {
  const progress = readProgress({
    service: service(2),
    tasks: [task(1, "running"), task(2, "running")],
    nodes,
  });
  assert.equal(progress.verdict.kind, "converged");
  assert.equal(progress.running, 2);
});

test("readProgress() does not count tasks on nodes that are down", () => {
  const progress = readProgress({ service: service(1), tasks: [task(1, "running", { node: "n2" })], nodes });
  assert.equal(progress.verdict.kind, "progressing");
});

test("readProgress() prefers the living task of a slot over its dead predecessors", () => {
  const tasks = [task(1, "failed", { desired: "shutdown", err: "boom" }), task(1, "running")];
  const progress = readProgress({ service: service(1), tasks, nodes });
  assert.deepEqual(
    progress.rows.map((row) => row.state),
    ["running"],
  );
});

test("readProgress() fails after three failures in one slot and names the newest task", () => {
  const failures = [1, 1, 1].map((slot) =>
    task(slot, "failed", { desired: "shutdown", err: "task: non-zero exit (1)" }),
  );
  const progress = readProgress({ service: service(1), tasks: [...failures, task(1, "starting")], nodes });
  assert.ok(progress.verdict.kind === "failed");
  assert.match(progress.verdict.message, /non-zero exit/);
  assert.equal(progress.verdict.taskId, failures[2]?.ID);
  const two = readProgress({
    service: service(1),
    tasks: [...failures.slice(1), task(1, "starting")],
    nodes,
  });
  assert.equal(two.verdict.kind, "progressing");
});

test("readProgress() follows UpdateStatus", () => {
  const tasks = [task(1, "running")];
  const verdict = (state: "paused" | "completed" | "updating" | "rollback_paused"): string =>
    readProgress({ service: service(1, { UpdateStatus: { State: state, Message: "m" } }), tasks, nodes })
      .verdict.kind;
  assert.equal(verdict("paused"), "failed");
  assert.equal(verdict("rollback_paused"), "failed");
  assert.equal(verdict("updating"), "progressing");
  assert.equal(verdict("completed"), "completed");
});

test("readProgress() says why nothing can be placed", () => {
  const waiting = task(1, "pending", { err: "no suitable node (2 nodes: constraint node.labels.zone==b)" });
  assert.match(readProgress({ service: service(1), tasks: [waiting], nodes }).stuck ?? "", /zone==b/);
  assert.equal(
    readProgress({ service: service(2), tasks: [waiting, task(2, "preparing")], nodes }).stuck,
    undefined,
  );
});

test("readProgress() completes a job by its completions", () => {
  const job = service(0, {
    Spec: {
      Name: "job",
      TaskTemplate: { ContainerSpec: { Image: "x" } },
      Mode: { ReplicatedJob: { TotalCompletions: 2 } },
    },
  });
  const one = readProgress({ service: job, tasks: [task(0, "complete"), task(1, "running")], nodes });
  assert.equal(one.verdict.kind, "progressing");
  const both = readProgress({ service: job, tasks: [task(0, "complete"), task(1, "complete")], nodes });
  assert.equal(both.verdict.kind, "completed");
});
