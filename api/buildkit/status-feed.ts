/**
 * What a build has told, for clients that draw it. A reader gets everything that it has not had, newest state of each step
 * and bar only, as fast as it reads; output beyond a bound is dropped, the oldest first.
 */
import type { Timers } from "../../common/env.ts";
import type { BuildEvent, BuildSource } from "../../model/build.ts";
import type { buildkit } from "../../proto/buildkit-messages.ts";
import { KEPT_OUTPUT_BYTES_MAX, OUTPUT_BYTES_PER_MESSAGE, WAITING_OUTPUT_BYTES_MAX } from "./limits.ts";

/** Instead of output that nobody read in time. */
const CLIPPED = Buffer.from("\n[output clipped: it came faster than it was read]\n");
const STREAMS = { stdout: 1, stderr: 2 } as const;

interface Stamped {
  readonly event: BuildEvent;
  readonly atMs: number;
}

class EventBuffer {
  readonly #outputBytesMax: number;
  readonly #states = new Map<string, Stamped>();
  #output: Stamped[] = [];
  #outputBytes = 0;

  constructor(outputBytesMax: number) {
    this.#outputBytesMax = outputBytesMax;
  }

  get isEmpty(): boolean {
    return this.#states.size === 0 && this.#output.length === 0;
  }

  add(stamped: Stamped): void {
    const { event } = stamped;
    switch (event.kind) {
      case "log":
        this.#output.push(stamped);
        this.#outputBytes += event.content.byteLength;
        this.#trim();
        return;
      case "vertex":
        this.#keep(`vertex ${event.vertex.digest}`, stamped);
        return;
      case "transfer":
        this.#keep(`transfer ${event.transfer.vertex} ${event.transfer.id}`, stamped);
        return;
      case "warning":
        this.#keep(`warning ${event.vertex} ${event.text}`, stamped);
        return;
      case "failure":
    }
  }

  /** Clients show steps in the order of their news. */
  #keep(key: string, stamped: Stamped): void {
    this.#states.delete(key);
    this.#states.set(key, stamped);
  }

  #trim(): void {
    let dropped = 0;
    while (this.#outputBytes > this.#outputBytesMax && dropped < this.#output.length - 1) {
      const { event } = this.#output[dropped++] ?? {};
      if (event?.kind === "log") this.#outputBytes -= event.content.byteLength;
    }
    if (dropped === 0) return;
    const last = this.#output[dropped - 1];
    this.#output.splice(0, dropped);
    if (last?.event.kind !== "log") return;
    // Stands in front of what is left, once.
    const { vertex, stream } = last.event;
    this.#output.unshift({ ...last, event: { kind: "log", vertex, stream, content: CLIPPED } });
    this.#outputBytes += CLIPPED.byteLength;
  }

  all(): readonly Stamped[] {
    return [...this.#states.values(), ...this.#output];
  }

  /** All states and as much of the output as one message may have; they are gone from here. */
  take(): readonly Stamped[] {
    let count = 0;
    for (let bytes = 0; count < this.#output.length && bytes < OUTPUT_BYTES_PER_MESSAGE; count++) {
      const event = this.#output[count]?.event;
      if (event?.kind === "log") bytes += event.content.byteLength;
    }
    const taken = [...this.#states.values(), ...this.#output.splice(0, count)];
    this.#states.clear();
    for (const { event } of taken) if (event.kind === "log") this.#outputBytes -= event.content.byteLength;
    return taken;
  }
}

class Reader {
  readonly buffer = new EventBuffer(WAITING_OUTPUT_BYTES_MAX);
  #wake: (() => void) | undefined;

  wake(): void {
    this.#wake?.();
  }

  wait(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }
}

export class StatusFeed {
  readonly #nowMs: () => number;
  readonly #kept = new EventBuffer(KEPT_OUTPUT_BYTES_MAX);
  readonly #readers = new Set<Reader>();
  #isOver = false;
  #onDrained: (() => void) | undefined;

  constructor(nowMs: () => number) {
    this.#nowMs = nowMs;
  }

  push(event: BuildEvent): void {
    const stamped = { event, atMs: this.#nowMs() };
    this.#kept.add(stamped);
    for (const reader of this.#readers) {
      reader.buffer.add(stamped);
      reader.wake();
    }
  }

  /** Nothing follows; readers get what there is and then the end. */
  end(): void {
    this.#isOver = true;
    for (const reader of this.#readers) reader.wake();
  }

  /** Resolves when every reader has had everything after end(), or after `waitMs`. */
  async drained(timers: Timers, waitMs: number): Promise<void> {
    if (this.#readers.size === 0) return;
    await new Promise<void>((resolve) => {
      const cancel = timers.after(waitMs, resolve);
      this.#onDrained = () => {
        cancel();
        resolve();
      };
    });
  }

  async *read(signal: AbortSignal): AsyncGenerator<buildkit.IStatusResponse, void> {
    const reader = new Reader();
    for (const stamped of this.#kept.all()) reader.buffer.add(stamped);
    this.#readers.add(reader);
    const wake = (): void => reader.wake();
    signal.addEventListener("abort", wake);
    try {
      while (!signal.aborted) {
        if (!reader.buffer.isEmpty) {
          yield statusOf(reader.buffer.take());
        } else if (this.#isOver) return;
        else await reader.wait();
      }
    } finally {
      signal.removeEventListener("abort", wake);
      this.#readers.delete(reader);
      if (this.#readers.size === 0) this.#onDrained?.();
    }
  }
}

export function timestamp(ms: number): buildkit.ITimestamp {
  const seconds = Math.floor(ms / 1000);
  return { seconds, nanos: Math.round((ms - seconds * 1000) * 1e6) };
}

function optionalTime(ms: number | undefined): buildkit.ITimestamp | null {
  return ms === undefined ? null : timestamp(ms);
}

export function sourceRanges(source: BuildSource): readonly buildkit.IRange[] {
  const place = (line: number): buildkit.IPosition => ({ line });
  return [{ start: place(source.firstLine), end: place(source.lastLine) }];
}

function statusOf(events: readonly Stamped[]): buildkit.IStatusResponse {
  const vertexes: buildkit.IVertex[] = [];
  const statuses: buildkit.IVertexStatus[] = [];
  const logs: buildkit.IVertexLog[] = [];
  const warnings: buildkit.IVertexWarning[] = [];
  for (const { event, atMs } of events) {
    switch (event.kind) {
      case "vertex": {
        const { digest, inputs, name, isCached, startedMs, completedMs, error } = event.vertex;
        const [started, completed] = [optionalTime(startedMs), optionalTime(completedMs)];
        vertexes.push({ digest, inputs: [...inputs], name, cached: isCached, started, completed, error });
        break;
      }
      case "transfer": {
        const { startedMs, completedMs, ...rest } = event.transfer;
        const [started, completed] = [timestamp(startedMs), optionalTime(completedMs)];
        statuses.push({ ...rest, timestamp: timestamp(atMs), started, completed });
        break;
      }
      case "log":
        logs.push({
          vertex: event.vertex,
          timestamp: timestamp(atMs),
          stream: STREAMS[event.stream],
          msg: event.content,
        });
        break;
      case "warning":
        warnings.push({
          vertex: event.vertex,
          level: 1,
          short: Buffer.from(event.text),
          ...(event.source === undefined ? {} : warningSource(event.source)),
        });
        break;
      case "failure":
    }
  }
  return { vertexes, statuses, logs, warnings };
}

function warningSource(source: BuildSource): Pick<buildkit.IVertexWarning, "info" | "ranges"> {
  const { filename, content } = source;
  return { info: { filename, data: Buffer.from(content) }, ranges: [...sourceRanges(source)] };
}
