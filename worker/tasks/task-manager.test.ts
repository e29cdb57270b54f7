import assert from "node:assert/strict";
import { test } from "node:test";
import { ClusterError } from "../../common/errors.ts";
import { silentLogger } from "../../common/log.ts";
import { FakeClock, settle } from "../../common/testing/fake-clock.ts";
import { SeededRandom } from "../../common/testing/seeded-random.ts";
import type { Task, TaskStatus } from "../../model/objects.ts";
import { TaskState, taskStateName } from "../../model/task-state.ts";
import type { TaskController, TaskEnd, TaskFacts } from "./controller.ts";
import { MemoryTaskDb } from "./task-db.ts";
import { TaskManager } from "./task-manager.ts";

function task(id: string, desired: TaskState = TaskState.running): Task {
  return {
    id,
    version: 1,
    createdAt: "2026-01-01T00:00:00.000000000Z",
    updatedAt: "2026-01-01T00:00:00.000000000Z",
    serviceId: "service",
    serviceName: "web",
    serviceLabels: {},
    slot: 1,
    nodeId: "node",
    name: `web.1.${id}`,
    spec: { ContainerSpec: { Image: "whoami:1" } },
    specVersion: 1,
    desiredState: desired,
    status: { state: TaskState.assigned, timestamp: "", message: "", err: "" },
    networks: [],
    ports: [],
  };
}

class ModelController implements TaskController {
  /** As it was handed over. */
  task: Task | undefined;
  readonly calls: string[] = [];
  prepareError: ClusterError | undefined;
  #end: ((end: TaskEnd) => void) | undefined;

  prepare(): Promise<void> {
    this.calls.push("prepare");
    return this.prepareError === undefined ? Promise.resolve() : Promise.reject(this.prepareError);
  }

  start(): Promise<TaskFacts> {
    this.calls.push("start");
    return Promise.resolve({ meshIp: "100.64.0.2" });
  }

  watch(signal: AbortSignal): Promise<TaskEnd> {
    this.calls.push("watch");
    return new Promise((resolve, reject) => {
      this.#end = resolve;
      signal.addEventListener("abort", () => reject(new ClusterError("cancelled", "Cancelled")));
    });
  }

  shutdown(): Promise<void> {
    this.calls.push("shutdown");
    return Promise.resolve();
  }

  remove(): Promise<void> {
    this.calls.push("remove");
    return Promise.resolve();
  }

  facts(): TaskFacts {
    return {};
  }

  end(end: TaskEnd): void {
    this.#end?.(end);
  }
}

class Fixture {
  readonly clock = new FakeClock();
  readonly db: MemoryTaskDb;
  readonly controllers = new Map<string, ModelController>();
  readonly reported: string[] = [];
  readonly last = new Map<string, TaskStatus>();
  readonly manager: TaskManager;

  constructor(db = new MemoryTaskDb()) {
    this.db = db;
    this.manager = new TaskManager({
      clock: this.clock,
      timers: this.clock,
      random: new SeededRandom(1),
      log: silentLogger,
      db,
      controllers: { create: (each) => this.#create(each) },
      report: (id, status) => {
        this.reported.push(`${id} ${taskStateName(status.state)}`);
        this.last.set(id, status);
      },
      forget: (id) => this.reported.push(`${id} forgotten`),
    });
  }

  #create(made: Task): ModelController {
    const controller = this.controller(made.id);
    controller.task = made;
    return controller;
  }

  controller(id: string): ModelController {
    const known = this.controllers.get(id) ?? new ModelController();
    this.controllers.set(id, known);
    return known;
  }

  async apply(...tasks: readonly Task[]): Promise<void> {
    this.manager.apply({
      tasks: new Map(tasks.map((each) => [each.id, each])),
      secrets: new Map(),
      configs: new Map(),
    });
    await settle();
  }
}

test("TaskManager.apply() runs a new task and reports each state once", async () => {
  const fixture = new Fixture();
  await fixture.apply(task("a"));
  assert.deepEqual(fixture.reported, ["a accepted", "a preparing", "a ready", "a starting", "a running"]);
  assert.equal(fixture.last.get("a")?.meshIp, "100.64.0.2");
  await fixture.apply(task("a"));
  assert.equal(fixture.reported.length, 5);
});

test("TaskManager reports failed with the exit text, and complete for a clean exit", async () => {
  const fixture = new Fixture();
  await fixture.apply(task("a"), task("b"));
  fixture.controller("a").end({ exitCode: 3, err: "task: non-zero exit (3)" });
  fixture.controller("b").end({ exitCode: 0, err: "" });
  await settle();
  assert.equal(fixture.last.get("a")?.state, TaskState.failed);
  assert.equal(fixture.last.get("a")?.err, "task: non-zero exit (3)");
  assert.equal(fixture.last.get("b")?.state, TaskState.complete);
});

test("TaskManager interrupts a running task that shall stop, and removes it once forgotten", async () => {
  const fixture = new Fixture();
  await fixture.apply(task("a"));
  await fixture.apply(task("a", TaskState.shutdown));
  assert.deepEqual(fixture.controller("a").calls, ["prepare", "start", "watch", "shutdown"]);
  assert.equal(fixture.last.get("a")?.state, TaskState.shutdown);
  await fixture.apply();
  assert.equal(fixture.controller("a").calls.at(-1), "remove");
  assert.deepEqual(fixture.manager.taskIds, []);
  assert.deepEqual(await fixture.db.load(), []);
});

test("TaskManager rejects a task that can't be prepared, with the reason", async () => {
  const fixture = new Fixture();
  fixture.controller("a").prepareError = new ClusterError("not_found", "No such image: nope:latest");
  await fixture.apply(task("a"));
  assert.equal(fixture.last.get("a")?.state, TaskState.rejected);
  assert.equal(fixture.last.get("a")?.err, "No such image: nope:latest");
});

test("TaskManager tries a passing trouble again before it rejects", async () => {
  const fixture = new Fixture();
  fixture.controller("a").prepareError = new ClusterError("unavailable", "Peer is away", { retryable: true });
  await fixture.apply(task("a"));
  fixture.controller("a").prepareError = undefined;
  await fixture.clock.advanceAsync(5_000);
  assert.equal(fixture.last.get("a")?.state, TaskState.running);
});

test("TaskManager.start() watches what a former daemon left running, and holds the rest until the first set", async () => {
  const former = new Fixture();
  await former.apply(task("a"), task("b", TaskState.ready));
  await former.manager.stop();
  const fixture = new Fixture(former.db);
  await fixture.manager.start();
  await settle();
  assert.deepEqual(fixture.controller("a").calls, ["watch"]);
  assert.equal(fixture.controller("a").task?.status.meshIp, "100.64.0.2", "what the former daemon observed");
  assert.deepEqual(fixture.controller("b").calls, []);
  await fixture.apply(task("a"), task("b"));
  assert.deepEqual(fixture.controller("b").calls, ["start", "watch"]);
});

test("TaskDb does not keep registry credentials", async () => {
  const fixture = new Fixture();
  await fixture.apply({ ...task("a"), registryAuth: "c2VjcmV0" });
  assert.ok(!JSON.stringify(await fixture.db.load()).includes("c2VjcmV0"));
});
