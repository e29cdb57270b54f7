/**
 * A container's log files as they are on the disk: the live one, and the rotated ones, which the monitor renames and the daemon compresses
 * while they are read. For readers that must miss no file and see none twice.
 */
import * as fs from "node:fs/promises";
import { setImmediate } from "node:timers/promises";
import { promisify } from "node:util";
import { gunzip } from "node:zlib";
import { fileIdentity, logIdentity } from "./log-compression.ts";

const ROTATED_FILES_MAX = 1000;
/** A log that rotates faster than its files can be listed is read with a gap rather than never. */
const LIST_ATTEMPTS_MAX = 1000;

/** A log file that is held open: its name may change while it is read. */
export interface HeldFile {
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
export async function stableFiles(live: string): Promise<readonly NamedFile[]> {
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

export async function closeAll(files: readonly HeldFile[]): Promise<void> {
  for (const { handle } of files) await handle.close();
}

/** All files of one moment, the live one first: with a rotation in between one would show twice or not at all. */
export async function openAll(live: string): Promise<readonly HeldFile[]> {
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

export async function readWhole({ handle, isCompressed }: HeldFile): Promise<Buffer> {
  const bytes = await handle.readFile();
  return isCompressed ? promisify(gunzip)(bytes) : bytes;
}

/** The file that came after the one with `identity`; undefined if that one is still the live one. */
export async function openAfter(live: string, identity: string): Promise<HeldFile | undefined> {
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
