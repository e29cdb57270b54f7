/** Plans a global service: one live task on every node that may have one. Pure. */
import { firstUnmet, parseConstraints, platformMatches } from "../../model/constraints.ts";
import type { Node, Service } from "../../model/objects.ts";
import { NodeState } from "../../model/objects.ts";
import { isLive } from "../../model/task-state.ts";
import type { ServicePlanInput } from "./replicated.ts";
import type { Action } from "./slots.ts";
import { groupSlots, isOccupied, planRestarts } from "./slots.ts";

/** True if a task of the service may stay on the node; a node that is down keeps what it has. */
export function mayStay(service: Service, node: Node | undefined): boolean {
  if (node === undefined || node.spec.Availability === "drain") return false;
  const placement = service.spec.TaskTemplate.Placement;
  return (
    firstUnmet(parseConstraints(placement?.Constraints), node) === undefined &&
    platformMatches(placement?.Platforms, node)
  );
}

/** True if a new task of the service may be put on the node. */
export function mayStart(service: Service, node: Node): boolean {
  return (
    node.status.state === NodeState.ready && node.spec.Availability === "active" && mayStay(service, node)
  );
}

export function planGlobal(input: ServicePlanInput, nodes: readonly Node[]): Action[] {
  const { service, tasks, nodeOf } = input;
  const slots = groupSlots(service, tasks);
  const actions: Action[] = [];
  for (const slot of slots.values()) {
    const node = nodeOf(slot.nodeId);
    if (!mayStay(service, node)) {
      // The node is gone or unfit: nothing of the service is kept there. Without a node there is no history to show.
      const desired = node === undefined ? "remove" : "shutdown";
      for (const task of slot.tasks) {
        if (isLive(task) || desired === "remove") actions.push({ kind: "stop", taskId: task.id, desired });
      }
    } else if (node?.status.state !== NodeState.down) {
      // Tasks of a node that is down are left as they are: its containers go on and are found again when it returns.
      actions.push(...planRestarts(slot, nodeOf));
    }
  }
  for (const node of nodes) {
    const slot = slots.get(node.id);
    if (!mayStart(service, node) || (slot !== undefined && isOccupied(slot))) continue;
    actions.push({ kind: "create", serviceId: service.id, slot: 0, nodeId: node.id });
  }
  return actions;
}
