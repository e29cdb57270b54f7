/**
 * Places tasks: groups those of one spec, asks the static filters once for each node, then spreads. Decisions are counted
 * in the node set at once, so that the next task sees them. Pure but for that; scheduler.ts writes them to the store.
 */
import type { Task, TaskStatus } from "../../model/objects.ts";
import type { TaskSpec } from "../../model/specs.ts";
import { TaskState } from "../../model/task-state.ts";
import type { Requirements } from "./filters.ts";
import { Explanation, dynamicRefusal, requirementsOf, staticRefusal } from "./filters.ts";
import type { NodeInfo, NodeSet } from "./node-set.ts";
import { pickGeneric } from "./node-set.ts";
import { Spread } from "./spread.ts";

export interface Placed {
  readonly taskId: string;
  readonly nodeId: string;
  readonly assigned: Task;
}

export interface Unplaced {
  readonly task: Task;
  /** Docker's words, for status.err. */
  readonly reason: string;
  /** Counts for each constraint, resource or port, for status.message. */
  readonly detail: string;
}

export interface Placement {
  readonly placed: Placed[];
  readonly unplaced: Unplaced[];
}

export interface PlaceOptions {
  readonly nowMs: number;
  /** RFC 3339, for the new status. */
  readonly timestamp: string;
  /** Nodes that have an image already. Absent: none is known to. */
  readonly nodesWith?: (image: string) => ReadonlySet<string>;
}

/** Tasks that ask the same of nodes: of one service and version, or at least one spec object. */
function groupsOf(tasks: Iterable<Task>): Iterable<readonly Task[]> {
  const byVersion = new Map<string, Map<number | TaskSpec, Task[]>>();
  for (const task of tasks) {
    let versions = byVersion.get(task.serviceId);
    if (versions === undefined) {
      versions = new Map();
      byVersion.set(task.serviceId, versions);
    }
    const key = task.specVersion > 0 && task.ports.length === 0 ? task.specVersion : task.spec;
    const group = versions.get(key);
    if (group === undefined) versions.set(key, [task]);
    else group.push(task);
  }
  return [...byVersion.values()].flatMap((versions) => [...versions.values()]);
}

function assignedStatus(options: PlaceOptions): TaskStatus {
  const message = "scheduler assigned task to node";
  return { state: TaskState.assigned, timestamp: options.timestamp, message, err: "" };
}

/** `status` is shared by all tasks of a round. */
function assign(task: Task, info: NodeInfo, wanted: Requirements, status: TaskStatus): Task {
  const generic = wanted.generic.length === 0 ? undefined : pickGeneric(info, wanted.generic);
  return {
    ...task,
    nodeId: info.node.id,
    status,
    ...(generic === undefined ? {} : { assignedGenericResources: generic }),
  };
}

export function placeTasks(nodes: NodeSet, tasks: Iterable<Task>, options: PlaceOptions): Placement {
  const placement: Placement = { placed: [], unplaced: [] };
  for (const group of groupsOf(tasks)) placeGroup(nodes, group, options, placement);
  return placement;
}

function placeGroup(
  nodes: NodeSet,
  tasks: readonly Task[],
  options: PlaceOptions,
  placement: Placement,
): void {
  const first = tasks[0];
  if (first === undefined) return;
  const wanted = requirementsOf(first);
  const fit: NodeInfo[] = [];
  for (const info of nodes.values()) if (staticRefusal(info, wanted) === undefined) fit.push(info);
  const preferences = (first.spec.Placement?.Preferences ?? [])
    .map((each) => each.Spread?.SpreadDescriptor ?? "")
    .filter((descriptor) => descriptor !== "");
  const spread = new Spread(fit, {
    serviceId: first.serviceId,
    preferences,
    nowMs: options.nowMs,
    nodesWithImage: options.nodesWith?.(first.spec.ContainerSpec.Image),
  });
  const status = assignedStatus(options);
  let explanation: Explanation | undefined;
  for (const task of tasks) {
    let assigned: Task | undefined;
    const info = spread.place((candidate) => {
      if (dynamicRefusal(candidate, wanted) !== undefined) return false;
      assigned = assign(task, candidate, wanted, status);
      nodes.putTask(assigned);
      return true;
    });
    if (info === undefined || assigned === undefined) {
      // What fits one fits all of the group, so the first that finds no node speaks for the rest.
      explanation ??= explain(nodes, wanted);
      placement.unplaced.push({ task, reason: explanation.text(), detail: explanation.detail() });
    } else placement.placed.push({ taskId: task.id, nodeId: info.node.id, assigned });
  }
}

/** Why each node refuses now. */
function explain(nodes: NodeSet, wanted: Requirements): Explanation {
  const explanation = new Explanation();
  for (const info of nodes.values()) {
    const refusal = staticRefusal(info, wanted) ?? dynamicRefusal(info, wanted);
    if (refusal !== undefined) explanation.add(refusal);
  }
  return explanation;
}

/** Tasks made for a certain node (global services): only asks whether it will have them. */
export function placePreassigned(nodes: NodeSet, tasks: Iterable<Task>, options: PlaceOptions): Placement {
  const placement: Placement = { placed: [], unplaced: [] };
  const status = assignedStatus(options);
  for (const task of tasks) {
    const info = nodes.get(task.nodeId);
    const wanted = requirementsOf(task);
    const refusal =
      info === undefined ? undefined : (staticRefusal(info, wanted) ?? dynamicRefusal(info, wanted));
    if (info === undefined || refusal !== undefined) {
      const explanation = new Explanation();
      if (refusal !== undefined) explanation.add(refusal);
      placement.unplaced.push({ task, reason: explanation.text(), detail: explanation.detail() });
      continue;
    }
    const assigned = assign(task, info, wanted, status);
    nodes.putTask(assigned);
    placement.placed.push({ taskId: task.id, nodeId: task.nodeId, assigned });
  }
  return placement;
}
