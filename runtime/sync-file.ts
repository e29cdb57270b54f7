/** Makes what was written to a file durable, off the event loop. */
import { closeSync, fdatasync, openSync } from "node:fs";
import { promisify } from "node:util";

const sync = promisify(fdatasync);

/**
 * Resolves when the file's content and length survive a loss of power; on ext4, xfs and btrfs a new file's name and
 * folder do then, too. Rejects with the disk's error. One trip to a thread, where a file handle's way is three.
 */
export async function syncFile(file: string): Promise<void> {
  const fd = openSync(file, "r");
  try {
    await sync(fd);
  } finally {
    closeSync(fd);
  }
}
