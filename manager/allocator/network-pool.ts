/** The addresses of one network: one pool for each of its subnets, gateway and reserved addresses taken out. Pure. */
import { withoutMask } from "../../common/addresses.ts";
import { type Cidr, formatAddress, parseAddress, parseCidr } from "../../common/cidr.ts";
import { ClusterError } from "../../common/errors.ts";
import type { Network } from "../../model/objects.ts";
import { ADDRESS_QUARANTINE_MS } from "../limits.ts";
import { NumberPool } from "./number-pool.ts";

/** IPv6 subnets are larger than anything a network needs: only this many addresses of them are handed out. */
const OFFSET_MAX = 2 ** 24;

interface Subnet {
  readonly cidr: Cidr;
  readonly pool: NumberPool;
}

export class NetworkPool {
  readonly #subnets: readonly Subnet[];

  constructor(network: Network) {
    this.#subnets = (network.allocation?.subnets ?? []).map((each) => makeSubnet(network, each));
  }

  /** One address of each family, without mask, or undefined if a family has none left. */
  take(nowMs: number): readonly string[] | undefined {
    const taken: string[] = [];
    for (const family of [4, 6] as const) {
      const subnets = this.#subnets.filter((each) => each.cidr.family === family);
      if (subnets.length === 0) continue;
      const address = firstOf(subnets, nowMs);
      if (address === undefined) {
        for (const each of taken) this.release(each, nowMs);
        return undefined;
      }
      taken.push(address);
    }
    return taken;
  }

  /** True if the address is of one of the subnets and a host may have it. */
  isHost(address: string): boolean {
    const found = this.#find(address);
    if (found === undefined) return false;
    const { family, count, prefix } = found.subnet.cidr;
    if (family === 4 && prefix >= 31) return true;
    return found.offset > 0 && (family === 6 || BigInt(found.offset) < count - 1n);
  }

  /** False if another holder has it. Addresses outside every subnet are nobody's. */
  reserve(address: string): boolean {
    const found = this.#find(address);
    return found === undefined || found.subnet.pool.reserve(found.offset);
  }

  release(address: string, nowMs: number): void {
    const found = this.#find(address);
    found?.subnet.pool.release(found.offset, nowMs);
  }

  /** "addr/prefix" as a task carries it. */
  withMask(address: string): string {
    const found = this.#find(address);
    return found === undefined ? address : `${address}/${found.subnet.cidr.prefix}`;
  }

  nextFreeMs(nowMs: number): number | undefined {
    const times = this.#subnets.map((each) => each.pool.nextFreeMs(nowMs)).filter((ms) => ms !== undefined);
    return times.length === 0 ? undefined : Math.min(...times);
  }

  #find(address: string): { readonly subnet: Subnet; readonly offset: number } | undefined {
    const parsed = parseAddress(withoutMask(address));
    if (parsed === undefined) return undefined;
    for (const subnet of this.#subnets) {
      const { family, base, count } = subnet.cidr;
      if (family !== parsed.family || parsed.value < base || parsed.value >= base + count) continue;
      return { subnet, offset: Number(parsed.value - base) };
    }
    return undefined;
  }
}

function firstOf(subnets: readonly Subnet[], nowMs: number): string | undefined {
  for (const { cidr, pool } of subnets) {
    const offset = pool.take(nowMs);
    if (offset !== undefined) return formatAddress(cidr.family, cidr.base + BigInt(offset));
  }
  return undefined;
}

function makeSubnet(network: Network, entry: { readonly subnet: string; readonly gateway: string }): Subnet {
  const cidr = parseCidr(entry.subnet);
  const config = (network.spec.IPAM?.Config ?? []).find((each) => each.Subnet === entry.subnet);
  const range = config?.IPRange ? parseCidr(config.IPRange) : cidr;
  const size = Number(cidr.count > BigInt(OFFSET_MAX) ? BigInt(OFFSET_MAX) : cidr.count);
  const start = Number(range.base - cidr.base);
  const end = Math.min(
    size - 1,
    start + Number(range.count > BigInt(OFFSET_MAX) ? BigInt(OFFSET_MAX) : range.count) - 1,
  );
  // Neither the block's own address nor, for IPv4, its broadcast address can be a host's.
  const last = cidr.family === 4 && cidr.prefix < 31 ? Math.min(end, size - 2) : end;
  const pool = new NumberPool({ first: Math.max(1, start), last, quarantineMs: ADDRESS_QUARANTINE_MS });
  for (const address of [entry.gateway, ...Object.values(config?.AuxiliaryAddresses ?? {})]) {
    const parsed = parseAddress(address);
    if (parsed !== undefined) pool.reserve(Number(parsed.value - cidr.base));
  }
  return { cidr, pool };
}

/** The gateway of a subnet: the one that is asked for, or its first address. */
export function gatewayOf(cidr: Cidr, wanted: string | undefined): string {
  if (!wanted) return formatAddress(cidr.family, cidr.base + 1n);
  const parsed = parseAddress(wanted);
  if (parsed?.family !== cidr.family || parsed.value < cidr.base || parsed.value >= cidr.base + cidr.count) {
    throw new ClusterError("invalid_argument", `gateway ${wanted} is not in the subnet`);
  }
  return wanted;
}
