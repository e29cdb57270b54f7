/**
 * Plans jobs: tasks that run to completion. A job runs once for each iteration (a new one begins when its spec changes);
 * tasks of earlier iterations are removed. Failed tasks are tried again by the restart policy. Pure.
 */
import type { Node, Service, Task } from "../../model/objects.ts";
import { TaskState, isTerminal, isLive } from "../../model/task-state.ts";
import { mayStart, mayStay } from "./global.ts";
import type { ServicePlanInput } from "./replicated.ts";
import type { Action, Slot } from "./slots.ts";
import { groupSlots, isOccupied, planRestarts } from "./slots.ts";

export interface JobLimits {
  readonly maxConcurrent: number;
  readonly totalCompletions: number;
}

function iterationOf(service: Service): number {
  return service.jobStatus?.jobIteration ?? 0;
}

function split(
  service: Service,
  tasks: readonly Task[],
): { readonly current: Task[]; readonly old: Action[] } {
  const iteration = iterationOf(service);
  const current = tasks.filter((task) => (task.jobIteration ?? 0) === iteration);
  const old = tasks
    .filter((task) => (task.jobIteration ?? 0) !== iteration && task.desiredState !== TaskState.remove)
    .map((task): Action => ({ kind: "stop", taskId: task.id, desired: "remove" }));
  return { current, old };
}

function isComplete(slot: Slot): boolean {
  return slot.tasks.some((task) => task.status.state === TaskState.complete);
}

/** Restarts of the slots that have not completed. */
function planJobRestarts(slots: Iterable<Slot>, input: ServicePlanInput): Action[] {
  return [...slots].filter((slot) => !isComplete(slot)).flatMap((slot) => planRestarts(slot, input.nodeOf));
}

export function planReplicatedJob(input: ServicePlanInput, limits: JobLimits): Action[] {
  const { service } = input;
  const { current, old } = split(service, input.tasks);
  const slots = groupSlots(service, current);
  const actions: Action[] = [...old, ...planJobRestarts(slots.values(), input)];
  const completeCount = [...slots.values()].filter(isComplete).length;
  const occupied = [...slots.values()].filter((slot) => !isComplete(slot) && isOccupied(slot));
  // What was given up is not tried again, nor is it at work.
  const busyCount = occupied.filter((slot) => slot.tasks.some(isLive)).length;
  const room = limits.maxConcurrent === 0 ? Number.POSITIVE_INFINITY : limits.maxConcurrent - busyCount;
  let missing = Math.min(room, limits.totalCompletions - completeCount - occupied.length);
  for (let slot = 0; missing > 0 && slot < limits.totalCompletions; slot += 1) {
    const held = slots.get(String(slot));
    if (held !== undefined && (isComplete(held) || isOccupied(held))) continue;
    missing -= 1;
    actions.push({ kind: "create", serviceId: service.id, slot, nodeId: "" });
  }
  return actions;
}

export function planGlobalJob(input: ServicePlanInput, nodes: readonly Node[]): Action[] {
  const { service, nodeOf } = input;
  const { current, old } = split(service, input.tasks);
  const slots = groupSlots(service, current);
  const actions: Action[] = [...old];
  const kept: Slot[] = [];
  for (const slot of slots.values()) {
    if (mayStay(service, nodeOf(slot.nodeId))) kept.push(slot);
    else {
      for (const task of slot.tasks) {
        if (isLive(task) && !isTerminal(task.status.state))
          actions.push({ kind: "stop", taskId: task.id, desired: "shutdown" });
      }
    }
  }
  actions.push(...planJobRestarts(kept, input));
  for (const node of nodes) {
    const slot = slots.get(node.id);
    if (!mayStart(service, node) || (slot !== undefined && (isComplete(slot) || isOccupied(slot)))) continue;
    actions.push({ kind: "create", serviceId: service.id, slot: 0, nodeId: node.id });
  }
  return actions;
}
