/**
 * Reads a container's log from a position that outlives the daemon to its end, and on when more has come, across rotation and
 * compression. The monitor alone writes.
 */
import {
  closeAll,
  openAll,
  openAfter,
  readWhole,
  stableFiles,
  type HeldFile,
} from "../containers/log-files.ts";
import type { LogFormat, StoredLogLine } from "../containers/log-formats.ts";
import { logIdentity } from "../containers/log-compression.ts";

/** Several of the longest records, which are of 16 KiB and a little. */
const READ_BYTES = 128 * 1024;

/** A place between two lines. */
export interface LogPosition {
  /** Identity of the file, as logIdentity() gives it. */
  readonly file: string;
  /** Bytes, of the file before its compression. */
  readonly offset: number;
}

export interface LogBatch {
  /** At least one. */
  readonly lines: readonly StoredLogLine[];
  /** After the last of them. */
  readonly end: LogPosition;
}

export interface LogTailOptions {
  readonly path: string;
  readonly format: LogFormat;
  /** Where to begin; absent: with the oldest line that is left. */
  readonly position?: LogPosition | undefined;
  /** The file that was to be read next is gone: the log was full before it was read. */
  readonly onGap: () => void;
}

export class LogTail {
  readonly #options: LogTailOptions;
  #file: HeldFile | undefined;
  /** Of a compressed file. */
  #whole: Buffer | undefined;
  #offset = 0;

  constructor(options: LogTailOptions) {
    this.#options = options;
  }

  /** The next lines; undefined if nothing more has come. */
  async read(): Promise<LogBatch | undefined> {
    if (this.#file === undefined && !(await this.#open())) return undefined;
    while (true) {
      const batch = await this.#readHere();
      if (batch !== undefined) return batch;
      if (this.#isLive()) return undefined;
      // What was written between the last read and the move.
      const last = await this.#readHere();
      if (last !== undefined) return last;
      if (!(await this.#next())) return undefined;
    }
  }

  async close(): Promise<void> {
    await this.#file?.handle.close();
    this.#file = undefined;
    this.#whole = undefined;
  }

  #isLive(): boolean {
    return logIdentity(this.#options.path) === this.#file?.identity;
  }

  async #open(): Promise<boolean> {
    const { path, position } = this.#options;
    const files = await openAll(path);
    const found = files.find((each) => each.identity === position?.file);
    if (found === undefined && position !== undefined && files.length > 0) this.#options.onGap();
    const chosen = found ?? files.at(-1);
    await closeAll(files.filter((each) => each !== chosen));
    if (chosen === undefined) return false;
    await this.#use(chosen, found === undefined ? 0 : (position?.offset ?? 0));
    return true;
  }

  async #use(file: HeldFile, offset: number): Promise<void> {
    this.#file = file;
    // A loss of power may have taken lines that the collector has.
    this.#offset = file.isCompressed ? offset : Math.min(offset, (await file.handle.stat()).size);
    this.#whole = file.isCompressed ? await readWhole(file) : undefined;
  }

  /** False if the live file is missing for a moment, as in the middle of a rotation. */
  async #next(): Promise<boolean> {
    const { path, onGap } = this.#options;
    const identity = this.#file?.identity ?? "";
    const isKnown = (await stableFiles(path)).some((each) => each.identity === identity);
    const next = await openAfter(path, identity);
    if (next === undefined) return false;
    if (!isKnown) onGap();
    await this.close();
    await this.#use(next, 0);
    return true;
  }

  async #readHere(): Promise<LogBatch | undefined> {
    const file = this.#file;
    if (file === undefined) return undefined;
    const bytes =
      this.#whole?.subarray(this.#offset, this.#offset + READ_BYTES) ?? (await this.#bytesOf(file));
    const { lines, used } = this.#options.format.take(bytes);
    this.#offset += used;
    if (lines.length === 0) return undefined;
    return { lines, end: { file: file.identity, offset: this.#offset } };
  }

  async #bytesOf({ handle }: HeldFile): Promise<Buffer> {
    const buffer = Buffer.allocUnsafe(READ_BYTES);
    const { bytesRead } = await handle.read(buffer, 0, READ_BYTES, this.#offset);
    return buffer.subarray(0, bytesRead);
  }
}
