/**
 * The engine's event ring: the last 256 events for those who ask for the past, and a live feed with a bound for each
 * reader.
 */
import { BoundedQueue } from "../common/bounded-queue.ts";
import { ClusterError } from "../common/errors.ts";
import type { Timers } from "../common/env.ts";
import type { EngineEvent } from "../model/engine.ts";
import type { EventSink } from "./ports.ts";

const RING_EVENTS_MAX = 256;
/** A reader that is this far behind is cut off rather than served with gaps. */
const READER_EVENTS_MAX = 4096;
const NS_PER_MS = 1_000_000;

export class EventRing implements EventSink {
  readonly #timers: Timers;
  readonly #wallMs: () => number;
  readonly #ring: EngineEvent[] = [];
  readonly #readers = new Set<BoundedQueue<EngineEvent>>();
  #lastNs = 0n;

  constructor(options: { readonly timers: Timers; readonly wallMs: () => number }) {
    this.#timers = options.timers;
    this.#wallMs = options.wallMs;
  }

  emit(event: Omit<EngineEvent, "time" | "timeNano" | "scope">): void {
    const now = BigInt(Math.round(this.#wallMs() * 1000)) * 1000n;
    // Strictly growing, so that "since" the last one seen neither repeats nor skips.
    this.#lastNs = now > this.#lastNs ? now : this.#lastNs + 1n;
    const full: EngineEvent = {
      ...event,
      scope: "local",
      time: Number(this.#lastNs / 1_000_000_000n),
      timeNano: this.#lastNs,
    };
    this.#ring.push(full);
    if (this.#ring.length > RING_EVENTS_MAX) this.#ring.shift();
    for (const reader of this.#readers) {
      if (!reader.push(full)) reader.close(new ClusterError("resource_exhausted", "Too slow for the events"));
    }
  }

  async *read(
    options: { readonly sinceMs?: number; readonly untilMs?: number },
    signal: AbortSignal,
  ): AsyncGenerator<EngineEvent, void> {
    const queue = new BoundedQueue<EngineEvent>(READER_EVENTS_MAX);
    const untilNs =
      options.untilMs === undefined ? undefined : BigInt(Math.round(options.untilMs * NS_PER_MS));
    const past =
      options.sinceMs === undefined ? [] : this.#since(BigInt(Math.round(options.sinceMs * NS_PER_MS)));
    this.#readers.add(queue);
    const close = (): void => queue.close();
    signal.addEventListener("abort", close, { once: true });
    const waitMs = options.untilMs === undefined ? undefined : options.untilMs - this.#wallMs();
    const cancel = waitMs === undefined ? undefined : this.#timers.after(Math.max(0, waitMs), close);
    if (signal.aborted) close();
    try {
      for (const event of past) if (untilNs === undefined || BigInt(event.timeNano) <= untilNs) yield event;
      for await (const event of queue) {
        if (untilNs !== undefined && BigInt(event.timeNano) > untilNs) return;
        yield event;
      }
    } finally {
      cancel?.();
      signal.removeEventListener("abort", close);
      this.#readers.delete(queue);
    }
  }

  #since(sinceNs: bigint): readonly EngineEvent[] {
    return this.#ring.filter((event) => BigInt(event.timeNano) >= sinceNs);
  }
}
