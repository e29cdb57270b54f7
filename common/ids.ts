/**
 * Identifiers. Swarm objects have 25 characters of base 36, containers and local networks 64 of hex, as Docker's have,
 * because clients match these forms.
 */
import type { Random } from "./env.ts";

const ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz";
/** Bytes from here on are thrown away, since 256 is not a multiple of 36 and `% 36` alone would favour 0-3. */
const UNBIASED_BELOW = 252;
const OBJECT_ID_LENGTH = 25;

/** A new identifier of 25 characters of base 36 (about 129 bits). */
export function newObjectId(random: Pick<Random, "bytes">): string {
  let id = "";
  while (id.length < OBJECT_ID_LENGTH) {
    for (const byte of random.bytes(OBJECT_ID_LENGTH + 3)) {
      if (byte < UNBIASED_BELOW && id.length < OBJECT_ID_LENGTH) id += ALPHABET.charAt(byte % 36);
    }
  }
  return id;
}

/** A new identifier of 64 hex characters (256 bits), the form of containers, execs and local networks. */
export function newHexId(random: Pick<Random, "bytes">): string {
  return Buffer.from(random.bytes(32)).toString("hex");
}
