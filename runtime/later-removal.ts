/**
 * Folders that nobody needs any more, removed a little later and together. An unlink may wait for the disk (for long,
 * where one is told of each block that gets free), and nobody waits for these: whoever hands a folder over has renamed
 * it out of everybody's way, and a daemon that is killed meanwhile finds it at its next start. Used for containers'
 * folders and for their writable layers.
 */
import * as fs from "node:fs/promises";
import type { Cancel, Timers } from "../common/env.ts";
import type { Logger } from "../common/log.ts";

/** A quiet spell, so that it falls into no burst of starts. */
const QUIET_MS = 200;
/** Under steady load the first one waits no longer than this. */
const WAIT_MS_MAX = 2_000;
/** A daemon that ends waits no longer for what is being removed. */
const CLOSE_MS_MAX = 2_000;

/** Removes trees, away from this thread. Fine if one is gone already; rejects if one is left. */
export type RemoveTrees = (folders: readonly string[]) => Promise<unknown>;

export interface LaterRemovalDeps {
  readonly timers: Timers;
  readonly log: Logger;
  readonly remove: RemoveTrees;
}

export class LaterRemoval {
  readonly #deps: LaterRemovalDeps;
  #waiting: string[] = [];
  #running: Promise<void> | undefined;
  #cancel: Cancel | undefined;
  #waitedMs = 0;
  #isClosed = false;

  constructor(deps: LaterRemovalDeps) {
    this.#deps = deps;
  }

  add(folder: string): void {
    this.#waiting.push(folder);
    if (this.#isClosed) this.#removeAll();
    else if (this.#waiting.length === 1 && this.#running === undefined) this.#wait();
  }

  /**
   * Removes at once what waits, and what still comes. Resolves when it is gone, or too long in going: the rest goes at
   * the next start.
   */
  async close(): Promise<void> {
    this.#isClosed = true;
    this.#cancel?.();
    this.#removeAll();
    let isLate = false;
    const late = Promise.withResolvers<void>();
    const cancel = this.#deps.timers.after(CLOSE_MS_MAX, () => {
      isLate = true;
      late.resolve();
    });
    while (this.#running !== undefined && !isLate) await Promise.race([this.#running, late.promise]);
    cancel();
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

  /** One round at a time: what comes meanwhile is the next one's. */
  #removeAll(): void {
    if (this.#running !== undefined || this.#waiting.length === 0) return;
    const folders = this.#waiting;
    this.#waiting = [];
    this.#running = this.#remove(folders).finally(() => {
      this.#running = undefined;
      if (this.#isClosed) this.#removeAll();
      else if (this.#waiting.length > 0) this.#wait();
    });
  }

  async #remove(folders: readonly string[]): Promise<void> {
    const { log, remove } = this.#deps;
    try {
      await remove(folders);
    } catch (caught) {
      log.debug("removed in another way", { error: caught });
      for (const folder of folders) {
        await fs.rm(folder, { recursive: true, force: true }).catch((error: unknown) => {
          log.warn("removal left something", { folder, error });
        });
      }
    }
  }
}
