/**
 * Decides from one reading of service, tasks and nodes how far a roll-out is: which task stands for each slot, whether
 * all run, whether it failed. Pure; wait-service.ts reads and shows. The choice of the task per slot is the docker
 * CLI's, so that both say the same of the same cluster.
 */
import type { ApiNode, ApiService, ApiTask } from "../client/types.ts";

/** In the order in which a task lives; later states are worse choices for a slot. */
const STATE_ORDER = [
  "new",
  "allocated",
  "pending",
  "assigned",
  "accepted",
  "preparing",
  "ready",
  "starting",
  "running",
  "complete",
  "shutdown",
  "failed",
  "rejected",
];
const RUNNING = STATE_ORDER.indexOf("running");
const FAILED_STATES = new Set(["failed", "rejected"]);

/** So many failed tasks in one slot, none of which came up, end the wait. */
const FAILURES_PER_SLOT_MAX = 3;

export interface SlotRow {
  /** "3" of "3/5", or the node's id for global services. */
  readonly slot: string;
  readonly state: string;
  /** Why the task waits or failed; "" if all is well. */
  readonly error: string;
  readonly nodeId: string;
}

export type Verdict =
  | { readonly kind: "progressing" }
  /** Every slot runs; watch it for the monitor time. */
  | { readonly kind: "converged" }
  | { readonly kind: "completed"; readonly message: string }
  | { readonly kind: "failed"; readonly message: string; readonly taskId?: string };

export interface Progress {
  readonly rows: readonly SlotRow[];
  readonly running: number;
  readonly wanted: number;
  readonly isRollingBack: boolean;
  readonly verdict: Verdict;
  /** No task can be placed and nothing else is under way: the scheduler's explanation. */
  readonly stuck?: string;
}

export interface Reading {
  readonly service: ApiService;
  /** Those of the current spec (`_up-to-date`). */
  readonly tasks: readonly ApiTask[];
  readonly nodes: readonly ApiNode[];
}

function rank(state: string): number {
  return STATE_ORDER.indexOf(state);
}

/** The task that stands for a slot: lowest desired state, then lowest state; unknown states are left out. */
function isBetter(candidate: ApiTask, chosen: ApiTask): boolean {
  const desired = rank(candidate.DesiredState) - rank(chosen.DesiredState);
  if (desired !== 0) return desired < 0;
  return rank(candidate.Status.State) < rank(chosen.Status.State);
}

function groupBySlot(tasks: readonly ApiTask[], slotOf: (task: ApiTask) => string): Map<string, ApiTask> {
  const chosen = new Map<string, ApiTask>();
  for (const task of tasks) {
    if (rank(task.Status.State) < 0 || rank(task.DesiredState) < 0) continue;
    const slot = slotOf(task);
    const before = chosen.get(slot);
    if (before === undefined || isBetter(task, before)) chosen.set(slot, task);
  }
  return chosen;
}

function rowOf(slot: string, task: ApiTask): SlotRow {
  return { slot, state: task.Status.State, error: task.Status.Err ?? "", nodeId: task.NodeID ?? "" };
}

function isUp(task: ApiTask, upNodes: ReadonlySet<string>): boolean {
  return (
    task.Status.State === "running" &&
    rank(task.DesiredState) <= RUNNING &&
    (task.NodeID === undefined || upNodes.has(task.NodeID))
  );
}

/** The newest failed task of a slot that failed too often without ever coming up. */
function crashLoop(tasks: readonly ApiTask[], slotOf: (task: ApiTask) => string): ApiTask | undefined {
  const failures = new Map<string, ApiTask[]>();
  for (const task of tasks) {
    if (!FAILED_STATES.has(task.Status.State)) continue;
    failures.set(slotOf(task), [...(failures.get(slotOf(task)) ?? []), task]);
  }
  for (const failed of failures.values()) {
    if (failed.length >= FAILURES_PER_SLOT_MAX) {
      return failed.reduce((newest, task) => (task.CreatedAt > newest.CreatedAt ? task : newest));
    }
  }
  return undefined;
}

function updateVerdict(
  service: ApiService,
  isConverged: boolean,
  failed: ApiTask | undefined,
): Verdict | undefined {
  const status = service.UpdateStatus;
  const message = status?.Message ?? "";
  const task = failed === undefined ? {} : { taskId: failed.ID };
  switch (status?.State) {
    case "completed":
      return isConverged ? { kind: "completed", message: "" } : undefined;
    case "paused":
      return { kind: "failed", message: `service update paused: ${message}`, ...task };
    case "rollback_paused":
      return { kind: "failed", message: `service rollback paused: ${message}`, ...task };
    case "rollback_completed":
      return { kind: "completed", message };
    case "updating":
    case "rollback_started":
      return { kind: "progressing" };
    case "":
    case undefined:
      return undefined;
  }
}

function newestFailed(tasks: readonly ApiTask[]): ApiTask | undefined {
  const failed = tasks.filter((task) => FAILED_STATES.has(task.Status.State));
  return failed.length === 0
    ? undefined
    : failed.reduce((best, task) => (task.CreatedAt > best.CreatedAt ? task : best));
}

function stuckReason(chosen: ReadonlyMap<string, ApiTask>): string | undefined {
  const waiting = [...chosen.values()].filter((task) => task.Status.State !== "running");
  const errors = waiting.map((task) => (task.Status.State === "pending" ? (task.Status.Err ?? "") : ""));
  return waiting.length > 0 && errors.every((error) => error !== "") ? errors[0] : undefined;
}

function readJob(reading: Reading, total: number): Progress {
  const iteration = reading.service.JobStatus?.JobIteration?.Index ?? 0;
  const tasks = reading.tasks.filter((task) => (task.JobIteration?.Index ?? 0) === iteration);
  const slotOf = (task: ApiTask): string =>
    reading.service.Spec.Mode?.GlobalJob === undefined ? String(task.Slot ?? 0) : (task.NodeID ?? "");
  const chosen = groupBySlot(tasks, slotOf);
  const done = new Set(tasks.filter((task) => task.Status.State === "complete").map(slotOf)).size;
  const loop = crashLoop(tasks, slotOf);
  const wanted = total > 0 ? total : Math.max(1, chosen.size);
  const verdict: Verdict =
    done >= wanted
      ? { kind: "completed", message: "job complete" }
      : loop === undefined
        ? { kind: "progressing" }
        : { kind: "failed", message: `job failed: ${loop.Status.Err ?? loop.Status.State}`, taskId: loop.ID };
  const rows = [...chosen].map(([slot, task]) => rowOf(slot, task));
  return { rows, running: done, wanted, isRollingBack: false, verdict };
}

/** How far a service is: what runs of what is wanted, and whether waiting for more makes sense. */
export function readProgress(reading: Reading): Progress {
  const { service, tasks, nodes } = reading;
  const mode = service.Spec.Mode;
  if (mode?.ReplicatedJob !== undefined) return readJob(reading, mode.ReplicatedJob.TotalCompletions ?? 1);
  if (mode?.GlobalJob !== undefined) return readJob(reading, 0);
  const upNodes = new Set(nodes.filter((node) => node.Status.State !== "down").map((node) => node.ID));
  const isGlobal = mode?.Global !== undefined;
  const slotOf = (task: ApiTask): string => (isGlobal ? (task.NodeID ?? "") : String(task.Slot ?? 0));
  const live = isGlobal ? tasks.filter((task) => upNodes.has(task.NodeID ?? "")) : tasks;
  const chosen = groupBySlot(live, slotOf);
  const wanted = isGlobal ? Math.max(1, chosen.size) : (mode?.Replicated?.Replicas ?? 1);
  const running = [...chosen.values()].filter((task) => isUp(task, upNodes)).length;
  const isConverged = running >= wanted && (isGlobal || running === wanted);
  const rows = [...chosen]
    .map(([slot, task]) => rowOf(slot, task))
    .sort((left, right) =>
      isGlobal ? (left.slot < right.slot ? -1 : 1) : Number(left.slot) - Number(right.slot),
    );
  const state = service.UpdateStatus?.State ?? "";
  const loop = crashLoop(live, slotOf);
  const byUpdate = updateVerdict(service, isConverged, newestFailed(live));
  const verdict: Verdict =
    byUpdate ??
    (isConverged
      ? { kind: "converged" }
      : loop === undefined
        ? { kind: "progressing" }
        : {
            kind: "failed",
            message: `task failed ${FAILURES_PER_SLOT_MAX} times: ${loop.Status.Err ?? loop.Status.State}`,
            taskId: loop.ID,
          });
  const stuck = stuckReason(chosen);
  return {
    rows,
    running,
    wanted,
    isRollingBack: state.startsWith("rollback"),
    verdict,
    ...(stuck === undefined ? {} : { stuck }),
  };
}
