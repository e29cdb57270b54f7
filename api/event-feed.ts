/**
 * Docker's event stream: the machine's events from the engine and, on a manager, the cluster's from the store. Keeps the
 * last cluster events for `since`. Started and stopped by the server; /events reads it. Never blocks the store: a reader
 * that falls behind is cut off.
 */
import { BoundedQueue } from "../common/bounded-queue.ts";
import type { Cancel, Component, Env } from "../common/env.ts";
import { ClusterError, hasCode } from "../common/errors.ts";
import type { Logger } from "../common/log.ts";
import type { ClusterControl, SwarmLifecycle } from "../model/cluster-control.ts";
import type { Engine, EngineEvent } from "../model/engine.ts";
import { CONTROL_POLL_MS, EVENT_BACKLOG_COUNT_MAX, EVENT_MERGE_MS, EVENT_RING_COUNT } from "./limits.ts";
import { toEngineEvent } from "./translate/events.ts";

export interface EventFeedDeps {
  readonly engine: Engine;
  readonly swarm: SwarmLifecycle;
  readonly env: Pick<Env, "clock" | "timers">;
  readonly log: Logger;
}

/** Unix milliseconds; absent `sinceMs`: from now on. */
export interface EventRange {
  readonly sinceMs?: number;
  readonly untilMs?: number;
}

export function eventTimeMs(event: EngineEvent): number {
  return Number(BigInt(event.timeNano) / 1000n) / 1000;
}

function isInRange(event: EngineEvent, range: EventRange): boolean {
  const ms = eventTimeMs(event);
  return ms >= (range.sinceMs ?? 0) && ms <= (range.untilMs ?? Number.POSITIVE_INFINITY);
}

export class EventFeed implements Component {
  readonly #deps: EventFeedDeps;
  readonly #ring: EngineEvent[] = [];
  readonly #readers = new Set<BoundedQueue<EngineEvent>>();
  #watched: ClusterControl | undefined;
  #watch: AbortController | undefined;
  #cancelPoll: Cancel = () => {};

  constructor(deps: EventFeedDeps) {
    this.#deps = deps;
  }

  start(): void {
    this.follow();
    this.#cancelPoll = this.#deps.env.timers.every(CONTROL_POLL_MS, () => this.follow());
  }

  stop(): void {
    this.#cancelPoll();
    this.#unwatch();
    for (const reader of this.#readers) reader.close();
  }

  /** Watches the store of this manager if there is one and it isn't watched yet. Called after every change of role. */
  follow(): void {
    const control = this.#deps.swarm.control();
    if (control === this.#watched) return;
    this.#unwatch();
    if (control === undefined) return;
    const watch = new AbortController();
    this.#watched = control;
    this.#watch = watch;
    void this.#run(control, watch.signal);
  }

  /** Ends at the signal; with `untilMs`, the caller aborts in time. Cluster and machine events come as they happen. */
  async *read(range: EventRange, signal: AbortSignal): AsyncGenerator<EngineEvent, void> {
    const queue = new BoundedQueue<EngineEvent>(EVENT_BACKLOG_COUNT_MAX);
    const close = (): void => queue.close();
    signal.addEventListener("abort", close, { once: true });
    this.#readers.add(queue);
    const past = range.sinceMs === undefined ? [] : this.#ring.filter((each) => isInRange(each, range));
    const cancelMerge = this.#deps.env.timers.after(EVENT_MERGE_MS, () => release(past, queue));
    const engineAbort = new AbortController();
    const engineSignal = AbortSignal.any([signal, engineAbort.signal]);
    const engine = this.#pumpEngine(range, { queue, past }, engineSignal);
    try {
      if (!signal.aborted) yield* queue;
    } finally {
      signal.removeEventListener("abort", close);
      this.#readers.delete(queue);
      cancelMerge();
      queue.close();
      engineAbort.abort();
      await engine;
    }
  }

  async #pumpEngine(range: EventRange, into: MergeTarget, signal: AbortSignal): Promise<void> {
    const { queue, past } = into;
    try {
      for await (const event of this.#deps.engine.events(range, signal)) {
        if (queue.isClosed) return;
        release(past, queue, eventTimeMs(event));
        if (!queue.push(event)) queue.close(slowReader());
      }
    } catch (error) {
      if (!signal.aborted) queue.close(ClusterError.from(error));
    }
  }

  async #run(control: ClusterControl, signal: AbortSignal): Promise<void> {
    try {
      for (let after: number | undefined; ;) {
        try {
          for await (const { version, events } of control.watch(signal, after)) {
            after = version;
            for (const change of events) {
              const event = toEngineEvent(change, this.#deps.env.clock.wallMs());
              if (event !== undefined) this.#publish(event);
            }
          }
          return;
        } catch (error) {
          // A burst that was too fast is caught up with from where it was lost.
          if (signal.aborted || after === undefined || !hasCode(error, "resource_exhausted")) throw error;
        }
      }
    } catch (error) {
      // Too far behind: what was lost is lost to readers of events; the next poll starts a new watch.
      if (!signal.aborted && !hasCode(error, "cancelled")) {
        this.#deps.log.warn("watch of cluster events ended", { error });
      }
    } finally {
      if (this.#watched === control && !signal.aborted) this.#unwatch();
    }
  }

  #publish(event: EngineEvent): void {
    this.#ring.push(event);
    if (this.#ring.length > EVENT_RING_COUNT) this.#ring.shift();
    for (const reader of this.#readers) {
      if (!reader.push(event)) reader.close(slowReader());
    }
  }

  #unwatch(): void {
    this.#watch?.abort();
    this.#watch = undefined;
    this.#watched = undefined;
  }
}

interface MergeTarget {
  readonly queue: BoundedQueue<EngineEvent>;
  /** Past events of the cluster that were not delivered yet, oldest first. */
  readonly past: EngineEvent[];
}

/** Delivers past events of the cluster up to a time, or all that wait. */
function release(past: EngineEvent[], queue: BoundedQueue<EngineEvent>, untilMs?: number): void {
  while (past[0] !== undefined && (untilMs === undefined || eventTimeMs(past[0]) <= untilMs)) {
    const event = past.shift();
    if (event !== undefined) queue.push(event);
  }
}

function slowReader(): ClusterError {
  return new ClusterError(
    "resource_exhausted",
    `Cannot follow events: the reader is more than ${EVENT_BACKLOG_COUNT_MAX} events behind`,
  );
}
