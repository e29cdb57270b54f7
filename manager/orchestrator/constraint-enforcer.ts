/**
 * Moves tasks off nodes that they no longer fit: a label, role or address changed so that a constraint does not hold,
 * or the node has less than its tasks have reserved. Acts on node changes only; the scheduler keeps new tasks away.
 * Global services are left to their own plan.
 */
import { rfc3339 } from "../../common/time.ts";
import { firstUnmet, parseConstraints, platformMatches } from "../../model/constraints.ts";
import { isGlobal } from "../../model/defaults.ts";
import type { Node, StoreEvent, Task } from "../../model/objects.ts";
import type { StoreView } from "../../model/store-view.ts";
import { isTerminal, isLive } from "../../model/task-state.ts";
import { type LoopDeps, ReconcileLoop } from "../reconcile-loop.ts";
import { applyAction } from "./actions.ts";
import type { Action } from "./slots.ts";
import { byAge } from "./slots.ts";

export class ConstraintEnforcer extends ReconcileLoop {
  #dirty = new Set<string>();

  constructor(deps: LoopDeps) {
    super(deps, { name: "constraint-enforcer", tables: ["node"] });
  }

  protected override load(view: StoreView): void {
    this.#dirty = new Set(view.list("node").map((node) => node.id));
  }

  protected override observe(event: StoreEvent): boolean {
    if (event.table !== "node" || event.action === "remove") return false;
    this.#dirty.add(event.object.id);
    return true;
  }

  protected override async reconcile(signal: AbortSignal): Promise<void> {
    const { store, random, clock } = this.deps;
    const view = store.view();
    const dirty = [...this.#dirty].sort();
    this.#dirty = new Set();
    const actions = dirty.flatMap((nodeId) => {
      const node = view.get("node", nodeId);
      return node === undefined ? [] : misplaced(view, node);
    });
    if (actions.length === 0) return;
    const context = { random, now: () => rfc3339(clock.wallMs()) };
    await store.batch(actions, (tx, action) => applyAction(tx, action, context), { signal });
  }
}

/** What must leave the node. */
function misplaced(view: StoreView, node: Node): Action[] {
  const tasks = view
    .list("task", { kind: "node", nodeId: node.id })
    .filter((task) => isLive(task) && !isTerminal(task.status.state))
    .toSorted(byAge);
  const actions: Action[] = [];
  let cpu = node.description?.Resources.NanoCPUs ?? Number.POSITIVE_INFINITY;
  let memory = node.description?.Resources.MemoryBytes ?? Number.POSITIVE_INFINITY;
  for (const task of tasks) {
    const reserved = task.spec.Resources?.Reservations;
    cpu -= reserved?.NanoCPUs ?? 0;
    memory -= reserved?.MemoryBytes ?? 0;
    if (isPlacementMet(view, task, node) && cpu >= 0 && memory >= 0) continue;
    cpu += reserved?.NanoCPUs ?? 0;
    memory += reserved?.MemoryBytes ?? 0;
    const service = view.get("service", task.serviceId);
    if (service === undefined || isGlobal(service.spec)) continue;
    actions.push({ kind: "replace", taskId: task.id, isDelayed: false });
  }
  return actions;
}

/** By the service's current constraints if it has any, since a task of equal template may predate them. */
function isPlacementMet(view: StoreView, task: Task, node: Node): boolean {
  const placement = view.get("service", task.serviceId)?.spec.TaskTemplate.Placement ?? task.spec.Placement;
  return (
    firstUnmet(parseConstraints(placement?.Constraints), node) === undefined &&
    (node.description === undefined || platformMatches(task.spec.Placement?.Platforms, node))
  );
}
