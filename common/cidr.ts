/** Address arithmetic for IPv4 and IPv6 blocks. Pure; refuses what is not an address, never guesses. */
import { ipv4Number, ipv4Text, ipv6Number, ipv6Text } from "./addresses.ts";
import { ClusterError } from "./errors.ts";

export interface Cidr {
  readonly family: 4 | 6;
  /** First address of the block. */
  readonly base: bigint;
  readonly prefix: number;
  /** Addresses in the block. */
  readonly count: bigint;
}

function bits(family: 4 | 6): number {
  return family === 4 ? 32 : 128;
}

export function parseAddress(text: string): { readonly family: 4 | 6; readonly value: bigint } | undefined {
  const number = ipv4Number(text);
  if (number !== undefined) return { family: 4, value: BigInt(number) };
  const value = ipv6Number(text);
  return value === undefined ? undefined : { family: 6, value };
}

export function formatAddress(family: 4 | 6, value: bigint): string {
  return family === 4 ? ipv4Text(Number(value)) : ipv6Text(value);
}

/** The block that "addr/prefix" lies in, or undefined if the text is none. */
export function tryParseCidr(text: string): Cidr | undefined {
  const [head = "", tail = "", ...rest] = text.split("/");
  const address = parseAddress(head);
  if (address === undefined || rest.length > 0) return undefined;
  const { family, value } = address;
  const prefix = Number(tail);
  if (!(family === 4 ? /^\d{1,2}$/ : /^\d{1,3}$/).test(tail) || prefix > bits(family)) return undefined;
  const count = 1n << BigInt(bits(family) - prefix);
  return { family, base: (value / count) * count, prefix, count };
}

/** The block that "addr/prefix" lies in. Throws invalid_argument. */
export function parseCidr(text: string): Cidr {
  const cidr = tryParseCidr(text);
  if (cidr === undefined) throw new ClusterError("invalid_argument", `invalid CIDR address: ${text}`);
  return cidr;
}

export function formatCidr(cidr: Cidr): string {
  return `${formatAddress(cidr.family, cidr.base)}/${cidr.prefix}`;
}

export function overlaps(left: Cidr, right: Cidr): boolean {
  if (left.family !== right.family) return false;
  return left.base < right.base + right.count && right.base < left.base + left.count;
}

/** Whether all of `part` lies in `whole`. */
export function holds(whole: Cidr, part: Cidr): boolean {
  return part.prefix >= whole.prefix && overlaps(whole, part);
}

/** Block number `index` of `prefix` length in `pool`, or undefined beyond its end. */
export function subBlock(pool: Cidr, prefix: number, index: number): Cidr | undefined {
  const count = 1n << BigInt(bits(pool.family) - prefix);
  const base = pool.base + BigInt(index) * count;
  if (prefix < pool.prefix || base + count > pool.base + pool.count) return undefined;
  return { family: pool.family, base, prefix, count };
}

/** How many blocks of `prefix` length the pool has, at most 2^24. */
export function subBlockCount(pool: Cidr, prefix: number): number {
  return prefix < pool.prefix ? 0 : 2 ** Math.min(24, prefix - pool.prefix);
}
