/** Addresses of a node's mesh block: which are free, and which rest after use. Pure but for the clock that is passed in. */
import { ipv4Text } from "../../common/addresses.ts";
import { ClusterError } from "../../common/errors.ts";
import { blockSize, parseAddress, parseBlock } from "../../runtime/network/addresses.ts";
import type { Block } from "../../runtime/network/addresses.ts";
import { MESH_REST_SECONDS_MIN } from "./limits.ts";

export class MeshAddresses {
  readonly #block: Block;
  readonly #taken = new Map<number, string>();
  /** When each address was given back, ms; the oldest first. */
  readonly #rested = new Map<number, number>();
  #cursor = 1;

  constructor(subnet: string) {
    this.#block = parseBlock(subnet);
  }

  /** A free address, of those that were never used or rest the longest; the node's own (.1) never. */
  take(owner: string, nowMs: number): string {
    const address = this.#fresh() ?? this.#longestRested(nowMs);
    this.#rested.delete(address);
    this.#taken.set(address, owner);
    return ipv4Text(address);
  }

  /** An address that is in use already. */
  claim(address: string, owner: string): void {
    const value = parseAddress(address);
    this.#rested.delete(value);
    this.#taken.set(value, owner);
  }

  release(address: string, nowMs: number): void {
    const value = parseAddress(address);
    if (!this.#taken.delete(value)) return;
    this.#rested.set(value, nowMs);
  }

  ownerOf(address: string): string | undefined {
    return this.#taken.get(parseAddress(address));
  }

  #fresh(): number | undefined {
    const last = blockSize(this.#block) - 2;
    while (this.#cursor < last) {
      this.#cursor += 1;
      const address = this.#block.base + this.#cursor;
      if (!this.#taken.has(address) && !this.#rested.has(address)) return address;
    }
    return undefined;
  }

  #longestRested(nowMs: number): number {
    const oldest = this.#rested.entries().next();
    if (oldest.done === true)
      throw new ClusterError(
        "resource_exhausted",
        `Cannot give the task a mesh address: all ${this.#taken.size} of this node's block are in use`,
      );
    const [address, sinceMs] = oldest.value;
    if (nowMs - sinceMs < MESH_REST_SECONDS_MIN * 1_000)
      throw new ClusterError(
        "resource_exhausted",
        `Cannot give the task a mesh address: ${this.#taken.size} are in use and the others were until a moment ago`,
        { retryable: true },
      );
    return address;
  }
}
