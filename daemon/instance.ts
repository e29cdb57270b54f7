/** A short tag of this daemon, in the names of links, tables and cgroups, so that two daemons of one machine share none. */
import { createHash } from "node:crypto";

/** Hex characters; interface names have 15 in all, and two daemons on one machine must not collide by chance. */
const TAG_LENGTH = 6;

/** The same for the same exec root, so that a restarted daemon finds what it made. */
export function instanceTag(execRoot: string): string {
  return createHash("sha256").update(execRoot).digest("hex").slice(0, TAG_LENGTH);
}
