/** IP addresses as text, as messages and records hold them. Pure. */

/** "10.0.1.7/24" is "10.0.1.7"; an address without a mask is itself. */
export function withoutMask(address: string): string {
  const end = address.indexOf("/");
  return end === -1 ? address : address.slice(0, end);
}
