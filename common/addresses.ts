/** IP addresses as text, as messages and records hold them, and as numbers, to calculate with. Pure. */
import { BlockList, isIP, isIPv6 } from "node:net";

const OCTET = /^(?:0|[1-9]\d{0,2})$/;

/** The address as an unsigned 32-bit number, or undefined if the text is no IPv4 address. */
export function ipv4Number(text: string): number | undefined {
  const parts = text.split(".");
  if (parts.length !== 4) return undefined;
  let value = 0;
  for (const part of parts) {
    const octet = Number(part);
    if (!OCTET.test(part) || octet > 255) return undefined;
    value = value * 256 + octet;
  }
  return value;
}

/** `value`: unsigned, below 2^32. */
export function ipv4Text(value: number): string {
  return [value >>> 24, (value >>> 16) & 255, (value >>> 8) & 255, value & 255].join(".");
}

/**
 * The address as an unsigned 128-bit number, or undefined if the text is no IPv6 address. One with a zone ("fe80::1%eth0")
 * is none: it means something on one machine only.
 */
export function ipv6Number(text: string): bigint | undefined {
  if (!isIPv6(text) || text.includes("%")) return undefined;
  const dotted = text.includes(".") ? text.slice(text.lastIndexOf(":") + 1) : "";
  const low = ipv4Number(dotted) ?? 0;
  const plain =
    dotted === ""
      ? text
      : `${text.slice(0, -dotted.length)}${(low >>> 16).toString(16)}:${(low & 0xffff).toString(16)}`;
  const [head = "", tail] = plain.split("::");
  const groups = (part: string): string[] => (part === "" ? [] : part.split(":"));
  const before = groups(head);
  const after = tail === undefined ? [] : groups(tail);
  const zeros = Array.from({ length: 8 - before.length - after.length }, () => "0");
  return [...before, ...zeros, ...after].reduce((value, group) => (value << 16n) | BigInt(`0x${group}`), 0n);
}

/** `value`: unsigned, below 2^128. RFC 5952: lower case, the longest run of at least two zero groups shortened. */
export function ipv6Text(value: bigint): string {
  const groups = Array.from({ length: 8 }, (_each, index) =>
    Number((value >> BigInt(112 - index * 16)) & 0xffffn).toString(16),
  );
  let run = { start: 0, length: 1 };
  for (let start = 0; start < groups.length; start++) {
    let length = 0;
    while (groups[start + length] === "0") length += 1;
    if (length > run.length) run = { start, length };
  }
  if (run.length < 2) return groups.join(":");
  return `${groups.slice(0, run.start).join(":")}::${groups.slice(run.start + run.length).join(":")}`;
}

/** "10.0.1.7/24" is "10.0.1.7"; an address without a mask is itself. */
export function withoutMask(address: string): string {
  const end = address.indexOf("/");
  return end === -1 ? address : address.slice(0, end);
}

/** Whether `block` ("10.0.1.0/24") holds `address`; false if either is none, or of another family. */
export function isInBlock(address: string, block: string): boolean {
  const [base = "", length = ""] = block.split("/");
  const family = isIP(base);
  const prefix = Number(length);
  if (family === 0 || family !== isIP(address)) return false;
  if (!/^\d+$/.test(length) || prefix > (family === 4 ? 32 : 128)) return false;
  const list = new BlockList();
  list.addSubnet(base, prefix, family === 4 ? "ipv4" : "ipv6");
  return list.check(address, family === 4 ? "ipv4" : "ipv6");
}
