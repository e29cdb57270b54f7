/** Addresses of one local network: the plan's range, the gateway, what containers hold. Pure. Docker's words on refusals. */
import { ClusterError } from "../../common/errors.ts";
import {
  blockSize,
  contains,
  formatAddress,
  parseAddress,
  parseBlock,
  tryParseAddress,
} from "./addresses.ts";
import type { AddressPlan } from "./local-records.ts";

export class LocalAddresses {
  readonly #plan: AddressPlan;
  readonly #taken = new Set<number>();

  constructor(plan: AddressPlan) {
    this.#plan = plan;
    for (const address of [plan.Gateway, ...Object.values(plan.AuxiliaryAddresses ?? {})])
      if (address !== undefined) this.#taken.add(parseAddress(address));
  }

  get prefixLength(): number {
    return parseBlock(this.#plan.Subnet).prefixLength;
  }

  /** The lowest free address of the range. */
  take(): string {
    const subnet = parseBlock(this.#plan.Subnet);
    const range = parseBlock(this.#plan.IPRange ?? this.#plan.Subnet);
    const first = Math.max(range.base, subnet.base + (subnet.prefixLength < 31 ? 1 : 0));
    const end = Math.min(
      range.base + blockSize(range),
      subnet.base + blockSize(subnet) - (subnet.prefixLength < 31 ? 1 : 0),
    );
    for (let address = first; address < end; address += 1) {
      if (this.#taken.has(address)) continue;
      this.#taken.add(address);
      return formatAddress(address);
    }
    throw new ClusterError(
      "resource_exhausted",
      "no available IPv4 addresses on this network's address pools",
    );
  }

  /** Refuses what is no address of the network. */
  check(address: string): void {
    const value = tryParseAddress(address);
    if (value === undefined) throw new ClusterError("invalid_argument", `invalid IPv4 address: ${address}`);
    if (!contains(parseBlock(this.#plan.Subnet), value))
      throw new ClusterError(
        "invalid_argument",
        `no configured subnet or ip-range contain the IP address ${address}`,
      );
  }

  /** This one address, which must be free. */
  claim(address: string): void {
    this.check(address);
    const value = parseAddress(address);
    if (this.#taken.has(value)) throw new ClusterError("permission_denied", "Address already in use");
    this.#taken.add(value);
  }

  release(address: string): void {
    const value = tryParseAddress(address);
    if (value !== undefined && address !== this.#plan.Gateway) this.#taken.delete(value);
  }
}
