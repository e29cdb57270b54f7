/**
 * Join tokens: "SWMTKN-1-<digest of the root, 50 base36>-<secret, 25 base36>", Docker's form, so that its tools take ours.
 * Pure. The secret alone decides the role; the digest lets a machine trust the manager it has never met.
 */
import { timingSafeEqual } from "node:crypto";
import { ClusterError } from "../../common/errors.ts";

const SECRET_BYTES = 16;
const DIGEST_CHARS = 50;
const SECRET_CHARS = 25;
const FORM = /^SWMTKN-1-([0-9a-z]{50})-([0-9a-z]{25})$/;

function base36(bytes: Uint8Array, chars: number): string {
  return BigInt(`0x${Buffer.from(bytes).toString("hex")}`)
    .toString(36)
    .padStart(chars, "0");
}

/** `digestHex`: SHA-256 of the root certificate's DER. */
export function createJoinToken(digestHex: string, random: { bytes(count: number): Uint8Array }): string {
  const digest = base36(Buffer.from(digestHex, "hex"), DIGEST_CHARS);
  return `SWMTKN-1-${digest}-${base36(random.bytes(SECRET_BYTES), SECRET_CHARS)}`;
}

/** Docker's check of a token's form: throws invalid_argument "invalid join token". */
export function parseJoinToken(token: string): { readonly digest36: string; readonly secret: string } {
  const [, digest36, secret] = FORM.exec(token) ?? [];
  if (digest36 === undefined || secret === undefined) {
    throw new ClusterError("invalid_argument", "invalid join token");
  }
  return { digest36, secret };
}

/** True if the token was made for the root with this digest. */
export function tokenMatchesRoot(token: string, digestHex: string): boolean {
  return parseJoinToken(token).digest36 === base36(Buffer.from(digestHex, "hex"), DIGEST_CHARS);
}

/** Compares in constant time, so that a guess can't be refined by timing. */
export function tokensEqual(left: string, right: string): boolean {
  const a = Buffer.from(left);
  const b = Buffer.from(right);
  return a.length === b.length && timingSafeEqual(a, b);
}
