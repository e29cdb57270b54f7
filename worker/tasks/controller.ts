/** Runs one task on this machine. The container controller is the real one; the simulator has its own. */
import type { Config, Secret, Task, TaskStatus } from "../../model/objects.ts";

export interface TaskDependencies {
  readonly secrets: ReadonlyMap<string, Secret>;
  readonly configs: ReadonlyMap<string, Config>;
}

export interface TaskEnd {
  readonly exitCode: number;
  /** Empty for a clean exit; else Docker's text, "task: non-zero exit (1)". */
  readonly err: string;
}

/** What a controller knows beyond the state. */
export type TaskFacts = Pick<TaskStatus, "container" | "meshIp" | "ports">;

/** Detail of prepare()'s error: what was heard from elsewhere, in words that are for the status' message rather than its error. */
export const HEARD = "heard";

export interface TaskController {
  /**
   * Makes everything ready to start. Safe to repeat after a crash in the middle. Rejects with why the task can't run
   * here.
   */
  prepare(dependencies: TaskDependencies, signal: AbortSignal): Promise<void>;
  /** Starts, and resolves once the task takes traffic: running and, with a health check, healthy. */
  start(dependencies: TaskDependencies, signal: AbortSignal): Promise<TaskFacts>;
  /** Resolves when it has ended by itself. An unhealthy container is stopped first. */
  watch(signal: AbortSignal): Promise<TaskEnd>;
  /** Stops gracefully. Resolves when nothing of it runs; fine if nothing ever did. */
  shutdown(): Promise<void>;
  /** Removes what shutdown() left: the container and what belongs to it alone. Fine if there is nothing. */
  remove(): Promise<void>;
  facts(): TaskFacts;
}

/** Makes controllers, and finds those that a former daemon left running. */
export interface ControllerFactory {
  create(task: Task): TaskController;
}
