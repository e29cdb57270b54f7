/** Plans a replicated service: as many occupied slots as replicas, dead tasks restarted. Pure. */
import type { Service, Task } from "../../model/objects.ts";
import { TaskState, isLive } from "../../model/task-state.ts";
import type { Action, NodeLookup, Slot } from "./slots.ts";
import { groupSlots, isOccupied, planRestarts } from "./slots.ts";

export interface ServicePlanInput {
  readonly service: Service;
  readonly tasks: readonly Task[];
  readonly nodeOf: NodeLookup;
}

export function planReplicated(input: ServicePlanInput, replicas: number): Action[] {
  const { service, tasks, nodeOf } = input;
  const slots = groupSlots(service, tasks);
  const occupied = [...slots.values()].filter(isOccupied);
  const removed = new Set(surplus(occupied, replicas));
  const actions: Action[] = [];
  for (const slot of slots.values()) {
    if (removed.has(slot)) {
      for (const task of slot.tasks) actions.push({ kind: "stop", taskId: task.id, desired: "remove" });
    } else actions.push(...planRestarts(slot, nodeOf));
  }
  const taken = new Set(occupied.map((slot) => slot.slot));
  for (let slot = 1, missing = replicas - occupied.length; missing > 0; slot += 1) {
    if (taken.has(slot)) continue;
    missing -= 1;
    actions.push({ kind: "create", serviceId: service.id, slot, nodeId: "" });
  }
  return actions;
}

function isRunning(slot: Slot): boolean {
  return slot.tasks.some((task) => isLive(task) && task.status.state === TaskState.running);
}

function nodeOfSlot(slot: Slot): string {
  return slot.tasks.findLast(isLive)?.nodeId ?? "";
}

/** Slots to give up: those that do not run, then always one from the node with the most, the newest number first. */
function surplus(occupied: readonly Slot[], replicas: number): readonly Slot[] {
  let count = occupied.length - replicas;
  if (count <= 0) return [];
  const byNumber = occupied.toSorted((left, right) => right.slot - left.slot);
  const chosen = byNumber.filter((slot) => !isRunning(slot)).slice(0, count);
  count -= chosen.length;
  const byNode = new Map<string, Slot[]>();
  for (const slot of byNumber.filter(isRunning)) {
    const nodeId = nodeOfSlot(slot);
    byNode.set(nodeId, [...(byNode.get(nodeId) ?? []), slot]);
  }
  // Level the fullest nodes down together: node lists sorted by length, highest first, cut in rounds.
  const lists = [...byNode.values()];
  for (let height = Math.max(0, ...lists.map((list) => list.length)); height > 0 && count > 0; height -= 1) {
    for (const list of lists) {
      const slot = list.length >= height && count > 0 ? list.shift() : undefined;
      if (slot === undefined) continue;
      chosen.push(slot);
      count -= 1;
    }
  }
  return chosen;
}
