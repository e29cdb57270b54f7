/**
 * What to do next for a task, from what is wanted and what is so. Pure: the runner asks after every step and every change
 * of desired state, so a restart of the daemon resumes in the middle by asking the same question.
 */
import { isTerminal, TaskState } from "../../model/task-state.ts";

export type Step =
  /** Tell the manager that the task has arrived. */
  | "accept"
  /** Image, volumes, container. */
  | "prepare"
  /** Run it and wait until it is healthy. */
  | "start"
  /** It runs: wait for its end. */
  | "watch"
  /** Stop it gracefully, where it got that far, and report SHUTDOWN. */
  | "shutdown"
  /** The manager has forgotten the task: stop and remove all traces. */
  | "remove"
  /** Nothing until something changes. */
  | "idle";

export interface TaskSituation {
  readonly desired: TaskState;
  /** Observed state as last reported. */
  readonly observed: TaskState;
  /** No longer among the assignments. */
  readonly isForgotten: boolean;
}

export function nextStep({ desired, observed, isForgotten }: TaskSituation): Step {
  // "remove" is a stop like any other until the manager, told of its end, forgets the task.
  if (isForgotten) return "remove";
  if (isTerminal(observed)) return "idle";
  if (desired >= TaskState.shutdown) return "shutdown";
  if (observed < TaskState.accepted) return "accept";
  if (observed < TaskState.ready) return "prepare";
  // A task that is prepared ahead of time (stop-first updates) waits here until its predecessor is gone.
  if (desired <= TaskState.ready && observed < TaskState.starting) return "idle";
  return observed < TaskState.running ? "start" : "watch";
}
