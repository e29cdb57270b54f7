/**
 * Lets replacements start: a task that waits with desired state READY (image pulled, container made) is told to run
 * once its predecessors in the slot have stopped and, after a crash, the restart delay has passed. Whether there is a
 * delay was written into the task as it was made, so a new leader goes on where the last one was, whatever became of the
 * slot's other tasks meanwhile.
 */
import { parseRfc3339 } from "../../common/time.ts";
import { isGlobal, restartPolicyOf, stopGraceMsOf } from "../../model/defaults.ts";
import type { Node, Service, StoreEvent, Task } from "../../model/objects.ts";
import type { StoreView } from "../../model/store-view.ts";
import { TaskState, isLive, isTerminal } from "../../model/task-state.ts";
import { STOP_WAIT_MARGIN_MS } from "../limits.ts";
import { type LoopDeps, ReconcileLoop } from "../reconcile-loop.ts";
import { workingState } from "./actions.ts";
import { isStopped } from "./slots.ts";

interface Waiting {
  /** Monotonic time before which it must not start. */
  readonly dueMs: number;
  /** Monotonic time at which a predecessor that has not stopped counts as lost. */
  readonly giveUpMs: number;
}

export class StartGate extends ReconcileLoop {
  /** Tasks with desired state READY by id; undefined until looked at. */
  #waiting = new Map<string, Waiting | undefined>();

  constructor(deps: LoopDeps) {
    super(deps, { name: "start-gate", tables: ["task", "node"] });
  }

  protected override load(view: StoreView): void {
    const known = this.#waiting;
    this.#waiting = new Map();
    for (const task of view.list("task")) {
      if (task.desiredState === TaskState.ready) this.#waiting.set(task.id, known.get(task.id));
    }
  }

  protected override observe(event: StoreEvent): boolean {
    let isNew = false;
    if (event.table === "task") {
      const { object } = event;
      const isWaiting = event.action !== "remove" && object.desiredState === TaskState.ready;
      if (!isWaiting) this.#waiting.delete(object.id);
      else if (!this.#waiting.has(object.id)) {
        this.#waiting.set(object.id, undefined);
        isNew = true;
      }
    }
    return isNew || (this.#waiting.size > 0 && maySetFree(event));
  }

  protected override async reconcile(signal: AbortSignal): Promise<void> {
    const { store, clock } = this.deps;
    const view = store.view();
    const nowMs = clock.monotonicMs();
    const free: string[] = [];
    for (const [taskId, known] of this.#waiting) {
      const task = view.get("task", taskId);
      const service = task === undefined ? undefined : view.get("service", task.serviceId);
      if (task === undefined || service === undefined || task.desiredState !== TaskState.ready) {
        this.#waiting.delete(taskId);
        continue;
      }
      const waiting = known ?? this.#measure(view, service, task);
      this.#waiting.set(taskId, waiting);
      const isClear = predecessors(view, service, task).every((each) => isStoppedIn(view, each));
      const dueMs = isClear ? waiting.dueMs : Math.max(waiting.dueMs, waiting.giveUpMs);
      if (dueMs <= nowMs) free.push(taskId);
      else this.wakeAt(dueMs);
    }
    if (free.length === 0) return;
    await store.batch(
      free,
      (tx, taskId) => {
        const task = tx.get("task", taskId);
        const service = task === undefined ? undefined : tx.get("service", task.serviceId);
        if (task?.desiredState !== TaskState.ready || service === undefined) return;
        tx.update("task", { ...task, desiredState: workingState(service) });
      },
      { signal },
    );
  }

  /** When the task may start, as far as its own history says. */
  #measure(view: StoreView, service: Service, task: Task): Waiting {
    const { clock } = this.deps;
    const nowMs = clock.monotonicMs();
    const before = predecessors(view, service, task);
    const ageMs = Math.max(0, clock.wallMs() - parseRfc3339(task.createdAt));
    const delayMs =
      task.restartOf === undefined ? 0 : Math.max(0, restartPolicyOf(task.spec).delayMs - ageMs);
    const graceMs = Math.max(0, ...before.map((each) => stopGraceMsOf(each.spec)));
    return { dueMs: nowMs + delayMs, giveUpMs: nowMs + graceMs + STOP_WAIT_MARGIN_MS };
  }
}

/** True if a task may have stopped: nothing else lets another one start, but for time. */
function maySetFree(event: StoreEvent): boolean {
  if (event.action !== "update") return true;
  if (event.table === "node") return event.previous?.status.state !== event.object.status.state;
  if (event.table !== "task" || event.previous === undefined) return true;
  return isTerminal(event.object.status.state) && !isTerminal(event.previous.status.state);
}

/** The slot's tasks that must have stopped before `task` may start. */
function predecessors(view: StoreView, service: Service, task: Task): readonly Task[] {
  const tasks = view.list("task", { kind: "slot", serviceId: task.serviceId, slot: task.slot });
  return tasks.filter(
    (each) =>
      each.id !== task.id && !isLive(each) && (!isGlobal(service.spec) || each.nodeId === task.nodeId),
  );
}

function isStoppedIn(view: StoreView, task: Task): boolean {
  return isStopped(task, (nodeId): Node | undefined => view.get("node", nodeId));
}
