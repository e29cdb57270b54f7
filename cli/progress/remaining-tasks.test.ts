import assert from "node:assert/strict";
import { test } from "node:test";
import type { ApiNode, ApiTask } from "../client/types.ts";
import { remainingTasks } from "./remaining-tasks.ts";

const node = (id: string, state: string): ApiNode =>
  ({ ID: id, Description: { Hostname: `host-${id}` }, Status: { State: state } }) as unknown as ApiNode;
const task = (nodeId: string, state: string): ApiTask =>
  ({ NodeID: nodeId, Status: { State: state } }) as unknown as ApiTask;

test("remainingTasks() waits for no node that is down, and names it", () => {
  const nodes = [node("a", "ready"), node("b", "down")];
  const tasks = [task("a", "shutdown"), task("a", "running"), task("b", "running"), task("b", "failed")];
  const { running, lost } = remainingTasks(tasks, nodes);
  assert.equal(running, 1);
  assert.deepEqual([...lost], [["host-b", 1]]);
  assert.equal(remainingTasks([task("", "pending")], nodes).running, 1);
});
