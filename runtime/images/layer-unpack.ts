/**
 * Writes the members of a layer's tar into a folder of its own, in the form the overlay file system wants: a whiteout
 * becomes a character device 0:0, an opaque folder gets trusted.overlay.opaque.
 *
 * Every layer is unpacked without those below it, so that many can be at once. What needs the layers below is only
 * noted (folders that a path implies without a member of their own, hard links to files further down) and done when
 * the snapshot is put on its parents (runtime/snapshots). Runs in worker threads, with synchronous calls.
 *
 * Hostile archives: each name is resolved part by part inside the folder, links followed as the container would follow
 * them (an absolute target starts at the folder), so that nothing outside is ever touched. Nobody else writes to the
 * folder, so what was checked stays as it was.
 */
import * as fs from "node:fs";
import { must } from "../../common/assert.ts";
import { inUserNamespace } from "../../common/user-namespace.ts";
import { ClusterError, hasNodeCode } from "../../common/errors.ts";
import { OPAQUE_XATTR } from "./layered-view.ts";
import { makeNode, setXattr } from "./native-files.ts";
import { fsPath, pathParts, toText } from "./tar/byte-path.ts";
import { tarError, type TarEntry } from "./tar/tar-entry.ts";
import type { TarSink } from "./tar/tar-reader.ts";

export interface LayerLimits {
  /** Bytes of all files together, holes not counted. */
  readonly layerBytesMax: number;
  readonly entriesMax: number;
}

const DEFAULT_LAYER_LIMITS: LayerLimits = {
  layerBytesMax: 256 * 1024 ** 3,
  entriesMax: 10_000_000,
};

export interface UnpackOptions {
  readonly limits?: LayerLimits;
  /** Not a layer: whiteouts have no meaning. */
  readonly isPlain?: boolean;
}

/** Kernel's own bound for symbolic links on the way to a file. */
const LINKS_MAX = 40;
/** Longer paths can't be opened by the container anyway (PATH_MAX). */
const PATH_BYTES_MAX = 4096;

const SPACE_CHECK_EVERY_BYTES = 128 * 1024 ** 2;
/** Left to the rest of the machine. */
const SPACE_RESERVE_BYTES = 256 * 1024 ** 2;

const WHITEOUT_PREFIX = ".wh.";
const WHITEOUT_META_PREFIX = ".wh..wh.";
const OPAQUE_MARK = ".wh..wh..opq";

const OVERLAY_XATTR_PREFIX = "trusted.overlay.";
/** Belongs to the machine that unpacks, not to the image. */
const DROPPED_XATTRS: ReadonlySet<string> = new Set(["security.selinux", "security.ima", "security.evm"]);

/** All names are byte strings relative to the layer, without a leading slash. */
export interface UnpackedLayer {
  /** Bytes of regular files, each hard link once, and of links' targets. */
  readonly contentBytes: number;
  readonly entryCount: number;
  /** Folders that had to be made though the archive has no member for them. */
  readonly impliedFolders: readonly string[];
  /** Hard links whose target is not in this layer. */
  readonly pendingLinks: readonly { readonly path: string; readonly target: string }[];
}

interface OpenFile {
  readonly fd: number;
  readonly path: string;
  readonly entry: TarEntry;
}

export class LayerUnpacker implements TarSink {
  readonly #root: string;
  readonly #limits: LayerLimits;
  readonly #isPlain: boolean;
  #file: OpenFile | undefined;
  #contentBytes = 0;
  #nextSpaceCheck = SPACE_CHECK_EVERY_BYTES;
  #entryCount = 0;
  /** Folder name to its real path inside the root; emptied when a folder goes away. */
  readonly #resolved = new Map<string, string>();
  readonly #implied = new Set<string>();
  readonly #pendingLinks = new Map<string, string>();
  /** Names whited out in this layer; one that is a folder here hides the one below, so it is opaque. */
  readonly #whiteouts = new Set<string>();
  /** Times of folders are set at the end: filling them changes them. */
  readonly #folderTimes = new Map<string, number>();

  /** `root`: an empty folder, absolute. */
  constructor(root: string, options: UnpackOptions = {}) {
    this.#root = root;
    this.#limits = options.limits ?? DEFAULT_LAYER_LIMITS;
    this.#isPlain = options.isPlain ?? false;
  }

  entry(entry: TarEntry): void {
    this.#entryCount++;
    if (this.#entryCount > this.#limits.entriesMax) {
      throw tarError(`Cannot unpack layer: at most ${this.#limits.entriesMax} members are allowed`);
    }
    if (entry.name.includes("\0") || entry.linkName.includes("\0")) {
      throw tarError("Cannot unpack layer: name with a zero byte");
    }
    const parts = pathParts(entry.name);
    const base = parts.pop();
    if (base === undefined) {
      // The layer's root itself.
      if (entry.type === "folder") this.#rootFolder(entry);
      return;
    }
    const parent = this.#folder(parts);
    const path = parent === "" ? base : `${parent}/${base}`;
    if (path.length > PATH_BYTES_MAX) throw tarError("Cannot unpack layer: path of more than 4096 bytes");
    if (!this.#isPlain && base.startsWith(WHITEOUT_PREFIX)) this.#whiteout(parent, base);
    else this.#place(entry, path);
  }

  data(chunk: Buffer, offset: number): void {
    if (this.#file === undefined) return;
    this.#contentBytes += chunk.length;
    if (this.#contentBytes > this.#limits.layerBytesMax) {
      throw tarError(`Cannot unpack layer: more than ${this.#limits.layerBytesMax} bytes of files`);
    }
    if (this.#contentBytes >= this.#nextSpaceCheck) this.#checkSpace();
    let written = 0;
    while (written < chunk.length) {
      written += fs.writeSync(this.#file.fd, chunk, written, chunk.length - written, offset + written);
    }
  }

  entryEnd(): void {
    const file = this.#file;
    if (file === undefined) return;
    this.#file = undefined;
    const { entry, fd } = file;
    try {
      if (entry.sparse !== undefined) fs.ftruncateSync(fd, entry.size);
      fs.fchownSync(fd, entry.uid, entry.gid);
      fs.fchmodSync(fd, entry.mode);
      this.#xattrs(file.path, entry);
      fs.futimesSync(fd, entry.mtime, entry.mtime);
    } finally {
      fs.closeSync(fd);
    }
  }

  /** Call once after the last member. */
  finish(): UnpackedLayer {
    // Deepest first, so that no time is changed after it was set.
    const folders = [...this.#folderTimes].sort(([left], [right]) => right.length - left.length);
    for (const [path, mtime] of folders) fs.lutimesSync(fsPath(this.#absolute(path)), mtime, mtime);
    // The overlay shows the newest layer's root: one that says nothing of it takes it from below, as other folders.
    if (!this.#folderTimes.has("") && !this.#isPlain) this.#implied.add("");
    const pendingLinks = [...this.#pendingLinks].map(([path, target]) => ({ path, target }));
    return {
      contentBytes: this.#contentBytes,
      entryCount: this.#entryCount,
      impliedFolders: [...this.#implied],
      pendingLinks,
    };
  }

  /** Stops before the disk is full, so that a layer that lies about itself takes nothing from others. */
  #checkSpace(): void {
    this.#nextSpaceCheck = this.#contentBytes + SPACE_CHECK_EVERY_BYTES;
    const { bavail, bsize } = fs.statfsSync(this.#root);
    if (bavail * bsize > SPACE_RESERVE_BYTES) return;
    throw new ClusterError(
      "resource_exhausted",
      `Cannot unpack layer: no space left on device: ${this.#root}`,
    );
  }

  /** Lets go of an open file after an error. */
  abandon(): void {
    if (this.#file !== undefined) fs.closeSync(this.#file.fd);
    this.#file = undefined;
  }

  #absolute(path: string): string {
    return path === "" ? this.#root : `${this.#root}/${path}`;
  }

  #lstat(path: string): fs.Stats | undefined {
    return fs.lstatSync(fsPath(this.#absolute(path)), { throwIfNoEntry: false });
  }

  /** The real folder (no links in it) that `parts` lead to; made where it is missing. */
  #folder(parts: readonly string[]): string {
    const name = parts.join("/");
    const known = this.#resolved.get(name);
    if (known !== undefined) return known;
    const folder = must(this.#walk(parts, true), "a walk that makes folders ends in one");
    this.#resolved.set(name, folder);
    return folder;
  }

  /** Follows `parts` and the links among them inside the root. Without `makesMissing`, undefined at a missing folder. */
  #walk(parts: readonly string[], makesMissing: boolean): string | undefined {
    let current = "";
    let links = 0;
    const queue = [...parts];
    for (let part = queue.shift(); part !== undefined; part = queue.shift()) {
      if (part === "..") {
        current = current.slice(0, Math.max(0, current.lastIndexOf("/")));
        continue;
      }
      const next = current === "" ? part : `${current}/${part}`;
      const found = this.#lstat(next);
      if (found?.isSymbolicLink() === true) {
        if (++links > LINKS_MAX) {
          throw tarError(`Cannot unpack layer: too many links in "${toText(parts.join("/"))}"`);
        }
        const target = fs.readlinkSync(fsPath(this.#absolute(next)), "latin1");
        if (target.startsWith("/")) current = "";
        queue.unshift(...target.split("/").filter((each) => each !== "" && each !== "."));
        continue;
      }
      if (found?.isDirectory() !== true) {
        if (!makesMissing) return undefined;
        this.#implyFolder(next, found);
      }
      current = next;
    }
    return current;
  }

  #implyFolder(path: string, found: fs.Stats | undefined): void {
    if (found !== undefined) this.#clear(path, found);
    fs.mkdirSync(fsPath(this.#absolute(path)), 0o755);
    fs.chmodSync(fsPath(this.#absolute(path)), 0o755);
    this.#implied.add(path);
    if (this.#whiteouts.has(path)) this.#makeOpaque(path);
  }

  /** Takes away what is at `path`. */
  #clear(path: string, found: fs.Stats): void {
    const absolute = fsPath(this.#absolute(path));
    if (found.isDirectory()) {
      fs.rmSync(absolute, { recursive: true });
      const isInside = (name: string): boolean => name === path || name.startsWith(`${path}/`);
      for (const name of this.#folderTimes.keys()) if (isInside(name)) this.#folderTimes.delete(name);
      for (const name of this.#implied) if (isInside(name)) this.#implied.delete(name);
      for (const name of this.#pendingLinks.keys()) if (isInside(name)) this.#pendingLinks.delete(name);
    } else {
      fs.unlinkSync(absolute);
    }
    this.#resolved.clear();
  }

  #rootFolder(entry: TarEntry): void {
    fs.chownSync(this.#root, entry.uid, entry.gid);
    fs.chmodSync(this.#root, entry.mode);
    this.#xattrs("", entry);
    this.#folderTimes.set("", entry.mtime);
  }

  #whiteout(parent: string, base: string): void {
    if (base === OPAQUE_MARK) {
      this.#makeOpaque(parent);
      return;
    }
    // Other marks of that prefix are bookkeeping of an old union file system.
    if (base.startsWith(WHITEOUT_META_PREFIX)) return;
    const hidden = base.slice(WHITEOUT_PREFIX.length);
    if (hidden === "" || hidden === "." || hidden === "..") {
      throw tarError(`Cannot unpack layer: whiteout "${toText(base)}" names nothing`);
    }
    const path = parent === "" ? hidden : `${parent}/${hidden}`;
    this.#whiteouts.add(path);
    const found = this.#lstat(path);
    if (found === undefined) {
      makeNode(this.#absolute(path), { type: "char", mode: 0, major: 0, minor: 0 });
    } else if (found.isDirectory()) {
      // It hides what lies below, not what this layer brings.
      this.#makeOpaque(path);
    }
  }

  #makeOpaque(path: string): void {
    setXattr(this.#absolute(path), OPAQUE_XATTR, Buffer.from("y"));
  }

  #place(entry: TarEntry, path: string): void {
    const found = this.#lstat(path);
    if (found?.isDirectory() === true && entry.type === "folder") {
      this.#setFolder(entry, path);
      return;
    }
    // A hard link to itself says nothing and must not lose the file.
    if (found !== undefined && !(entry.type === "link" && this.#linkTarget(entry) === path)) {
      this.#clear(path, found);
    }
    this.#pendingLinks.delete(path);
    switch (entry.type) {
      case "file":
        this.#openFile(entry, path);
        return;
      case "folder":
        fs.mkdirSync(fsPath(this.#absolute(path)), 0o700);
        if (this.#whiteouts.has(path)) this.#makeOpaque(path);
        this.#setFolder(entry, path);
        return;
      case "symlink":
        this.#symlink(entry, path);
        return;
      case "link":
        this.#hardLink(entry, path);
        return;
      case "char":
      case "block":
      case "fifo":
        this.#node(entry, path, entry.type);
    }
  }

  #openFile(entry: TarEntry, path: string): void {
    const absolute = this.#absolute(path);
    const flags =
      fs.constants.O_WRONLY | fs.constants.O_CREAT | fs.constants.O_EXCL | fs.constants.O_NOFOLLOW;
    this.#file = { fd: fs.openSync(fsPath(absolute), flags, 0o600), path, entry };
  }

  #setFolder(entry: TarEntry, path: string): void {
    const absolute = fsPath(this.#absolute(path));
    fs.lchownSync(absolute, entry.uid, entry.gid);
    fs.chmodSync(absolute, entry.mode);
    this.#xattrs(path, entry);
    this.#folderTimes.set(path, entry.mtime);
    this.#implied.delete(path);
  }

  #symlink(entry: TarEntry, path: string): void {
    const absolute = fsPath(this.#absolute(path));
    fs.symlinkSync(fsPath(entry.linkName), absolute);
    // As file systems count it, and so Docker's sizes.
    this.#contentBytes += entry.linkName.length;
    fs.lchownSync(absolute, entry.uid, entry.gid);
    this.#xattrs(path, entry);
    fs.lutimesSync(absolute, entry.mtime, entry.mtime);
  }

  /** Where a hard link leads, its folders resolved inside the layer without making any; "" if they are not here. */
  #linkTarget(entry: TarEntry): string {
    const parts = pathParts(entry.linkName);
    const base = parts.pop();
    if (base === undefined) throw tarError(`Cannot unpack layer: hard link to nothing`);
    const folder = this.#walk(parts, false);
    if (folder === undefined) return [...parts, base].join("/");
    return folder === "" ? base : `${folder}/${base}`;
  }

  #hardLink(entry: TarEntry, path: string): void {
    const target = this.#linkTarget(entry);
    if (target === path) return;
    const found = this.#lstat(target);
    if (found === undefined) {
      // Another such link stands for what it leads to, whatever takes its own place later.
      this.#pendingLinks.set(path, this.#pendingLinks.get(target) ?? target);
      return;
    }
    if (this.#whiteouts.has(target))
      throw tarError(`Cannot unpack layer: hard link to "${toText(target)}", which the layer removes`);
    if (found.isDirectory())
      throw tarError(`Cannot unpack layer: hard link to the folder "${toText(target)}"`);
    fs.linkSync(fsPath(this.#absolute(target)), fsPath(this.#absolute(path)));
  }

  #node(entry: TarEntry, path: string, type: "char" | "block" | "fifo"): void {
    if (type === "char" && entry.devMajor === 0 && entry.devMinor === 0) {
      // To the overlay that is a whiteout; an archive must say so by name.
      throw tarError(`Cannot unpack layer: device 0:0 at "${toText(path)}"`);
    }
    // No program of a user may make one: Docker leaves them out too.
    if (type !== "fifo" && inUserNamespace()) return;
    const absolute = this.#absolute(path);
    makeNode(absolute, { type, mode: entry.mode, major: entry.devMajor, minor: entry.devMinor });
    fs.lchownSync(fsPath(absolute), entry.uid, entry.gid);
    fs.chmodSync(fsPath(absolute), entry.mode);
    this.#xattrs(path, entry);
    fs.lutimesSync(fsPath(absolute), entry.mtime, entry.mtime);
  }

  /** After the owner is set, since changing that takes capabilities away. */
  #xattrs(path: string, entry: TarEntry): void {
    for (const [name, value] of entry.xattrs) {
      if (name.startsWith(OVERLAY_XATTR_PREFIX) || name.startsWith("user.overlay.")) {
        throw tarError(
          `Cannot unpack layer: attribute "${toText(name)}" of "${toText(path)}" is not allowed`,
        );
      }
      if (DROPPED_XATTRS.has(name)) continue;
      try {
        setXattr(this.#absolute(path), name, value);
      } catch (caught) {
        // Some file systems have no such attributes; user ones can't be on links and devices.
        const isMinor =
          hasNodeCode(caught, "ENOTSUP", "EOPNOTSUPP") ||
          (hasNodeCode(caught, "EPERM") && name.startsWith("user."));
        if (!isMinor) throw caught;
      }
    }
  }
}
