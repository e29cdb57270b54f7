/** A small seeded generator (SplitMix32 by Steele et al.) for tests and the simulator; never for secrets. */
import type { Random } from "../env.ts";

export class SeededRandom implements Random {
  #word: number;

  constructor(seed: number) {
    this.#word = seed >>> 0;
  }

  float(): number {
    return this.#next() / 2 ** 32;
  }

  below(bound: number): number {
    return Math.floor(this.float() * bound);
  }

  bytes(count: number): Uint8Array {
    const bytes = new Uint8Array(count);
    for (let index = 0; index < count; index += 1) bytes[index] = this.#next() & 255;
    return bytes;
  }

  /** An independent generator whose stream depends on this one's. */
  fork(): SeededRandom {
    return new SeededRandom(this.#next());
  }

  #next(): number {
    this.#word = (this.#word + 0x9e3779b9) >>> 0;
    let mixed = this.#word;
    mixed = Math.imul(mixed ^ (mixed >>> 16), 0x21f0aaad);
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97);
    return (mixed ^ (mixed >>> 15)) >>> 0;
  }
}
