/**
 * Folders that nobody needs any more, removed a little later and one at a time. Taking the few files of a container away costs more
 * calls than making them, and nobody waits for it: whoever hands a folder over has renamed it out of everybody's way, and a daemon
 * that is killed meanwhile finds it at its next start. Used for containers' folders and for their writable layers.
 */
import { lstatSync, readdirSync, rmdirSync, unlinkSync } from "node:fs";
import path from "node:path";
import type { Cancel, Timers } from "../common/env.ts";
import type { Logger } from "../common/log.ts";

/** A quiet spell, so that it falls into no burst of starts. */
const QUIET_MS = 200;
/** Under steady load the first one waits no longer than this. */
const WAIT_MS_MAX = 2_000;
/** Beyond these a tree is not removed on this thread. A deep one could hold up the event loop, a large file too. */
const SMALL_ENTRIES_MAX = 24;
const SMALL_DEPTH_MAX = 3;
const SMALL_FILE_BYTES_MAX = 1024 * 1024;

interface Tree {
  /** Deepest last. */
  readonly folders: string[];
  readonly files: string[];
}

/** What is in the folder, as long as that is little; false: it is not. */
function collect(folder: string, depth: number, tree: Tree): boolean {
  tree.folders.push(folder);
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const place = path.join(folder, entry.name);
    if (tree.files.length + tree.folders.length >= SMALL_ENTRIES_MAX) return false;
    if (entry.isDirectory()) {
      if (depth >= SMALL_DEPTH_MAX || !collect(place, depth + 1, tree)) return false;
    } else if (lstatSync(place).size > SMALL_FILE_BYTES_MAX) {
      return false;
    } else {
      tree.files.push(place);
    }
  }
  return true;
}

/** Removes a small tree at once; false if it is not small, and nothing was touched then. */
export function removeSmallTree(folder: string): boolean {
  const tree: Tree = { folders: [], files: [] };
  if (!collect(folder, 1, tree)) return false;
  for (const file of tree.files) unlinkSync(file);
  for (const each of tree.folders.toReversed()) rmdirSync(each);
  return true;
}

export interface LaterRemovalDeps {
  readonly timers: Timers;
  readonly log: Logger;
  /** Removes what is too much for this thread. Fine if it is gone already. */
  readonly removeLarge: (folder: string) => Promise<unknown>;
}

export class LaterRemoval {
  readonly #deps: LaterRemovalDeps;
  readonly #waiting: string[] = [];
  #cancel: Cancel | undefined;
  #waitedMs = 0;
  #isClosed = false;

  constructor(deps: LaterRemovalDeps) {
    this.#deps = deps;
  }

  add(folder: string): void {
    this.#waiting.push(folder);
    if (this.#isClosed) this.#removeNext();
    else if (this.#waiting.length === 1) this.#wait();
  }

  /** Removes now what is small; the rest goes at the next start. */
  close(): void {
    this.#isClosed = true;
    this.#cancel?.();
    while (this.#waiting.length > 0) this.#removeNext();
  }

  /** Until nothing was added for QUIET_MS, or for WAIT_MS_MAX. */
  #wait(): void {
    const before = this.#waiting.length;
    this.#cancel = this.#deps.timers.after(QUIET_MS, () => {
      this.#waitedMs += QUIET_MS;
      if (this.#waiting.length > before && this.#waitedMs < WAIT_MS_MAX) return this.#wait();
      this.#waitedMs = 0;
      this.#removeAll();
    });
  }

  /** One for each turn of the loop. */
  #removeAll(): void {
    this.#removeNext();
    this.#cancel = this.#waiting.length === 0 ? undefined : this.#deps.timers.soon(() => this.#removeAll());
  }

  #removeNext(): void {
    const folder = this.#waiting.shift();
    if (folder === undefined) return;
    try {
      if (!removeSmallTree(folder) && !this.#isClosed) this.#removeLarge(folder);
    } catch (caught) {
      // In part, perhaps: what is left is asked for once more.
      this.#deps.log.debug("removed in another way", { folder, error: caught });
      if (!this.#isClosed) this.#removeLarge(folder);
    }
  }

  #removeLarge(folder: string): void {
    this.#deps.removeLarge(folder).catch((error: unknown) => {
      this.#deps.log.warn("removal left something", { folder, error });
    });
  }
}
