/**
 * Removes tasks that nobody needs: those told to go that have ended, those told to stop that never had a node, and the
 * dead ones of a slot beyond the history that the cluster keeps. Marks tasks of removed nodes as orphaned, since no
 * agent will ever report on them. Never removes a task that may still run.
 */
import { rfc3339 } from "../../common/time.ts";
import { isGlobal, restartPolicyOf } from "../../model/defaults.ts";
import type { Service, StoreEvent, Task } from "../../model/objects.ts";
import type { StoreView } from "../../model/store-view.ts";
import { TaskState, isTerminal, isLive } from "../../model/task-state.ts";
import { TASK_HISTORY_COUNT } from "../limits.ts";
import { type LoopDeps, ReconcileLoop } from "../reconcile-loop.ts";
import type { Transaction } from "../store/store.ts";
import { byAge } from "./slots.ts";

type Reaping =
  | { readonly kind: "remove"; readonly taskId: string }
  | { readonly kind: "orphan"; readonly taskId: string };

export class TaskReaper extends ReconcileLoop {
  /** Slots to look at: "serviceId/slot". */
  #dirty = new Map<string, { readonly serviceId: string; readonly slot: number }>();

  constructor(deps: LoopDeps) {
    super(deps, { name: "task-reaper", tables: ["task", "node", "cluster"] });
  }

  protected override load(view: StoreView): void {
    this.#dirty = new Map();
    for (const task of view.list("task")) this.#note(task);
  }

  #note(task: Task): void {
    this.#dirty.set(`${task.serviceId}/${task.slot}`, { serviceId: task.serviceId, slot: task.slot });
  }

  protected override observe(event: StoreEvent): boolean {
    switch (event.table) {
      case "task":
        if (event.action === "remove" || (isLive(event.object) && event.action === "update")) return false;
        this.#note(event.object);
        return true;
      case "node": {
        if (event.action !== "remove") return false;
        const tasks = this.deps.store.view().list("task", { kind: "node", nodeId: event.object.id });
        for (const task of tasks) this.#note(task);
        return tasks.length > 0;
      }
      case "cluster":
        if (event.action !== "update") return false;
        if (historyLimit(event.object.spec) === historyLimit(event.previous?.spec)) return false;
        this.load(this.deps.store.view());
        return true;
      case "image":
      case "service":
      case "network":
      case "secret":
      case "config":
        return false;
    }
  }

  protected override async reconcile(signal: AbortSignal): Promise<void> {
    const { store, clock } = this.deps;
    const view = store.view();
    const limit = historyLimit(view.list("cluster")[0]?.spec);
    const reapings: Reaping[] = [];
    for (const { serviceId, slot } of this.#dirty.values()) {
      const tasks = view.list("task", { kind: "slot", serviceId, slot });
      reapings.push(...planReaping(view, view.get("service", serviceId), tasks, limit));
    }
    this.#dirty = new Map();
    if (reapings.length === 0) return;
    const timestamp = rfc3339(clock.wallMs());
    await store.batch(reapings, (tx, reaping) => applyReaping(tx, reaping, timestamp), { signal });
  }
}

/** Tasks kept for each slot, the live one included. Negative: all. */
function historyLimit(
  spec: { readonly Orchestration?: { readonly TaskHistoryRetentionLimit?: number } } | undefined,
): number {
  return spec?.Orchestration?.TaskHistoryRetentionLimit ?? TASK_HISTORY_COUNT;
}

function isGone(task: Task): boolean {
  return isTerminal(task.status.state) || task.status.state < TaskState.assigned;
}

function planReaping(
  view: StoreView,
  service: Service | undefined,
  tasks: readonly Task[],
  limit: number,
): Reaping[] {
  const reapings: Reaping[] = [];
  const kept = new Map<string, Task[]>();
  for (const task of tasks.toSorted(byAge)) {
    const isOrphan =
      task.nodeId !== "" && !isTerminal(task.status.state) && view.get("node", task.nodeId) === undefined;
    const isUnwanted = task.desiredState === TaskState.remove || (service === undefined && !isLive(task));
    if (isUnwanted && (isGone(task) || isOrphan)) reapings.push({ kind: "remove", taskId: task.id });
    else if (!isLive(task) && task.status.state < TaskState.assigned)
      reapings.push({ kind: "remove", taskId: task.id });
    else if (isOrphan) reapings.push({ kind: "orphan", taskId: task.id });
    else {
      const key = service !== undefined && isGlobal(service.spec) ? task.nodeId : "";
      kept.set(key, [...(kept.get(key) ?? []), task]);
    }
  }
  for (const slot of kept.values()) reapings.push(...beyondHistory(slot, limit));
  return reapings;
}

/**
 * The oldest dead tasks beyond the limit. The restart policy needs one more of them than the attempts that it counts, beside
 * what else the slot holds: a live one of another spec, or one on a lost node.
 */
function beyondHistory(slot: readonly Task[], limit: number): Reaping[] {
  const last = slot.at(-1);
  if (limit < 0 || last === undefined) return [];
  const attempts = restartPolicyOf(last.spec).maxAttempts;
  const dead = slot.filter((task) => !isLive(task) && isTerminal(task.status.state));
  const isJobDone = (task: Task): boolean =>
    task.jobIteration !== undefined && task.status.state === TaskState.complete;
  const count = Math.min(slot.length - limit, dead.length - (attempts > 0 ? attempts + 1 : 0));
  return dead
    .filter((task) => !isJobDone(task))
    .slice(0, Math.max(0, count))
    .map((task) => ({ kind: "remove", taskId: task.id }));
}

function applyReaping(tx: Transaction, reaping: Reaping, timestamp: string): void {
  const task = tx.get("task", reaping.taskId);
  if (task === undefined) return;
  if (reaping.kind === "orphan") {
    const status = { ...task.status, state: TaskState.orphaned, timestamp, message: "node was removed" };
    tx.update("task", { ...task, status });
    return;
  }
  const isNodeGone = task.nodeId !== "" && tx.get("node", task.nodeId) === undefined;
  if (!isLive(task) && (isGone(task) || isNodeGone)) tx.remove("task", task.id);
}
