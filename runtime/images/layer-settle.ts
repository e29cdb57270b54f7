/**
 * Finishes an unpacked layer with what it takes from those below it: owner, mode and times of folders that its archive
 * only implies (else they would hide the real ones), and files that its hard links name but an older layer holds. Runs in
 * worker threads.
 */
import * as fs from "node:fs";
import { tarError } from "./tar/tar-entry.ts";
import { fsPath, pathParts, toText } from "./tar/byte-path.ts";
import { LayeredView } from "./layered-view.ts";
import { getXattr, listXattrs, setXattr } from "./native-files.ts";
import type { UnpackedLayer } from "./layer-unpack.ts";

function copyAttributes(from: string, to: string, stats: fs.Stats): void {
  fs.lchownSync(fsPath(to), stats.uid, stats.gid);
  if (!stats.isSymbolicLink()) fs.chmodSync(fsPath(to), stats.mode & 0o7777);
  for (const name of listXattrs(from)) {
    if (name.startsWith("trusted.")) continue;
    const value = getXattr(from, name);
    if (value !== undefined) setXattr(to, name, value);
  }
  fs.lutimesSync(fsPath(to), stats.atimeMs / 1000, stats.mtimeMs / 1000);
}

/** Folders whose times stay what they are though something is put into them. */
class KeptTimes {
  readonly #stats = new Map<string, fs.Stats>();

  /** Call before the first change. */
  keep(path: string): void {
    const folder = path.slice(0, path.lastIndexOf("/"));
    if (!this.#stats.has(folder)) this.#stats.set(folder, fs.lstatSync(fsPath(folder)));
  }

  restore(): void {
    for (const [folder, { atimeMs, mtimeMs }] of this.#stats)
      fs.lutimesSync(fsPath(folder), atimeMs / 1000, mtimeMs / 1000);
  }
}

/** Folders of `parts` that this layer lacks, made like those below. */
function makeParents(
  folder: string,
  parts: readonly string[],
  { below, times }: { readonly below: LayeredView; readonly times: KeptTimes },
): void {
  for (let count = 1; count < parts.length; count++) {
    const some = parts.slice(0, count);
    const path = `${folder}/${some.join("/")}`;
    if (fs.lstatSync(fsPath(path), { throwIfNoEntry: false }) !== undefined) continue;
    times.keep(path);
    fs.mkdirSync(fsPath(path), 0o755);
    const found = below.find(some);
    if (found !== undefined) copyAttributes(found.absolute, path, found.stats);
  }
}

/** What older layers have at `target`, as a file of this layer at `path`. */
function copyUp(target: string, path: string, below: LayeredView): void {
  const found = below.find(pathParts(target));
  if (found === undefined || found.stats.isDirectory()) {
    throw tarError(`Cannot unpack layer: hard link to "${toText(target)}", which is in no layer`);
  }
  if (found.stats.isSymbolicLink()) {
    fs.symlinkSync(fsPath(fs.readlinkSync(fsPath(found.absolute), "latin1")), fsPath(path));
  } else if (found.stats.isFile()) {
    fs.copyFileSync(
      fsPath(found.absolute),
      fsPath(path),
      fs.constants.COPYFILE_EXCL | fs.constants.COPYFILE_FICLONE,
    );
  } else {
    throw tarError(`Cannot unpack layer: hard link to "${toText(target)}", which is no file`);
  }
  copyAttributes(found.absolute, path, found.stats);
}

/**
 * Links to what older layers hold. Where this layer has put something else in the target's place, it did so after the link:
 * then the links share a copy of what was there, and the target keeps what it is now.
 */
function makeLinks(folder: string, links: UnpackedLayer["pendingLinks"], below: LayeredView): void {
  const times = new KeptTimes();
  /** Where the file of an older layer is in this one, by its name there. */
  const copies = new Map<string, string>();
  for (const { path, target } of links) {
    const [link, own] = [`${folder}/${path}`, `${folder}/${target}`];
    const copy = copies.get(target);
    const isReplaced = fs.lstatSync(fsPath(own), { throwIfNoEntry: false }) !== undefined;
    const first = copy ?? (isReplaced ? link : own);
    if (copy === undefined) {
      if (!isReplaced) makeParents(folder, pathParts(target), { below, times });
      times.keep(first);
      copyUp(target, first, below);
      copies.set(target, first);
    }
    if (first === link) continue;
    times.keep(link);
    fs.linkSync(fsPath(first), fsPath(link));
  }
  times.restore();
}

/** `folder` and `lower` (newest first) are absolute byte strings. */
export function settleLayer(
  folder: string,
  layer: Pick<UnpackedLayer, "impliedFolders" | "pendingLinks"> & { readonly lower: readonly string[] },
): void {
  const below = new LayeredView(layer.lower);
  makeLinks(folder, layer.pendingLinks, below);
  // Deepest first, so that times stay.
  for (const path of [...layer.impliedFolders].sort((left, right) => right.length - left.length)) {
    const found = below.find(pathParts(path));
    if (found?.stats.isDirectory() === true) copyAttributes(found.absolute, `${folder}/${path}`, found.stats);
  }
}
