/**
 * What must hold in every state of the store, on every manager, whatever fails: fed with each manager's events as they
 * are applied and with whole views now and then.
 */
import type { StoreEvent, Task } from "../../model/objects.ts";
import type { StoreView } from "../../model/store-view.ts";
import { isTerminal, TaskState } from "../../model/task-state.ts";
import { Violation } from "./world.ts";

function isActive(task: Task): boolean {
  return task.desiredState === TaskState.running && !isTerminal(task.status.state);
}

/** U1: states only grow, a task never moves. U4: it is placed where its constraints allow. */
export function checkEvent(event: StoreEvent, view: StoreView): void {
  if (event.table !== "task" || event.action === "remove") return;
  const { object, previous } = event;
  if (previous !== undefined) {
    if (object.status.state < previous.status.state) {
      throw new Violation(
        "U1",
        `task ${object.id} goes back from ${previous.status.state} to ${object.status.state}`,
      );
    }
    if (object.desiredState < previous.desiredState) {
      throw new Violation("U1", `desired state of task ${object.id} goes back to ${object.desiredState}`);
    }
    if (previous.nodeId !== "" && object.nodeId !== previous.nodeId) {
      throw new Violation("U1", `task ${object.id} moves from ${previous.nodeId} to ${object.nodeId}`);
    }
  }
  if (object.nodeId !== "" && previous?.nodeId !== object.nodeId) checkPlacement(object, view);
}

function checkPlacement(task: Task, view: StoreView): void {
  const node = view.get("node", task.nodeId);
  if (node === undefined) return;
  for (const constraint of task.spec.Placement?.Constraints ?? []) {
    const [label = "", wanted = ""] = constraint.split("==").map((part) => part.trim());
    const has = node.spec.Labels?.[label.replace("node.labels.", "")];
    if (has !== wanted) throw new Violation("U4", `task ${task.id} is on ${node.id}, against ${constraint}`);
  }
}

/** U2: one active task per slot, two only while an update starts the new one first. U3: no address or port twice. */
export function checkView(view: StoreView): void {
  const slots = new Map<string, number>();
  const addresses = new Map<string, string>();
  for (const task of view.list("task")) {
    if (isActive(task)) {
      const slot = `${task.serviceId}/${task.slot}/${task.slot === 0 ? task.nodeId : ""}`;
      slots.set(slot, (slots.get(slot) ?? 0) + 1);
    }
    if (isTerminal(task.status.state) || task.desiredState > TaskState.running) continue;
    for (const { addresses: own, networkId } of task.networks) {
      for (const address of own) claim(addresses, `${networkId} ${address.split("/")[0]}`, task.id);
    }
  }
  const ports = new Map<string, string>();
  for (const service of view.list("service")) {
    for (const { addr, networkId } of service.endpoint?.virtualIps ?? []) {
      claim(addresses, `${networkId} ${addr}`, service.id);
    }
    for (const port of service.endpoint?.ports ?? []) {
      if (port.PublishMode === "ingress") claim(ports, `${port.Protocol}/${port.PublishedPort}`, service.id);
    }
  }
  for (const [slot, count] of slots) {
    const service = view.get("service", slot.split("/")[0] ?? "");
    const isStartFirst = service?.spec.UpdateConfig?.Order === "start-first";
    if (count > (isStartFirst ? 2 : 1)) throw new Violation("U2", `slot ${slot} has ${count} active tasks`);
  }
}

function claim(owners: Map<string, string>, what: string, owner: string): void {
  const known = owners.get(what);
  if (known !== undefined && known !== owner)
    throw new Violation("U3", `${what} is given to ${known} and ${owner}`);
  owners.set(what, owner);
}
