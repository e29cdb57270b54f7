/**
 * Where the agents' connections come from: machines have addresses of their own, and a manager bounds how many handshakes
 * one address may have under way.
 */
export const SOURCE_SUBNET = "10.254.0.0/16";

export function sourceAddress(count: number): string {
  return `10.254.${(count >> 8) & 255}.${count & 255}`;
}
