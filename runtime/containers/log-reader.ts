/**
 * Reads a container's log files: from the start, the last lines, between two times, following what comes, across rotation and
 * compression. Several readers may read at once; the monitor alone writes.
 */
import { watch } from "node:fs";
import type * as fs from "node:fs/promises";
import path from "node:path";
import type { Timers } from "../../common/env.ts";
import { rfc3339OfNanoseconds } from "../../common/time.ts";
import type { LogOptions, LogLine } from "../../model/engine.ts";
import type { LogFormat } from "./log-formats.ts";
import { closeAll, openAfter, openAll, readWhole } from "./log-files.ts";

const READ_BYTES = 128 * 1024;
/** Safety net for file systems that report no changes. */
const FOLLOW_POLL_MS = 250;

/** What tells that a log may have grown. */
export interface LogNews {
  readonly path: string;
  /** Called when the container changes state. */
  readonly changed: Set<() => void>;
  readonly timers: Timers;
}

export interface LogSource extends LogNews {
  readonly format: LogFormat;
  readonly isRunning: () => boolean;
}

/** Wakes its owner when a log may have grown, and now and then besides. */
export class LogFollower {
  readonly #source: LogNews;
  readonly #signal: AbortSignal;
  #wake: (() => void) | undefined;
  readonly #close: (() => void)[] = [];
  #isWoken = false;
  #isWatching = false;

  constructor(source: LogNews, signal: AbortSignal) {
    this.#source = source;
    this.#signal = signal;
    const wake = (): void => {
      this.#isWoken = true;
      this.#wake?.();
    };
    source.changed.add(wake);
    signal.addEventListener("abort", wake, { once: true });
    this.#close.push(() => {
      source.changed.delete(wake);
      signal.removeEventListener("abort", wake);
    });
    try {
      const watcher = watch(path.dirname(source.path), wake);
      watcher.on("error", () => undefined);
      this.#close.push(() => watcher.close());
      this.#isWatching = true;
    } catch {
      // Out of watches: the poll below does.
    }
  }

  /** `quietMs`: how long without news where the file system tells of changes. */
  async wait(quietMs: number = FOLLOW_POLL_MS): Promise<void> {
    if (this.#isWoken || this.#signal.aborted) {
      this.#isWoken = false;
      return;
    }
    await new Promise<void>((resolve) => {
      const cancel = this.#source.timers.after(this.#isWatching ? quietMs : FOLLOW_POLL_MS, resolve);
      this.#wake = () => {
        cancel();
        resolve();
      };
    });
    this.#isWoken = false;
    this.#wake = undefined;
  }

  close(): void {
    for (const each of this.#close) each();
  }
}

/** Lines of one open file from `offset` to its present end. A line without its newline stays for the next call. */
class FileLines {
  readonly handle: fs.FileHandle;
  #offset: number;
  #rest: Buffer = Buffer.alloc(0);
  readonly #format: LogFormat;

  constructor(handle: fs.FileHandle, format: LogFormat, offset: number) {
    this.handle = handle;
    this.#format = format;
    this.#offset = offset;
  }

  async *available(): AsyncGenerator<LogLine, void> {
    const buffer = Buffer.allocUnsafe(READ_BYTES);
    while (true) {
      if ((await this.handle.stat()).size < this.#offset) {
        // Truncated: a log of one file starts anew when it is full.
        this.#offset = 0;
        this.#rest = Buffer.alloc(0);
      }
      const { bytesRead } = await this.handle.read(buffer, 0, READ_BYTES, this.#offset);
      if (bytesRead === 0) return;
      this.#offset += bytesRead;
      const all = Buffer.concat([this.#rest, buffer.subarray(0, bytesRead)]);
      const { lines, used } = this.#format.take(all);
      this.#rest = all.subarray(used);
      yield* lines;
    }
  }
}

async function* storedLines(
  source: LogSource,
  options: LogOptions,
  signal: AbortSignal,
): AsyncGenerator<LogLine, void> {
  const [live, ...newestFirst] = await openAll(source.path);
  if (live === undefined) return;
  const { handle } = live;
  const { format } = source;
  const linesOf = (bytes: Buffer): readonly LogLine[] => format.take(bytes).lines;
  let current = live;
  try {
    const rotated = newestFirst.toReversed();
    let offset = 0;
    if (options.tail === undefined) {
      for (const file of rotated) yield* linesOf(await readWhole(file));
    } else {
      const tail = await format.tailOffset(handle, Math.max(0, options.tail));
      offset = options.tail === 0 ? (await handle.stat()).size : tail.offset;
      let missing = options.tail - tail.found;
      const older: (readonly LogLine[])[] = [];
      for (const file of rotated.toReversed()) {
        if (missing <= 0) break;
        const lines = linesOf(await readWhole(file)).slice(-missing);
        older.unshift(lines);
        missing -= lines.length;
      }
      for (const lines of older) yield* lines;
    }
    let lines = new FileLines(handle, format, offset);
    yield* lines.available();
    if (!options.follow) return;
    const follower = new LogFollower(source, signal);
    try {
      while (!signal.aborted) {
        const wasRunning = source.isRunning();
        if (!current.isCompressed) yield* lines.available();
        const next = await openAfter(source.path, current.identity);
        if (next !== undefined) {
          // What was written between the last read and the move.
          if (!current.isCompressed) yield* lines.available();
          await current.handle.close();
          current = next;
          if (next.isCompressed) yield* linesOf(await readWhole(next));
          else lines = new FileLines(next.handle, format, 0);
          continue;
        }
        if (!wasRunning) return;
        await follower.wait();
      }
    } finally {
      follower.close();
    }
  } finally {
    await closeAll([...newestFirst, current]);
  }
}

export async function* readLog(
  source: LogSource,
  options: LogOptions,
  signal: AbortSignal,
): AsyncGenerator<LogLine, void> {
  const bound = (ms: number | undefined): string | undefined =>
    ms === undefined ? undefined : rfc3339OfNanoseconds(BigInt(Math.round(ms * 1e6)) || 1n);
  const since = bound(options.sinceMs);
  const until = bound(options.untilMs);
  const ending = new AbortController();
  const waitMs = options.untilMs === undefined ? undefined : options.untilMs - Date.now();
  const cancel =
    waitMs === undefined || !options.follow
      ? undefined
      : source.timers.after(Math.max(0, waitMs), () => ending.abort());
  try {
    for await (const line of storedLines(source, options, AbortSignal.any([signal, ending.signal]))) {
      // Both have nine digits, so that text order is time order.
      if (since !== undefined && line.timestamp < since) continue;
      if (until !== undefined && line.timestamp > until) return;
      if (line.stream === "stdout" ? !options.stdout : !options.stderr) continue;
      yield line;
    }
  } finally {
    cancel?.();
  }
}
