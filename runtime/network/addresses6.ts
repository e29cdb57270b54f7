/** IPv6 addresses and blocks as numbers: parsing, printing, overlap. Pure; throws invalid_argument on bad text. */
import { isIPv6 } from "node:net";
import { ClusterError } from "../../common/errors.ts";

/** A block of IPv6 addresses: `base` has zeros below the prefix. */
export interface Block6 {
  readonly base: bigint;
  readonly prefixLength: number;
}

const ADDRESS_BITS = 128;

/** The address as an unsigned number, or undefined if the text is no plain IPv6 address. */
export function tryParseAddress6(address: string): bigint | undefined {
  if (!isIPv6(address) || /[%.]/.test(address)) return undefined;
  const [head = "", tail] = address.split("::");
  const words = (text: string): string[] => (text === "" ? [] : text.split(":"));
  const before = words(head);
  const after = tail === undefined ? [] : words(tail);
  const zeros = Array.from({ length: 8 - before.length - after.length }, () => "0");
  return [...before, ...zeros, ...after].reduce((value, word) => (value << 16n) | BigInt(`0x${word}`), 0n);
}

export function parseAddress6(address: string): bigint {
  const value = tryParseAddress6(address);
  if (value === undefined)
    throw new ClusterError("invalid_argument", `Address must be IPv6, got "${address}"`);
  return value;
}

/** RFC 5952: lower case, the longest run of zeros shortened. */
export function formatAddress6(value: bigint): string {
  const words = Array.from({ length: 8 }, (_, index) =>
    Number((value >> BigInt(112 - index * 16)) & 0xffffn).toString(16),
  );
  let run = { start: 0, length: 1 };
  for (let start = 0; start < words.length; start++) {
    let length = 0;
    while (words[start + length] === "0") length += 1;
    if (length > run.length) run = { start, length };
  }
  if (run.length < 2) return words.join(":");
  return `${words.slice(0, run.start).join(":")}::${words.slice(run.start + run.length).join(":")}`;
}

export function addressBytes6(address: string): Buffer {
  return Buffer.from(parseAddress6(address).toString(16).padStart(32, "0"), "hex");
}

export function bytesToAddress6(bytes: Uint8Array): string {
  return formatAddress6(BigInt(`0x${Buffer.from(bytes).toString("hex") || "0"}`));
}

function maskOf6(prefixLength: number): bigint {
  const hostBits = BigInt(ADDRESS_BITS - prefixLength);
  return ((1n << 128n) - 1n) ^ ((1n << hostBits) - 1n);
}

/** "fd00:1::7/64" taken apart; `address` keeps its host bits. */
export function splitCidr6(cidr: string): { readonly address: string; readonly prefixLength: number } {
  const [address = "", length = "", ...rest] = cidr.split("/");
  const prefixLength = Number(length);
  const isLength = /^\d{1,3}$/.test(length) && prefixLength <= ADDRESS_BITS;
  if (rest.length > 0 || !isLength || tryParseAddress6(address) === undefined)
    throw new ClusterError("invalid_argument", `Subnet must be like "fd00:1::/64", got "${cidr}"`);
  return { address, prefixLength };
}

export function parseBlock6(cidr: string): Block6 {
  const { address, prefixLength } = splitCidr6(cidr);
  return { base: parseAddress6(address) & maskOf6(prefixLength), prefixLength };
}

export function formatBlock6(block: Block6): string {
  return `${formatAddress6(block.base)}/${block.prefixLength}`;
}

export function contains6(block: Block6, address: bigint): boolean {
  return (address & maskOf6(block.prefixLength)) === block.base;
}

export function overlaps6(one: Block6, other: Block6): boolean {
  const mask = maskOf6(Math.min(one.prefixLength, other.prefixLength));
  return (one.base & mask) === (other.base & mask);
}
