/**
 * Drives one task from step to step: asks next-step, lets the controller do it, reports each state once. Steps before the
 * end are interrupted when the task shall stop; observed state only grows.
 */
import { Backoff } from "../../common/backoff.ts";
import type { Clock, Random, Timers } from "../../common/env.ts";
import { ClusterError } from "../../common/errors.ts";
import type { Logger } from "../../common/log.ts";
import { rfc3339 } from "../../common/time.ts";
import type { Task, TaskStatus } from "../../model/objects.ts";
import { isTerminal, TaskState } from "../../model/task-state.ts";
import { STEP_RETRY } from "../limits.ts";
import { HEARD, type TaskController, type TaskDependencies, type TaskFacts } from "./controller.ts";
import { nextStep, type Step } from "./next-step.ts";
import type { Semaphore } from "../../common/semaphore.ts";

export interface TaskRunnerDeps {
  readonly clock: Clock;
  readonly timers: Timers;
  readonly random: Random;
  readonly log: Logger;
  readonly controller: TaskController;
  /** Bounds how many tasks of the node prepare at once; starts are bounded by the runtime. */
  readonly startSlots: Semaphore;
  readonly dependencies: () => TaskDependencies;
  /** Records the status and reports it to the manager. */
  readonly report: (task: Task, status: TaskStatus) => void;
  /** All traces are gone. */
  readonly removed: (taskId: string) => void;
}

export class TaskRunner {
  readonly #deps: TaskRunnerDeps;
  readonly #backoff: Backoff;
  #task: Task;
  #status: TaskStatus;
  #isForgotten = false;
  #isClosed = false;
  #wake: (() => void) | undefined;
  #hasChanged = false;
  #step: { readonly name: Step; readonly abort: AbortController } | undefined;
  #retryCount = 0;

  /** `status` is what was last observed: the task's own when new, the recorded one after a restart. */
  constructor(deps: TaskRunnerDeps, task: Task, status: TaskStatus) {
    this.#deps = deps;
    this.#task = task;
    this.#status = status;
    this.#backoff = new Backoff(deps.random, STEP_RETRY);
  }

  get status(): TaskStatus {
    return this.#status;
  }

  start(): void {
    void this.#run();
  }

  /** Leaves the task as it is; a later daemon goes on with it. */
  close(): void {
    this.#isClosed = true;
    this.#step?.abort.abort();
    this.#notify();
  }

  /** The manager's newest word on the task. */
  update(task: Task): void {
    this.#task = task;
    this.#changed();
  }

  /** The task is no longer assigned. */
  forget(): void {
    this.#isForgotten = true;
    this.#changed();
  }

  #changed(): void {
    const running = this.#step;
    if (running !== undefined && this.#next() !== running.name && isInterruptible(running.name)) {
      running.abort.abort();
    }
    this.#notify();
  }

  #notify(): void {
    this.#hasChanged = true;
    this.#wake?.();
  }

  #next(): Step {
    return nextStep({
      desired: this.#task.desiredState,
      observed: this.#status.state,
      isForgotten: this.#isForgotten,
    });
  }

  async #run(): Promise<void> {
    while (!this.#isClosed) {
      const name = this.#next();
      if (name === "idle") {
        await this.#untilChanged();
        continue;
      }
      const abort = new AbortController();
      this.#step = { name, abort };
      try {
        await this.#perform(name, abort.signal);
        this.#retryCount = 0;
        this.#backoff.reset();
        if (name === "remove") return;
      } catch (caught) {
        if (!this.#isClosed && !abort.signal.aborted) await this.#failed(name, ClusterError.from(caught));
      } finally {
        this.#step = undefined;
      }
    }
  }

  async #untilChanged(): Promise<void> {
    while (!this.#hasChanged && !this.#isClosed) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    this.#hasChanged = false;
  }

  async #perform(name: Exclude<Step, "idle">, signal: AbortSignal): Promise<void> {
    const { controller } = this.#deps;
    switch (name) {
      case "accept":
        this.#report(TaskState.accepted, "accepted");
        return;
      case "prepare":
        this.#report(TaskState.preparing, "preparing");
        await this.#deps.startSlots.run(() => controller.prepare(this.#deps.dependencies(), signal), signal);
        this.#report(TaskState.ready, "prepared");
        return;
      case "start": {
        this.#report(TaskState.starting, "starting");
        const facts = await controller.start(this.#deps.dependencies(), signal);
        this.#report(TaskState.running, "started", facts);
        return;
      }
      case "watch": {
        const end = await controller.watch(signal);
        const facts = controller.facts();
        if (end.err === "") this.#report(TaskState.complete, "finished", facts);
        else this.#report(TaskState.failed, "started", facts, end.err);
        return;
      }
      case "shutdown":
        await controller.shutdown();
        this.#report(TaskState.shutdown, "shutdown", controller.facts());
        return;
      case "remove":
        await controller.shutdown();
        await controller.remove();
        this.#deps.removed(this.#task.id);
        return;
    }
  }

  /**
   * A task that can't be prepared is rejected, one that can't start or breaks has failed; passing troubles are tried
   * again.
   */
  async #failed(name: Step, error: ClusterError): Promise<void> {
    const { log } = this.#deps;
    const isFinalStep = name === "shutdown" || name === "remove";
    const mayRetry = isFinalStep || (error.retryable && this.#retryCount < STEP_RETRY.countMax);
    if (mayRetry) {
      this.#retryCount += 1;
      log.warn("task step is tried again", { taskId: this.#task.id, step: name, error });
      await this.#pause(this.#backoff.nextMs());
      return;
    }
    log.warn("task step did not succeed", { taskId: this.#task.id, step: name, error });
    const facts = this.#deps.controller.facts();
    if (name === "prepare") {
      const heard = error.details[HEARD];
      const message = typeof heard === "string" ? `preparing: ${heard}` : "preparing";
      this.#report(TaskState.rejected, message, facts, error.message);
      return;
    }
    await this.#deps.controller.shutdown().catch((caught: unknown) => {
      log.warn("failed task could not be stopped", { taskId: this.#task.id, error: caught });
    });
    this.#report(TaskState.failed, "starting", this.#deps.controller.facts(), error.message);
  }

  #pause(delayMs: number): Promise<void> {
    return new Promise((resolve) => {
      this.#deps.timers.after(delayMs, resolve);
    });
  }

  #report(state: TaskState, message: string, facts: TaskFacts = {}, err = ""): void {
    // Observed state never goes back: a repeated step after a restart says nothing new.
    if (state <= this.#status.state || isTerminal(this.#status.state)) return;
    const timestamp = rfc3339(this.#deps.clock.wallMs());
    const { container, meshIp, ports } = { ...this.#status, ...facts };
    const ranAt = state === TaskState.running ? timestamp : this.#status.ranAt;
    this.#status = {
      state,
      timestamp,
      message,
      err,
      ...(ranAt === undefined ? {} : { ranAt }),
      ...(container === undefined ? {} : { container }),
      ...(meshIp === undefined ? {} : { meshIp }),
      ...(ports === undefined ? {} : { ports }),
    };
    this.#deps.report(this.#task, this.#status);
  }
}

/** A stop that is under way is never cut short; everything else gives way to what the manager wants now. */
function isInterruptible(name: Step): boolean {
  return name === "prepare" || name === "start" || name === "watch";
}
