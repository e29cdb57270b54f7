/**
 * The loop that makes tasks: for every service whose tasks, spec or nodes changed it plans (replicated.ts, global.ts,
 * jobs.ts) and carries the plan out in batches. Runs on the leader only; holds nothing but the list of what to look at.
 * It never touches observed states, nodes or addresses, and leaves tasks of an old spec to the updater.
 */
import { rfc3339 } from "../../common/time.ts";
import { isGlobal, modeOf } from "../../model/defaults.ts";
import type { Node, Service, StoreEvent, Task } from "../../model/objects.ts";
import type { StoreView } from "../../model/store-view.ts";
import { TaskState, isTerminal, isLive } from "../../model/task-state.ts";
import { ACTION_COUNT_MAX } from "../limits.ts";
import { type LoopDeps, ReconcileLoop } from "../reconcile-loop.ts";
import { applyAction } from "./actions.ts";
import { planGlobal } from "./global.ts";
import { planGlobalJob, planReplicatedJob } from "./jobs.ts";
import { planReplicated } from "./replicated.ts";
import { type Action, isSamePlace } from "./slots.ts";

/** Everything the service's tasks need now, whatever its mode. */
function planService(view: StoreView, service: Service, nodes: () => readonly Node[]): Action[] {
  const input = {
    service,
    tasks: view.list("task", { kind: "service", serviceId: service.id }),
    nodeOf: (nodeId: string): Node | undefined => view.get("node", nodeId),
  };
  const mode = modeOf(service.spec);
  switch (mode.kind) {
    case "replicated":
      return planReplicated(input, mode.replicas);
    case "global":
      return planGlobal(input, nodes());
    case "replicated-job":
      return planReplicatedJob(input, mode);
    case "global-job":
      return planGlobalJob(input, nodes());
  }
}

/** Tasks of a service that is gone. */
function planOrphans(tasks: readonly Task[]): Action[] {
  return tasks
    .filter((task) => task.desiredState !== TaskState.remove)
    .map((task) => ({ kind: "stop", taskId: task.id, desired: "remove" }));
}

export class Orchestrator extends ReconcileLoop {
  #dirty = new Set<string>();

  constructor(deps: LoopDeps) {
    super(deps, { name: "orchestrator", tables: ["service", "task", "node"], restsAfterPlanning: true });
  }

  protected override load(view: StoreView): void {
    this.#dirty = new Set(view.list("service").map((service) => service.id));
    for (const task of view.list("task")) this.#dirty.add(task.serviceId);
  }

  protected override observe(event: StoreEvent): boolean {
    if (event.table === "service") this.#dirty.add(event.object.id);
    else if (event.table === "task") {
      if (!concernsPlan(event)) return false;
      this.#dirty.add(event.object.serviceId);
    } else if (event.table === "node") {
      const { action, object, previous } = event;
      if (action === "update" && previous !== undefined && isSamePlace(previous, object)) return false;
      this.#observeNode(object.id);
    } else return false;
    return true;
  }

  #observeNode(nodeId: string): void {
    const view = this.deps.store.view();
    for (const task of view.list("task", { kind: "node", nodeId })) this.#dirty.add(task.serviceId);
    for (const service of view.list("service")) if (isGlobal(service.spec)) this.#dirty.add(service.id);
  }

  protected override async reconcile(signal: AbortSignal): Promise<void> {
    const dirty = [...this.#dirty].sort();
    this.#dirty = new Set();
    const view = this.deps.store.view();
    let nodes: readonly Node[] | undefined;
    const nodesOfView = (): readonly Node[] => (nodes ??= view.list("node"));
    const actions: Action[] = [];
    for (const serviceId of dirty) {
      if (actions.length >= ACTION_COUNT_MAX) {
        this.#dirty.add(serviceId);
        continue;
      }
      const service = view.get("service", serviceId);
      actions.push(
        ...(service === undefined
          ? planOrphans(view.list("task", { kind: "service", serviceId }))
          : planService(view, service, nodesOfView)),
      );
    }
    await this.#apply(actions, signal);
    if (this.#dirty.size > 0) this.wake();
  }

  async #apply(actions: readonly Action[], signal: AbortSignal): Promise<void> {
    if (actions.length === 0) return;
    const { store, random, clock, log } = this.deps;
    const context = { random, now: () => rfc3339(clock.wallMs()) };
    await store.batch(actions, (tx, action) => applyAction(tx, action, context), {
      signal,
      failed: (action, error) => log.error("orchestrator action failed", { kind: action.kind, error }),
    });
  }
}

/** A task's progress towards running changes no plan; its end, its removal and what it is told do. */
function concernsPlan(event: Extract<StoreEvent, { table: "task" }>): boolean {
  if (event.action === "remove") return true;
  const { object, previous } = event;
  if (previous === undefined) return isTerminal(object.status.state);
  if (isTerminal(object.status.state)) {
    return !isTerminal(previous.status.state) || previous.desiredState !== object.desiredState;
  }
  return isLive(previous) !== isLive(object) || previous.nodeId !== object.nodeId;
}
