import assert from "node:assert/strict";
import { describe, it } from "node:test";
import type { EffectiveUpdateConfig } from "../../model/defaults.ts";
import { updateConfigOf } from "../../model/defaults.ts";
import type { Service, Task } from "../../model/objects.ts";
import type { TaskSpec } from "../../model/specs.ts";
import { TaskState } from "../../model/task-state.ts";
import { isTaskUpToDate } from "../../model/up-to-date.ts";
import type { Action } from "../orchestrator/slots.ts";
import { groupSlots } from "../orchestrator/slots.ts";
import type { Sighting, UpdatePlan } from "./plan.ts";
import { planUpdate } from "./plan.ts";

const { failed, preparing, running, shutdown } = TaskState;

function template(image: string): TaskSpec {
  return { ContainerSpec: { Image: image } };
}

function stamp(second: number): string {
  return new Date(second * 1000).toISOString();
}

interface Made {
  readonly image: string;
  readonly state: TaskState;
  readonly madeS: number;
  /** When it was last written; when it was made, unless told. */
  readonly writtenS?: number;
  readonly desiredState?: TaskState;
  readonly inPlaceOf?: string;
}

function task(slot: number, made: Made): Task {
  const { image, state, madeS, writtenS = madeS, desiredState = running, inPlaceOf } = made;
  return {
    id: `t-${slot}-${madeS}`,
    version: 1,
    createdAt: stamp(madeS),
    updatedAt: stamp(writtenS),
    serviceId: "s",
    slot,
    nodeId: "n1",
    name: "",
    serviceLabels: {},
    serviceName: "web",
    spec: template(image),
    // Of a spec before the one in force: what tells whether it is up to date is its image.
    specVersion: 1,
    desiredState,
    status: { state, timestamp: stamp(writtenS), message: "", err: "" },
    networks: [],
    ports: [],
    ...(inPlaceOf === undefined ? {} : { inPlaceOf }),
  };
}

/** What an update to web:2 does next that has just begun: it has seen nothing of the tasks before, unless told. */
function planOf(
  order: EffectiveUpdateConfig["order"],
  tasks: readonly Task[],
  sightings: ReadonlyMap<string, Sighting> = new Map(),
  wanted: TaskSpec = template("web:2"),
): UpdatePlan {
  const service: Service = {
    id: "s",
    version: 2,
    createdAt: stamp(0),
    updatedAt: stamp(100),
    spec: {
      Name: "web",
      TaskTemplate: wanted,
      UpdateConfig: { Parallelism: 1, Order: order, FailureAction: "continue" },
    },
    specVersion: 2,
    updateStatus: { state: "updating", startedAt: stamp(100), message: "" },
  };
  return planUpdate({
    service,
    slots: [...groupSlots(service, tasks).values()],
    isUpToDate: (each) => isTaskUpToDate(service, each, undefined),
    config: updateConfigOf(service.spec),
    sightings,
    failedTaskIds: new Set(),
    nowMs: 0,
  });
}

function nextActions(...update: Parameters<typeof planOf>): readonly Action[] {
  return planOf(...update).actions;
}

describe("planUpdate() begun while an earlier update to the same template is under way", () => {
  const waiting = task(2, { image: "web:1", state: running, madeS: 1 });
  const fresh = task(1, { image: "web:2", state: preparing, madeS: 90, inPlaceOf: "t-1-1" });
  const alone = task(1, { image: "web:2", state: preparing, madeS: 90 });
  const rolledBack = task(1, {
    image: "web:bad",
    state: failed,
    madeS: 50,
    writtenS: 51,
    desiredState: shutdown,
  });

  it("start-first: a new task without attempts left is not made again beside the old one, and counts as failed unseen", () => {
    const policies = [{ Condition: "none" as const }, { Condition: "any" as const }];
    const plans = policies.map((RestartPolicy) => {
      const wanted = { ...template("web:2"), RestartPolicy };
      const dead = task(1, {
        image: "web:2",
        state: failed,
        madeS: 20,
        writtenS: 30,
        desiredState: shutdown,
      });
      const tasks = [
        task(1, { image: "web:1", state: running, madeS: 10 }),
        { ...dead, spec: wanted, specVersion: 2 },
      ];
      const { actions, failedTaskIds } = planOf("start-first", tasks, new Map(), wanted);
      return [actions.map((action) => action.kind), [...failedTaskIds]];
    });
    assert.deepEqual(plans, [
      [[], ["t-1-20"]],
      [["add"], []],
    ]);
  });

  it("tries again what died without attempts left under an earlier spec of the same template", () => {
    const wanted = { ...template("web:2"), RestartPolicy: { Condition: "none" as const } };
    const died = { image: "web:2", state: failed, madeS: 20, desiredState: shutdown };
    const tasks = [
      task(1, { image: "web:1", state: running, madeS: 10 }),
      { ...task(1, died), spec: wanted },
    ];
    const { actions, failedTaskIds } = planOf("start-first", tasks, new Map(), wanted);
    assert.deepEqual([actions.map(({ kind }) => kind), [...failedTaskIds]], [["add"], []]);
  });

  it("stop-first: the old task goes where the new one was put beside it by an update that was start-first", () => {
    const beside = [task(1, { image: "web:1", state: running, madeS: 1 }), fresh, waiting];
    assert.deepEqual(nextActions("start-first", beside), []);
    const stopped = [{ kind: "stop", taskId: "t-1-1", desired: "shutdown" }];
    assert.deepEqual(nextActions("stop-first", beside), stopped);
    const other = task(2, { image: "web:2", state: preparing, madeS: 91, inPlaceOf: waiting.id });
    assert.deepEqual(nextActions("stop-first", [...beside, other]), stopped, "one slot at a time");
    assert.deepEqual(nextActions("stop-first", [fresh, waiting, other]), []);
  });

  it("waits for a task that starts beside a running one, whatever failed in the slot since that was made", () => {
    const old = task(1, { image: "web:1", state: running, madeS: 1 });
    assert.deepEqual(nextActions("start-first", [old, fresh, waiting]), []);
    assert.deepEqual(nextActions("start-first", [old, rolledBack, fresh, waiting]), []);
  });

  it("waits for a task whose predecessor was told to stop for it, whatever failed in the slot before", () => {
    const told = { image: "web:1", madeS: 1, writtenS: 91, desiredState: shutdown };
    const ending = task(1, { ...told, state: running });
    const ended = task(1, { ...told, state: shutdown });
    assert.deepEqual(nextActions("stop-first", [ending, rolledBack, fresh, waiting]), []);
    assert.deepEqual(nextActions("stop-first", [ended, rolledBack, fresh, waiting]), []);
  });

  it("waits also where the predecessor failed when it was told to stop", () => {
    const told = task(1, { image: "web:1", state: failed, madeS: 1, writtenS: 91, desiredState: shutdown });
    assert.deepEqual(nextActions("stop-first", [told, fresh, waiting]), []);
  });

  it("does not wait for one that was made where nothing ran any more, be that reported again", () => {
    for (const writtenS of [40, 95]) {
      const gone = task(1, {
        image: "web:1",
        state: shutdown,
        madeS: 1,
        writtenS,
        desiredState: shutdown,
      });
      const actions = nextActions("stop-first", [gone, rolledBack, alone, waiting]);
      assert.deepEqual(actions, [
        { kind: "stop", taskId: waiting.id, desired: "shutdown" },
        { kind: "create", serviceId: "s", slot: 2, nodeId: "" },
      ]);
    }
  });
});

describe("planUpdate() begun while two tasks of a slot run, of which neither is wanted any more", () => {
  const old = task(2, { image: "web:0", state: running, madeS: 1 });
  const overtaken = task(2, { image: "web:1", state: running, madeS: 90 });
  // Without room as long as both of those run.
  const pending = task(1, { image: "web:2", state: TaskState.pending, madeS: 101 });
  const before = task(1, { image: "web:1", state: running, madeS: 2 });
  const sightings = new Map<string, Sighting>([[pending.id, { seenMs: -10 }]]);

  it("stops the older one before the slot's turn comes", () => {
    const actions = nextActions("start-first", [before, pending, old, overtaken], sightings);
    assert.deepEqual(actions, [{ kind: "stop", taskId: old.id, desired: "shutdown" }]);
  });

  it("keeps the newer one beside the new one when the slot's turn comes", () => {
    const actions = nextActions("start-first", [old, overtaken]);
    const stopped = new Set(actions.map((action) => (action.kind === "stop" ? action.taskId : action.kind)));
    assert.deepEqual(stopped, new Set([old.id, "add"]));
  });

  it("stops neither while only one of them runs", () => {
    const starting = task(2, { image: "web:1", state: preparing, madeS: 90 });
    assert.deepEqual(nextActions("start-first", [before, pending, old, starting], sightings), []);
  });
});

describe("planUpdate() of a slot whose new task had to leave its node before it ran", () => {
  const moved = task(1, {
    image: "web:2",
    state: shutdown,
    madeS: 101,
    writtenS: 104,
    desiredState: shutdown,
  });
  const successor = task(1, { image: "web:2", state: preparing, madeS: 103 });
  const waiting = task(2, { image: "web:1", state: running, madeS: 1 });
  const sightings = new Map<string, Sighting>([
    [moved.id, { seenMs: -50, endedMs: -10 }],
    [successor.id, { seenMs: -20 }],
  ]);

  it("waits for its successor", () => {
    assert.deepEqual(nextActions("stop-first", [moved, successor, waiting], sightings), []);
  });

  it("does not wait where it ran, or died by itself", () => {
    const ran = new Map([...sightings, [moved.id, { seenMs: -50, runningMs: -40, endedMs: -10 }] as const]);
    assert.equal(nextActions("stop-first", [moved, successor, waiting], ran).length, 2);
    const dead: Task = { ...moved, status: { ...moved.status, state: failed } };
    assert.equal(nextActions("stop-first", [dead, successor, waiting], sightings).length, 2);
  });
});
