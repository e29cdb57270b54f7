/**
 * `compress=true`: rotated log files become .gz. The daemon does it aside; the monitor, which writes and rotates, only has to be kept from
 * renaming in the moment in which a file is exchanged for its compressed form, by a lock on the container's folder.
 */
import {
  type BigIntStats,
  closeSync,
  createReadStream,
  createWriteStream,
  openSync,
  renameSync,
  statSync,
  unlinkSync,
} from "node:fs";
import * as fs from "node:fs/promises";
import path from "node:path";
import { pipeline } from "node:stream/promises";
import { createGzip } from "node:zlib";
import { ClusterError } from "../../common/errors.ts";
import { lockFile } from "../file-lock.ts";
import { getXattr, setXattr } from "../images/native-files.ts";

/**
 * On a compressed file: identity of the one it was made from, by which readers that were in the middle of that one find
 * their way.
 */
const ORIGIN_XATTR = "user.shoal.origin";
const TEMPORARY_SUFFIX = ".gz.new";

/** Numbers of rotated files that are not compressed. */
async function plainNumbers(live: string): Promise<readonly number[]> {
  const start = `${path.basename(live)}.`;
  const names = await fs.readdir(path.dirname(live)).catch(() => []);
  return names
    .filter((name) => name.startsWith(start))
    .map((name) => name.slice(start.length))
    .filter((rest) => /^\d+$/.test(rest))
    .map(Number);
}

/** Tells a file from all others, also from a later one that is given its inode again. */
export function fileIdentity(stat: BigIntStats): string {
  return `${stat.ino}.${stat.birthtimeNs}`;
}

/** Of a log file, whatever it is called by now, compressed or not; undefined if there is no such file. */
export function logIdentity(file: string): string | undefined {
  const stat = statSync(file, { bigint: true, throwIfNoEntry: false });
  if (stat === undefined) return undefined;
  const origin = file.endsWith(".gz") ? originOf(file) : "";
  return /^\d+\.\d+$/.test(origin) ? origin : fileIdentity(stat);
}

function originOf(file: string): string {
  try {
    return getXattr(Buffer.from(file).toString("latin1"), ORIGIN_XATTR)?.toString() ?? "";
  } catch {
    // Gone meanwhile.
    return "";
  }
}

/**
 * Puts `ready` in the place of the file with `identity`, wherever rotation has moved it by now. Short, and all in one
 * turn.
 */
function exchange(live: string, identity: string, ready: string): void {
  const folder = openSync(path.dirname(live), "r");
  try {
    if (!lockFile(folder)) throw new ClusterError("internal", `Cannot lock ${path.dirname(live)}`);
    for (let number = 1; ; number++) {
      const name = `${live}.${number}`;
      const found = logIdentity(name) ?? logIdentity(`${name}.gz`);
      // Dropped, being the oldest.
      if (found === undefined) return unlinkSync(ready);
      if (found !== identity) continue;
      renameSync(ready, `${name}.gz`);
      return unlinkSync(name);
    }
  } finally {
    closeSync(folder);
  }
}

const underWay = new Map<string, Promise<void>>();

/** Compresses what rotation has left plain below `live`. Whoever asks while that is under way waits for it to end. */
export function compressRotated(live: string): Promise<void> {
  const known = underWay.get(live);
  if (known !== undefined) return known;
  const work = compressAll(live).finally(() => underWay.delete(live));
  underWay.set(live, work);
  return work;
}

async function compressAll(live: string): Promise<void> {
  for (const number of (await plainNumbers(live)).toSorted((a, b) => a - b)) {
    const handle = await fs.open(`${live}.${number}`, "r").catch(() => undefined);
    if (handle === undefined) continue;
    const identity = fileIdentity(await handle.stat({ bigint: true }));
    const ready = `${live}${TEMPORARY_SUFFIX}`;
    const input = createReadStream("", { fd: handle, autoClose: true });
    await pipeline(input, createGzip(), createWriteStream(ready, { mode: 0o640 }));
    try {
      setXattr(Buffer.from(ready).toString("latin1"), ORIGIN_XATTR, Buffer.from(identity));
    } catch {
      // A file system without attributes: a reader that lags behind may see a file twice.
    }
    exchange(live, identity, ready);
  }
}
