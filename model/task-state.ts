/**
 * States of a task, in their order. Numbers have gaps so that a state can be added between two.
 * Observed state only grows; a task's desired state is one of ready, running, complete, shutdown, remove.
 */
export const TaskState = {
  new: 0,
  pending: 64,
  assigned: 192,
  accepted: 256,
  preparing: 320,
  ready: 384,
  starting: 448,
  running: 512,
  complete: 576,
  shutdown: 640,
  failed: 704,
  rejected: 768,
  remove: 800,
  orphaned: 832,
} as const;
export type TaskStateName = keyof typeof TaskState;
export type TaskState = (typeof TaskState)[TaskStateName];

const NAMES = new Map<number, TaskStateName>(
  Object.entries(TaskState).map(([name, value]) => [value, name as TaskStateName]),
);

/** The Docker API's word for a state. */
export function taskStateName(state: TaskState): TaskStateName {
  return NAMES.get(state) ?? "new";
}

/** The state of that name, or undefined. */
export function parseTaskState(name: string): TaskState | undefined {
  return Object.hasOwn(TaskState, name) ? TaskState[name as TaskStateName] : undefined;
}

/** True if nothing more will happen to a task in this observed state. */
export function isTerminal(state: TaskState): boolean {
  return state > TaskState.running;
}

/** True unless the task was told to stop. Jobs are live with a desired state of complete. */
export function isLive(task: { readonly desiredState: TaskState }): boolean {
  return task.desiredState <= TaskState.complete;
}
