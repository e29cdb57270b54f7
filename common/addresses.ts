/** IP addresses as text, as messages and records hold them. Pure. */
import { BlockList, isIP } from "node:net";

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
