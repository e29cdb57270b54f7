/**
 * Reads a container's log files: from the start, the last lines, between two times, following what comes, across rotation and
 * compression. Several readers may read at once; the monitor alone writes.
 */
import { watch } from "node:fs";
import * as fs from "node:fs/promises";
import path from "node:path";
import { setImmediate } from "node:timers/promises";
import { promisify } from "node:util";
import { gunzip } from "node:zlib";
import type { Timers } from "../../common/env.ts";
import { rfc3339OfNanoseconds } from "../../common/time.ts";
import type { LogOptions, LogLine } from "../../model/engine.ts";
import type { LogFormat } from "./log-formats.ts";
import { fileIdentity, logIdentity } from "./log-compression.ts";

const READ_BYTES = 128 * 1024;
/** Safety net for file systems that report no changes. */
const FOLLOW_POLL_MS = 250;
const ROTATED_FILES_MAX = 1000;
/** A log that rotates faster than its files can be listed is read with a gap rather than never. */
const LIST_ATTEMPTS_MAX = 1000;

export interface LogSource {
  readonly path: string;
  readonly format: LogFormat;
  readonly isRunning: () => boolean;
  /** Called when the container changes state. */
  readonly changed: Set<() => void>;
  readonly timers: Timers;
}

/** A log file that is held open: its name may change while it is read. */
interface HeldFile {
  readonly handle: fs.FileHandle;
  /** As logIdentity() gives it. */
  readonly identity: string;
  readonly isCompressed: boolean;
}

interface NamedFile {
  readonly name: string;
  readonly identity: string;
}

/** Live file first, then newest first. undefined if a rotation is going on: one name is missing then, and another is behind it. */
function listFiles(live: string): readonly NamedFile[] | undefined {
  const files: NamedFile[] = [];
  let gaps = 0;
  for (let number = 0; number < ROTATED_FILES_MAX && gaps < 2; number++) {
    const plain = number === 0 ? live : `${live}.${number}`;
    const found = logIdentity(plain);
    const name = found === undefined ? `${plain}.gz` : plain;
    const identity = found ?? logIdentity(name);
    if (identity === undefined) gaps++;
    else if (gaps > 0) return undefined;
    else files.push({ name, identity });
  }
  return files;
}

/** Two equal looks, one after the other: nothing moved between them. */
async function stableFiles(live: string): Promise<readonly NamedFile[]> {
  let last = listFiles(live);
  for (let attempt = 1; attempt < LIST_ATTEMPTS_MAX; attempt++) {
    // Whoever moves files gets a chance in between.
    await setImmediate();
    const next = listFiles(live);
    const isSame =
      last?.length === next?.length && last?.every((each, at) => each.identity === next?.[at]?.identity);
    if (next !== undefined && isSame === true) return next;
    last = next;
  }
  return last ?? [];
}

/** Opens what had this identity a moment ago; undefined if the name means another file now. */
async function openSame({ name, identity }: NamedFile): Promise<HeldFile | undefined> {
  const handle = await fs.open(name, "r").catch(() => undefined);
  if (handle === undefined) return undefined;
  const isCompressed = name.endsWith(".gz");
  const opened = fileIdentity(await handle.stat({ bigint: true }));
  // A compressed file has the identity of its origin; the name is asked again after it was opened.
  if ((isCompressed ? logIdentity(name) : opened) === identity) return { handle, identity, isCompressed };
  await handle.close();
  return undefined;
}

async function closeAll(files: readonly HeldFile[]): Promise<void> {
  for (const { handle } of files) await handle.close();
}

/** All files of one moment, the live one first: with a rotation in between one would show twice or not at all. */
async function openAll(live: string): Promise<readonly HeldFile[]> {
  for (let attempt = 1; ; attempt++) {
    const names = await stableFiles(live);
    const files: HeldFile[] = [];
    for (const name of names) {
      const file = await openSame(name);
      if (file === undefined) break;
      files.push(file);
    }
    if (files.length === names.length || attempt >= LIST_ATTEMPTS_MAX) return files;
    await closeAll(files);
  }
}

async function readWhole({ handle, isCompressed }: HeldFile): Promise<Buffer> {
  const bytes = await handle.readFile();
  return isCompressed ? promisify(gunzip)(bytes) : bytes;
}

class LogFollower {
  readonly #source: LogSource;
  readonly #signal: AbortSignal;
  #wake: (() => void) | undefined;
  readonly #close: (() => void)[] = [];
  #isWoken = false;

  constructor(source: LogSource, signal: AbortSignal) {
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
    } catch {
      // Out of watches: the poll below does.
    }
  }

  async wait(): Promise<void> {
    if (this.#isWoken || this.#signal.aborted) {
      this.#isWoken = false;
      return;
    }
    await new Promise<void>((resolve) => {
      const cancel = this.#source.timers.after(FOLLOW_POLL_MS, resolve);
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

/** The file that came after the one with `identity`; undefined if that one is still the live one. */
async function openAfter(live: string, identity: string): Promise<HeldFile | undefined> {
  for (let attempt = 1; attempt < LIST_ATTEMPTS_MAX; attempt++) {
    const files = await stableFiles(live);
    const at = files.findIndex((each) => each.identity === identity);
    if (at === 0 || files.length === 0) return undefined;
    // Dropped meanwhile: the oldest that is left comes next.
    const next = files.at(at < 0 ? -1 : at - 1);
    const held = next === undefined ? undefined : await openSame(next);
    if (held !== undefined) return held;
  }
  return undefined;
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
