/** Names of this node's network objects: short, and different for every daemon on a machine. Pure. */
import { createHash } from "node:crypto";

const TAG_LENGTH = 4;
/** IFNAMSIZ without its closing zero. */
const LINK_NAME_LENGTH_MAX = 15;

function digest(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}

/** A few characters that stand for one daemon in names of links and tables. */
export function instanceTag(instance: string): string {
  return digest(instance).slice(0, TAG_LENGTH);
}

/** Name of a task's link, "<prefix><part of the id's digest>". */
export function linkName(prefix: string, id: string): string {
  return `${prefix}${digest(id)}`.slice(0, LINK_NAME_LENGTH_MAX);
}

/** A number of `bits` bits from the tag. */
export function tagNumber(tag: string, bits: number): number {
  return Number.parseInt(digest(tag).slice(0, 8), 16) % 2 ** bits;
}
