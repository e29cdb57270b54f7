/** The checks themselves, on commits whose verdict is known, all told at one moment. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { type Node, NodeState, type Service, type StoreEvent, type Task } from "../../model/objects.ts";
import type { NodeAvailability, ServiceSpec } from "../../model/specs.ts";
import { TaskState } from "../../model/task-state.ts";
import { StoreChecks } from "./store-checks.ts";
import { Violation } from "./world.ts";

const { failed, ready, running, shutdown } = TaskState;

/** One for each commit, a second after the one before. */
function stamp(version: number): string {
  return new Date(version * 1000).toISOString();
}

/** The store of a cluster whose every write is a commit of its own, told to the checks by one manager. */
class History {
  #version = 0;
  readonly #nodes = new Map<string, Node>();
  readonly #services = new Map<string, Service>();
  readonly #tasks = new Map<string, Task>();
  readonly checks: StoreChecks = new StoreChecks(() => 0);
  readonly #tell = this.checks.follow(1, () => ({ version: 0, get: () => undefined, list: () => [] }), 0);

  node(
    id: string,
    changed: { availability?: NodeAvailability; state?: NodeState; zone?: string } = {},
  ): void {
    const { availability = "active", state = NodeState.ready, zone = "a" } = changed;
    const previous = this.#nodes.get(id);
    const object: Node = {
      ...this.#meta(id, previous?.createdAt),
      spec: { Role: "worker", Availability: availability, Labels: { zone } },
      status: { state, message: "", addr: "" },
      rpcAddress: "",
      dataPathAddress: "",
      certificateRole: "worker",
    };
    this.#nodes.set(id, object);
    const change =
      previous === undefined ? { action: "create" as const } : { action: "update" as const, previous };
    this.#commit({ table: "node", ...change, object, version: object.version });
  }

  service(spec: Omit<ServiceSpec, "Name">): void {
    const previous = this.#services.get("s");
    const meta = this.#meta("s", previous?.createdAt);
    const object: Service = {
      ...meta,
      spec: { Name: "web", ...spec },
      specVersion: meta.version,
      ...(previous === undefined
        ? {}
        : { updateStatus: { state: "updating", startedAt: meta.updatedAt, message: "" } }),
    };
    this.#services.set("s", object);
    const change =
      previous === undefined ? { action: "create" as const } : { action: "update" as const, previous };
    this.#commit({ table: "service", ...change, object, version: object.version });
  }

  /** A task of the service as it is, or another state of one. A task with a slot is no node's own. */
  task(
    id: string,
    place: { nodeId: string; slot?: number },
    status: { state?: TaskState; desiredState?: TaskState; specOf?: string } = {},
  ): void {
    const { state = TaskState.new, desiredState = running } = status;
    const previous = this.#tasks.get(id);
    const former = previous ?? this.#tasks.get(status.specOf ?? "");
    const service = this.#services.get("s");
    assert.ok(service !== undefined);
    const object: Task = {
      ...this.#meta(id, previous?.createdAt),
      serviceId: "s",
      slot: place.slot ?? 0,
      nodeId: place.nodeId,
      name: "",
      serviceLabels: {},
      serviceName: "web",
      spec: former?.spec ?? service.spec.TaskTemplate,
      specVersion: former?.specVersion ?? service.specVersion,
      desiredState,
      status: { state, timestamp: "", message: "", err: "" },
      networks: [],
      ports: [],
    };
    this.#tasks.set(id, object);
    const change =
      previous === undefined ? { action: "create" as const } : { action: "update" as const, previous };
    this.#commit({ table: "task", ...change, object, version: object.version });
  }

  #meta(
    id: string,
    createdAt?: string,
  ): { id: string; version: number; createdAt: string; updatedAt: string } {
    this.#version += 1;
    const updatedAt = stamp(this.#version);
    return { id, version: this.#version, createdAt: createdAt ?? updatedAt, updatedAt };
  }

  #commit(event: StoreEvent): void {
    this.#tell([
      { kind: "event", event },
      { kind: "commit", version: event.version },
    ]);
  }
}

function isViolation(check: string): (caught: unknown) => boolean {
  return (caught) => caught instanceof Violation && caught.check === check;
}

/** A global service on two nodes under an update, one node at a time, the new task first. */
function globalUpdate(): History {
  const history = new History();
  const spec = (image: string): Omit<ServiceSpec, "Name"> => ({
    TaskTemplate: { ContainerSpec: { Image: image }, Placement: { Constraints: ["node.labels.zone == a"] } },
    Mode: { Global: {} },
    UpdateConfig: { Parallelism: 1, Order: "start-first" },
  });
  history.service(spec("web:1"));
  for (const nodeId of ["one", "two"]) {
    history.node(nodeId);
    history.task(`${nodeId}.1`, { nodeId }, { state: running });
  }
  history.service(spec("web:2"));
  return history;
}

const TAKEN_AWAY: readonly (readonly [string, Parameters<History["node"]>[1]])[] = [
  ["drained", { availability: "drain" }],
  ["paused", { availability: "pause" }],
  ["unfit", { zone: "b" }],
  ["down", { state: NodeState.down }],
];

test("U13: an update of a global service on two nodes at once is one too many", () => {
  const history = globalUpdate();
  history.task("one.2", { nodeId: "one" });
  assert.throws(() => history.task("two.2", { nodeId: "two" }), isViolation("U13"));
});

for (const [what, change] of TAKEN_AWAY) {
  test(`U13: a global service's node that is ${what} since its new task was made takes no place of an update's`, () => {
    const history = globalUpdate();
    history.task("one.2", { nodeId: "one" });
    history.node("one", change);
    history.task("two.2", { nodeId: "two" });
  });

  test(`U13: nor does one that was ${what} before its new task was made, and still is`, () => {
    const history = globalUpdate();
    history.node("one", change);
    history.task("one.2", { nodeId: "one" });
    history.task("two.2", { nodeId: "two" });
  });

  test(`U13: nor does one that was ${what} since its new task was made, and came back`, () => {
    const history = globalUpdate();
    history.task("one.2", { nodeId: "one" });
    history.node("one", change);
    history.node("one");
    history.task("two.2", { nodeId: "two" });
  });

  test(`U13: one that was ${what} and came back before its new task was made takes a place`, () => {
    const history = globalUpdate();
    history.node("one", change);
    history.node("one");
    history.task("one.2", { nodeId: "one" });
    assert.throws(() => history.task("two.2", { nodeId: "two" }), isViolation("U13"));
  });
}

function scaled(replicas: number): Omit<ServiceSpec, "Name"> {
  return {
    TaskTemplate: { ContainerSpec: { Image: "web:1" } },
    Mode: { Replicated: { Replicas: replicas } },
  };
}

for (const [when, isEarly] of [
  ["just before the death", true],
  ["just after it", false],
] as const) {
  test(`U10: a restart that does not wait, where the service was changed ${when}`, () => {
    const history = new History();
    const place = { nodeId: "one", slot: 1 };
    history.service(scaled(1));
    history.task("1.1", place, { state: running });
    if (isEarly) history.service(scaled(2));
    history.task("1.1", place, { state: failed });
    history.task("1.1", place, { state: failed, desiredState: shutdown });
    history.task("1.2", place, { desiredState: ready, specOf: "1.1" });
    if (!isEarly) history.service(scaled(2));
    const start = (): void => history.task("1.2", place);
    if (isEarly) assert.throws(start, isViolation("U10"));
    else start();
  });
}

/** One task on a node, and another in its slot that is let start when the node is lost, or so many commits after it is back. */
function replacement(commitsSinceBack: number | undefined): History {
  const history = new History();
  history.service({
    TaskTemplate: { ContainerSpec: { Image: "web" } },
    Mode: { Replicated: { Replicas: 1 } },
  });
  history.node("one");
  history.node("two");
  history.task("a", { nodeId: "one", slot: 1 }, { state: running });
  history.node("one", { state: NodeState.down });
  if (commitsSinceBack !== undefined) history.node("one");
  history.task("a", { nodeId: "one", slot: 1 }, { state: running, desiredState: shutdown });
  for (let count = 2; count < (commitsSinceBack ?? 0); count += 1) history.node("two");
  history.task("b", { nodeId: "two", slot: 1 });
  history.node("one");
  return history;
}

test("U2 doesn't ask a task to wait for what runs on a node that was lost when it was let start", () => {
  assert.equal(replacement(undefined).checks.wasLostWhenLet("b", "one"), true);
  assert.equal(replacement(undefined).checks.wasLostWhenLet("b", "two"), false);
  assert.equal(replacement(2).checks.wasLostWhenLet("b", "one"), false, "two seconds after it was back");
});
