/**
 * Carries out planned actions inside a transaction, after checking against the state there that they still make sense;
 * an action whose time has passed writes nothing. Used by the orchestrators, the updater and the constraint enforcer.
 */
import type { Random } from "../../common/env.ts";
import { newObjectId } from "../../common/ids.ts";
import { isGlobal, isJob, restartPolicyOf } from "../../model/defaults.ts";
import type { Service, Task } from "../../model/objects.ts";
import type { Driver } from "../../model/specs.ts";
import { TaskState, isTerminal, isLive } from "../../model/task-state.ts";
import { isTaskUpToDate } from "../../model/up-to-date.ts";
import type { Draft, Transaction } from "../store/store.ts";
import type { Action } from "./slots.ts";
import { byAge, diedByItself, displacement, isStopped, shouldRestart } from "./slots.ts";

export interface ActionContext {
  readonly random: Pick<Random, "bytes">;
  /** RFC 3339, for the status of new tasks. */
  readonly now: () => string;
}

interface Place {
  readonly slot: number;
  readonly nodeId: string;
}

/** The cluster's log driver for tasks whose service names none. */
function defaultLogDriver(tx: Pick<Transaction, "list">, service: Service): { logDriver?: Driver } {
  if (service.spec.TaskTemplate.LogDriver !== undefined) return {};
  const driver = tx.list("cluster")[0]?.spec.TaskDefaults?.LogDriver;
  return (driver?.Name ?? "") === "" || driver === undefined ? {} : { logDriver: driver };
}

/** A new task of the service as it is now. */
export function newTask(
  tx: Pick<Transaction, "list">,
  service: Service,
  place: Place,
  made: ActionContext & { readonly desiredState: TaskState },
): Draft<"task"> {
  const { desiredState, ...context } = made;
  const id = newObjectId(context.random);
  const where = isGlobal(service.spec) ? place.nodeId : String(place.slot);
  return {
    id,
    serviceId: service.id,
    slot: place.slot,
    nodeId: place.nodeId,
    name: `${service.spec.Name}.${where}.${id}`,
    serviceLabels: service.spec.Labels ?? {},
    serviceName: service.spec.Name,
    spec: service.spec.TaskTemplate,
    specVersion: service.specVersion,
    desiredState,
    status: { state: TaskState.new, timestamp: context.now(), message: "created", err: "" },
    networks: [],
    ports: [],
    ...(isJob(service.spec) ? { jobIteration: service.jobStatus?.jobIteration ?? 0 } : {}),
    ...(service.registryAuth === undefined ? {} : { registryAuth: service.registryAuth }),
    ...defaultLogDriver(tx, service),
  };
}

/** The desired state of a task that shall work. */
export function workingState(service: Service): TaskState {
  return isJob(service.spec) ? TaskState.complete : TaskState.running;
}

function tasksInSlot(tx: Transaction, service: Service, place: Place): readonly Task[] {
  const tasks = tx.list("task", { kind: "slot", serviceId: service.id, slot: place.slot });
  const here = isGlobal(service.spec) ? tasks.filter((task) => task.nodeId === place.nodeId) : tasks;
  if (!isJob(service.spec)) return here;
  return here.filter((task) => (task.jobIteration ?? 0) === (service.jobStatus?.jobIteration ?? 0));
}

function stop(tx: Transaction, task: Task, desiredState: TaskState): void {
  if (task.desiredState < desiredState) tx.update("task", { ...task, desiredState });
}

/** Oldest first. Tasks of a slot that was given up are on their way out for themselves. */
function history(inSlot: readonly Task[]): readonly Task[] {
  return inSlot.filter((task) => task.desiredState !== TaskState.remove).toSorted(byAge);
}

/** Writes a new task, and with it what of its past can't be read from the slot's other tasks later. */
function create(
  tx: Transaction,
  service: Service,
  place: Place,
  made: ActionContext & { readonly desiredState: TaskState; readonly restartOf?: string },
): void {
  const { restartOf, ...rest } = made;
  const before = history(tasksInSlot(tx, service, place));
  // The newest that has not ended and is not what the service asks for: the new task takes its place.
  const old = before.findLast(
    (each) => !isTerminal(each.status.state) && !isTaskUpToDate(service, each, tx.get("node", each.nodeId)),
  );
  const last = before.at(-1);
  const task = {
    ...newTask(tx, service, place, rest),
    ...(restartOf === undefined ? {} : { restartOf }),
    ...(old === undefined ? {} : { inPlaceOf: old.id }),
  };
  tx.create("task", task);
  if (last !== undefined) beginUpdate(tx, { service, last, startedAt: tx.get("task", task.id)?.createdAt });
}

/**
 * Who puts a task of a new spec in the place of one of an old spec begins the update to it, should that not have begun: the
 * updater, which begins it where it finds tasks of an old spec, may find none any more, and would never judge the new one.
 * `startedAt`: the stamp of the new task, since the updater watches what was made since.
 */
function beginUpdate(
  tx: Transaction,
  made: { readonly service: Service; readonly last: Task; readonly startedAt: string | undefined },
): void {
  const { last, service, startedAt } = made;
  if (startedAt === undefined || service.updateStatus !== undefined || isJob(service.spec)) return;
  // A node that comes back to a global service may have been left by it specs ago: that one has nothing to say of this spec.
  const isOfNow = !isGlobal(service.spec) || isLive(last) || last.updatedAt === startedAt;
  if (!isOfNow || isTaskUpToDate(service, last, tx.get("node", last.nodeId))) return;
  const updateStatus = { state: "updating", startedAt, message: "update in progress" } as const;
  tx.update("service", { ...service, updateStatus });
}

/** A new task that may only start once the others of its slot have stopped; start-gate.ts lets it. */
function createAfter(tx: Transaction, service: Service, place: Place, context: ActionContext): void {
  const nodeOf = (id: string): ReturnType<typeof tx.get<"node">> => tx.get("node", id);
  const isFree = tasksInSlot(tx, service, place).every((task) => isStopped(task, nodeOf));
  create(tx, service, place, { ...context, desiredState: isFree ? workingState(service) : TaskState.ready });
}

export function applyAction(tx: Transaction, action: Action, context: ActionContext): void {
  switch (action.kind) {
    case "create": {
      const service = tx.get("service", action.serviceId);
      if (service === undefined || tasksInSlot(tx, service, action).some(isLive)) return;
      createAfter(tx, service, action, context);
      return;
    }
    case "add": {
      const service = tx.get("service", action.serviceId);
      if (service === undefined) return;
      const others = tasksInSlot(tx, service, action).filter(isLive);
      if (others.some((task) => isTaskUpToDate(service, task, tx.get("node", task.nodeId)))) return;
      create(tx, service, action, { ...context, desiredState: workingState(service) });
      return;
    }
    case "replace": {
      applyReplace(tx, action, context);
      return;
    }
    case "stop": {
      const task = tx.get("task", action.taskId);
      const isBusy = action.isIdleOnly === true && task?.status.state === TaskState.running;
      if (task !== undefined && !isBusy) stop(tx, task, TaskState[action.desired]);
    }
  }
}

function applyReplace(
  tx: Transaction,
  action: Extract<Action, { readonly kind: "replace" }>,
  context: ActionContext,
): void {
  const task = tx.get("task", action.taskId);
  if (task === undefined || !isLive(task)) return;
  const service = tx.get("service", task.serviceId);
  stop(tx, task, service === undefined ? TaskState.remove : TaskState.shutdown);
  if (service === undefined) return;
  const place = { slot: task.slot, nodeId: isGlobal(service.spec) ? task.nodeId : "" };
  const inSlot = tasksInSlot(tx, service, place);
  // It may have died since the plan was made to move it, and is restarted then as any that died, or not at all.
  const hasDied = isTerminal(task.status.state) && diedByItself(task);
  if (hasDied && !shouldRestart(task, { key: "", ...place, tasks: history(inSlot) })) return;
  const others = inSlot.filter((each) => isLive(each) && each.id !== task.id);
  const nodeOf = (id: string): ReturnType<typeof tx.get<"node">> => tx.get("node", id);
  // Another live and healthy task is the successor already, unless it is the one that an update is to replace.
  const isUpdating = !others.some((each) => isTaskUpToDate(service, each, nodeOf(each.nodeId)));
  const isUseless = (each: Task): boolean =>
    isTerminal(each.status.state) || displacement(each, nodeOf) !== undefined;
  if (others.length > 0 && !others.every(isUseless) && !isUpdating) return;
  const isDelayed = (action.isDelayed || hasDied) && restartPolicyOf(task.spec).delayMs > 0;
  if (isDelayed) {
    // An update that replaces a dead task does not wait, unless what it had begun beside that one is dead as well.
    const restarted = [task, ...others].find(
      (each) =>
        diedByItself(each) &&
        (each.specVersion === service.specVersion || isTaskUpToDate(service, each, nodeOf(each.nodeId))),
    );
    const cause = restarted === undefined ? {} : { restartOf: restarted.id };
    create(tx, service, place, { ...context, desiredState: TaskState.ready, ...cause });
  } else if (others.length > 0)
    create(tx, service, place, { ...context, desiredState: workingState(service) });
  else createAfter(tx, service, place, context);
}
