/**
 * Networks of this machine as records: making one from a Docker request, checking it, keeping all on disk. No kernel state.
 * Used by local-networks.ts alone.
 */
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import path from "node:path";
import { ipv4Number, ipv4Text, ipv6Text } from "../../common/addresses.ts";
import { realDisk } from "../../common/real-env.ts";
import { ClusterError } from "../../common/errors.ts";
import { isObject } from "../../common/json.ts";
import type { JsonObject } from "../../model/engine.ts";
import {
  blockSize,
  contains,
  firstHost,
  formatBlock,
  overlaps,
  parseAddress,
  parseBlock,
  splitCidr,
} from "./addresses.ts";
import type { Block } from "./addresses.ts";
import { DEFAULT_RANGES, type SubnetRange } from "./address-pools.ts";
import { contains6, formatBlock6, overlaps6, parseAddress6, parseBlock6, splitCidr6 } from "./addresses6.ts";
import type { Block6 } from "./addresses6.ts";
import { subLinkMode } from "./local-links.ts";

const BRIDGE_NAME = "com.docker.network.bridge.name";
/** IFNAMSIZ with its final zero is 16. */
const LINK_NAME_LENGTH_MAX = 15;

export type LocalDriver = "bridge" | "host" | "null" | "macvlan" | "ipvlan";

export interface AddressPlan {
  readonly Subnet: string;
  readonly Gateway?: string;
  readonly IPRange?: string;
  readonly AuxiliaryAddresses?: Readonly<Record<string, string>>;
}

export interface LocalNetworkRecord {
  readonly id: string;
  readonly name: string;
  /** RFC 3339 with nanoseconds. */
  readonly created: string;
  readonly driver: LocalDriver;
  readonly isInternal: boolean;
  readonly isAttachable: boolean;
  readonly isIpv6Wanted: boolean;
  readonly isConfigOnly: boolean;
  readonly configFrom: string;
  readonly ipamDriver: string;
  readonly ipamOptions: Readonly<Record<string, string>>;
  /** Empty until the first use of a network whose subnet the user left open. */
  readonly plans: readonly AddressPlan[];
  /** Of bridge networks that have IPv6 as well; absent until the first use where the user left it open. */
  readonly ipv6Plan?: AddressPlan;
  readonly hasChosenIpv6Subnet?: boolean;
  /** The user chose the subnet, and so may choose addresses in it. */
  readonly hasChosenSubnet: boolean;
  readonly options: Readonly<Record<string, string>>;
  readonly labels: Readonly<Record<string, string>>;
}

export const PREDEFINED: ReadonlyMap<string, LocalDriver> = new Map([
  ["bridge", "bridge"],
  ["host", "host"],
  ["none", "null"],
]);

/** Room for a gateway and containers. */
const IPV6_PREFIX_MAX = 120;
/** Of subnets that users leave open. */
const IPV6_PREFIX_LENGTH = 64;
const IPV6_SUBNETS_MAX = 65_536;

const NAME = /^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/;

function textField(source: Readonly<Record<string, unknown>>, key: string, fallback = ""): string {
  const value = source[key];
  if (value === undefined || value === null) return fallback;
  if (typeof value !== "string")
    throw new ClusterError("invalid_argument", `${key} must be a string, got ${JSON.stringify(value)}`);
  return value;
}

function stringMap(source: Readonly<Record<string, unknown>>, key: string): Record<string, string> {
  const value = source[key];
  if (value === undefined || value === null) return {};
  if (!isObject(value))
    throw new ClusterError("invalid_argument", `${key} must be an object, got ${JSON.stringify(value)}`);
  return Object.fromEntries(Object.keys(value).map((each) => [each, textField(value, each)]));
}

function parsePlan(value: unknown): AddressPlan | undefined {
  if (!isObject(value))
    throw new ClusterError("invalid_argument", `IPAM.Config must hold objects, got ${JSON.stringify(value)}`);
  const subnet = textField(value, "Subnet");
  if (subnet.includes(":")) return undefined;
  if (subnet === "")
    throw new ClusterError("invalid_argument", "IPAM.Config needs a Subnet beside Gateway or IPRange");
  const block = parseBlock(subnet);
  if (splitCidr(subnet).address !== ipv4Text(block.base))
    throw new ClusterError(
      "invalid_argument",
      `invalid network config:\ninvalid subnet ${subnet}: it should be ${formatBlock(block)}`,
    );
  const gateway = textField(value, "Gateway");
  const range = textField(value, "IPRange");
  const auxiliary = stringMap(value, "AuxiliaryAddresses");
  for (const address of [gateway, ...Object.values(auxiliary)])
    if (address !== "" && !contains(block, parseAddress(address)))
      throw new ClusterError(
        "invalid_argument",
        `invalid network config:\ninvalid address ${address}: subnet ${subnet} does not contain it`,
      );
  if (range !== "" && !contains(block, parseBlock(range).base))
    throw new ClusterError(
      "invalid_argument",
      `invalid network config:\ninvalid ip-range ${range}: subnet ${subnet} does not contain it`,
    );
  return {
    Subnet: formatBlock(block),
    Gateway: gateway === "" ? firstHost(block) : gateway,
    ...(range === "" ? {} : { IPRange: range }),
    ...(Object.keys(auxiliary).length === 0 ? {} : { AuxiliaryAddresses: auxiliary }),
  };
}

/** The IPv6 half of IPAM.Config. */
function parseIpv6Plan(ipam: Readonly<Record<string, unknown>>): AddressPlan | undefined {
  const config = Array.isArray(ipam["Config"]) ? ipam["Config"] : [];
  const [first, second] = config.filter(isObject).filter((each) => textField(each, "Subnet").includes(":"));
  if (first === undefined) return undefined;
  if (second !== undefined)
    throw new ClusterError("invalid_argument", "IPAM.Config must have at most one IPv6 Subnet");
  const subnet = textField(first, "Subnet");
  const block = parseBlock6(subnet);
  const invalid = (why: string): ClusterError =>
    new ClusterError("invalid_argument", `invalid network config:\n${why}`);
  if (parseAddress6(splitCidr6(subnet).address) !== block.base)
    throw invalid(`invalid subnet ${subnet}: it should be ${formatBlock6(block)}`);
  if (block.prefixLength > IPV6_PREFIX_MAX)
    throw invalid(`invalid subnet ${subnet}: its prefix must have at most ${IPV6_PREFIX_MAX} bits`);
  const gateway = textField(first, "Gateway");
  const range = textField(first, "IPRange");
  const auxiliary = stringMap(first, "AuxiliaryAddresses");
  for (const address of [gateway, ...Object.values(auxiliary)])
    if (address !== "" && !contains6(block, parseAddress6(address)))
      throw invalid(`invalid address ${address}: subnet ${subnet} does not contain it`);
  if (range !== "" && !contains6(block, parseBlock6(range).base))
    throw invalid(`invalid ip-range ${range}: subnet ${subnet} does not contain it`);
  return {
    Subnet: formatBlock6(block),
    Gateway: ipv6Text(gateway === "" ? block.base + 1n : parseAddress6(gateway)),
    ...(range === "" ? {} : { IPRange: range }),
    ...(Object.keys(auxiliary).length === 0 ? {} : { AuxiliaryAddresses: auxiliary }),
  };
}

function parsePlans(ipam: Readonly<Record<string, unknown>>): readonly AddressPlan[] {
  const config = ipam["Config"] ?? [];
  if (!Array.isArray(config))
    throw new ClusterError("invalid_argument", `IPAM.Config must be a list, got ${JSON.stringify(config)}`);
  const filled = config.filter(
    (each) => !isObject(each) || Object.values(each).some((value) => value !== ""),
  );
  return filled.map(parsePlan).filter((plan) => plan !== undefined);
}

function parseDriver(name: string): LocalDriver {
  switch (name) {
    case "":
    case "default":
    case "bridge":
      return "bridge";
    case "macvlan":
    case "ipvlan":
    case "null":
    case "host":
      return name;
    default:
      throw new ClusterError("not_found", `plugin "${name}" not found`);
  }
}

/** Whatever Go takes for a boolean. */
const ON: ReadonlySet<string> = new Set(["1", "t", "T", "TRUE", "true", "True"]);
const OFF: ReadonlySet<string> = new Set(["0", "f", "F", "FALSE", "false", "False"]);
const BRIDGE_FLAGS = [
  "com.docker.network.bridge.enable_icc",
  "com.docker.network.bridge.enable_ip_masquerade",
] as const;
const MTU = "com.docker.network.driver.mtu";
/** The least that IPv4 allows, and the most that a device can be told. */
const MTU_MIN = 68;
const MTU_MAX = 65_535;

/** Address of published ports that name none. */
export const HOST_BINDING = "com.docker.network.bridge.host_binding_ipv4";

/** Whether a driver option that is on by default was turned off. */
export function isOff(option: string | undefined): boolean {
  return option !== undefined && OFF.has(option);
}

/** Name of the network's device. Throws invalid_argument for one that no device can have. */
export function bridgeName(record: Pick<LocalNetworkRecord, "id" | "options">): string {
  const chosen = record.options[BRIDGE_NAME] ?? "";
  if (chosen !== "" && (chosen.length > LINK_NAME_LENGTH_MAX || /[\s/"\\]|^\.{1,2}$/.test(chosen)))
    throw new ClusterError("invalid_argument", `invalid bridge name "${chosen}": it is no interface name`);
  return chosen === "" ? `br-${record.id.slice(0, 12)}` : chosen;
}

function checkDriverOptions(driver: LocalDriver, options: Readonly<Record<string, string>>): void {
  const mtu = options[MTU];
  if (mtu !== undefined && !(/^\d{1,5}$/.test(mtu) && Number(mtu) >= MTU_MIN && Number(mtu) <= MTU_MAX))
    throw new ClusterError(
      "invalid_argument",
      `failed to parse ${MTU} value: want ${MTU_MIN} to ${MTU_MAX}, got "${mtu}"`,
    );
  if (driver !== "bridge") return;
  bridgeName({ id: "", options });
  const binding = options[HOST_BINDING] ?? "";
  if (binding !== "" && ipv4Number(binding) === undefined)
    throw new ClusterError(
      "invalid_argument",
      `failed to parse ${HOST_BINDING} value: want an IPv4 address, got "${binding}"`,
    );
  for (const name of BRIDGE_FLAGS) {
    const value = options[name];
    if (value === undefined || ON.has(value) || OFF.has(value)) continue;
    throw new ClusterError(
      "invalid_argument",
      `failed to parse ${name} value: want true or false, got "${value}"`,
    );
  }
}

/** A record from a create request. Checks all that does not depend on other networks. */
export function parseCreateRequest(
  request: JsonObject,
  identity: { readonly id: string; readonly created: string },
): LocalNetworkRecord {
  const name = textField(request, "Name");
  if (name === "") throw new ClusterError("invalid_argument", "network name cannot be empty");
  if (!NAME.test(name)) throw new ClusterError("invalid_argument", `invalid network name: "${name}"`);
  const driver = parseDriver(textField(request, "Driver"));
  if (driver === "host" || driver === "null")
    throw new ClusterError("permission_denied", `only one instance of "${driver}" network is allowed`);
  const ipam = isObject(request["IPAM"]) ? request["IPAM"] : {};
  const plans = parsePlans(ipam);
  const isIpv6Wanted = request["EnableIPv6"] === true;
  const ipv6Plan = isIpv6Wanted ? parseIpv6Plan(ipam) : undefined;
  if (isIpv6Wanted && driver !== "bridge")
    throw new ClusterError(
      "invalid_argument",
      `Cannot enable IPv6: the driver must be bridge, got "${driver}"`,
    );
  const options = stringMap(request, "Options");
  checkDriverOptions(driver, options);
  const scope = textField(request, "Scope");
  if (scope !== "" && scope !== "local")
    throw new ClusterError("invalid_argument", `invalid network scope: want local or swarm, got "${scope}"`);
  const ipamDriver = textField(ipam, "Driver") || "default";
  if (ipamDriver !== "default" && ipamDriver !== "null")
    throw new ClusterError("not_found", `could not find IPAM driver "${ipamDriver}": want default`);
  if ((driver === "macvlan" || driver === "ipvlan") && request["ConfigOnly"] !== true) {
    subLinkMode(driver, options[`${driver}_mode`] ?? "");
    if ((options["parent"] ?? "") === "")
      throw new ClusterError(
        "invalid_argument",
        `network "${name}" needs the option parent: the host's interface that it shares`,
      );
  }
  const configFrom = isObject(request["ConfigFrom"]) ? textField(request["ConfigFrom"], "Network") : "";
  return {
    ...identity,
    name,
    driver,
    isInternal: request["Internal"] === true,
    isAttachable: request["Attachable"] === true,
    isIpv6Wanted,
    ...(ipv6Plan === undefined ? {} : { ipv6Plan }),
    hasChosenIpv6Subnet: ipv6Plan !== undefined,
    isConfigOnly: request["ConfigOnly"] === true,
    configFrom,
    ipamDriver,
    ipamOptions: stringMap(ipam, "Options"),
    plans,
    hasChosenSubnet: plans.length > 0,
    options,
    labels: stringMap(request, "Labels"),
  };
}

/** One of the networks that every machine has. */
export function predefinedRecord(
  name: string,
  driver: LocalDriver,
  identity: { readonly id: string; readonly created: string },
): LocalNetworkRecord {
  const isBridge = driver === "bridge";
  return {
    ...identity,
    name,
    driver,
    isInternal: false,
    isAttachable: false,
    isIpv6Wanted: false,
    isConfigOnly: false,
    configFrom: "",
    ipamDriver: "default",
    ipamOptions: {},
    plans: [],
    hasChosenSubnet: false,
    options: isBridge
      ? {
          "com.docker.network.bridge.default_bridge": "true",
          "com.docker.network.bridge.enable_icc": "true",
          "com.docker.network.bridge.enable_ip_masquerade": "true",
          "com.docker.network.bridge.host_binding_ipv4": "0.0.0.0",
        }
      : {},
    labels: {},
  };
}

/** The first subnet of the ranges that overlaps nothing in `used`. */
export function chooseSubnet(
  used: readonly Block[],
  ranges: readonly SubnetRange[] = DEFAULT_RANGES,
): AddressPlan {
  for (const { base, count, prefixLength } of ranges) {
    const size = blockSize({ base: 0, prefixLength });
    for (let index = 0; index < count; index += 1) {
      const block = { base: base + index * size, prefixLength };
      if (!used.some((each) => overlaps(each, block)))
        return { Subnet: formatBlock(block), Gateway: firstHost(block) };
    }
  }
  throw new ClusterError(
    "resource_exhausted",
    "could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network",
  );
}

/**
 * The first /64 of the machine's own block that overlaps nothing in `used`. The block is a unique local one (RFC 4193) that follows from
 * the instance, so that two machines hardly ever have the same.
 */
export function chooseIpv6Subnet(instance: string, used: readonly Block6[]): AddressPlan {
  const globalId = createHash("sha256").update(`ipv6 ${instance}`).digest("hex").slice(0, 10);
  const base = BigInt(`0xfd${globalId}`) << 80n;
  for (let index = 0; index < IPV6_SUBNETS_MAX; index++) {
    const block = { base: base | (BigInt(index) << 64n), prefixLength: IPV6_PREFIX_LENGTH };
    if (!used.some((each) => overlaps6(each, block)))
      return { Subnet: formatBlock6(block), Gateway: ipv6Text(block.base + 1n) };
  }
  throw new ClusterError("resource_exhausted", "could not find an available IPv6 subnet for the network");
}

/** All networks, in one file that is replaced whole. */
export class NetworkFile {
  readonly #file: string;

  constructor(folder: string) {
    this.#file = path.join(folder, "networks.json");
  }

  load(): LocalNetworkRecord[] {
    try {
      return JSON.parse(readFileSync(this.#file, "utf8")) as LocalNetworkRecord[];
    } catch (caught) {
      if (ClusterError.from(caught).code === "not_found") return [];
      throw new ClusterError("internal", `Cannot read the networks from "${this.#file}"`, { cause: caught });
    }
  }

  async save(records: readonly LocalNetworkRecord[]): Promise<void> {
    mkdirSync(path.dirname(this.#file), { recursive: true, mode: 0o700 });
    await realDisk.writeFileAtomic(this.#file, Buffer.from(JSON.stringify(records)));
  }
}

/** Small files that need not survive a loss of power: after that, what they describe is gone too. */
export function writeVolatile(file: string, value: unknown): void {
  mkdirSync(path.dirname(file), { recursive: true, mode: 0o700 });
  const temporary = `${file}.tmp`;
  writeFileSync(temporary, JSON.stringify(value), { mode: 0o600 });
  renameSync(temporary, file);
}
