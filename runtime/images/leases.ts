/**
 * What running work (pulls, loads, builds) needs though no image names it yet. Garbage collection keeps whatever is held;
 * work takes its hold before it puts anything into a store. In memory only: after a crash no work runs, and what it left
 * is garbage.
 */
export interface Lease {
  /** Blobs and layers (digests, chain ids) and images (ids) that must stay. */
  hold(...keys: readonly string[]): void;
  release(): void;
}

export class Leases {
  /** Key to how many leases hold it. */
  readonly #held = new Map<string, number>();

  open(): Lease {
    const own = new Set<string>();
    return {
      hold: (...keys) => {
        for (const key of keys) {
          if (own.has(key)) continue;
          own.add(key);
          this.#held.set(key, (this.#held.get(key) ?? 0) + 1);
        }
      },
      release: () => {
        for (const key of own) {
          const count = (this.#held.get(key) ?? 1) - 1;
          if (count === 0) this.#held.delete(key);
          else this.#held.set(key, count);
        }
        own.clear();
      },
    };
  }

  get isEmpty(): boolean {
    return this.#held.size === 0;
  }

  has(key: string): boolean {
    return this.#held.has(key);
  }

  keys(): IterableIterator<string> {
    return this.#held.keys();
  }
}
