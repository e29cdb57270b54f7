/**
 * What orchestrators and updater know of slots, as pure functions: a slot is the place of a replica (for global services:
 * a node), and holds one live task and the dead ones before it. Plans are lists of small actions; actions.ts carries
 * them out, checking again inside the transaction, so that a plan made on an old view does no harm.
 */
import { isGlobal, restartPolicyOf } from "../../model/defaults.ts";
import type { Node, Service, Task } from "../../model/objects.ts";
import { NodeState } from "../../model/objects.ts";
import { TaskState, isTerminal, isLive } from "../../model/task-state.ts";
import { deepEqual } from "../../model/up-to-date.ts";

export type NodeLookup = (nodeId: string) => Node | undefined;

export interface Slot {
  /** Slot number, or node id for global services. */
  readonly key: string;
  readonly slot: number;
  /** Set for global services. */
  readonly nodeId: string;
  /** Oldest first. */
  readonly tasks: readonly Task[];
}

export type Action =
  /** A new task in a slot that has no live one. */
  | { readonly kind: "create"; readonly serviceId: string; readonly slot: number; readonly nodeId: string }
  /** A new task beside the live one, which goes on (start-first). */
  | { readonly kind: "add"; readonly serviceId: string; readonly slot: number; readonly nodeId: string }
  /** Tell a task to stop and put a new one in its place. `isDelayed`: after the restart delay. */
  | { readonly kind: "replace"; readonly taskId: string; readonly isDelayed: boolean }
  | {
      readonly kind: "stop";
      readonly taskId: string;
      readonly desired: "shutdown" | "remove";
      /** Unless it runs by the time that this is carried out. */
      readonly isIdleOnly?: boolean;
    };

/** True if the task died by itself: not because it was told to stop, nor with its node. */
export function diedByItself(task: Task): boolean {
  const state = task.status.state;
  return state === TaskState.complete || state === TaskState.failed || state === TaskState.rejected;
}

export function isNodeLost(node: Node | undefined): boolean {
  return node === undefined || node.status.state === NodeState.down;
}

/** True if no plan for a service tells the two apart: what is not looked at here, no constraint can name, and nothing else asks for. */
export function isSamePlace(before: Node, now: Node): boolean {
  return (
    before.status.state === now.status.state &&
    before.status.addr === now.status.addr &&
    before.certificateRole === now.certificateRole &&
    deepEqual(before.spec, now.spec) &&
    deepEqual(before.description, now.description)
  );
}

/** True if no container of the task can be running: it ended, never had a node, or its node is lost. */
export function isStopped(task: Task, nodeOf: NodeLookup): boolean {
  return isTerminal(task.status.state) || task.nodeId === "" || isNodeLost(nodeOf(task.nodeId));
}

export function byAge(left: Task, right: Task): number {
  if (left.createdAt !== right.createdAt) return left.createdAt < right.createdAt ? -1 : 1;
  return left.id < right.id ? -1 : left.id > right.id ? 1 : 0;
}

function slotKey(task: Task, isGlobalService: boolean): string {
  return isGlobalService ? task.nodeId : String(task.slot);
}

/** The service's slots that have tasks, without tasks that are to be removed. */
export function groupSlots(service: Service, tasks: readonly Task[]): Map<string, Slot> {
  const isByNode = isGlobal(service.spec);
  const slots = new Map<string, { key: string; slot: number; nodeId: string; tasks: Task[] }>();
  for (const task of tasks) {
    if (task.desiredState === TaskState.remove) continue;
    const key = slotKey(task, isByNode);
    const slot = slots.get(key);
    if (slot === undefined) {
      slots.set(key, { key, slot: task.slot, nodeId: isByNode ? task.nodeId : "", tasks: [task] });
    } else slot.tasks.push(task);
  }
  for (const slot of slots.values()) if (slot.tasks.length > 1) slot.tasks.sort(byAge);
  return slots;
}

/** Starts in this slot, of this version of the service, within the window before `task` ended; the first does not count. */
function restartCount(task: Task, slot: Slot, windowMs: number): number {
  // By the leader's clock, as the starts are: that of the node may be set to any time.
  const endMs = Date.parse(task.status.appliedAt ?? task.status.timestamp);
  const same = slot.tasks.filter(
    (each) => each.specVersion === task.specVersion && each.jobIteration === task.jobIteration,
  );
  const restarts = same.slice(1);
  if (windowMs === 0) return restarts.length;
  return restarts.filter((each) => Date.parse(each.createdAt) >= endMs - windowMs).length;
}

/** True if the restart policy wants another attempt after this one, which died by itself. */
export function shouldRestart(task: Task, slot: Slot): boolean {
  const policy = restartPolicyOf(task.spec);
  // A job that has completed is done, whatever its policy says.
  const isJobTask = task.jobIteration !== undefined || task.desiredState === TaskState.complete;
  const needsFailure = policy.condition === "on-failure" || isJobTask;
  if (policy.condition === "none") return false;
  if (needsFailure && task.status.state === TaskState.complete) return false;
  return policy.maxAttempts === 0 || restartCount(task, slot, policy.windowMs) < policy.maxAttempts;
}

/** True if nobody needs to put a task here: one is live, or the last one ended and is not to be restarted. */
export function isOccupied(slot: Slot): boolean {
  if (slot.tasks.some(isLive)) return true;
  const last = slot.tasks.at(-1);
  return last !== undefined && diedByItself(last) && !shouldRestart(last, slot);
}

/** Why a live task can't stay, or undefined. */
export function displacement(task: Task, nodeOf: NodeLookup): "lost" | "drained" | undefined {
  if (task.nodeId === "") return undefined;
  const node = nodeOf(task.nodeId);
  if (node === undefined || node.status.state === NodeState.down) return "lost";
  return node.spec.Availability === "drain" ? "drained" : undefined;
}

/** What the slot's live tasks need because they died or can't stay. */
export function planRestarts(slot: Slot, nodeOf: NodeLookup): Action[] {
  const actions: Action[] = [];
  let liveCount = slot.tasks.filter(isLive).length;
  for (const task of slot.tasks) {
    if (!isLive(task)) continue;
    const isDead = isTerminal(task.status.state);
    // It died before it was let start, e.g. for want of its image: the gate lets it "start" when its delay has passed, and
    // only then is it replaced. Else a task that can't be prepared would be made anew without end and without delay.
    if (isDead && diedByItself(task) && task.desiredState === TaskState.ready) continue;
    const reason = isDead ? undefined : displacement(task, nodeOf);
    if (!isDead && reason === undefined) continue;
    const isWanted = isDead
      ? !diedByItself(task) || shouldRestart(task, slot)
      : restartPolicyOf(task.spec).condition !== "none";
    // Beside another live task (start-first) the dead one still gets its own successor, so that the update sees it.
    if (isWanted) actions.push({ kind: "replace", taskId: task.id, isDelayed: isDead && diedByItself(task) });
    else {
      actions.push({ kind: "stop", taskId: task.id, desired: "shutdown" });
      liveCount -= 1;
    }
  }
  return actions;
}
