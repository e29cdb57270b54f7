/**
 * The rolling update of one service as a pure function: from the tasks that are, what is known of when they ran, and the
 * time, to the slots to replace next, the state to show, and when to look again. Docker's words where clients show them.
 */
import type { EffectiveUpdateConfig } from "../../model/defaults.ts";
import type { Service, Task, UpdateStatus } from "../../model/objects.ts";
import { TaskState, isTerminal, isLive } from "../../model/task-state.ts";
import { UPDATE_PROGRESS_DEADLINE_MS } from "../limits.ts";
import type { Action, Slot } from "../orchestrator/slots.ts";
import { diedByItself, shouldRestart } from "../orchestrator/slots.ts";

/** What the updater saw of a task with its own clock. Lost with the leader, then made up for on the safe side. */
export interface Sighting {
  /** When it was first seen, in any state. */
  readonly seenMs: number;
  /** When it was first seen to run. */
  readonly runningMs?: number;
  /** When it was first seen dead. */
  readonly endedMs?: number;
}

export interface UpdateInput {
  readonly service: Service;
  readonly slots: readonly Slot[];
  readonly isUpToDate: (task: Task) => boolean;
  readonly config: EffectiveUpdateConfig;
  readonly sightings: ReadonlyMap<string, Sighting>;
  /** Tasks that failed in this update, also those that are gone by now. */
  readonly failedTaskIds: ReadonlySet<string>;
  readonly nowMs: number;
}

export interface UpdatePlan {
  readonly actions: readonly Action[];
  /** New state, if it changes. */
  readonly status?: { readonly state: UpdateStatus["state"]; readonly message: string };
  /** Put the previous spec back, with `status`. */
  readonly isRollback?: boolean;
  readonly failedTaskIds: ReadonlySet<string>;
  /** Look again then, if nothing happens before. */
  readonly wakeMs?: number;
}

/** What one slot is at. */
interface Progress {
  readonly slot: Slot;
  readonly live: readonly Task[];
  /** Live tasks of an older spec, or the dead one that holds the slot. None where the new one was given up beside them. */
  readonly stale: readonly Task[];
  /** givenUp() of the slot. */
  readonly lost: Task | undefined;
  /** The live task of the new spec. */
  readonly fresh: Task | undefined;
  /** When a task of the new spec first ran here, or died by itself; undefined while it is awaited. */
  readonly settledMs: number | undefined;
}

function isInProgress(status: UpdateStatus | undefined): boolean {
  return status?.state === "updating" || status?.state === "rollback_started";
}

export function isRollingBack(status: UpdateStatus | undefined): boolean {
  return status?.state === "rollback_started" || status?.state === "rollback_paused";
}

export function isPaused(status: UpdateStatus | undefined): boolean {
  return status?.state === "paused" || status?.state === "rollback_paused";
}

function progressOf(slot: Slot, input: UpdateInput): Progress {
  const live = slot.tasks.filter(isLive);
  const fresh = live.findLast((task) => input.isUpToDate(task));
  const last = slot.tasks.at(-1);
  const holders = live.length > 0 || last === undefined ? live : [last];
  const lost = givenUp(slot, input);
  const stale = lost === undefined ? holders.filter((task) => task !== fresh && !input.isUpToDate(task)) : [];
  let settledMs: number | undefined;
  for (const task of slot.tasks) {
    if (!input.isUpToDate(task)) continue;
    const sighting = input.sightings.get(task.id);
    // One that was moved off its node before it ever ran says nothing: its successor is awaited.
    const ms = sighting?.runningMs ?? (diedByItself(task) ? sighting?.endedMs : undefined);
    if (ms !== undefined) settledMs = Math.min(settledMs ?? ms, ms);
  }
  return { slot, live, stale, lost, fresh, settledMs };
}

/**
 * The new task died, has no attempts left, and what it was to replace still runs (start-first): the update is through
 * with the slot. Another task of the same spec would be one attempt more, and another after it, without end.
 */
function givenUp(slot: Slot, input: UpdateInput): Task | undefined {
  // What died under an earlier spec that asked for the same says nothing: who gives it again asks for another try.
  const newest = slot.tasks.findLast(
    (task) => task.specVersion === input.service.specVersion && input.isUpToDate(task),
  );
  if (newest === undefined || isLive(newest) || !slot.tasks.some(isLive)) return undefined;
  return diedByItself(newest) && !shouldRestart(newest, slot) ? newest : undefined;
}

/** Tasks of the new spec that count as failed by now. */
function newFailures(
  progress: readonly Progress[],
  input: UpdateInput,
): readonly { readonly task: Task; readonly isLate: boolean }[] {
  const failures: { task: Task; isLate: boolean }[] = [];
  for (const { slot, lost } of progress) {
    // Whoever leads by now need not have seen it die.
    if (lost !== undefined && !input.failedTaskIds.has(lost.id)) failures.push({ task: lost, isLate: false });
    for (const task of slot.tasks) {
      if (task === lost) continue;
      const sighting = input.sightings.get(task.id);
      if (sighting === undefined || input.failedTaskIds.has(task.id) || !input.isUpToDate(task)) continue;
      const { runningMs, endedMs } = sighting;
      const isEarly =
        endedMs !== undefined && (runningMs === undefined || endedMs - runningMs < input.config.monitorMs);
      const isLate =
        isLive(task) &&
        runningMs === undefined &&
        endedMs === undefined &&
        isAwaited(task, sighting, input.nowMs);
      if ((isEarly && diedByItself(task)) || isLate) failures.push({ task, isLate });
    }
  }
  return failures;
}

function isAwaited(task: Task, sighting: Sighting, nowMs: number): boolean {
  return task.status.state < TaskState.running && nowMs - sighting.seenMs >= UPDATE_PROGRESS_DEADLINE_MS;
}

export function planUpdate(input: UpdateInput): UpdatePlan {
  const { service, config } = input;
  const status = service.updateStatus;
  const nothing = { actions: [], failedTaskIds: input.failedTaskIds };
  const progress = input.slots.map((slot) => progressOf(slot, input));
  // Paused: nothing new is begun, but a slot that has two tasks comes down to one when the new one runs.
  if (isPaused(status)) return { ...nothing, actions: finishSlots(progress) };
  const isAnyStale = progress.some((each) => each.stale.length > 0);
  if (!isInProgress(status)) {
    if (!isAnyStale) return nothing;
    return { ...nothing, status: { state: "updating", message: "update in progress" } };
  }
  const failures = newFailures(progress, input);
  const failedTaskIds = new Set([...input.failedTaskIds, ...failures.map((each) => each.task.id)]);
  const first = failures[0];
  if (first !== undefined && failedTaskIds.size / Math.max(1, input.slots.length) > config.maxFailureRatio) {
    const reaction = reactToFailure(input, first);
    if (reaction !== undefined) return { ...reaction, failedTaskIds };
  }
  const active = progress.filter((each) => isActive(each, input, failedTaskIds));
  const actions = [
    ...finishSlots(progress),
    ...(config.order === "stop-first" ? makeRoom(active, config.parallelism) : []),
    ...nextSlots(progress, active, input),
  ];
  const done = isAnyStale || active.length > 0 ? undefined : completion(progress, input);
  const wakeMs = nextLook(progress, input);
  return {
    actions,
    failedTaskIds,
    ...(done === undefined ? {} : { status: done }),
    ...(wakeMs === undefined ? {} : { wakeMs }),
  };
}

function reactToFailure(
  input: UpdateInput,
  failure: { readonly task: Task; readonly isLate: boolean },
): Omit<UpdatePlan, "failedTaskIds"> | undefined {
  const { service, config } = input;
  const reason = `due to failure or early termination of task ${failure.task.id}`;
  const late = failure.isLate ? ` (not running after ${UPDATE_PROGRESS_DEADLINE_MS / 1000} s)` : "";
  const isRollback = isRollingBack(service.updateStatus);
  if (config.failureAction === "continue") return undefined;
  if (config.failureAction === "rollback" && !isRollback && service.previousSpec !== undefined) {
    const status = { state: "rollback_started", message: `update rolled back ${reason}${late}` } as const;
    return { actions: [], status, isRollback: true };
  }
  return {
    actions: [],
    status: isRollback
      ? { state: "rollback_paused", message: `rollback paused ${reason}${late}` }
      : { state: "paused", message: `update paused ${reason}${late}` },
  };
}

/** True if the slot takes one of the parallel places: its new task is awaited, or the delay after it runs. */
function isActive(each: Progress, input: UpdateInput, failedTaskIds: ReadonlySet<string>): boolean {
  const { fresh, settledMs } = each;
  if (settledMs !== undefined) return settledMs + input.config.delayMs > input.nowMs;
  if (fresh === undefined || failedTaskIds.has(fresh.id)) return false;
  return input.sightings.has(fresh.id) || isTakingOver(each, input);
}

/**
 * The new task is to take the place of one that was there when it was made: begun by an earlier update whose spec differs
 * in other things only. The task itself says so: the stamps of an old one don't tell whether it ended before. One from a
 * time when tasks did not say it takes nobody's place.
 */
function isTakingOver({ slot, fresh }: Progress, input: UpdateInput): boolean {
  if (fresh?.inPlaceOf === undefined || fresh.status.state >= TaskState.running) return false;
  const old = slot.tasks.find((task) => task.id === fresh.inPlaceOf);
  return old === undefined || !input.isUpToDate(old);
}

/**
 * start-first: once the new task runs, the old ones go. Where an update was overtaken by another one while both ran, the
 * older one goes before the slot's turn comes: it may hold just the room that the slots before it wait for.
 */
function finishSlots(progress: readonly Progress[]): Action[] {
  const superfluous = ({ fresh, live }: Progress): readonly Task[] => {
    if (fresh?.status.state === TaskState.running) return live.filter((task) => task !== fresh);
    if (fresh !== undefined) return [];
    return live.filter((task) => task.status.state === TaskState.running).slice(0, -1);
  };
  return progress
    .flatMap(superfluous)
    .map((task) => ({ kind: "stop", taskId: task.id, desired: "shutdown" }));
}

/**
 * stop-first, in slots that were begun start-first: the new task may wait for just the room that the old one holds. Not in
 * more of them at once than are worked on: start-first may have begun them all.
 */
function makeRoom(active: readonly Progress[], parallelism: number): Action[] {
  const held = active.filter(({ stale }) => stale.some(isLive));
  const room = parallelism === 0 ? held.length : Math.max(0, parallelism - active.length + held.length);
  return held
    .filter(({ fresh }) => fresh !== undefined && fresh.status.state < TaskState.running)
    .toSorted((left, right) => compareSlots(left.slot, right.slot))
    .slice(0, room)
    .flatMap(({ stale }) => stale.filter(isLive))
    .map((task) => ({ kind: "stop", taskId: task.id, desired: "shutdown" }));
}

function nextSlots(progress: readonly Progress[], active: readonly Progress[], input: UpdateInput): Action[] {
  const { config } = input;
  const waiting = progress.filter((each) => each.stale.length > 0 && each.fresh === undefined);
  const room = config.parallelism === 0 ? waiting.length : Math.max(0, config.parallelism - active.length);
  // What does not run anyway goes first: nothing is lost by replacing it.
  const isRunning = (each: Progress): boolean =>
    each.live.some((task) => task.status.state === TaskState.running);
  const ordered = waiting.toSorted(
    (left, right) =>
      Number(isRunning(left)) - Number(isRunning(right)) || compareSlots(left.slot, right.slot),
  );
  return ordered.slice(0, room).flatMap((each) => replaceSlot(each, input));
}

function compareSlots(left: Slot, right: Slot): number {
  return left.slot - right.slot || (left.key < right.key ? -1 : left.key > right.key ? 1 : 0);
}

function replaceSlot(each: Progress, input: UpdateInput): Action[] {
  const { slot, live } = each;
  const place = { serviceId: input.service.id, slot: slot.slot, nodeId: slot.nodeId };
  // The newest one, as in finishSlots(): else both of two would be stopped at once.
  const runs = live.findLast((task) => task.status.state === TaskState.running);
  if (input.config.order === "start-first" && runs !== undefined) {
    const others = live.filter((task) => task !== runs);
    return [
      ...others.map((task): Action => ({ kind: "stop", taskId: task.id, desired: "shutdown" })),
      { kind: "add", ...place },
    ];
  }
  // One that was to be kept until the new one runs, and turns out to run after all, is not stopped: nor is one created then.
  const idleOnly = input.config.order === "start-first" ? { isIdleOnly: true } : {};
  return [
    ...live.map((task): Action => ({ kind: "stop", taskId: task.id, desired: "shutdown", ...idleOnly })),
    { kind: "create", ...place },
  ];
}

/** All slots are of the new spec: done once each new task has run for the monitoring time. */
function completion(progress: readonly Progress[], input: UpdateInput): UpdatePlan["status"] {
  const isMonitored = progress.every(
    (each) => each.settledMs === undefined || each.settledMs + input.config.monitorMs <= input.nowMs,
  );
  if (!isMonitored) return undefined;
  return isRollingBack(input.service.updateStatus)
    ? { state: "rollback_completed", message: "rollback completed" }
    : { state: "completed", message: "update completed" };
}

/** The next time at which a delay, a monitoring time or a deadline ends. */
function nextLook(progress: readonly Progress[], input: UpdateInput): number | undefined {
  const { config, nowMs } = input;
  const times: number[] = [];
  for (const { settledMs, fresh } of progress) {
    if (settledMs !== undefined) times.push(settledMs + config.delayMs, settledMs + config.monitorMs);
    const seenMs =
      fresh === undefined || isTerminal(fresh.status.state)
        ? undefined
        : input.sightings.get(fresh.id)?.seenMs;
    if (seenMs !== undefined) times.push(seenMs + UPDATE_PROGRESS_DEADLINE_MS);
  }
  let next: number | undefined;
  for (const ms of times) if (ms > nowMs && (next === undefined || ms < next)) next = ms;
  return next;
}
