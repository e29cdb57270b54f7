/** Things by id that may be asked for a moment before they come. */
import { ClusterError } from "../../common/errors.ts";
import type { Timers } from "../../common/env.ts";

export interface ArrivalsOptions {
  /** What they are, for errors: "session". */
  readonly noun: string;
  readonly countMax: number;
  readonly waitMs: number;
  readonly timers: Timers;
}

export class Arrivals<T> {
  readonly #options: ArrivalsOptions;
  readonly #things = new Map<string, T>();
  readonly #waiting = new Map<string, Set<(thing: T) => void>>();

  constructor(options: ArrivalsOptions) {
    this.#options = options;
  }

  get count(): number {
    return this.#things.size;
  }

  values(): readonly T[] {
    return [...this.#things.values()];
  }

  add(id: string, thing: T): void {
    const { noun, countMax } = this.#options;
    if (this.#things.has(id))
      throw new ClusterError("already_exists", `Cannot open ${noun} "${id}": it is open already`);
    if (this.#things.size >= countMax) {
      throw new ClusterError(
        "resource_exhausted",
        `Cannot open ${noun} "${id}": at most ${countMax} may be open at a time`,
      );
    }
    this.#things.set(id, thing);
    for (const tell of this.#waiting.get(id) ?? []) tell(thing);
    this.#waiting.delete(id);
  }

  remove(id: string): void {
    this.#things.delete(id);
  }

  /** Rejects if it has not come in time. */
  async get(id: string, signal: AbortSignal): Promise<T> {
    const known = this.#things.get(id);
    if (known !== undefined) return known;
    const { noun, waitMs, timers } = this.#options;
    return new Promise((resolve, reject) => {
      const waiting = this.#waiting.get(id) ?? new Set();
      this.#waiting.set(id, waiting);
      const finish = (): void => {
        cancel();
        signal.removeEventListener("abort", giveUp);
        waiting.delete(arrived);
        if (waiting.size === 0) this.#waiting.delete(id);
      };
      const arrived = (thing: T): void => {
        finish();
        resolve(thing);
      };
      const giveUp = (): void => {
        finish();
        reject(new ClusterError("not_found", `no such ${noun}: ${id.slice(0, 100)}`));
      };
      const cancel = timers.after(waitMs, giveUp);
      signal.addEventListener("abort", giveUp, { once: true });
      waiting.add(arrived);
    });
  }
}
