/** Waits of a member between two tries, which all end when it stops. */
import type { Timers } from "../../common/env.ts";

export class Pauses {
  readonly #timers: Pick<Timers, "after">;
  readonly #open = new Set<() => void>();

  constructor(timers: Pick<Timers, "after">) {
    this.#timers = timers;
  }

  /** How many wait now. */
  get count(): number {
    return this.#open.size;
  }

  /** Resolves after `ms`, or at endAll(). */
  wait(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const end = (): void => {
        cancel();
        this.#open.delete(end);
        resolve();
      };
      const cancel = this.#timers.after(ms, end);
      this.#open.add(end);
    });
  }

  endAll(): void {
    for (const end of this.#open) end();
  }
}
