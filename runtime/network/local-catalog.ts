/**
 * The networks that this machine has: finding them as Docker finds them, adding and removing, their subnets and addresses.
 * Records are on disk; nothing of the kernel here. Used by local-networks.ts and local-members.ts.
 */
import type { Env } from "../../common/env.ts";
import { ClusterError } from "../../common/errors.ts";
import { newHexId } from "../../common/ids.ts";
import { rfc3339 } from "../../common/time.ts";
import type { EndpointSettings, JsonObject } from "../../model/engine.ts";
import type { SubnetRange } from "./address-pools.ts";
import { macBytes, overlaps, parseBlock } from "./addresses.ts";
import type { Block } from "./addresses.ts";
import { overlaps6, parseBlock6 } from "./addresses6.ts";
import type { Block6 } from "./addresses6.ts";
import { endpointOptions } from "./endpoint-options.ts";
import { LocalAddresses } from "./local-addresses.ts";
import {
  chooseIpv6Subnet,
  chooseSubnet,
  NetworkFile,
  parseCreateRequest,
  PREDEFINED,
  predefinedRecord,
} from "./local-records.ts";
import type { LocalNetworkRecord } from "./local-records.ts";

export interface NetworkCatalogDeps {
  readonly env: Pick<Env, "clock" | "random">;
  readonly folder: string;
  /** Blocks that this host uses or routes to already. */
  readonly usedBlocks: () => readonly Block[];
  readonly usedBlocks6: () => readonly Block6[];
  /** Where subnets come from that users leave open. */
  readonly ranges: readonly SubnetRange[];
  /** Tells this machine's own IPv6 block from others'. */
  readonly instance: string;
}

/** As Docker joins errors: one below the head, several as a list. */
function listed(reasons: readonly string[]): string {
  const mark = reasons.length > 1 ? "* " : "";
  return reasons.map((reason) => `\n${mark}${reason}`).join("");
}

export class NetworkCatalog {
  readonly #deps: NetworkCatalogDeps;
  readonly #file: NetworkFile;
  readonly #records = new Map<string, LocalNetworkRecord>();
  readonly #addresses = new Map<string, LocalAddresses>();
  readonly #addresses6 = new Map<string, LocalAddresses>();

  constructor(deps: NetworkCatalogDeps) {
    this.#deps = deps;
    this.#file = new NetworkFile(deps.folder);
  }

  /** Reads what is on disk, and makes the networks that every machine has. */
  async open(): Promise<void> {
    for (const record of this.#file.load()) this.#records.set(record.id, record);
    const knownCount = this.#records.size;
    for (const [name, driver] of PREDEFINED) {
      if (this.byName(name) !== undefined) continue;
      const record = predefinedRecord(name, driver, this.#identity());
      this.#records.set(record.id, record);
    }
    // A daemon must come up on a full disk too: it is what makes room.
    if (this.#records.size > knownCount) await this.#save();
  }

  all(): readonly LocalNetworkRecord[] {
    return [...this.#records.values()];
  }

  get(id: string): LocalNetworkRecord | undefined {
    return this.#records.get(id);
  }

  byName(name: string): LocalNetworkRecord | undefined {
    return this.all().find((record) => record.name === name);
  }

  /** By id, name, or unambiguous prefix of an id; "default" is the default bridge. */
  lookup(id: string): LocalNetworkRecord | undefined {
    const exact = this.#records.get(id) ?? this.byName(id === "default" ? "bridge" : id);
    if (exact !== undefined || id === "") return exact;
    const matches = this.all().filter((record) => record.id.startsWith(id));
    if (matches.length > 1)
      throw new ClusterError(
        "invalid_argument",
        `network ${id} is ambiguous (${matches.length} matches found)`,
      );
    return matches[0];
  }

  require(id: string): LocalNetworkRecord {
    const record = this.lookup(id);
    if (record === undefined) throw new ClusterError("not_found", `network ${id} not found`);
    return record;
  }

  /** A new network as a Docker client asks for it; refused with Docker's words. */
  async create(request: JsonObject): Promise<LocalNetworkRecord> {
    const parsed = parseCreateRequest(request, this.#identity());
    if (this.byName(parsed.name) !== undefined)
      throw new ClusterError("already_exists", `network with name ${parsed.name} already exists`);
    const configured = this.#inherit(parsed);
    this.#checkOverlap(configured);
    const record = await this.withSubnet(configured);
    this.#records.set(record.id, record);
    await this.#save();
    return record;
  }

  /** The record with a subnet, chosen now if it has none. */
  async withSubnet(record: LocalNetworkRecord): Promise<LocalNetworkRecord> {
    const needsNone = record.isConfigOnly || record.driver === "host" || record.driver === "null";
    const needsIpv6 = record.isIpv6Wanted && record.driver === "bridge" && record.ipv6Plan === undefined;
    if ((record.plans.length > 0 && !needsIpv6) || needsNone) return record;
    const own = this.all().flatMap((each) => each.plans.map((plan) => parseBlock(plan.Subnet)));
    const complete = {
      ...record,
      plans:
        record.plans.length > 0
          ? record.plans
          : [chooseSubnet([...this.#deps.usedBlocks(), ...own], this.#deps.ranges)],
      ...(needsIpv6 ? { ipv6Plan: this.#chooseIpv6() } : {}),
    };
    if (this.#records.has(record.id)) {
      this.#records.set(record.id, complete);
      await this.#save();
    }
    return complete;
  }

  #ipv6Blocks(): Block6[] {
    return this.all().flatMap(({ ipv6Plan }) =>
      ipv6Plan === undefined ? [] : [parseBlock6(ipv6Plan.Subnet)],
    );
  }

  #chooseIpv6(): NonNullable<LocalNetworkRecord["ipv6Plan"]> {
    return chooseIpv6Subnet(this.#deps.instance, [...this.#deps.usedBlocks6(), ...this.#ipv6Blocks()]);
  }

  /** True if a network takes its settings from this one. */
  isInherited(record: LocalNetworkRecord): boolean {
    return this.all().some((each) => each.configFrom === record.name);
  }

  async delete(record: LocalNetworkRecord): Promise<void> {
    this.#records.delete(record.id);
    this.#addresses.delete(record.id);
    this.#addresses6.delete(record.id);
    await this.#save();
  }

  /** As checkSettings(), for a container that is being made: with the network's name. */
  checkAtCreation(record: LocalNetworkRecord, settings: EndpointSettings): void {
    try {
      this.checkSettings(record, settings);
    } catch (caught) {
      const { code, message } = ClusterError.from(caught);
      if (code !== "invalid_argument") throw caught;
      const text = `invalid config for network ${record.name}: ${message}`;
      throw new ClusterError(code, text, { cause: caught });
    }
  }

  /** Refuses settings of an endpoint that the network can't meet. */
  checkSettings(record: LocalNetworkRecord, settings: EndpointSettings): void {
    if (record.isConfigOnly)
      throw new ClusterError(
        "permission_denied",
        `network ${record.name} is a configuration network, which can only be used by other networks`,
      );
    if (settings.MacAddress !== undefined && settings.MacAddress !== "") macBytes(settings.MacAddress);
    endpointOptions(settings);
    const address = settings.IPAMConfig?.IPv4Address ?? "";
    const address6 = settings.IPAMConfig?.IPv6Address ?? "";
    if (address === "" && address6 === "") return;
    const reasons: string[] = [];
    if (PREDEFINED.has(record.name))
      reasons.push("user specified IP address is supported on user defined networks only");
    const check = (chosen: string, isChosenSubnet: boolean, addresses: LocalAddresses | undefined): void => {
      if (chosen === "") return;
      if (!isChosenSubnet) {
        reasons.push(
          "user specified IP address is supported only when connecting to networks with user configured subnets",
        );
        return;
      }
      try {
        addresses?.check(chosen);
      } catch (caught) {
        const error = ClusterError.from(caught);
        if (error.code !== "invalid_argument") throw error;
        reasons.push(error.message);
      }
    };
    check(address, record.hasChosenSubnet, record.hasChosenSubnet ? this.addressesOf(record) : undefined);
    check(address6, record.hasChosenIpv6Subnet === true, this.addresses6Of(record));
    if (reasons.length > 0)
      throw new ClusterError("invalid_argument", `invalid endpoint settings:${listed(reasons)}`);
  }

  /** Undefined where the network has no IPv6. */
  addresses6Of(record: LocalNetworkRecord): LocalAddresses | undefined {
    const known = this.#addresses6.get(record.id);
    if (known !== undefined || record.ipv6Plan === undefined) return known;
    const made = new LocalAddresses(record.ipv6Plan);
    this.#addresses6.set(record.id, made);
    return made;
  }

  addressesOf(record: LocalNetworkRecord): LocalAddresses {
    const known = this.#addresses.get(record.id);
    if (known !== undefined) return known;
    const [plan] = record.plans;
    if (plan === undefined)
      throw new ClusterError(
        "internal",
        `Cannot give out addresses of network "${record.name}": it has no subnet`,
      );
    const made = new LocalAddresses(plan);
    this.#addresses.set(record.id, made);
    return made;
  }

  #identity(): { readonly id: string; readonly created: string } {
    const created = rfc3339(this.#deps.env.clock.wallMs());
    return { id: newHexId(this.#deps.env.random), created };
  }

  #save(): Promise<void> {
    return this.#file.save(this.all());
  }

  /** Settings of the configuration network that `record` names, if any. */
  #inherit(record: LocalNetworkRecord): LocalNetworkRecord {
    if (record.configFrom === "") return record;
    const source = this.lookup(record.configFrom);
    if (source?.isConfigOnly !== true)
      throw new ClusterError("not_found", `network ${record.configFrom} not found`);
    return {
      ...record,
      plans: source.plans,
      hasChosenSubnet: source.hasChosenSubnet,
      isInternal: source.isInternal,
      isIpv6Wanted: source.isIpv6Wanted,
      ...(source.ipv6Plan === undefined ? {} : { ipv6Plan: source.ipv6Plan }),
      hasChosenIpv6Subnet: source.hasChosenIpv6Subnet === true,
      options: source.options,
      labels: { ...source.labels, ...record.labels },
    };
  }

  #checkOverlap(record: LocalNetworkRecord): void {
    if (record.isConfigOnly || record.driver !== "bridge") return;
    const others = this.all().filter((other) => !other.isConfigOnly);
    const taken = others.flatMap((other) => other.plans.map((plan) => parseBlock(plan.Subnet)));
    const isClash = record.plans.some((plan) =>
      taken.some((block) => overlaps(block, parseBlock(plan.Subnet))),
    );
    const { ipv6Plan } = record;
    const isClash6 =
      ipv6Plan !== undefined &&
      others.some(
        (other) =>
          other.ipv6Plan !== undefined &&
          overlaps6(parseBlock6(other.ipv6Plan.Subnet), parseBlock6(ipv6Plan.Subnet)),
      );
    if (isClash || isClash6)
      throw new ClusterError(
        "permission_denied",
        "invalid pool request: Pool overlaps with other one on this address space",
      );
  }
}
