/** Which address blocks are taken in the cluster, and free ones of a wanted size from the default pools. Pure. */
import { type Cidr, overlaps, subBlock, subBlockCount } from "../../common/cidr.ts";

export class SubnetTable {
  readonly #pools: readonly Cidr[];
  readonly #prefix: number;
  readonly #taken = new Map<string, Cidr>();
  /** Next candidate, counted through all pools: blocks given back are used again as late as possible. */
  #next = 0;

  constructor(pools: readonly Cidr[], prefix: number) {
    this.#pools = pools;
    this.#prefix = prefix;
  }

  /** A name under which another holder has a part of `block`, or undefined. */
  conflict(block: Cidr, holder: string): string | undefined {
    for (const [name, taken] of this.#taken) {
      if (ownerOf(name) !== holder && overlaps(taken, block)) return ownerOf(name);
    }
    return undefined;
  }

  reserve(holder: string, block: Cidr): void {
    this.#taken.set(`${holder}#${block.base}/${block.prefix}`, block);
  }

  release(holder: string): void {
    for (const name of this.#taken.keys()) if (ownerOf(name) === holder) this.#taken.delete(name);
  }

  /** Takes the next free block of the pools, or undefined if they are used up. */
  take(holder: string): Cidr | undefined {
    const total = this.#pools.reduce((sum, pool) => sum + subBlockCount(pool, this.#prefix), 0);
    for (let tries = 0; tries < total; tries += 1) {
      const block = this.#candidate((this.#next + tries) % total);
      if (block === undefined || this.conflict(block, holder) !== undefined) continue;
      this.#next = (this.#next + tries + 1) % total;
      this.reserve(holder, block);
      return block;
    }
    return undefined;
  }

  #candidate(index: number): Cidr | undefined {
    let rest = index;
    for (const pool of this.#pools) {
      const count = subBlockCount(pool, this.#prefix);
      if (rest < count) return subBlock(pool, this.#prefix, rest);
      rest -= count;
    }
    return undefined;
  }
}

function ownerOf(name: string): string {
  return name.slice(0, name.lastIndexOf("#"));
}
