/**
 * Makes a layer's tar from an overlay's upper folder: the way back from layer-unpack.ts. Same folder, same bytes: members
 * are sorted, times are whole seconds, names of owners are left out. Runs in worker threads, with synchronous calls.
 */
import * as fs from "node:fs";
import { deviceParts, getXattr, listXattrs } from "./native-files.ts";
import { OPAQUE_XATTR } from "./layered-view.ts";
import { fsPath } from "./tar/byte-path.ts";
import { encodeHeader, END_OF_ARCHIVE, paddingOf, tarTypeOf, type TarEntry } from "./tar/tar-entry.ts";

const READ_BYTES = 1024 * 1024;

export interface PackOptions {
  /** Seconds since 1970; later times of files are put back to it (SOURCE_DATE_EPOCH). */
  readonly mtimeMax?: number;
}

interface Context {
  readonly root: string;
  readonly mtimeMax: number;
  /** First name of each file that has several. */
  readonly firstNames: Map<string, string>;
}

/** Attributes that belong to the file; the overlay's own and those of this machine's security modules do not. */
function packedXattrs(path: string): ReadonlyMap<string, Buffer> {
  const xattrs = new Map<string, Buffer>();
  for (const name of listXattrs(path)) {
    if (name !== "security.capability" && !name.startsWith("user.")) continue;
    if (name.startsWith("user.overlay.")) continue;
    const value = getXattr(path, name);
    if (value !== undefined) xattrs.set(name, value);
  }
  return xattrs;
}

function baseEntry(context: Context, name: string, stats: fs.Stats): Omit<TarEntry, "type" | "linkName"> {
  const device = deviceParts(stats.rdev);
  return {
    name,
    mode: stats.mode & 0o7777,
    uid: stats.uid,
    gid: stats.gid,
    size: 0,
    mtime: Math.min(Math.floor(stats.mtimeMs / 1000), context.mtimeMax),
    devMajor: device.major,
    devMinor: device.minor,
    xattrs: new Map(),
  };
}

function whiteout(name: string, mtime: number): Buffer {
  return encodeHeader({
    name,
    type: "file",
    mode: 0,
    uid: 0,
    gid: 0,
    size: 0,
    mtime,
    linkName: "",
    devMajor: 0,
    devMinor: 0,
    xattrs: new Map(),
  });
}

function* fileData(path: string, size: number): Generator<Buffer> {
  const fd = fs.openSync(fsPath(path), fs.constants.O_RDONLY | fs.constants.O_NOFOLLOW);
  try {
    let left = size;
    while (left > 0) {
      const chunk = Buffer.allocUnsafe(Math.min(READ_BYTES, left));
      const bytesRead = fs.readSync(fd, chunk, 0, chunk.length, size - left);
      // The file shrank while it was read: the header's size holds, so zeros follow.
      if (bytesRead === 0) chunk.fill(0);
      const taken = bytesRead === 0 ? chunk : chunk.subarray(0, bytesRead);
      left -= taken.length;
      yield taken;
    }
  } finally {
    fs.closeSync(fd);
  }
}

function* packNode(context: Context, name: string): Generator<Buffer> {
  const path = `${context.root}/${name}`;
  const stats = fs.lstatSync(fsPath(path));
  const type = tarTypeOf(stats);
  // Sockets mean nothing without their process.
  if (type === undefined) return;
  const slash = name.lastIndexOf("/") + 1;
  const base = baseEntry(context, name, stats);
  if (type === "char" && stats.rdev === 0) {
    yield whiteout(`${name.slice(0, slash)}.wh.${name.slice(slash)}`, base.mtime);
    return;
  }
  if (type === "folder") {
    yield* packFolder(context, name, { ...base, type, name: `${name}/`, linkName: "" });
    return;
  }
  if (stats.nlink > 1) {
    const key = `${stats.dev}:${stats.ino}`;
    const first = context.firstNames.get(key);
    if (first !== undefined) {
      yield encodeHeader({ ...base, type: "link", linkName: first, devMajor: 0, devMinor: 0 });
      return;
    }
    context.firstNames.set(key, name);
  }
  const linkName = type === "symlink" ? fs.readlinkSync(fsPath(path), "latin1") : "";
  const size = type === "file" ? stats.size : 0;
  yield encodeHeader({ ...base, type, linkName, size, xattrs: packedXattrs(path) });
  if (type !== "file") return;
  yield* fileData(path, size);
  yield paddingOf(size);
}

function* packFolder(context: Context, name: string, entry: TarEntry): Generator<Buffer> {
  const path = name === "" ? context.root : `${context.root}/${name}`;
  yield encodeHeader({ ...entry, xattrs: packedXattrs(path), devMajor: 0, devMinor: 0 });
  if (getXattr(path, OPAQUE_XATTR)?.toString("latin1") === "y") {
    yield whiteout(`${name}/.wh..wh..opq`, entry.mtime);
  }
  yield* packChildren(context, name);
}

function* packChildren(context: Context, name: string): Generator<Buffer> {
  const path = name === "" ? context.root : `${context.root}/${name}`;
  for (const child of fs.readdirSync(fsPath(path), { encoding: "latin1" }).sort()) {
    yield* packNode(context, name === "" ? child : `${name}/${child}`);
  }
}

/** The tar of `root`'s content, piece by piece. `root` is an absolute byte string; its own mode is not part of a layer. */
export function* packLayer(root: string, options: PackOptions = {}): Generator<Buffer> {
  const context: Context = { root, mtimeMax: options.mtimeMax ?? Infinity, firstNames: new Map() };
  yield* packChildren(context, "");
  yield END_OF_ARCHIVE;
}
