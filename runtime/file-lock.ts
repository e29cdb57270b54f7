/** flock(2): locks on open files and folders, which the kernel drops with the descriptor, and so with the process. */
import koffi from "koffi";

const flock = koffi.load("libc.so.6").func("int flock(int, int)") as (
  fd: number,
  operation: number,
) => number;
const LOCK_EX = 2;
const LOCK_NB = 4;

/** Waits for whoever holds the lock. False where the file can't be locked. */
export function lockFile(fd: number): boolean {
  return flock(fd, LOCK_EX) === 0;
}

/** False if another holds the lock. */
export function tryLockFile(fd: number): boolean {
  return flock(fd, LOCK_EX | LOCK_NB) === 0;
}
