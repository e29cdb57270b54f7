/**
 * What `swarm init` and `swarm join` are told of addresses and pools, checked before anything is made of it, in
 * Docker's words.
 */
import { isIPv4 } from "node:net";
import { badParameter } from "./error-body.ts";

const PORT_FIRST = 1024;
const PORT_LAST = 49_151;
/** A smaller subnet has no room for a gateway, a virtual address and tasks. */
const SUBNET_BITS_MAX = 29;

export interface GivenAddresses {
  readonly AdvertiseAddr?: string;
  readonly DataPathAddr?: string;
  /** 0 or absent: the default. */
  readonly DataPathPort?: number;
  readonly DefaultAddrPool?: readonly string[];
  /** Mask length of the subnets that are cut from the pools; 0 or absent: the default. */
  readonly SubnetSize?: number;
}

export function checkAddresses(given: GivenAddresses): void {
  if (isUnspecified(given.AdvertiseAddr))
    throw badParameter(
      `advertise address must be a non-zero IP address or network interface (with optional port number), got "${given.AdvertiseAddr}"`,
    );
  if (isUnspecified(given.DataPathAddr))
    throw badParameter(
      `data path address must be a non-zero IP address or network interface (without a port number), got "${given.DataPathAddr}"`,
    );
  const port = given.DataPathPort ?? 0;
  if (port !== 0 && !(Number.isInteger(port) && port >= PORT_FIRST && port <= PORT_LAST))
    throw badParameter(`Datapath port number is not in valid range (${PORT_FIRST}-${PORT_LAST}) : ${port}`);
}

/** `subnetBits` is the mask length in force. */
export function checkPools({ DefaultAddrPool: pools = [] }: GivenAddresses, subnetBits: number): void {
  if (!Number.isInteger(subnetBits) || subnetBits < 1 || subnetBits > SUBNET_BITS_MAX)
    throw badParameter(`subnet size is out of range: ${subnetBits}, want 1 to ${SUBNET_BITS_MAX}`);
  for (const pool of pools) {
    const [address = "", bits = "", ...rest] = pool.split("/");
    if (!isIPv4(address) || !/^\d{1,2}$/.test(bits) || Number(bits) > 32 || rest.length > 0)
      throw badParameter(`invalid CIDR: "${pool}", want an IPv4 pool like 10.0.0.0/8`);
    if (Number(bits) > subnetBits)
      throw badParameter(`invalid CIDR: "${pool}". Subnet size is too small for pool: ${subnetBits}`);
  }
}

function isUnspecified(address: string | undefined): boolean {
  return /^(0\.0\.0\.0|\[?::\]?)(:\d+)?$/.test(address ?? "");
}
