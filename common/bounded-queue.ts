/** A queue with a bound that many push to and one reader drains with `for await`. Ends by close() or the signal. */
import type { ClusterError } from "./errors.ts";

export class BoundedQueue<T> implements AsyncIterable<T> {
  readonly #items: T[] = [];
  readonly #countMax: number;
  #wake: (() => void) | undefined;
  #closed = false;
  #failure: ClusterError | undefined;

  /** `countMax`: most items waiting at once (>= 1). */
  constructor(countMax: number) {
    this.#countMax = countMax;
  }

  get count(): number {
    return this.#items.length;
  }

  get isClosed(): boolean {
    return this.#closed;
  }

  /** False if the queue is full or closed: the caller decides what a slow reader means (drop, resync, refuse). */
  push(item: T): boolean {
    if (this.#closed || this.#items.length >= this.#countMax) return false;
    this.#items.push(item);
    this.#wake?.();
    return true;
  }

  /** No more items. What is waiting is still delivered; then the reader ends, or throws `failure`. */
  close(failure?: ClusterError): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#failure = failure;
    this.#wake?.();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T, void> {
    try {
      while (true) {
        const item = this.#items.shift();
        if (item !== undefined) {
          yield item;
          continue;
        }
        if (this.#closed) {
          if (this.#failure !== undefined) throw this.#failure;
          return;
        }
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
        this.#wake = undefined;
      }
    } finally {
      this.#closed = true;
      this.#items.length = 0;
    }
  }
}
