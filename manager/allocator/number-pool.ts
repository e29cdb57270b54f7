/**
 * Hands out numbers of a range, each to one holder at a time: offsets of addresses in a subnet, VNIs, ports, blocks.
 * It goes round, so that a number given back is used again as late as possible, and keeps it in quarantine for a while
 * besides, because peers, DNS caches and connections remember. Pure: the time comes in.
 */
export interface NumberPoolOptions {
  /** Inclusive. */
  readonly first: number;
  /** Inclusive. */
  readonly last: number;
  readonly quarantineMs: number;
}

export class NumberPool {
  readonly #options: NumberPoolOptions;
  readonly #used = new Set<number>();
  /** Number to the time at which it may be used again; in order of release. */
  readonly #quarantine = new Map<number, number>();
  #next: number;
  /** Of #used, those in the range: reserved numbers may lie outside. */
  #usedInRange = 0;

  constructor(options: NumberPoolOptions) {
    this.#options = options;
    this.#next = options.first;
  }

  has(value: number): boolean {
    return this.#used.has(value);
  }

  contains(value: number): boolean {
    return Number.isInteger(value) && value >= this.#options.first && value <= this.#options.last;
  }

  /** Takes a certain number, also one in quarantine or outside the range; false if it is held. */
  reserve(value: number): boolean {
    if (this.#used.has(value)) return false;
    this.#used.add(value);
    if (this.contains(value)) this.#usedInRange += 1;
    this.#quarantine.delete(value);
    if (this.contains(value) && value >= this.#next)
      this.#next = value === this.#options.last ? this.#options.first : value + 1;
    return true;
  }

  /** Takes the next free number, or undefined if there is none now. */
  take(nowMs: number): number | undefined {
    this.#expire(nowMs);
    const { first, last } = this.#options;
    const count = last - first + 1;
    if (count <= 0 || this.#usedInRange + this.#quarantine.size >= count) return undefined;
    for (let tries = 0, value = this.#next; tries < count; tries += 1) {
      const following = value === last ? first : value + 1;
      if (!this.#used.has(value) && !this.#quarantine.has(value)) {
        this.#used.add(value);
        this.#usedInRange += 1;
        this.#next = following;
        return value;
      }
      value = following;
    }
    return undefined;
  }

  release(value: number, nowMs: number): void {
    if (!this.#used.delete(value) || !this.contains(value)) return;
    this.#usedInRange -= 1;
    this.#quarantine.set(value, nowMs + this.#options.quarantineMs);
  }

  /** When the next number leaves quarantine, after `nowMs`; undefined if none is in it any more. */
  nextFreeMs(nowMs: number): number | undefined {
    this.#expire(nowMs);
    const first = this.#quarantine.values().next();
    return first.done === true ? undefined : first.value;
  }

  #expire(nowMs: number): void {
    for (const [value, freeMs] of this.#quarantine) {
      if (freeMs > nowMs) return;
      this.#quarantine.delete(value);
    }
  }
}
