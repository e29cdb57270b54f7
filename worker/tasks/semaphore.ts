/** At most so many at once; others wait in order. */
import { ClusterError } from "../../common/errors.ts";

export class Semaphore {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  /** `countMax`: most that run at once (>= 1). */
  constructor(countMax: number) {
    this.#free = countMax;
  }

  /** Runs `work` when there is room. Rejects with cancelled, without running it, if `signal` ends the wait. */
  async run<T>(work: () => Promise<T>, signal: AbortSignal): Promise<T> {
    await this.#acquire(signal);
    try {
      return await work();
    } finally {
      this.#release();
    }
  }

  #acquire(signal: AbortSignal): Promise<void> {
    if (signal.aborted) return Promise.reject(new ClusterError("cancelled", "Cannot wait: it was cancelled"));
    if (this.#free > 0) {
      this.#free -= 1;
      return Promise.resolve();
    }
    return new Promise((resolve, reject) => {
      const enter = (): void => {
        signal.removeEventListener("abort", leave);
        resolve();
      };
      const leave = (): void => {
        const place = this.#waiting.indexOf(enter);
        if (place >= 0) this.#waiting.splice(place, 1);
        reject(new ClusterError("cancelled", "Cannot wait: it was cancelled"));
      };
      this.#waiting.push(enter);
      signal.addEventListener("abort", leave, { once: true });
    });
  }

  #release(): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#free += 1;
    else next();
  }
}
