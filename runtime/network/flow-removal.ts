/**
 * Forgets the connections of addresses that were given back, off the event loop: the kernel walks its whole table for
 * each, about a millisecond. Whoever gives an address out again waits for that, so that nobody gets packets of a
 * connection of the one before.
 */
import { ClusterError } from "../../common/errors.ts";
import type { Logger } from "../../common/log.ts";

/** In one go; those that come meanwhile are the next. */
const BATCH_MAX = 64;

export interface FlowRemovalDeps {
  /** Never called again before the last call has settled. */
  readonly forget: (addresses: readonly string[]) => Promise<void>;
  readonly log: Logger;
}

export class FlowRemoval {
  readonly #deps: FlowRemovalDeps;
  readonly #waiting = new Set<string>();
  #batch: readonly string[] = [];
  /** Of the present batch. */
  #done: Promise<void> | undefined;
  #isRunning = false;

  constructor(deps: FlowRemovalDeps) {
    this.#deps = deps;
  }

  /** Begins to; returns at once. */
  add(address: string): void {
    this.#waiting.add(address);
    if (!this.#isRunning) void this.#run();
  }

  /** Resolves when none is left of those that the address had when it was added last. */
  async settled(address: string): Promise<void> {
    while (this.#waiting.has(address) || this.#batch.includes(address)) await this.#done;
  }

  /** Resolves when all that was added is done. */
  async close(): Promise<void> {
    while (this.#isRunning) await this.#done;
  }

  async #run(): Promise<void> {
    this.#isRunning = true;
    while (this.#waiting.size > 0) {
      this.#batch = [...this.#waiting].slice(0, BATCH_MAX);
      for (const address of this.#batch) this.#waiting.delete(address);
      this.#done = this.#deps.forget(this.#batch).catch((caught: unknown) => {
        this.#deps.log.warn("connections of addresses that were given back are not forgotten", {
          error: ClusterError.from(caught),
        });
      });
      await this.#done;
      this.#batch = [];
    }
    this.#isRunning = false;
  }
}
