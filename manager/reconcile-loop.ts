/**
 * The life of a loop that holds no truth: read a view, note what changed, act, wait for the watch. All that
 * only the leader runs (leader-loops.ts) is made of these. One run at a time; changes during a run cause another.
 * After a failure or a lost watch it starts over from a full scan.
 */
import type { Cancel, Clock, Component, Random, Timers } from "../common/env.ts";
import { Backoff } from "../common/backoff.ts";
import { ClusterError } from "../common/errors.ts";
import type { Logger } from "../common/log.ts";
import type { StoreEvent, TableName } from "../model/objects.ts";
import type { StoreView } from "../model/store-view.ts";
import {
  LOOP_REST_MAX_MS,
  LOOP_REST_MIN_MS,
  LOOP_REST_PER_PLANNING,
  LOOP_RETRY_FIRST_MS,
  LOOP_RETRY_MAX_MS,
} from "./limits.ts";
import type { LoopTally } from "./loop-tally.ts";
import type { Store, Watch, WatchItem } from "./store/store.ts";

export interface LoopDeps {
  readonly store: Store;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly random: Random;
  readonly log: Logger;
  readonly tally?: LoopTally;
}

export interface LoopOptions {
  /** Stands in logs and in the tally. */
  readonly name: string;
  /** Tables whose changes are observed. */
  readonly tables: readonly TableName[];
  /** Wait after the first change, so that more can join. Default: the rest of the turn. */
  readonly debounceMs?: number;
  /**
   * Rest after a run in proportion to how long it planned: for loops that look at a whole service for each of its changes, and
   * else would take up the processor while one with thousands of tasks is rolled out.
   */
  readonly restsAfterPlanning?: boolean;
}

export abstract class ReconcileLoop implements Component {
  protected readonly deps: LoopDeps;
  readonly #options: LoopOptions;
  readonly #log: Logger;
  readonly #backoff: Backoff;
  #abort = new AbortController();
  #watch: Watch | undefined;
  #scheduled: Cancel | undefined;
  #alarm: { readonly dueMs: number; readonly cancel: Cancel } | undefined;
  #run: Promise<void> | undefined;
  #isWokenWhileRunning = false;
  /** Start over once the run that is under way has ended. */
  #isReloadDue = false;
  /** Monotonic time before which no run begins. */
  #restUntilMs = 0;
  #isStopped = true;

  protected constructor(deps: LoopDeps, options: LoopOptions) {
    this.deps = deps;
    this.#options = options;
    this.#log = deps.log.child({ loop: options.name });
    this.#backoff = new Backoff(deps.random, { firstMs: LOOP_RETRY_FIRST_MS, maxMs: LOOP_RETRY_MAX_MS });
  }

  /** Forgets everything; notes what this view needs done. */
  protected abstract load(view: StoreView): void;
  /** Notes what this change needs done. Cheap: called for every event. True if there is something to do. */
  protected abstract observe(event: StoreEvent): boolean;
  /** Does what was noted. May be called with nothing noted. */
  protected abstract reconcile(signal: AbortSignal): Promise<void>;

  start(): void {
    this.#isStopped = false;
    this.#abort = new AbortController();
    this.#reload();
  }

  /** Resolves when the run that is under way has ended. */
  async stop(): Promise<void> {
    if (this.#isStopped) return;
    this.#isStopped = true;
    this.#watch?.cancel();
    this.#scheduled?.();
    this.#alarm?.cancel();
    this.#scheduled = undefined;
    this.#alarm = undefined;
    this.#abort.abort(new ClusterError("cancelled", `Loop "${this.#options.name}" was stopped`));
    await this.#run;
  }

  /**
   * A view with all that this manager wrote before, or without what of it was lost. Who leads and starts over may have given
   * away in writes still in flight, which no view shows yet, what it would then give again.
   */
  protected async settledView(signal: AbortSignal): Promise<StoreView> {
    const { store } = this.deps;
    await store.update(() => undefined, { signal });
    return store.view();
  }

  /** Causes a run soon. */
  protected wake(): void {
    if (this.#isStopped) return;
    if (this.#run !== undefined) {
      this.#isWokenWhileRunning = true;
      return;
    }
    if (this.#scheduled !== undefined) return;
    const run = (): void => {
      this.#scheduled = undefined;
      this.#start();
    };
    const { debounceMs = 0, restsAfterPlanning = false } = this.#options;
    const restMs = restsAfterPlanning ? this.#restUntilMs - this.deps.clock.monotonicMs() : 0;
    const waitMs = Math.max(debounceMs, restMs);
    this.#scheduled = waitMs > 0 ? this.deps.timers.after(waitMs, run) : this.deps.timers.soon(run);
  }

  /** Causes a run at a monotonic time, or earlier if one was asked for. */
  protected wakeAt(dueMs: number): void {
    if (this.#isStopped || (this.#alarm !== undefined && this.#alarm.dueMs <= dueMs)) return;
    this.#alarm?.cancel();
    const delayMs = Math.max(0, dueMs - this.deps.clock.monotonicMs());
    const cancel = this.deps.timers.after(delayMs, () => {
      this.#alarm = undefined;
      this.wake();
    });
    this.#alarm = { dueMs, cancel };
  }

  /** Not during a run: what it writes is not in a view yet, and what it was planned from must not change under it. */
  #reload(): void {
    if (this.#run !== undefined) {
      this.#isReloadDue = true;
      return;
    }
    this.#isReloadDue = false;
    this.#watch?.cancel();
    const { view, watch } = this.deps.store.viewAndWatch({ tables: this.#options.tables }, (items) =>
      this.#receive(items),
    );
    this.#watch = watch;
    this.load(view);
    this.wake();
  }

  #receive(items: readonly WatchItem[]): void {
    if (this.#isStopped) return;
    let isNoted = false;
    for (const item of items) {
      if (item.kind === "resync") {
        this.#reload();
        return;
      }
      if (item.kind === "event") isNoted = this.observe(item.event) || isNoted;
    }
    if (isNoted) this.wake();
  }

  #start(): void {
    // Asked for by a run before its first wait.
    if (this.#run !== undefined) {
      this.#isWokenWhileRunning = true;
      return;
    }
    this.#isWokenWhileRunning = false;
    const { clock, tally } = this.deps;
    const startedMs = clock.monotonicMs();
    const ended = (isFailed: boolean): void =>
      tally?.ran(this.#options.name, clock.monotonicMs() - startedMs, isFailed);
    const done = this.reconcile(this.#abort.signal);
    // It has planned by now and waits for its writes, during which the processor is free for others.
    if (this.#options.restsAfterPlanning === true) {
      const plannedMs = clock.monotonicMs() - startedMs;
      this.#restUntilMs = startedMs + plannedMs + restAfter(plannedMs);
    }
    this.#run = done
      .then(
        () => {
          ended(false);
          this.#backoff.reset();
        },
        (caught: unknown) => {
          ended(!this.#isStopped);
          this.#retryLater(caught);
        },
      )
      .then(() => {
        this.#run = undefined;
        if (this.#isStopped) return;
        if (this.#isReloadDue) this.#reload();
        else if (this.#isWokenWhileRunning) this.wake();
      });
  }

  #retryLater(caught: unknown): void {
    if (this.#isStopped) return;
    const error = ClusterError.from(caught);
    const delayMs = this.#backoff.nextMs();
    // A store that lost leadership refuses; the manager stops the loops then.
    if (error.code === "unavailable") this.#log.info("loop waits for the store", { error, delayMs });
    else
      this.#log.error("loop starts over", {
        error,
        stack: error.cause instanceof Error ? error.cause.stack : "",
        delayMs,
      });
    this.deps.timers.after(delayMs, () => {
      if (!this.#isStopped) this.#reload();
    });
  }
}

function restAfter(plannedMs: number): number {
  const restMs = plannedMs * LOOP_REST_PER_PLANNING;
  return restMs < LOOP_REST_MIN_MS ? 0 : Math.min(restMs, LOOP_REST_MAX_MS);
}
