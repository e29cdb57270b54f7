/**
 * The daemon's process id in a file, for people and scripts: a line with the number and nothing else, as `kill $(cat
 * FILE)` wants it. Who holds the file holds its lock: the number alone may be another process' by now, after a crash of the
 * machine even one of a like command line.
 */
import {
  closeSync,
  fstatSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readFileSync,
  statSync,
  writeSync,
} from "node:fs";
import { rm } from "node:fs/promises";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { ClusterError } from "../common/errors.ts";
import { tryLockFile } from "../runtime/file-lock.ts";

/** How long a predecessor that was killed may take to be gone: it lets go of one file after the other. */
const WAIT_MS = 5_000;
const RETRY_MS = 50;

/** Whether the file that was opened is still there under its name: a daemon that ends removes it. */
function isStill(fd: number, file: string): boolean {
  return statSync(file, { throwIfNoEntry: false })?.ino === fstatSync(fd).ino;
}

export class PidFile {
  readonly #file: string;
  readonly #fd: number;

  private constructor(file: string, fd: number) {
    this.#file = file;
    this.#fd = fd;
  }

  /**
   * Rejects with failed_precondition if the daemon that wrote it lives and doesn't end within `waitMs`; a left-over one is
   * replaced.
   */
  static async claim(file: string, waitMs: number = WAIT_MS): Promise<PidFile> {
    mkdirSync(path.dirname(file), { recursive: true, mode: 0o711 });
    for (let waitedMs = 0; ; waitedMs += RETRY_MS) {
      const fd = openSync(file, "a+", 0o644);
      const isLocked = tryLockFile(fd);
      if (isLocked && isStill(fd, file)) {
        ftruncateSync(fd);
        writeSync(fd, `${process.pid}\n`);
        return new PidFile(file, fd);
      }
      closeSync(fd);
      if (!isLocked && waitedMs >= waitMs) {
        const pid = readFileSync(file, "utf8").trim();
        throw new ClusterError(
          "failed_precondition",
          `Cannot start the daemon: process ${pid} runs with pid file "${file}"`,
        );
      }
      if (!isLocked) await sleep(RETRY_MS);
    }
  }

  async release(): Promise<void> {
    await rm(this.#file, { force: true });
    closeSync(this.#fd);
  }
}
