/** Address arithmetic for IPv4 and IPv6 blocks. Pure; refuses what is not an address, never guesses. */
import { isIP } from "node:net";
import { ClusterError } from "../../common/errors.ts";

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

/** Groups of an IPv6 address, "::" filled in. */
function groupsOf(text: string): readonly number[] {
  const dotted = /^(.*:)(\d+)\.(\d+)\.(\d+)\.(\d+)$/.exec(text);
  if (dotted !== null) {
    const [a = 0, b = 0, c = 0, d = 0] = dotted.slice(2).map(Number);
    return groupsOf(`${dotted[1] ?? ""}${(a * 256 + b).toString(16)}:${(c * 256 + d).toString(16)}`);
  }
  const [left = "", right] = text.split("::");
  const parse = (part: string): number[] =>
    part === "" ? [] : part.split(":").map((group) => Number.parseInt(group, 16));
  const [head, tail] = [parse(left), parse(right ?? "")];
  if (right === undefined) return head;
  return [...head, ...Array.from({ length: 8 - head.length - tail.length }, () => 0), ...tail];
}

export function parseAddress(text: string): { readonly family: 4 | 6; readonly value: bigint } | undefined {
  const family = isIP(text);
  if (family === 4) {
    return { family, value: text.split(".").reduce((value, part) => value * 256n + BigInt(part), 0n) };
  }
  if (family !== 6) return undefined;
  return {
    family,
    value: groupsOf(text.split("%")[0] ?? "").reduce((value, group) => value * 65536n + BigInt(group), 0n),
  };
}

export function formatAddress(family: 4 | 6, value: bigint): string {
  if (family === 4) {
    const number = Number(value);
    return `${Math.floor(number / 2 ** 24)}.${(number >>> 16) & 255}.${(number >>> 8) & 255}.${number & 255}`;
  }
  const groups = Array.from({ length: 8 }, (_each, index) => (value >> BigInt(112 - 16 * index)) & 0xffffn);
  const text = groups.map((group) => group.toString(16)).join(":");
  // The longest run of at least two zero groups is written "::" (RFC 5952).
  const runs = [...text.matchAll(/(?:^|:)0(?::0)+(?=:|$)/g)].sort(
    (left, right) => right[0].length - left[0].length,
  );
  const longest = runs[0];
  if (longest === undefined) return text;
  const [head, tail] = [text.slice(0, longest.index), text.slice(longest.index + longest[0].length + 1)];
  return `${head}::${tail}`;
}

/** The block that "addr/prefix" lies in. Throws invalid_argument. */
export function parseCidr(text: string): Cidr {
  const [head = "", tail = "", ...rest] = text.split("/");
  const address = parseAddress(head);
  const prefix = Number(tail);
  if (address === undefined || rest.length > 0 || !/^\d{1,3}$/.test(tail) || prefix > bits(address.family)) {
    throw new ClusterError("invalid_argument", `invalid CIDR address: ${text}`);
  }
  const count = 1n << BigInt(bits(address.family) - prefix);
  return { family: address.family, base: (address.value / count) * count, prefix, count };
}

export function formatCidr(cidr: Cidr): string {
  return `${formatAddress(cidr.family, cidr.base)}/${cidr.prefix}`;
}

export function overlaps(left: Cidr, right: Cidr): boolean {
  if (left.family !== right.family) return false;
  return left.base < right.base + right.count && right.base < left.base + left.count;
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
