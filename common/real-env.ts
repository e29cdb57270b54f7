/**
 * The real clock, timers, randomness and disk. Built once by the daemon (or the CLI) and handed down;
 * nothing else in manager/ and worker/ touches these Node modules for such purposes.
 */
import { randomBytes, randomInt } from "node:crypto";
import { constants, write } from "node:fs";
import * as fs from "node:fs/promises";
import path from "node:path";
import { hasNodeCode } from "./errors.ts";
import type { Cancel, Clock, Disk, DiskFile, DiskOpenOptions, Env, Random, Timers } from "./env.ts";

export const realClock: Clock = {
  monotonicMs: () => performance.now(),
  wallMs: () => Date.now(),
};

/** The longest delay, in milliseconds, that setTimeout() takes: a longer one it makes 1. A restart delay may be of months. */
const TIMER_MS_MAX = 2 ** 31 - 1;

export const realTimers: Timers = {
  after(delayMs: number, run: () => void): Cancel {
    let leftMs = delayMs;
    let timer: NodeJS.Timeout | undefined;
    const wait = (): void => {
      const partMs = Math.min(leftMs, TIMER_MS_MAX);
      leftMs -= partMs;
      timer = setTimeout(leftMs > 0 ? wait : run, partMs);
    };
    wait();
    return () => clearTimeout(timer);
  },
  every(intervalMs: number, run: () => void): Cancel {
    const timer = setInterval(run, intervalMs);
    return () => clearInterval(timer);
  },
  soon(run: () => void): Cancel {
    const immediate = setImmediate(run);
    return () => clearImmediate(immediate);
  },
};

/** Drawn ahead, since asking for a few bytes costs as much as asking for many. Those that were given away are wiped. */
const DRAWN_BYTES = 4096;
let drawn = Buffer.alloc(0);

function takeBytes(count: number): Uint8Array {
  if (count > DRAWN_BYTES / 16) return randomBytes(count);
  if (drawn.byteLength < count) drawn = randomBytes(DRAWN_BYTES);
  const head = drawn.subarray(0, count);
  drawn = drawn.subarray(count);
  const taken = Buffer.from(head);
  head.fill(0);
  return taken;
}

export const realRandom: Random = {
  float: () => randomInt(2 ** 47) / 2 ** 47,
  below: (bound: number) => randomInt(bound),
  bytes: takeBytes,
};

class RealFile implements DiskFile {
  readonly #handle: fs.FileHandle;

  constructor(handle: fs.FileHandle) {
    this.#handle = handle;
  }

  async read(offset: number, length: number): Promise<Uint8Array> {
    const buffer = Buffer.allocUnsafe(length);
    let filled = 0;
    while (filled < length) {
      const { bytesRead } = await this.#handle.read(buffer, filled, length - filled, offset + filled);
      if (bytesRead === 0) break;
      filled += bytesRead;
    }
    return buffer.subarray(0, filled);
  }

  /** Not through the handle's promises: the log writes thousands of times a second, and they cost a fifth more. */
  write(offset: number, bytes: Uint8Array): Promise<void> {
    return new Promise((resolve, reject) => {
      const writeFrom = (start: number): void => {
        if (start === bytes.byteLength) {
          resolve();
          return;
        }
        const length = bytes.byteLength - start;
        write(this.#handle.fd, bytes, start, length, offset + start, (error, written) => {
          if (error === null) writeFrom(start + written);
          else reject(error);
        });
      };
      writeFrom(0);
    });
  }

  sync(): Promise<void> {
    return this.#handle.datasync();
  }

  truncate(length: number): Promise<void> {
    return this.#handle.truncate(length);
  }

  async length(): Promise<number> {
    return (await this.#handle.stat()).size;
  }

  close(): Promise<void> {
    return this.#handle.close();
  }
}

export const realDisk: Disk = {
  async open(filePath: string, options: DiskOpenOptions = {}): Promise<DiskFile> {
    const flags =
      constants.O_RDWR |
      (options.create === true ? constants.O_CREAT : 0) |
      (options.exclusive === true ? constants.O_EXCL : 0) |
      (options.synced === true ? constants.O_DSYNC : 0);
    return new RealFile(await fs.open(filePath, flags, 0o600));
  },
  readFile: (filePath: string) => fs.readFile(filePath),
  async writeFileAtomic(filePath: string, bytes: Uint8Array, mode = 0o600): Promise<void> {
    const temporary = `${filePath}.${process.pid}.tmp`;
    const handle = await fs.open(temporary, "w", mode);
    try {
      await handle.writeFile(bytes);
      await handle.sync();
    } catch (caught) {
      // A write's error names no file, and a disk that is full is one of several.
      if (caught instanceof Error) caught.message += ` '${filePath}'`;
      throw caught;
    } finally {
      await handle.close();
    }
    await fs.rename(temporary, filePath);
    await realDisk.syncFolder(path.dirname(filePath));
  },
  async list(folder: string): Promise<readonly string[]> {
    return (await fs.readdir(folder)).sort();
  },
  async makeFolder(folder: string, mode = 0o700): Promise<void> {
    await fs.mkdir(folder, { recursive: true, mode });
  },
  rename: (from: string, to: string) => fs.rename(from, to),
  remove: (filePath: string) => fs.rm(filePath, { force: true }),
  removeTree: (folder: string) => fs.rm(folder, { force: true, recursive: true }),
  async syncFolder(folder: string): Promise<void> {
    const handle = await fs.open(folder, "r");
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  },
  async exists(filePath: string): Promise<boolean> {
    try {
      await fs.access(filePath);
      return true;
    } catch (caught) {
      if (hasNodeCode(caught, "ENOENT")) return false;
      throw caught;
    }
  },
};

export const realEnv: Env = { clock: realClock, timers: realTimers, random: realRandom, disk: realDisk };
