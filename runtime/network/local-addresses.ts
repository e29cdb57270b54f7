/**
 * Addresses of one family of one local network: the plan's range, the gateway, what containers hold. Pure. Docker's words on
 * refusals.
 */
import { ipv4Number, ipv4Text, ipv6Text } from "../../common/addresses.ts";
import { ClusterError } from "../../common/errors.ts";
import { parseBlock } from "./addresses.ts";
import { parseBlock6, tryParseAddress6 } from "./addresses6.ts";
import type { AddressPlan } from "./local-records.ts";

interface Range {
  readonly prefixLength: number;
  readonly first: bigint;
  /** Behind the last one. */
  readonly end: bigint;
}

/** What the two families differ in. */
interface Family {
  readonly name: "IPv4" | "IPv6";
  /** Undefined if the text is no address of the family. */
  readonly parse: (text: string) => bigint | undefined;
  readonly format: (address: bigint) => string;
  readonly block: (cidr: string) => Range;
  /** The addresses of a subnet that hosts may have. */
  readonly hosts: (subnet: Range) => Pick<Range, "first" | "end">;
}

const IPV4: Family = {
  name: "IPv4",
  parse: (text) => {
    const value = ipv4Number(text);
    return value === undefined ? undefined : BigInt(value);
  },
  format: (address) => ipv4Text(Number(address)),
  block: (cidr) => {
    const { base, prefixLength } = parseBlock(cidr);
    return { prefixLength, first: BigInt(base), end: BigInt(base) + (1n << BigInt(32 - prefixLength)) };
  },
  // Neither the network's own address nor the broadcast's, which the smallest subnets don't have (RFC 3021).
  hosts: ({ end, first, prefixLength }) =>
    prefixLength < 31 ? { first: first + 1n, end: end - 1n } : { first, end },
};

const IPV6: Family = {
  name: "IPv6",
  parse: tryParseAddress6,
  format: ipv6Text,
  block: (cidr) => {
    const { base, prefixLength } = parseBlock6(cidr);
    return { prefixLength, first: base, end: base + (1n << BigInt(128 - prefixLength)) };
  },
  // The first one means "any router" (RFC 4291).
  hosts: ({ end, first }) => ({ first: first + 1n, end }),
};

export class LocalAddresses {
  readonly #family: Family;
  readonly #subnet: Range;
  readonly #range: Range;
  readonly #gateway: bigint | undefined;
  readonly #taken = new Set<bigint>();

  constructor(plan: AddressPlan) {
    this.#family = plan.Subnet.includes(":") ? IPV6 : IPV4;
    this.#subnet = this.#family.block(plan.Subnet);
    this.#range = this.#family.block(plan.IPRange ?? plan.Subnet);
    this.#gateway = plan.Gateway === undefined ? undefined : this.#parse(plan.Gateway);
    if (this.#gateway !== undefined) this.#taken.add(this.#gateway);
    for (const address of Object.values(plan.AuxiliaryAddresses ?? {})) this.#taken.add(this.#parse(address));
  }

  get prefixLength(): number {
    return this.#subnet.prefixLength;
  }

  /** The lowest free address of the range. */
  take(): string {
    const { first, end } = this.#family.hosts(this.#subnet);
    const range = this.#range;
    const behind = range.end < end ? range.end : end;
    for (let address = range.first > first ? range.first : first; address < behind; address += 1n) {
      if (this.#taken.has(address)) continue;
      this.#taken.add(address);
      return this.#family.format(address);
    }
    throw new ClusterError(
      "resource_exhausted",
      `no available ${this.#family.name} addresses on this network's address pools`,
    );
  }

  /** Refuses what is no address of the network. */
  check(address: string): void {
    const value = this.#parse(address);
    if (value < this.#subnet.first || value >= this.#subnet.end)
      throw new ClusterError(
        "invalid_argument",
        `no configured subnet or ip-range contain the IP address ${address}`,
      );
  }

  /** This one address, which must be free, as it is written from now on. */
  claim(address: string): string {
    this.check(address);
    const value = this.#parse(address);
    if (this.#taken.has(value)) throw new ClusterError("permission_denied", "Address already in use");
    this.#taken.add(value);
    return this.#family.format(value);
  }

  release(address: string): void {
    const value = this.#family.parse(address);
    if (value !== undefined && value !== this.#gateway) this.#taken.delete(value);
  }

  #parse(address: string): bigint {
    const value = this.#family.parse(address);
    if (value !== undefined) return value;
    throw new ClusterError("invalid_argument", `invalid ${this.#family.name} address: ${address}`);
  }
}
