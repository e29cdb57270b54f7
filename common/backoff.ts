/** Exponential back-off with full jitter, so that many clients that lost the same peer do not return at once. */
import type { Random } from "./env.ts";

export interface BackoffOptions {
  readonly firstMs: number;
  readonly maxMs: number;
}

export class Backoff {
  readonly #options: BackoffOptions;
  readonly #random: Pick<Random, "float">;
  #attempts = 0;

  constructor(random: Pick<Random, "float">, options: BackoffOptions) {
    this.#random = random;
    this.#options = options;
  }

  /** How long to wait before the next attempt: uniform in half to all of min(max, first * 2^attempts). */
  nextMs(): number {
    const ceiling = Math.min(this.#options.maxMs, this.#options.firstMs * 2 ** Math.min(this.#attempts, 30));
    this.#attempts += 1;
    return ceiling / 2 + (this.#random.float() * ceiling) / 2;
  }

  /** After a success. */
  reset(): void {
    this.#attempts = 0;
  }
}
