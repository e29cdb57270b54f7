import assert from "node:assert/strict";
import { test } from "node:test";
import { hasCode } from "../../common/errors.ts";
import { AssignmentState } from "./assignment-state.ts";

function document(id: string, value: object): { id: string; json: Uint8Array } {
  return { id, json: new TextEncoder().encode(JSON.stringify({ id, ...value })) };
}

test("AssignmentState.apply() starts from a full set and takes differences in order", () => {
  const state = new AssignmentState();
  state.apply({ sequence: 1, full: true, tasks: [document("a", {}), document("b", {})] });
  state.apply({ sequence: 2, tasks: [document("c", {})], removedTasks: ["a"] });
  assert.deepEqual([...state.current().tasks.keys()], ["b", "c"]);
  assert.equal(state.sequence, 2);
});

test("AssignmentState.apply() refuses a difference before a full set, a gap and a repeat, and changes nothing", () => {
  const state = new AssignmentState();
  assert.throws(
    () => state.apply({ sequence: 1, tasks: [document("a", {})] }),
    (e) => hasCode(e, "failed_precondition"),
  );
  state.apply({ sequence: 5, full: true, tasks: [document("a", {})] });
  for (const sequence of [5, 7]) {
    assert.throws(
      () => state.apply({ sequence, removedTasks: ["a"] }),
      (e) => hasCode(e, "failed_precondition"),
    );
  }
  assert.deepEqual([...state.current().tasks.keys()], ["a"]);
});

test("AssignmentState.apply() of a full set forgets what is not in it", () => {
  const state = new AssignmentState();
  state.apply({
    sequence: 1,
    full: true,
    tasks: [document("a", {})],
    secrets: [document("s", {})],
    networks: [document("n", { networkId: "n" })],
  });
  state.apply({ sequence: 1, full: true, tasks: [document("b", {})] });
  const set = state.current();
  assert.deepEqual([...set.tasks.keys()], ["b"]);
  assert.equal(set.secrets.size + set.networks.size, 0);
});

test("AssignmentState assembles networks with sorted endpoints, and earlier results don't change", () => {
  const state = new AssignmentState();
  state.apply({
    sequence: 1,
    full: true,
    networks: [document("n", { networkId: "n", vni: 4096 })],
    networkChanges: [
      {
        networkId: "n",
        full: true,
        endpoints: [document("t2", { taskId: "t2" }), document("t1", { taskId: "t1" })],
        services: [document("s", { serviceId: "s", vip: "10.0.0.2" })],
      },
    ],
  });
  const before = state.current().networks.get("n");
  assert.deepEqual(
    before?.endpoints.map((each) => each.taskId),
    ["t1", "t2"],
  );
  state.apply({ sequence: 2, networkChanges: [{ networkId: "n", removedEndpoints: ["t1"] }] });
  assert.equal(before?.endpoints.length, 2);
  assert.deepEqual(
    state
      .current()
      .networks.get("n")
      ?.endpoints.map((each) => each.taskId),
    ["t2"],
  );
  assert.equal(state.current().networks.get("n")?.services[0]?.vip, "10.0.0.2");
});
