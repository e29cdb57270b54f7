/**
 * The doors through which time, randomness and the disk enter.
 *
 * Everything in manager/ and worker/ takes what it needs of this from its constructor, so that the same code runs
 * on a real machine (real-env.ts) and, many managers at once, in one process from one seed (common/testing).
 * Nothing here knows the product's domain.
 */

/** Stops what it was returned for. Safe to call twice. */
export type Cancel = () => void;

export interface Clock {
  /** Milliseconds since an arbitrary start; never goes back. For durations and deadlines. */
  monotonicMs(): number;
  /** Milliseconds since 1970 UTC; may jump. Only for stamps shown to people and certificate validity. */
  wallMs(): number;
}

export interface Timers {
  /** Runs `run` once after `delayMs` (>= 0). */
  after(delayMs: number, run: () => void): Cancel;
  /** Runs `run` every `intervalMs` (> 0) until cancelled. */
  every(intervalMs: number, run: () => void): Cancel;
  /** Runs `run` after the current turn of the event loop, before timers that are not yet due. */
  soon(run: () => void): Cancel;
}

export interface Random {
  /** Uniform in [0, 1). */
  float(): number;
  /** Uniform integer in [0, bound); `bound` in 1..2^32. */
  below(bound: number): number;
  /** `count` bytes; from a cryptographic source in production. */
  bytes(count: number): Uint8Array;
}

export interface DiskFile {
  /** Reads up to `length` bytes at `offset`; shorter only at the end of the file. */
  read(offset: number, length: number): Promise<Uint8Array>;
  /**
   * Writes all of `bytes` at `offset`. Resolves when they are durable if the file was opened with `synced`,
   * else when the kernel has them. Rejects with code `ENOSPC` on a full disk.
   */
  write(offset: number, bytes: Uint8Array): Promise<void>;
  /** Makes everything written so far durable (fdatasync). A rejection leaves the file's state unknown: do not retry. */
  sync(): Promise<void>;
  truncate(length: number): Promise<void>;
  /** Length in bytes. */
  length(): Promise<number>;
  close(): Promise<void>;
}

export interface DiskOpenOptions {
  /** Create if missing. Default false. */
  readonly create?: boolean;
  /** Fail with `EEXIST` if it exists (with `create`). Default false. */
  readonly exclusive?: boolean;
  /** Each write is durable when it resolves (O_DSYNC). Default false. */
  readonly synced?: boolean;
}

/** What the write-ahead log and other durable parts need of a file system. Paths are absolute. Errors carry errno codes. */
export interface Disk {
  open(path: string, options?: DiskOpenOptions): Promise<DiskFile>;
  readFile(path: string): Promise<Uint8Array>;
  /** Temporary file, sync, rename, sync of the folder: after it resolves a crash shows the old or the new content, whole. */
  writeFileAtomic(path: string, bytes: Uint8Array, mode?: number): Promise<void>;
  /** Names in the folder, sorted by code unit. */
  list(path: string): Promise<readonly string[]>;
  /** Creates the folder and its parents; fine if it exists. */
  makeFolder(path: string, mode?: number): Promise<void>;
  rename(from: string, to: string): Promise<void>;
  /** Removes one file; fine if missing. */
  remove(path: string): Promise<void>;
  /** Removes a folder with all it holds; fine if missing. */
  removeTree(path: string): Promise<void>;
  /** Makes creations, renames and removals in the folder durable. */
  syncFolder(path: string): Promise<void>;
  exists(path: string): Promise<boolean>;
}

export interface Env {
  readonly clock: Clock;
  readonly timers: Timers;
  readonly random: Random;
  readonly disk: Disk;
}

/** A part with a life: `start` may be called once, `stop` any number of times, also without a start. */
export interface Component {
  start(): Promise<void> | void;
  stop(): Promise<void> | void;
}
