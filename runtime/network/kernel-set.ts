/**
 * Routes, neighbours and the like of one namespace as a wanted set: each apply sends only what differs from what was sent
 * last. Objects found in the kernel from an earlier life are taken in as stale, so that they are replaced or removed.
 */
import type { NetlinkSocket } from "./netlink-socket.ts";
import { EADDRNOTAVAIL, EEXIST, ENODEV, ENOENT, ESRCH } from "./routing.ts";
import type { Request } from "./netlink-wire.ts";

export interface KernelObject {
  /** What the kernel keeps one of: "route 10.0.0.0/24". */
  readonly key: string;
  /** All that may change under the key: "via 10.1.0.1 dev 7". */
  readonly content: string;
  /** Adds or replaces. */
  readonly add: Request;
  readonly remove: Request;
}

export class KernelSet {
  #applied = new Map<string, KernelObject>();

  get size(): number {
    return this.#applied.size;
  }

  /** What the kernel really has: from now on the differences are against this. Returns how many were not as believed. */
  observe(found: readonly KernelObject[]): number {
    const before = this.#applied;
    this.#applied = new Map(found.map((object) => [object.key, object]));
    let drift = 0;
    for (const [key, object] of before) if (this.#applied.get(key)?.content !== object.content) drift += 1;
    return drift;
  }

  /** Sends the differences to `wanted`, removals first. */
  apply(socket: NetlinkSocket, wanted: readonly KernelObject[]): void {
    const next = new Map(wanted.map((object) => [object.key, object]));
    const removals = [...this.#applied.values()].filter((object) => !next.has(object.key));
    const additions = wanted.filter((object) => this.#applied.get(object.key)?.content !== object.content);
    socket.send(
      removals.map((object) => object.remove),
      { tolerate: [ESRCH, ENOENT, ENODEV, EADDRNOTAVAIL] },
    );
    for (const object of removals) this.#applied.delete(object.key);
    socket.send(
      additions.map((object) => object.add),
      { tolerate: [EEXIST] },
    );
    for (const object of additions) this.#applied.set(object.key, object);
  }
}
