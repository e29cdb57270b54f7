import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import type { Node, Service, Task } from "../../model/objects.ts";
import { NodeState } from "../../model/objects.ts";
import type { RestartPolicy } from "../../model/specs.ts";
import { TaskState, isTerminal, isLive } from "../../model/task-state.ts";
import { planReplicated } from "./replicated.ts";
import type { Slot } from "./slots.ts";
import { groupSlots, isOccupied, shouldRestart } from "./slots.ts";

const META = { version: 1, updatedAt: "" };

function service(policy: RestartPolicy = {}): Service {
  return {
    ...META,
    id: "s",
    createdAt: "",
    spec: { Name: "web", TaskTemplate: { ContainerSpec: { Image: "i" }, RestartPolicy: policy } },
    specVersion: 1,
  };
}

let count = 0;

function task(slot: number, state: TaskState, more: Partial<Task> = {}): Task {
  count += 1;
  const stamp = new Date(count * 1000).toISOString();
  return {
    ...META,
    id: `t${String(count).padStart(6, "0")}`,
    createdAt: stamp,
    serviceId: "s",
    slot,
    nodeId: "n1",
    name: "",
    serviceLabels: {},
    serviceName: "web",
    spec: service().spec.TaskTemplate,
    specVersion: 1,
    desiredState: TaskState.running,
    status: { state, timestamp: stamp, message: "", err: "" },
    networks: [],
    ports: [],
    ...more,
  };
}

function node(
  id: string,
  state: NodeState = NodeState.ready,
  availability: "active" | "drain" = "active",
): Node {
  return {
    ...META,
    id,
    createdAt: "",
    spec: { Role: "worker", Availability: availability },
    status: { state, message: "", addr: "" },
    rpcAddress: "",
    dataPathAddress: "",
    certificateRole: "worker",
  };
}

function slotOf(tasks: readonly Task[]): Slot {
  const slot = [...groupSlots(service(), tasks).values()][0];
  assert(slot !== undefined);
  return slot;
}

describe("shouldRestart()", () => {
  const spec = (policy: RestartPolicy): Task["spec"] => ({
    ContainerSpec: { Image: "i" },
    RestartPolicy: policy,
  });

  it("follows the condition", () => {
    for (const [condition, state, wanted] of [
      ["any", TaskState.complete, true],
      ["any", TaskState.failed, true],
      ["on-failure", TaskState.complete, false],
      ["on-failure", TaskState.rejected, true],
      ["none", TaskState.failed, false],
    ] as const) {
      const dead = task(1, state, { spec: spec({ Condition: condition }) });
      assert.equal(shouldRestart(dead, slotOf([dead])), wanted, `${condition} ${state}`);
    }
  });

  it("counts attempts of the same version, within the window only", () => {
    const policy = spec({ MaxAttempts: 2 });
    const tasks = [0, 1].map(() =>
      task(1, TaskState.failed, { spec: policy, desiredState: TaskState.shutdown }),
    );
    const last = task(1, TaskState.failed, { spec: policy });
    assert.equal(shouldRestart(last, slotOf([last])), true);
    assert.equal(shouldRestart(last, slotOf([...tasks.slice(1), last])), true, "one restart so far");
    assert.equal(shouldRestart(last, slotOf([...tasks, last])), false);
    const older = tasks.map((each) => ({ ...each, specVersion: 0 }));
    assert.equal(shouldRestart(last, slotOf([...older, last])), true);
    const windowed = { ...last, spec: spec({ MaxAttempts: 2, Window: 5e8 }) };
    assert.equal(
      shouldRestart(windowed, slotOf([...tasks, windowed])),
      true,
      "the others were before the window",
    );
  });
});

describe("shouldRestart() with a node whose clock is wrong", () => {
  const policy: Task["spec"] = {
    ContainerSpec: { Image: "i" },
    RestartPolicy: { MaxAttempts: 2, Window: 60e9 },
  };
  const failedAt = (createdMs: number, clockAheadMs: number): Task => {
    const appliedAt = new Date(createdMs + 1_000).toISOString();
    const timestamp = new Date(createdMs + 1_000 + clockAheadMs).toISOString();
    return task(1, TaskState.failed, {
      spec: policy,
      createdAt: new Date(createdMs).toISOString(),
      status: { state: TaskState.failed, timestamp, appliedAt, message: "", err: "" },
    });
  };

  for (const [name, clockAheadMs] of [
    ["an hour ahead", 3_600_000],
    ["right", 0],
    ["an hour behind", -3_600_000],
  ] as const) {
    it(`counts the attempts within the window: ${name}`, () => {
      const quick = [0, 10_000, 20_000].map((ms) => failedAt(ms, clockAheadMs));
      const slow = [0, 100_000, 200_000].map((ms) => failedAt(ms, clockAheadMs));
      for (const [tasks, wanted] of [
        [quick, false],
        [slow, true],
      ] as const) {
        const last = tasks.at(-1);
        assert(last !== undefined);
        assert.equal(shouldRestart(last, slotOf(tasks)), wanted);
      }
    });
  }
});

describe("planReplicated()", () => {
  const nodes = new Map([
    ["n1", node("n1")],
    ["n2", node("n2")],
    ["down", node("down", NodeState.down)],
    ["drain", node("drain", NodeState.ready, "drain")],
  ]);
  const plan = (tasks: readonly Task[], replicas: number): ReturnType<typeof planReplicated> =>
    planReplicated({ service: service(), tasks, nodeOf: (id) => nodes.get(id) }, replicas);

  it("fills the lowest free numbers", () => {
    const actions = plan([task(2, TaskState.running), task(5, TaskState.running)], 4);
    assert.deepEqual(
      actions.map((action) => action.kind === "create" && action.slot),
      [1, 3],
    );
  });

  it("gives up what does not run first, then what is on the fullest node", () => {
    const tasks = [
      task(1, TaskState.running),
      task(2, TaskState.running),
      task(3, TaskState.running, { nodeId: "n2" }),
      task(4, TaskState.preparing, { nodeId: "n2" }),
    ];
    const stopped = plan(tasks, 2).map(
      (action) => action.kind === "stop" && action.desired === "remove" && action.taskId,
    );
    assert.deepEqual(stopped, [tasks[1]?.id, tasks[3]?.id]);
  });

  it("replaces what died with a delay and what lost its place without", () => {
    const tasks = [
      task(1, TaskState.failed),
      task(2, TaskState.running, { nodeId: "down" }),
      task(3, TaskState.running, { nodeId: "drain" }),
      task(4, TaskState.running, { nodeId: "gone" }),
      task(5, TaskState.running),
    ];
    assert.deepEqual(
      plan(tasks, 5).map((action) => action.kind === "replace" && [action.taskId, action.isDelayed]),
      [
        [tasks[0]?.id, true],
        [tasks[1]?.id, false],
        [tasks[2]?.id, false],
        [tasks[3]?.id, false],
      ],
    );
  });

  it("leaves a task that died before it was let start to the gate", () => {
    assert.deepEqual(plan([task(1, TaskState.rejected, { desiredState: TaskState.ready })], 1), []);
  });

  it("once carried out has nothing more to do, whatever it was given", () => {
    const shape = fc.record({
      slot: fc.integer({ min: 1, max: 6 }),
      state: fc.constantFrom(
        TaskState.new,
        TaskState.running,
        TaskState.failed,
        TaskState.complete,
        TaskState.shutdown,
      ),
      desired: fc.constantFrom(TaskState.running, TaskState.running, TaskState.shutdown, TaskState.remove),
      nodeId: fc.constantFrom("n1", "n2", "down", "drain", "gone"),
    });
    fc.assert(
      fc.property(fc.array(shape, { maxLength: 14 }), fc.nat(8), (shapes, replicas) => {
        let tasks = shapes.map((each) =>
          task(each.slot, each.state, { desiredState: each.desired, nodeId: each.nodeId }),
        );
        for (let round = 0; round < 2; round += 1) {
          const actions = plan(tasks, replicas);
          if (round === 1) assert.deepEqual(actions, []);
          for (const action of actions) {
            const slot = action.kind === "create" || action.kind === "add" ? action.slot : undefined;
            const of = tasks.find((each) => "taskId" in action && each.id === action.taskId);
            const desiredState =
              action.kind === "stop" && action.desired === "remove" ? TaskState.remove : TaskState.shutdown;
            tasks = tasks.map((each) => (each === of ? { ...each, desiredState } : each));
            const isSuccessorThere = tasks.some(
              (each) =>
                each.slot === of?.slot &&
                isLive(each) &&
                !isTerminal(each.status.state) &&
                (each.nodeId === "n1" || each.nodeId === "n2"),
            );
            if (slot !== undefined) tasks.push(task(slot, TaskState.new));
            else if (action.kind === "replace" && of !== undefined && !isSuccessorThere) {
              if (!tasks.some((each) => each.slot === of.slot && isLive(each) && each.nodeId === "")) {
                tasks.push(task(of.slot, TaskState.new, { nodeId: "" }));
              }
            }
          }
        }
        const occupied = [...groupSlots(service(), tasks).values()].filter(isOccupied);
        assert.equal(occupied.length, replicas);
      }),
      { numRuns: 300 },
    );
  });
});
