/**
 * The loop that rolls services to a new spec: plan.ts says what, this carries it out and keeps what it has seen of the
 * tasks of updates in progress. Runs on the leader only. A new leader goes on with an update from the tasks in the store.
 * It never makes or removes slots; that is the orchestrator's.
 */
import type { Cancel } from "../../common/env.ts";
import { parseRfc3339, rfc3339 } from "../../common/time.ts";
import { isJob, rollbackConfigOf, updateConfigOf } from "../../model/defaults.ts";
import type { Service, StoreEvent, Task } from "../../model/objects.ts";
import type { StoreView } from "../../model/store-view.ts";
import { TaskState, isTerminal } from "../../model/task-state.ts";
import { isTaskUpToDate } from "../../model/up-to-date.ts";
import type { Action, Slot } from "../orchestrator/slots.ts";
import { diedByItself, groupSlots, isNodeLost, isOccupied, isSamePlace } from "../orchestrator/slots.ts";
import { applyAction } from "../orchestrator/actions.ts";
import { mayStay } from "../orchestrator/global.ts";
import { type LoopDeps, ReconcileLoop } from "../reconcile-loop.ts";
import type { Transaction } from "../store/store.ts";
import type { Sighting, UpdatePlan } from "./plan.ts";
import { isPaused, isRollingBack, planUpdate } from "./plan.ts";

/** One update of one service, from its first task to its completion. */
interface Session {
  readonly startedAt: string;
  readonly startedMs: number;
  readonly sightings: Map<string, Sighting>;
  /** Ids of tasks that were there before the update began. */
  readonly older: Set<string>;
  failedTaskIds: ReadonlySet<string>;
}

export class Updater extends ReconcileLoop {
  #dirty = new Set<string>();
  readonly #sessions = new Map<string, Session>();
  /** The next look at each service, by timer. */
  readonly #alarms = new Map<string, Cancel>();

  constructor(deps: LoopDeps) {
    super(deps, { name: "updater", tables: ["service", "task", "node"], restsAfterPlanning: true });
  }

  /** Tasks that are remembered; no more than there are in updates that are not through. */
  get sightingCount(): number {
    return [...this.#sessions.values()].reduce((sum, each) => sum + each.sightings.size, 0);
  }

  override stop(): Promise<void> {
    for (const cancel of this.#alarms.values()) cancel();
    this.#alarms.clear();
    return super.stop();
  }

  protected override load(view: StoreView): void {
    this.#dirty = new Set();
    const services = view.list("service");
    for (const service of services) this.#noteService(service);
    for (const [id, session] of this.#sessions) {
      if (view.get("service", id) === undefined) this.#sessions.delete(id);
      for (const taskId of session.sightings.keys())
        if (view.get("task", taskId) === undefined) session.sightings.delete(taskId);
    }
  }

  /** Opens, keeps or closes the service's session as its update status says. */
  #noteService(service: Service): void {
    this.#dirty.add(service.id);
    const status = service.updateStatus;
    const isInProgress = status?.state === "updating" || status?.state === "rollback_started";
    if (status === undefined || !(isInProgress || isPaused(status))) this.#sessions.delete(service.id);
    else if (this.#sessions.get(service.id)?.startedAt !== status.startedAt) {
      this.#sessions.set(service.id, {
        startedAt: status.startedAt,
        startedMs: parseRfc3339(status.startedAt),
        sightings: new Map(),
        older: new Set(),
        failedTaskIds: new Set(),
      });
    }
  }

  protected override observe(event: StoreEvent): boolean {
    if (event.table === "service") {
      if (event.action === "remove") this.#sessions.delete(event.object.id);
      else this.#noteService(event.object);
      return true;
    }
    if (event.table === "node") return this.#observeNode(event);
    if (event.table !== "task") return false;
    const session = this.#sessions.get(event.object.serviceId);
    if (session === undefined) return false;
    // A paused update may stay so for months, while its tasks are restarted every few seconds.
    if (event.action === "remove") session.sightings.delete(event.object.id);
    else this.#see(session, event.object);
    if (!concernsPlan(event)) return false;
    this.#dirty.add(event.object.serviceId);
    return true;
  }

  /** A node that changed may no longer meet constraints that only changed in the spec: its tasks may be out of date. */
  #observeNode(event: Extract<StoreEvent, { readonly table: "node" }>): boolean {
    if (
      event.previous !== undefined &&
      event.action === "update" &&
      isSamePlace(event.previous, event.object)
    )
      return false;
    const tasks = this.deps.store.view().list("task", { kind: "node", nodeId: event.object.id });
    for (const task of tasks) this.#dirty.add(task.serviceId);
    return tasks.length > 0;
  }

  /** Notes when a task of the update was first seen, first ran and ended, by our own clock. */
  #see(session: Session, task: Task): void {
    const before = session.sightings.get(task.id);
    if (before === undefined && session.older.has(task.id)) return;
    if (before === undefined && !(parseRfc3339(task.createdAt) >= session.startedMs)) {
      session.older.add(task.id);
      return;
    }
    const nowMs = this.deps.clock.monotonicMs();
    const { state, timestamp } = task.status;
    const isEnd = isTerminal(state);
    if (before === undefined) {
      // Died before we ever saw it, under an earlier leader: its node says whether it ran, and how long. One that was told to
      // stop may never have.
      const { ranAt } = task.status;
      const ranMs =
        isEnd && diedByItself(task) && ranAt !== undefined
          ? Math.max(0, parseRfc3339(timestamp) - parseRfc3339(ranAt))
          : undefined;
      const ran =
        state === TaskState.running
          ? { runningMs: nowMs }
          : ranMs === undefined
            ? {}
            : { runningMs: nowMs - ranMs };
      session.sightings.set(task.id, { seenMs: nowMs, ...ran, ...(isEnd ? { endedMs: nowMs } : {}) });
      return;
    }
    if (state === TaskState.running && before.runningMs === undefined) {
      session.sightings.set(task.id, { ...before, runningMs: nowMs });
    } else if (isEnd && before.endedMs === undefined)
      session.sightings.set(task.id, { ...before, endedMs: nowMs });
  }

  protected override async reconcile(signal: AbortSignal): Promise<void> {
    const { store, random, clock, log } = this.deps;
    const dirty = [...this.#dirty].sort();
    this.#dirty = new Set();
    const view = store.view();
    const actions: { readonly service: Service; readonly action: Action }[] = [];
    for (const serviceId of dirty) {
      const service = view.get("service", serviceId);
      if (service === undefined || isJob(service.spec)) continue;
      const plan = this.#plan(view, service);
      actions.push(...plan.actions.map((action) => ({ service, action })));
      if (plan.wakeMs !== undefined) this.#wakeFor(serviceId, plan.wakeMs);
      if (plan.status !== undefined) {
        await store.update((tx) => writeStatus(tx, service, plan, rfc3339(clock.wallMs())), { signal });
        log.info("update state", { serviceId, ...plan.status });
      }
    }
    if (actions.length === 0) return;
    const context = { random, now: () => rfc3339(clock.wallMs()) };
    await store.batch(
      actions,
      (tx, { action, service }) => {
        // New tasks are of the service as it is by now: a spec given meanwhile would be rolled out at once and unwatched.
        if (tx.get("service", service.id)?.specVersion === service.specVersion)
          applyAction(tx, action, context);
      },
      { signal },
    );
  }

  #plan(view: StoreView, service: Service): UpdatePlan {
    const session = this.#sessions.get(service.id);
    const verdicts = new Map<Task, boolean>();
    // Asked several times of each task.
    const isUpToDate = (task: Task): boolean => {
      let verdict = verdicts.get(task);
      if (verdict === undefined) {
        verdict = isTaskUpToDate(service, task, view.get("node", task.nodeId));
        verdicts.set(task, verdict);
      }
      return verdict;
    };
    const tasks = view.list("task", { kind: "service", serviceId: service.id });
    if (session !== undefined) for (const task of tasks) this.#see(session, task);
    const config = isRollingBack(service.updateStatus)
      ? rollbackConfigOf(service.spec)
      : updateConfigOf(service.spec);
    const plan = planUpdate({
      service,
      slots: [...groupSlots(service, tasks).values()].filter(
        (slot) => isOccupied(slot) && !isOutOfReach(service, slot, view),
      ),
      isUpToDate,
      config,
      sightings: session?.sightings ?? new Map(),
      failedTaskIds: session?.failedTaskIds ?? new Set(),
      nowMs: this.deps.clock.monotonicMs(),
    });
    if (session !== undefined) session.failedTaskIds = plan.failedTaskIds;
    return plan;
  }

  #wakeFor(serviceId: string, dueMs: number): void {
    const delayMs = Math.max(0, dueMs - this.deps.clock.monotonicMs());
    this.#alarms.get(serviceId)?.();
    const cancel = this.deps.timers.after(delayMs, () => {
      this.#alarms.delete(serviceId);
      this.#dirty.add(serviceId);
      this.wake();
    });
    this.#alarms.set(serviceId, cancel);
  }
}

/** A task's way to running changes no plan, as long as its ports are known: only that it runs, ends, moves or is told to stop. */
function concernsPlan(event: Extract<StoreEvent, { readonly table: "task" }>): boolean {
  const { object, previous } = event;
  if (event.action !== "update" || previous === undefined) return true;
  if (previous.desiredState !== object.desiredState || previous.nodeId !== object.nodeId) return true;
  const [before, now] = [previous.status.state, object.status.state];
  return before !== now && (before === TaskState.new || now >= TaskState.running);
}

/**
 * A global service's place on a node that is down, takes no new tasks or is none for the service: a new task there would be
 * awaited in vain, and the update with it. The place is updated when the node is back. A node of which nothing was heard yet,
 * as after a change of leader, is waited for.
 */
function isOutOfReach(service: Service, slot: Slot, view: StoreView): boolean {
  if (slot.nodeId === "") return false;
  const node = view.get("node", slot.nodeId);
  return isNodeLost(node) || node?.spec.Availability !== "active" || !mayStay(service, node);
}

/** Writes the new state, unless the service was given another spec or state meanwhile. */
function writeStatus(tx: Transaction, planned: Service, plan: UpdatePlan, now: string): void {
  const service = tx.get("service", planned.id);
  const { status } = plan;
  if (service === undefined || status === undefined) return;
  if (
    service.specVersion !== planned.specVersion ||
    service.updateStatus?.state !== planned.updateStatus?.state
  )
    return;
  const isStart = status.state === "updating" || status.state === "rollback_started";
  const updateStatus = {
    ...status,
    startedAt: isStart ? now : (service.updateStatus?.startedAt ?? now),
    ...(status.state === "completed" || status.state === "rollback_completed" ? { completedAt: now } : {}),
  };
  tx.update("service", { ...(plan.isRollback === true ? rolledBack(service) : service), updateStatus });
}

/** The service with its previous spec in force and no way back from there. */
function rolledBack(service: Service): Service {
  const { previousSpec, previousSpecVersion, previousRegistryAuth, registryAuth: _old, ...rest } = service;
  if (previousSpec === undefined) return service;
  return {
    ...rest,
    spec: previousSpec,
    specVersion: previousSpecVersion ?? service.specVersion + 1,
    ...(previousRegistryAuth === undefined ? {} : { registryAuth: previousRegistryAuth }),
  };
}
