/** Pools that subnets of local networks are cut from: Docker's own, or those of the daemon's options. Pure. */
import { ipv4Number } from "../../common/addresses.ts";
import { ClusterError } from "../../common/errors.ts";
import { parseAddress, parseBlock, splitCidr } from "./addresses.ts";

/** As in Docker's configuration file. */
export interface AddressPool {
  /** CIDR. */
  readonly base: string;
  /** Mask length of the subnets. */
  readonly size: number;
}

/** Subnets in a row. */
export interface SubnetRange {
  /** First address of the first one. */
  readonly base: number;
  readonly count: number;
  readonly prefixLength: number;
}

/** A smaller subnet has no room for a gateway and containers. */
const SIZE_MAX = 29;

export const DEFAULT_RANGES: readonly SubnetRange[] = [
  { base: parseAddress("172.17.0.0"), count: 15, prefixLength: 16 },
  { base: parseAddress("192.168.0.0"), count: 16, prefixLength: 20 },
];

/** What the pools hold; Docker's own ranges if there are none. */
export function subnetRanges(pools: readonly AddressPool[]): readonly SubnetRange[] {
  if (pools.length === 0) return DEFAULT_RANGES;
  return pools.map(({ base, size }) => {
    const block = parseBlock(base);
    return { base: block.base, count: 2 ** (size - block.prefixLength), prefixLength: size };
  });
}

/** Throws for what is no pool of subnets; `given` is named. */
export function checkAddressPool({ base, size }: AddressPool, given: string): AddressPool {
  const [address = "", bits = ""] = base.split("/");
  const isCidr = ipv4Number(address) !== undefined && /^\d{1,2}$/.test(bits) && Number(bits) <= 32;
  if (!isCidr || base.split("/").length !== 2)
    throw new ClusterError(
      "invalid_argument",
      `default-address-pool: base must be an IPv4 network like 10.10.0.0/16, got ${given}`,
    );
  const { prefixLength } = splitCidr(base);
  if (!Number.isInteger(size) || size < prefixLength || size > SIZE_MAX)
    throw new ClusterError(
      "invalid_argument",
      `default-address-pool: size must be ${prefixLength} to ${SIZE_MAX} in ${base}, got ${given}`,
    );
  return { base, size };
}

/** "base=10.10.0.0/16,size=24". */
export function parseAddressPool(text: string): AddressPool {
  const fields = new Map(
    text.split(",").map((part) => {
      const [key = "", ...value] = part.split("=");
      return [key.trim(), value.join("=").trim()] as const;
    }),
  );
  const unknown = [...fields.keys()].find((key) => key !== "base" && key !== "size");
  if (unknown !== undefined)
    throw new ClusterError(
      "invalid_argument",
      `default-address-pool must be base=CIDR,size=BITS, got "${text}"`,
    );
  const size = fields.get("size") ?? "";
  const pool = { base: fields.get("base") ?? "", size: /^\d+$/.test(size) ? Number(size) : NaN };
  return checkAddressPool(pool, `"${text}"`);
}
