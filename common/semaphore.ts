/** At most so many at once; others wait in order. */
import { ClusterError } from "./errors.ts";

export class Semaphore {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  /** `countMax`: most that run at once (>= 1). */
  constructor(countMax: number) {
    this.#free = countMax;
  }

  /** Runs `work` when there is room. Rejects with cancelled, without running it, if `signal` ends the wait. */
  async run<T>(work: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    const release = await this.acquire(signal);
    try {
      return await work();
    } finally {
      release();
    }
  }

  /** Resolves when there is room, with what gives it back; calling that again does nothing. */
  async acquire(signal?: AbortSignal): Promise<() => void> {
    await this.#enter(signal);
    let isHeld = true;
    return () => {
      if (isHeld) this.#leave();
      isHeld = false;
    };
  }

  #enter(signal: AbortSignal | undefined): Promise<void> {
    if (signal?.aborted === true)
      return Promise.reject(new ClusterError("cancelled", "Cannot wait: it was cancelled"));
    if (this.#free > 0) {
      this.#free -= 1;
      return Promise.resolve();
    }
    return new Promise((resolve, reject) => {
      const enter = (): void => {
        signal?.removeEventListener("abort", leave);
        resolve();
      };
      const leave = (): void => {
        const place = this.#waiting.indexOf(enter);
        if (place >= 0) this.#waiting.splice(place, 1);
        reject(new ClusterError("cancelled", "Cannot wait: it was cancelled"));
      };
      this.#waiting.push(enter);
      signal?.addEventListener("abort", leave, { once: true });
    });
  }

  #leave(): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#free += 1;
    else next();
  }
}
