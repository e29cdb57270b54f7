/** IPv4 blocks as numbers, with what addresses look like on the wire and in hardware. Pure; throws invalid_argument on bad text. */
import { ipv4Number, ipv4Text } from "../../common/addresses.ts";
import { ClusterError } from "../../common/errors.ts";

/** A block of addresses: `base` has zeros below the prefix. */
export interface Block {
  readonly base: number;
  readonly prefixLength: number;
}

export function parseAddress(address: string): number {
  const value = ipv4Number(address);
  if (value === undefined)
    throw new ClusterError("invalid_argument", `Address must be IPv4, got "${address}"`);
  return value;
}

export function addressBytes(address: string): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(parseAddress(address), 0);
  return bytes;
}

export function bytesToAddress(bytes: Uint8Array): string {
  return Array.from(bytes.subarray(0, 4)).join(".");
}

function maskOf(prefixLength: number): number {
  return prefixLength === 0 ? 0 : (0xffffffff << (32 - prefixLength)) >>> 0;
}

/** "10.0.1.7/24" taken apart; `address` keeps its host bits. */
export function splitCidr(cidr: string): { readonly address: string; readonly prefixLength: number } {
  const [address = "", length = "", ...rest] = cidr.split("/");
  const prefixLength = Number(length);
  if (rest.length > 0 || !/^\d{1,2}$/.test(length) || prefixLength > 32 || ipv4Number(address) === undefined)
    throw new ClusterError("invalid_argument", `Subnet must be like "10.0.1.0/24", got "${cidr}"`);
  return { address, prefixLength };
}

export function parseBlock(cidr: string): Block {
  const { address, prefixLength } = splitCidr(cidr);
  return { base: (parseAddress(address) & maskOf(prefixLength)) >>> 0, prefixLength };
}

export function formatBlock(block: Block): string {
  return `${ipv4Text(block.base)}/${block.prefixLength}`;
}

export function blockSize(block: Block): number {
  return 2 ** (32 - block.prefixLength);
}

export function contains(block: Block, address: number): boolean {
  return (address & maskOf(block.prefixLength)) >>> 0 === block.base;
}

export function overlaps(one: Block, other: Block): boolean {
  const mask = maskOf(Math.min(one.prefixLength, other.prefixLength));
  return (one.base & mask) >>> 0 === (other.base & mask) >>> 0;
}

/** First address after the block's own (Docker's gateway). */
export function firstHost(block: Block): string {
  return ipv4Text(block.base + 1);
}

/** A locally administered hardware address that follows from the IP, as Docker's do: 02:42 and the four octets. */
export function macOf(address: string, prefix = "02:42"): string {
  const octets = addressBytes(address).toString("hex").match(/../g) ?? [];
  return `${prefix}:${octets.join(":")}`;
}

export function macBytes(mac: string): Buffer {
  if (!/^[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}$/.test(mac))
    throw new ClusterError(
      "invalid_argument",
      `Hardware address must be like "02:42:ac:11:00:02", got "${mac}"`,
    );
  return Buffer.from(mac.replaceAll(/[:-]/g, ""), "hex");
}

export function bytesToMac(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(":");
}
