/**
 * Carries a COPY or ADD out without touching the image: works out what goes where, as the container would see both sides, and
 * gives it as a layer's tar. Runs in worker threads, with synchronous calls; nothing outside of the given layers is read.
 */
import { createHash } from "node:crypto";
import * as fs from "node:fs";
import path from "node:path";
import { ClusterError } from "../../common/errors.ts";
import { isTarFile } from "../images/decompression.ts";
import { LayeredView, type FoundNode } from "../images/layered-view.ts";
import { deviceParts, getXattr, listXattrs } from "../images/native-files.ts";
import { fromText, fsPath, pathParts, toText } from "../images/tar/byte-path.ts";
import {
  encodeHeader,
  END_OF_ARCHIVE,
  paddingOf,
  type TarEntry,
  tarTypeOf,
} from "../images/tar/tar-entry.ts";
import type { CopyRequest, CopySource } from "./copy-request.ts";
import { pathGlob } from "./glob.ts";
import { IgnorePatterns } from "./ignore-patterns.ts";
import type { CopiedThings } from "./history-text.ts";
import { ownerOf, type Owner } from "./owner.ts";

const READ_BYTES = 1024 * 1024;

/** One member of the layer to be. */
interface Item {
  readonly entry: TarEntry;
  /** File to read, or the bytes themselves. */
  readonly content: string | Buffer | undefined;
  /** Which file it is on the disk, where that has several names. */
  readonly inode?: string;
}

interface Match {
  readonly view: LayeredView;
  readonly parts: readonly string[];
  readonly node: FoundNode;
  /** The folder of an unpacked archive. */
  readonly isArchive: boolean;
  /** By a pattern: --exclude says something of the match itself. */
  readonly isFromPattern: boolean;
  /** With --parents: how many parts of `written` are folders that stay behind. */
  readonly written: readonly string[];
  readonly leftBehind: number;
  /** From an archive or an image, not from the client: owners say something. */
  readonly keepsOwner: boolean;
}

/** One of the step's sources, numbered. */
interface Source extends Match {
  readonly number: number;
}

function hasWildcard(pattern: string): boolean {
  return /[*?[]/.test(pattern);
}

function failed(request: CopyRequest, why: string): ClusterError {
  return new ClusterError("invalid_argument", `${request.verb} failed: ${why}`);
}

/** Files that the sources mean. */
class CopySources {
  readonly #request: CopyRequest;

  constructor(request: CopyRequest) {
    this.#request = request;
  }

  matches(): readonly Match[] {
    return this.#request.sources.flatMap((source) => this.#matchesOf(source));
  }

  #matchesOf(source: CopySource): readonly Match[] {
    const pattern = fromText(source.pattern);
    this.#refuseOutside(source);
    const view = new LayeredView(source.layers);
    const parts = pathParts(pattern);
    const found = hasWildcard(pattern) ? this.#expand(view, parts) : [parts];
    const leftBehind = leftBehindOf(pattern);
    const matches = found
      .map((each) => this.#match(source, view, each))
      .filter((each) => each !== undefined)
      .map((each) => ({ ...each, leftBehind }));
    if (matches.length > 0) return matches;
    if (hasWildcard(pattern)) throw failed(this.#request, "no source files were specified");
    const stat = `stat ${source.pattern.replace(/^\/+/, "")}: file does not exist`;
    throw failed(
      this.#request,
      source.kind === "context"
        ? `file not found in build context or excluded by .dockerignore: ${stat}`
        : stat,
    );
  }

  #refuseOutside(source: CopySource): void {
    const clean = path.posix.normalize(source.pattern);
    if (clean !== ".." && !clean.startsWith("../")) return;
    throw failed(this.#request, `forbidden path outside the build context: ${source.pattern} (${clean})`);
  }

  #match(
    source: CopySource,
    view: LayeredView,
    written: readonly string[],
  ): Omit<Match, "leftBehind"> | undefined {
    // Through links, as opening the path would go, but never out of the tree.
    const resolved = view.resolve(written.join("/"));
    const node = view.find(resolved);
    if (node === undefined) return undefined;
    const unpacked = this.#request.unpacked.find((each) => each.file === node.absolute);
    if (unpacked === undefined) {
      const keepsOwner = source.kind === "image";
      const isFromPattern = hasWildcard(source.pattern);
      return { view, parts: resolved, written, node, isArchive: false, isFromPattern, keepsOwner };
    }
    const inside = new LayeredView([unpacked.folder]);
    const root = inside.find([]);
    if (root === undefined) return undefined;
    return {
      view: inside,
      parts: [],
      written,
      node: root,
      isArchive: true,
      isFromPattern: false,
      keepsOwner: true,
    };
  }

  #expand(view: LayeredView, parts: readonly string[]): readonly (readonly string[])[] {
    let found: (readonly string[])[] = [[]];
    for (const part of parts) {
      if (part === "**" && this.#request.keepsParents) {
        found = found.flatMap((each) => [each, ...foldersBelow(view, each)]);
        continue;
      }
      if (!hasWildcard(part)) {
        found = found.map((each) => [...each, part]);
        continue;
      }
      const glob = pathGlob(toText(part));
      found = found.flatMap((each) =>
        view
          .list(view.resolve(each.join("/")))
          .filter((name) => glob.test(toText(name)))
          .map((name) => [...each, name]),
      );
    }
    return found.filter((each) => view.find(view.resolve(each.join("/"))) !== undefined);
  }
}

/** All folders below one, links not followed. */
function foldersBelow(view: LayeredView, folder: readonly string[]): readonly (readonly string[])[] {
  return view
    .list(view.resolve(folder.join("/")))
    .map((name) => [...folder, name])
    .filter((each) => view.find(each)?.stats.isDirectory() === true)
    .flatMap((each) => [each, ...foldersBelow(view, each)]);
}

/** How many parts stand before the first "/./". */
function leftBehindOf(pattern: string): number {
  const pivot = pattern.indexOf("/./");
  return pivot < 0 ? 0 : pathParts(pattern.slice(0, pivot)).length;
}

class CopyPlan {
  readonly #request: CopyRequest;
  readonly #target: LayeredView;
  readonly #owner: Owner;
  readonly #mode: number | undefined;
  readonly #excludes: IgnorePatterns;
  /** By path in the image; a later source replaces an earlier one's file. */
  readonly #items = new Map<string, Item>();
  readonly #sources: CopySources;

  constructor(request: CopyRequest) {
    this.#request = request;
    this.#target = new LayeredView(request.destinationLayers);
    this.#owner = ownerOf(request.chown, this.#target);
    this.#mode = request.chmod === "" ? undefined : parseMode(request);
    this.#excludes = new IgnorePatterns(request.excludes);
    this.#sources = new CopySources(request);
  }

  items(): readonly Item[] {
    const { folders, inlineFiles, destination } = this.#request;
    for (const folder of folders) this.#makeFolder(this.#target.resolve(fromText(folder)));
    const matches = this.#sources.matches();
    const count = matches.length + inlineFiles.length;
    if (count > 1 && !destination.endsWith("/")) {
      throw new ClusterError(
        "invalid_argument",
        `When using ${this.#request.verb} with more than one source file, the destination must be a directory and end with a /`,
      );
    }
    const target = this.#target.resolve(fromText(destination));
    const isFolder = destination.endsWith("/") || this.#target.find(target)?.stats.isDirectory() === true;
    for (const [number, match] of matches.entries()) this.#copy({ ...match, number }, target, isFolder);
    for (const { name, content } of inlineFiles) {
      const parts = isFolder ? [...target, fromText(name)] : target;
      this.#add(parts, { type: "file", mode: this.#mode ?? 0o644, mtime: 0 }, Buffer.from(content));
    }
    return this.#linked();
  }

  get #takesBack(): boolean {
    return this.#request.excludes.some((line) => line.startsWith("!"));
  }

  #copy(match: Source, target: readonly string[], isFolder: boolean): void {
    if (this.#request.keepsParents) {
      if (!this.#isOut(match, [])) this.#copyWithParents(match, target);
      return;
    }
    if (match.isFromPattern && this.#isOut(match, match.written.slice(-1))) return;
    if (match.node.stats.isDirectory()) {
      this.#makeFolder(target);
      this.#copyTree(match, match.parts, target);
      return;
    }
    const name = match.parts.at(-1) ?? "";
    this.#copyNode(match, match.node, isFolder ? [...target, name] : target);
  }

  /** What --exclude says of something below a match; with --parents by its name from where the folders are kept. */
  #isOut({ written, leftBehind }: Match, below: readonly string[]): boolean {
    const above = this.#request.keepsParents ? written.slice(leftBehind) : [];
    return this.#excludes.ignores(toText([...above, ...below].join("/")));
  }

  /** Folders above as the source has them, under the names that were written. */
  #copyWithParents(match: Source, target: readonly string[]): void {
    const { view, written, leftBehind } = match;
    this.#makeFolder(target);
    for (let count = leftBehind + 1; count < written.length; count++) {
      const node = view.find(view.resolve(written.slice(0, count).join("/")));
      const place = [...target, ...written.slice(leftBehind, count)];
      if (node !== undefined && !this.#items.has(place.join("/"))) this.#copyNode(match, node, place);
    }
    const place = [...target, ...written.slice(leftBehind)];
    if (written.length > leftBehind) this.#copyNode(match, match.node, place);
    if (match.node.stats.isDirectory()) this.#copyTree(match, match.parts, place);
  }

  /** The content of a folder; excluded ones are gone through for what is taken back by "!". */
  #copyTree(match: Source, parts: readonly string[], target: readonly string[]): void {
    for (const name of match.view.list(parts)) {
      const child = [...parts, name];
      const node = match.view.find(child);
      if (node === undefined) continue;
      const isOut = this.#isOut(match, child.slice(match.parts.length));
      // A link in the image that leads to a folder stays, and is gone through.
      const place = this.#placeOf([...target, name], node);
      if (!node.stats.isDirectory()) {
        if (!isOut) this.#copyNode(match, node, place);
        continue;
      }
      if (!isOut) this.#copyNode(match, node, place);
      // What is out may hold what "!" takes back.
      if (!isOut || this.#takesBack) this.#copyTree(match, child, place);
    }
  }

  #placeOf(parts: readonly string[], node: FoundNode): readonly string[] {
    if (!node.stats.isDirectory()) return parts;
    const there = this.#target.find(parts);
    if (there?.stats.isSymbolicLink() !== true) return parts;
    const resolved = this.#target.resolve(parts.join("/"));
    return this.#target.find(resolved)?.stats.isDirectory() === true ? resolved : parts;
  }

  #copyNode(match: Source, node: FoundNode, parts: readonly string[]): void {
    const { stats, absolute } = node;
    const type = tarTypeOf(stats);
    if (type === undefined) return;
    const device = deviceParts(stats.rdev);
    const owner =
      match.keepsOwner && this.#request.chown === "" ? { uid: stats.uid, gid: stats.gid } : this.#owner;
    const isLink = type === "symlink";
    this.#add(
      parts,
      {
        type,
        mode: this.#mode !== undefined && !isLink ? this.#mode : stats.mode & 0o7777,
        mtime: Math.floor(stats.mtimeMs / 1000),
        linkName: isLink ? fs.readlinkSync(fsPath(absolute), "latin1") : "",
        size: type === "file" ? stats.size : 0,
        devMajor: device.major,
        devMinor: device.minor,
        xattrs: xattrsOf(absolute),
        ...owner,
      },
      type === "file" ? absolute : undefined,
    );
    const item = this.#items.get(parts.join("/"));
    if (item === undefined || type !== "file" || stats.nlink < 2) return;
    // Two sources of a step that bring the same file make two of it.
    this.#items.set(parts.join("/"), { ...item, inode: `${match.number}:${stats.dev}:${stats.ino}` });
  }

  /** Names of the same file as links to the first of them. */
  #linked(): readonly Item[] {
    const first = new Map<string, string>();
    return [...this.#items].map(([name, { entry, content, inode }]) => {
      const linkName = inode === undefined ? undefined : first.get(inode);
      if (linkName !== undefined) {
        return {
          entry: { ...entry, type: "link", size: 0, linkName, xattrs: new Map() },
          content: undefined,
        };
      }
      if (inode !== undefined) first.set(inode, name);
      return { entry, content };
    });
  }

  #add(
    parts: readonly string[],
    fields: Partial<TarEntry> & Pick<TarEntry, "type" | "mode" | "mtime">,
    content: string | Buffer | undefined,
  ): void {
    this.#makeFolder(parts.slice(0, -1));
    const name = parts.join("/");
    if (name === "") return;
    const isFolder = fields.type === "folder";
    const entry: TarEntry = {
      uid: this.#owner.uid,
      gid: this.#owner.gid,
      size: Buffer.isBuffer(content) ? content.length : 0,
      linkName: "",
      devMajor: 0,
      devMinor: 0,
      xattrs: new Map(),
      ...fields,
      mtime: Math.min(fields.mtime, this.#request.mtimeMax ?? Infinity),
      name: isFolder ? `${name}/` : name,
    };
    this.#items.delete(name);
    this.#items.set(name, { entry, content });
  }

  /** Every folder on the way is a member, as the image has it, or new with 0755 and the step's owner. */
  #makeFolder(parts: readonly string[]): void {
    for (let count = 1; count <= parts.length; count++) {
      const some = parts.slice(0, count);
      const name = some.join("/");
      if (this.#items.has(name)) continue;
      const found = this.#target.find(some);
      const isThere = found?.stats.isDirectory() === true;
      if (found !== undefined && !isThere) this.#refuseAsFolder(toText(name));
      const entry: TarEntry = {
        name: `${name}/`,
        type: "folder",
        mode: isThere ? found.stats.mode & 0o7777 : 0o755,
        uid: isThere ? found.stats.uid : this.#owner.uid,
        gid: isThere ? found.stats.gid : this.#owner.gid,
        size: 0,
        mtime: isThere ? Math.floor(found.stats.mtimeMs / 1000) : (this.#request.mtimeMax ?? 0),
        linkName: "",
        devMajor: 0,
        devMinor: 0,
        xattrs: isThere ? xattrsOf(found.absolute) : new Map(),
      };
      this.#items.set(name, { entry, content: undefined });
    }
  }

  #refuseAsFolder(name: string): never {
    if (this.#request.verb === "WORKDIR")
      throw new ClusterError("invalid_argument", `Cannot mkdir: /${name} is not a directory`);
    throw failed(this.#request, `failed to copy files: mkdir /${name}: not a directory`);
  }
}

function xattrsOf(absolute: string): ReadonlyMap<string, Buffer> {
  const xattrs = new Map<string, Buffer>();
  for (const name of listXattrs(absolute)) {
    if (name !== "security.capability" && !(name.startsWith("user.") && !name.startsWith("user.overlay.")))
      continue;
    const value = getXattr(absolute, name);
    if (value !== undefined) xattrs.set(name, value);
  }
  return xattrs;
}

function parseMode(request: CopyRequest): number {
  if (/^[0-7]{1,5}$/.test(request.chmod)) return Number.parseInt(request.chmod, 8) & 0o7777;
  throw new ClusterError(
    "invalid_argument",
    `invalid chmod parameter: '${request.chmod}'. it should be octal string and between 0 and 07777`,
  );
}

function* bytesOf(item: Item): Generator<Buffer> {
  if (item.content === undefined) return;
  if (Buffer.isBuffer(item.content)) {
    yield item.content;
    return;
  }
  const fd = fs.openSync(fsPath(item.content), fs.constants.O_RDONLY | fs.constants.O_NOFOLLOW);
  try {
    let left = item.entry.size;
    while (left > 0) {
      const chunk = Buffer.allocUnsafe(Math.min(READ_BYTES, left));
      const bytesRead = fs.readSync(fd, chunk, 0, chunk.length, null);
      if (bytesRead === 0)
        throw new ClusterError("internal", `"${toText(item.content)}" shrank while it was read`);
      left -= bytesRead;
      yield chunk.subarray(0, bytesRead);
    }
  } finally {
    fs.closeSync(fd);
  }
}

/** The layer's tar. */
export function* packCopy(request: CopyRequest): Generator<Buffer> {
  for (const item of new CopyPlan(request).items()) {
    yield encodeHeader(item.entry);
    yield* bytesOf(item);
    yield paddingOf(item.entry.size);
  }
  yield END_OF_ARCHIVE;
}

/** Digest of what would be copied, times left out: the key of the build cache. */
export function hashCopy(request: CopyRequest): CopiedThings {
  const hash = createHash("sha256");
  for (const item of new CopyPlan(request).items()) {
    hash.update(encodeHeader({ ...item.entry, mtime: 0 }));
    for (const piece of bytesOf(item)) hash.update(piece);
  }
  const matches = new CopySources(request).matches();
  const isOne = matches.length + request.inlineFiles.length === 1;
  const [first] = matches;
  // An archive is a folder only because it was taken apart.
  const isFolder = first?.node.stats.isDirectory() === true && !first.isArchive;
  return { kind: isOne ? (isFolder ? "dir" : "file") : "multi", hash: hash.digest("hex") };
}

/** Files among the sources that are archives, which ADD takes apart. */
export async function findArchives(request: CopyRequest): Promise<readonly string[]> {
  const files = new CopySources(request).matches().filter(({ node }) => node.stats.isFile());
  const found: string[] = [];
  for (const { node } of files) if (await isTarFile(node.absolute)) found.push(node.absolute);
  return found;
}
