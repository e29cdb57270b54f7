import assert from "node:assert/strict";
import { test } from "node:test";
import { TaskState, type TaskStateName } from "../../model/task-state.ts";
import { nextStep, type Step } from "./next-step.ts";

function step(desired: TaskStateName, observed: TaskStateName, isForgotten = false): Step {
  return nextStep({ desired: TaskState[desired], observed: TaskState[observed], isForgotten });
}

test("nextStep() walks a new task to running", () => {
  assert.equal(step("running", "assigned"), "accept");
  assert.equal(step("running", "accepted"), "prepare");
  assert.equal(step("running", "preparing"), "prepare");
  assert.equal(step("running", "ready"), "start");
  assert.equal(step("running", "starting"), "start");
  assert.equal(step("running", "running"), "watch");
});

test("nextStep() holds a task that is wanted ready until it is wanted running", () => {
  assert.equal(step("ready", "accepted"), "prepare");
  assert.equal(step("ready", "ready"), "idle");
  assert.equal(step("running", "ready"), "start");
});

test("nextStep() lets a job run until it is complete", () => {
  assert.equal(step("complete", "ready"), "start");
  assert.equal(step("complete", "running"), "watch");
  assert.equal(step("complete", "complete"), "idle");
});

test("nextStep() shuts down from every state that is not final, and never twice", () => {
  for (const observed of ["assigned", "preparing", "ready", "starting", "running"] as const) {
    assert.equal(step("shutdown", observed), "shutdown");
  }
  for (const observed of ["complete", "shutdown", "failed", "rejected"] as const) {
    assert.equal(step("shutdown", observed), "idle");
  }
});

test("nextStep() removes a forgotten task whatever its state", () => {
  assert.equal(step("running", "running", true), "remove");
  assert.equal(step("running", "failed", true), "remove");
});

test("nextStep() stops and reports a task that shall be removed, and waits to be told to forget it", () => {
  assert.equal(step("remove", "running"), "shutdown");
  assert.equal(step("remove", "shutdown"), "idle");
  assert.equal(step("remove", "shutdown", true), "remove");
});
