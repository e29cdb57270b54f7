/** IPv6 addresses of one local network: the plan's range, the gateway, what containers hold. Pure. Docker's words on refusals. */
import { ClusterError } from "../../common/errors.ts";
import { contains6, formatAddress6, parseAddress6, parseBlock6, tryParseAddress6 } from "./addresses6.ts";
import type { AddressPlan } from "./local-records.ts";

export class LocalAddresses6 {
  readonly #plan: AddressPlan;
  readonly #taken = new Set<bigint>();

  constructor(plan: AddressPlan) {
    this.#plan = plan;
    for (const address of [plan.Gateway, ...Object.values(plan.AuxiliaryAddresses ?? {})])
      if (address !== undefined) this.#taken.add(parseAddress6(address));
  }

  get prefixLength(): number {
    return parseBlock6(this.#plan.Subnet).prefixLength;
  }

  /** The lowest free address of the range. */
  take(): string {
    const subnet = parseBlock6(this.#plan.Subnet);
    const range = parseBlock6(this.#plan.IPRange ?? this.#plan.Subnet);
    const end = range.base + (1n << BigInt(128 - range.prefixLength));
    // The first one of a subnet means "any router".
    const first = range.base === subnet.base ? range.base + 1n : range.base;
    for (let address = first; address < end; address += 1n) {
      if (this.#taken.has(address)) continue;
      this.#taken.add(address);
      return formatAddress6(address);
    }
    throw new ClusterError(
      "resource_exhausted",
      "no available IPv6 addresses on this network's address pools",
    );
  }

  /** Refuses what is no address of the network. */
  check(address: string): void {
    const value = tryParseAddress6(address);
    if (value === undefined) throw new ClusterError("invalid_argument", `invalid IPv6 address: ${address}`);
    if (!contains6(parseBlock6(this.#plan.Subnet), value))
      throw new ClusterError(
        "invalid_argument",
        `no configured subnet or ip-range contain the IP address ${address}`,
      );
  }

  /** This one address, which must be free, as it is written from now on. */
  claim(address: string): string {
    this.check(address);
    const value = parseAddress6(address);
    if (this.#taken.has(value)) throw new ClusterError("permission_denied", "Address already in use");
    this.#taken.add(value);
    return formatAddress6(value);
  }

  release(address: string): void {
    if (address !== this.#plan.Gateway) this.#taken.delete(parseAddress6(address));
  }
}
