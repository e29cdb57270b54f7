/**
 * Looks at a stack of unpacked layers as the overlay would show it, without mounting it: whiteouts and opaque folders
 * hide what is below. Links are followed as inside a container, never out of the stack. Synchronous; only reads.
 * Used to finish layers, to list changes, and by the builder's COPY.
 */
import * as fs from "node:fs";
import { ClusterError, hasNodeCode } from "../../common/errors.ts";
import { inUserNamespace } from "../../common/user-namespace.ts";
import { getXattr } from "./native-files.ts";
import { fsPath, toText } from "./tar/byte-path.ts";

/** Marks a folder that hides what the layers below have under its name; the kernel's own attributes need the machine's root. */
export const OPAQUE_XATTR: string = inUserNamespace() ? "user.overlay.opaque" : "trusted.overlay.opaque";
const LINKS_MAX = 40;

export interface FoundNode {
  /** Absolute byte string of the file in its layer. */
  readonly absolute: string;
  readonly stats: fs.Stats;
}

export function isWhiteout(stats: fs.Stats): boolean {
  return stats.isCharacterDevice() && stats.rdev === 0;
}

export function isOpaque(absolute: string): boolean {
  return getXattr(absolute, OPAQUE_XATTR)?.toString("latin1") === "y";
}

function lstat(absolute: string): fs.Stats | undefined {
  try {
    return fs.lstatSync(fsPath(absolute), { throwIfNoEntry: false });
  } catch (caught) {
    // A part of the way is no folder here.
    if (hasNodeCode(caught, "ENOTDIR")) return undefined;
    throw caught;
  }
}

/** Not in Node's list; alike on all machines that we run on. */
const O_PATH = 0o10000000;

/**
 * A running container may swap its file for a link, a pipe or a device at any moment: what is opened is pinned first, then
 * looked at, and read only if it is a regular file. Undefined if it is not, or is gone.
 */
function readRegular(absolute: string, bytesMax: number): Buffer | undefined {
  let pinned: number | undefined;
  try {
    pinned = fs.openSync(fsPath(absolute), O_PATH | fs.constants.O_NOFOLLOW);
    if (!fs.fstatSync(pinned).isFile()) return undefined;
    const opened = fs.openSync(`/proc/self/fd/${pinned}`, "r");
    try {
      // One that grows meanwhile is cut.
      const bytes = Buffer.alloc(Math.min(bytesMax, fs.fstatSync(opened).size));
      return bytes.subarray(0, fs.readSync(opened, bytes));
    } finally {
      fs.closeSync(opened);
    }
  } catch (caught) {
    if (hasNodeCode(caught, "ENOENT", "ENOTDIR")) return undefined;
    throw caught;
  } finally {
    if (pinned !== undefined) fs.closeSync(pinned);
  }
}

type LayerAnswer = FoundNode | "hidden" | "missing";

export class LayeredView {
  readonly #layers: readonly string[];

  /** `layers`: absolute byte strings, newest first. Short names (links to layers) are as good as their folders. */
  constructor(layers: readonly string[]) {
    this.#layers = layers.map((layer) => fs.realpathSync(fsPath(layer), { encoding: "latin1" }));
  }

  /** What is at `parts` exactly, no link followed; undefined if nothing. */
  find(parts: readonly string[]): FoundNode | undefined {
    for (const layer of this.#layers) {
      const answer = this.#findIn(layer, parts);
      if (answer === "hidden") return undefined;
      if (answer !== "missing") return answer;
    }
    return undefined;
  }

  /** In one layer: found, hidden from there on down, or missing (the layer below may have it). */
  #findIn(layer: string, parts: readonly string[]): LayerAnswer {
    let absolute = layer;
    let stats = lstat(layer);
    let isBelowHidden = false;
    for (const part of parts) {
      if (stats === undefined) return isBelowHidden ? "hidden" : "missing";
      if (!stats.isDirectory()) return "hidden";
      isBelowHidden ||= isOpaque(absolute);
      absolute = `${absolute}/${part}`;
      stats = lstat(absolute);
    }
    if (stats === undefined) return isBelowHidden ? "hidden" : "missing";
    return isWhiteout(stats) ? "hidden" : { absolute, stats };
  }

  /** Names in the folder at `parts`, sorted by byte; empty if it is no folder. */
  list(parts: readonly string[]): readonly string[] {
    const names = new Set<string>();
    const gone = new Set<string>();
    for (const layer of this.#layers) {
      const answer = this.#findIn(layer, parts);
      if (answer === "hidden") break;
      if (answer === "missing") continue;
      if (!answer.stats.isDirectory()) break;
      for (const name of fs.readdirSync(fsPath(answer.absolute), { encoding: "latin1" })) {
        if (names.has(name) || gone.has(name)) continue;
        const child = lstat(`${answer.absolute}/${name}`);
        if (child === undefined) continue;
        if (isWhiteout(child)) gone.add(name);
        else names.add(name);
      }
      if (this.#isCut(layer, parts)) break;
    }
    return [...names].sort();
  }

  /** Whether `layer` hides the folders below it at `parts`. */
  #isCut(layer: string, parts: readonly string[]): boolean {
    let absolute = layer;
    for (const part of ["", ...parts]) {
      absolute = part === "" ? absolute : `${absolute}/${part}`;
      if (isOpaque(absolute)) return true;
    }
    return false;
  }

  /**
   * Parts of `path` with the links on its way followed, its last one too unless `keepsLast`. What does not exist is kept as
   * written, so that it can be made.
   */
  resolve(path: string, keepsLast = false): readonly string[] {
    let current: string[] = [];
    let links = 0;
    const queue = path.split("/").filter((part) => part !== "" && part !== ".");
    for (let part = queue.shift(); part !== undefined; part = queue.shift()) {
      if (part === "..") {
        current.pop();
        continue;
      }
      const next = [...current, part];
      const found = keepsLast && queue.length === 0 ? undefined : this.find(next);
      if (found?.stats.isSymbolicLink() !== true) {
        current = next;
        continue;
      }
      if (++links > LINKS_MAX) {
        throw new ClusterError("invalid_argument", `Cannot resolve "${toText(path)}": too many links`);
      }
      const target = fs.readlinkSync(fsPath(found.absolute), "latin1");
      if (target.startsWith("/")) current = [];
      queue.unshift(...target.split("/").filter((each) => each !== "" && each !== "."));
    }
    return current;
  }

  /** What `path` leads to with all links followed. */
  stat(path: string): FoundNode | undefined {
    return this.find(this.resolve(path));
  }

  /** Whole content of a small file, for /etc/passwd and the like; undefined if missing. */
  readFile(path: string, bytesMax: number): Buffer | undefined {
    const found = this.stat(path);
    if (found === undefined || !found.stats.isFile() || found.stats.size > bytesMax) return undefined;
    return readRegular(found.absolute, bytesMax);
  }
}
