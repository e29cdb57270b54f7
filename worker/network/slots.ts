/**
 * Which endpoint fills which slot of a service: the whole of load balancing as data. Pure. A service takes the smallest size
 * class in which its endpoints get nearly equal shares; within a class, one endpoint more or less moves about its own share.
 */
import type { ElementGroup, Elements } from "../../runtime/network/nft-table.ts";

/** Numbers of slots; powers of two, so that any odd step walks all of them. */
export const SLOT_CLASSES = [1, 4, 16, 64, 256] as const;
export type SlotClass = (typeof SLOT_CLASSES)[number];

/** Class for so many endpoints: exact shares where there are some, else at most a third apart. */
export function slotClass(endpointCount: number): SlotClass {
  if (endpointCount <= 1) return 1;
  if (endpointCount === 2 || endpointCount === 4) return 4;
  if (endpointCount <= 8 || endpointCount === 16) return 16;
  return endpointCount <= 32 ? 64 : 256;
}

interface Walk {
  readonly key: string;
  next: number;
  readonly step: number;
}

/** FNV-1a with a final mix: spreads short keys well, and thousands of them cost nothing. */
function hash(key: string): number {
  let word = 0x811c9dc5;
  for (let index = 0; index < key.length; index += 1)
    word = Math.imul(word ^ key.charCodeAt(index), 0x01000193);
  word = Math.imul(word ^ (word >>> 16), 0x7feb352d);
  word = Math.imul(word ^ (word >>> 15), 0x846ca68b);
  return (word ^ (word >>> 16)) >>> 0;
}

/** Every endpoint visits all slots in an order of its own, that follows from its key alone. */
function walkOf(key: string, slotCount: number): Walk {
  const word = hash(key);
  return { key, next: word % slotCount, step: ((word >>> 12) % slotCount) | 1 };
}

/**
 * `slotCount` slots filled with `keys` (distinct, at least one), as Maglev does: endpoints take turns, each takes the next
 * free slot of its walk. With more keys than slots the last ones get none.
 */
export function fillSlots(keys: readonly string[], slotCount: number): string[] {
  const slots: (string | undefined)[] = Array.from({ length: slotCount }, () => undefined);
  const walks = keys.toSorted().map((key) => walkOf(key, slotCount));
  let filled = 0;
  while (filled < slotCount && walks.length > 0) {
    for (const walk of walks) {
      if (filled === slotCount) break;
      while (slots[walk.next] !== undefined) walk.next = (walk.next + walk.step) % slotCount;
      slots[walk.next] = walk.key;
      filled += 1;
    }
  }
  return slots.filter((slot) => slot !== undefined);
}

/** Elements of the maps `${prefix}1`, `${prefix}4`… for one service: `key` (and the slot, above 1) to a backend. */
export function slotElements(prefix: string, key: string, backends: readonly string[]): Elements {
  if (backends.length === 0) return new Map();
  const size = slotClass(backends.length);
  const slots = fillSlots(backends, size);
  const elements = slots.map((backend, slot) => [size === 1 ? key : `${key} . ${slot}`, backend] as const);
  return new Map([[`${prefix}${size}`, new Map(elements)]]);
}

/** The same as a group that is worked out only when the backends change. */
export function slotGroup(prefix: string, key: string, backends: readonly string[]): ElementGroup {
  return { signature: backends.join(), elements: () => slotElements(prefix, key, backends) };
}
