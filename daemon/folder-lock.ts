/**
 * One daemon for a folder: a lock file in it under flock(2), which the kernel drops with the process however that ends.
 * A pid in a file proves nothing: it may be another process by now, or one of another pid namespace.
 */
import { closeSync, ftruncateSync, mkdirSync, openSync, readFileSync, writeSync } from "node:fs";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { ClusterError } from "../common/errors.ts";
import { tryLockFile } from "../runtime/file-lock.ts";

const NAME = "daemon.lock";
/** How long a predecessor that was killed may take to be gone. */
const WAIT_MS = 5_000;
const RETRY_MS = 50;

export class FolderLock {
  readonly #fd: number;

  private constructor(fd: number) {
    this.#fd = fd;
  }

  /**
   * Rejects with failed_precondition if another process holds the lock and doesn't end within `waitMs`. `what` names
   * the folder for that error. The file stays when the lock is released: removing it could take it from under a
   * successor.
   */
  static async take(folder: string, what: string, waitMs: number = WAIT_MS): Promise<FolderLock> {
    mkdirSync(folder, { recursive: true, mode: 0o711 });
    const file = path.join(folder, NAME);
    const fd = openSync(file, "a+", 0o600);
    for (let waitedMs = 0; !tryLockFile(fd); waitedMs += RETRY_MS) {
      if (waitedMs >= waitMs) {
        closeSync(fd);
        const holder = readFileSync(file, "utf8").trim();
        throw new ClusterError(
          "failed_precondition",
          `Cannot start the daemon: another one${holder === "" ? "" : ` (process ${holder})`} uses ${what} "${folder}"`,
        );
      }
      await sleep(RETRY_MS);
    }
    ftruncateSync(fd);
    writeSync(fd, `${process.pid}\n`);
    return new FolderLock(fd);
  }

  release(): void {
    closeSync(this.#fd);
  }
}
