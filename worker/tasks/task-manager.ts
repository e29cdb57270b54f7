/**
 * All tasks of this node: a runner for each assigned one, the record on disk, adoption after a restart. Told the whole set
 * each time; what is missing from it is forgotten and its traces removed.
 */
import type { Clock, Component, Random, Timers } from "../../common/env.ts";
import type { Logger } from "../../common/log.ts";
import type { AssignmentSet } from "../../model/dispatch.ts";
import type { Task, TaskStatus } from "../../model/objects.ts";
import { TaskState } from "../../model/task-state.ts";
import { TASK_START_COUNT_MAX } from "../limits.ts";
import type { ControllerFactory, TaskDependencies } from "./controller.ts";
import { Semaphore } from "../../common/semaphore.ts";
import type { TaskDb } from "./task-db.ts";
import { TaskRunner } from "./task-runner.ts";

export interface TaskManagerDeps {
  readonly clock: Clock;
  readonly timers: Timers;
  readonly random: Random;
  readonly log: Logger;
  readonly controllers: ControllerFactory;
  readonly db: TaskDb;
  /** Towards the manager. */
  readonly report: (taskId: string, status: TaskStatus) => void;
  readonly forget: (taskId: string) => void;
}

export class TaskManager implements Component {
  readonly #deps: TaskManagerDeps;
  readonly #runners = new Map<string, TaskRunner>();
  /** Adopted, but not running: they wait for the first set, since secrets and credentials come with it. */
  readonly #held = new Set<TaskRunner>();
  readonly #startSlots = new Semaphore(TASK_START_COUNT_MAX);
  #dependencies: TaskDependencies = { secrets: new Map(), configs: new Map() };
  #isStopped = false;

  constructor(deps: TaskManagerDeps) {
    this.#deps = deps;
  }

  get taskIds(): readonly string[] {
    return [...this.#runners.keys()];
  }

  /** Takes up what a former daemon left. Their statuses are reported again: the manager may have missed the last one. */
  async start(): Promise<void> {
    for (const { task, status } of await this.#deps.db.load()) {
      const runner = this.#add(task, status);
      if (status.state === TaskState.running) runner.start();
      else this.#held.add(runner);
      this.#deps.report(task.id, status);
    }
  }

  /** Containers go on. */
  async stop(): Promise<void> {
    if (this.#isStopped) return;
    this.#isStopped = true;
    for (const runner of this.#runners.values()) runner.close();
    await this.#deps.db.close();
  }

  apply(set: Pick<AssignmentSet, "tasks" | "secrets" | "configs">): void {
    if (this.#isStopped) return;
    this.#dependencies = { secrets: set.secrets, configs: set.configs };
    for (const [id, runner] of this.#runners) {
      if (!set.tasks.has(id)) runner.forget();
    }
    for (const [id, task] of set.tasks) {
      const runner = this.#runners.get(id);
      if (runner === undefined) this.#add(task, task.status).start();
      else runner.update(task);
    }
    for (const runner of this.#held) runner.start();
    this.#held.clear();
  }

  #add(task: Task, status: TaskStatus): TaskRunner {
    const { clock, timers, random, log } = this.#deps;
    const runner = new TaskRunner(
      {
        clock,
        timers,
        random,
        log,
        // With what was observed last: a container of a former daemon is known by its addresses.
        controller: this.#deps.controllers.create({ ...task, status }),
        startSlots: this.#startSlots,
        dependencies: () => this.#dependencies,
        report: (current, next) => this.#reported(current, next),
        removed: (taskId) => this.#removed(taskId),
      },
      task,
      status,
    );
    this.#runners.set(task.id, runner);
    this.#deps.db.put({ task, status });
    return runner;
  }

  #reported(task: Task, status: TaskStatus): void {
    if (this.#isStopped) return;
    this.#deps.db.put({ task, status });
    this.#deps.report(task.id, status);
  }

  #removed(taskId: string): void {
    this.#runners.delete(taskId);
    this.#deps.forget(taskId);
    if (!this.#isStopped) this.#deps.db.remove(taskId);
  }
}
