/** IPv6 blocks as numbers, with what addresses look like on the wire. Pure; throws invalid_argument on bad text. */
import { ipv6Number, ipv6Text } from "../../common/addresses.ts";
import { ClusterError } from "../../common/errors.ts";

/** A block of IPv6 addresses: `base` has zeros below the prefix. */
export interface Block6 {
  readonly base: bigint;
  readonly prefixLength: number;
}

const ADDRESS_BITS = 128;

/** The address as an unsigned number, or undefined if the text is no plain IPv6 address: IPv4 in disguise is none. */
export function tryParseAddress6(address: string): bigint | undefined {
  return address.includes(".") ? undefined : ipv6Number(address);
}

export function parseAddress6(address: string): bigint {
  const value = tryParseAddress6(address);
  if (value === undefined)
    throw new ClusterError("invalid_argument", `Address must be IPv6, got "${address}"`);
  return value;
}

export function addressBytes6(address: string): Buffer {
  return Buffer.from(parseAddress6(address).toString(16).padStart(32, "0"), "hex");
}

export function bytesToAddress6(bytes: Uint8Array): string {
  return ipv6Text(BigInt(`0x${Buffer.from(bytes).toString("hex") || "0"}`));
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
  return `${ipv6Text(block.base)}/${block.prefixLength}`;
}

export function contains6(block: Block6, address: bigint): boolean {
  return (address & maskOf6(block.prefixLength)) === block.base;
}

export function overlaps6(one: Block6, other: Block6): boolean {
  const mask = maskOf6(Math.min(one.prefixLength, other.prefixLength));
  return (one.base & mask) === (other.base & mask);
}
