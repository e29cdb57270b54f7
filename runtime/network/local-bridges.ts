/**
 * Bridges of this machine in the kernel: devices, their addresses, name servers on their gateways, and the packet filter
 * over all of them. Made when a network is first used, found again after a restart. Called by local-networks.ts.
 */
import { existsSync } from "node:fs";
import { must } from "../../common/assert.ts";
import { ClusterError } from "../../common/errors.ts";
import type { Logger } from "../../common/log.ts";
import { formatBlock, macOf, parseAddress, parseBlock, splitCidr } from "./addresses.ts";
import type { Block } from "./addresses.ts";
import { parseBlock6, splitCidr6 } from "./addresses6.ts";
import type { Block6 } from "./addresses6.ts";
import { deleteFlows } from "./conntrack.ts";
import { allowLoopbackSources, linkIndex } from "./container-link.ts";
import type { DnsForwarder } from "./dns-forwarder.ts";
import { DnsServer } from "./dns-server.ts";
import type { Resolution } from "./dns-server.ts";
import type { DnsQuestion } from "./dns-wire.ts";
import { localDefinition, localDefinition6, localElements, localElements6 } from "./local-rules.ts";
import type { BridgeFacts, PublishFacts } from "./local-rules.ts";
import { bridgeName, isOff, type LocalNetworkRecord } from "./local-records.ts";
import type { NetworkNamespace } from "./namespace.ts";
import { groupsOf, NftTable } from "./nft-table.ts";
import {
  addAddress,
  addBridge,
  findLink,
  listAddresses,
  listAddresses6,
  listLinks,
  listRoutes,
  MAIN_TABLE,
  setLink,
} from "./routing.ts";
import type { LinkState } from "./routing.ts";

const DEFAULT_MTU_BYTES = 1_500;
const ICC = "com.docker.network.bridge.enable_icc";
const MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade";
const MTU = "com.docker.network.driver.mtu";

interface Bridge {
  readonly facts: BridgeFacts;
  readonly dns: DnsServer;
}

/** The bridge as ports are put on it. */
export interface BridgeLink {
  readonly index: number;
  /** For new ports. */
  readonly mtu: number;
}

export interface LocalBridgesDeps {
  readonly root: NetworkNamespace;
  readonly table: string;
  readonly log: Logger;
  readonly forwarder: DnsForwarder;
  /** Who asks, by network and source address, and what the name is to it. */
  readonly resolve: (networkId: string, question: DnsQuestion, source: string) => Resolution;
}

export class LocalBridges {
  readonly #deps: LocalBridgesDeps;
  readonly #filter: NftTable;
  /** Made with the first bridge that has IPv6. */
  #filter6: NftTable | undefined;
  readonly #bridges = new Map<string, Bridge>();
  #published: readonly PublishFacts[] = [];
  #isHeld = false;
  /** Gateways whose name server has a new port, of which the packet filter does not know yet. */
  readonly #moved = new Set<string>();

  constructor(deps: LocalBridgesDeps) {
    this.#deps = deps;
    this.#filter = new NftTable(deps.root.nft, deps.log);
  }

  /** Leaves the packet filter as it is until publish(): for taking over many bridges without a moment of half of them. */
  hold(): void {
    this.#isHeld = true;
  }

  /** Blocks that a new network must not overlap: all that this host has addresses in or routes to. */
  usedBlocks(): Block[] {
    const { root } = this.#deps;
    const routes = listRoutes(root.route)
      .filter((route) => route.table === MAIN_TABLE && route.prefixLength > 0)
      .map((route) => ({ base: parseAddress(route.destination), prefixLength: route.prefixLength }));
    const addresses = listAddresses(root.route).map((each) =>
      parseBlock(`${each.address}/${each.prefixLength}`),
    );
    return [...routes, ...addresses];
  }

  usedBlocks6(): Block6[] {
    return listAddresses6(this.#deps.root.route).map((each) =>
      parseBlock6(`${each.address}/${each.prefixLength}`),
    );
  }

  /** What was asked for, if anything. */
  #askedMtu(record: LocalNetworkRecord): number | undefined {
    const asked = Number(record.options[MTU] ?? "");
    return Number.isInteger(asked) && asked >= 68 ? asked : undefined;
  }

  /** MTU of a new bridge: what was asked for, else that of the way out. */
  #newMtu(record: LocalNetworkRecord): number {
    const asked = this.#askedMtu(record);
    if (asked !== undefined) return asked;
    const { root } = this.#deps;
    const out = listRoutes(root.route).find(
      (route) => route.table === MAIN_TABLE && route.prefixLength === 0 && route.device > 0,
    );
    const link = listLinks(root.route).find((each) => each.index === out?.device);
    return Math.min(link?.mtu ?? DEFAULT_MTU_BYTES, DEFAULT_MTU_BYTES);
  }

  facts(networkId: string): BridgeFacts | undefined {
    return this.#bridges.get(networkId)?.facts;
  }

  /** Makes the bridge, or takes over what is there. `record` must have its subnet. */
  async ensure(record: LocalNetworkRecord): Promise<BridgeLink> {
    const known = this.#bridges.get(record.id);
    const found = known === undefined ? undefined : findLink(this.#deps.root.route, known.facts.device);
    const link = found ?? (await this.#make(record, known));
    return { index: link.index, mtu: this.#askedMtu(record) ?? link.mtu };
  }

  async #make(record: LocalNetworkRecord, known: Bridge | undefined): Promise<LinkState> {
    const [plan] = record.plans;
    if (plan?.Gateway === undefined)
      throw new ClusterError(
        "internal",
        `Cannot make the bridge of network "${record.name}": it has no subnet`,
      );
    const device = bridgeName(record);
    this.#makeDevice(device, plan.Gateway, splitCidr(plan.Subnet).prefixLength, this.#newMtu(record));
    const { ipv6Plan } = record;
    if (ipv6Plan !== undefined) this.#addIpv6(device, ipv6Plan);
    await known?.dns.stop();
    const dns = await this.#serveNames(record.id, plan.Gateway);
    const facts = {
      device,
      subnet: formatBlock(parseBlock(plan.Subnet)),
      gateway: plan.Gateway,
      isInternal: record.isInternal,
      isOpenInside: !isOff(record.options[ICC]),
      isMasqueraded: !isOff(record.options[MASQUERADE]),
      dnsPort: dns.port,
      ...(ipv6Plan === undefined ? {} : { ipv6Subnet: ipv6Plan.Subnet }),
    };
    this.#bridges.set(record.id, { facts, dns });
    this.#moved.add(plan.Gateway);
    await this.#applyFilter();
    return must(findLink(this.#deps.root.route, device), "a bridge that was just made is there");
  }

  /** The packet filter follows what is published now. */
  async publish(published: readonly PublishFacts[]): Promise<void> {
    this.#published = published;
    this.#isHeld = false;
    await this.#applyFilter();
  }

  async remove(record: LocalNetworkRecord): Promise<void> {
    const bridge = this.#bridges.get(record.id);
    this.#bridges.delete(record.id);
    await bridge?.dns.stop();
    await this.#applyFilter();
    const link = findLink(this.#deps.root.route, bridgeName(record));
    if (link?.kind === "bridge") await this.#deps.root.deleteLinks([link.name]);
  }

  /** True if someone had to be put right. */
  async audit(): Promise<boolean> {
    if (this.#bridges.size === 0) return true;
    const [isAsExpected, isAsExpected6] = [await this.#filter.audit(), await this.#filter6?.audit()];
    return isAsExpected && isAsExpected6 !== false;
  }

  /** Stops serving names; devices and filter stay. */
  async close(): Promise<void> {
    for (const { dns } of this.#bridges.values()) await dns.stop();
    this.#bridges.clear();
  }

  /** After close: takes devices and filter away as well. */
  async removeAll(records: readonly LocalNetworkRecord[]): Promise<void> {
    const names = new Set(records.filter((record) => record.driver === "bridge").map(bridgeName));
    const found = listLinks(this.#deps.root.route).filter(
      (link) => link.kind === "bridge" && names.has(link.name),
    );
    await this.#deps.root.deleteLinks(found.map((link) => link.name));
    await this.#filter.remove(this.#deps.table);
    await this.#filter6?.remove(this.#deps.table, "ip6");
  }

  #makeDevice(device: string, gateway: string, prefixLength: number, mtu: number): void {
    const { root } = this.#deps;
    if (root.readSysctl("ipv4/ip_forward") !== "1") root.setSysctls({ "ipv4/ip_forward": "1" });
    if (findLink(root.route, device) === undefined)
      root.route.send([addBridge(device, { mac: macOf(gateway), mtu })]);
    const index = linkIndex(root, device);
    root.route.send([
      addAddress(index, { address: gateway, prefixLength }),
      setLink(device, { isUp: true }),
      allowLoopbackSources(index),
    ]);
  }

  #addIpv6(device: string, plan: NonNullable<LocalNetworkRecord["ipv6Plan"]>): void {
    const { root } = this.#deps;
    if (!existsSync("/proc/net/if_inet6"))
      throw new ClusterError("unavailable", "Cannot give the network IPv6: this machine's kernel has none");
    if (root.readSysctl("ipv6/conf/all/forwarding") !== "1") this.#forwardIpv6();
    root.setSysctls({ [`ipv6/conf/${device}/disable_ipv6`]: "0" });
    const { prefixLength } = splitCidr6(plan.Subnet);
    root.route.send([addAddress(linkIndex(root, device), { address: plan.Gateway ?? "", prefixLength })]);
  }

  /** A router takes no addresses and routes that others announce, unless it is told to: the host keeps those that it has. */
  #forwardIpv6(): void {
    const { root } = this.#deps;
    const names = ["default", ...listLinks(root.route).map((link) => link.name)];
    const listening = names.filter((name) => root.readSysctl(`ipv6/conf/${name}/accept_ra`) === "1");
    root.setSysctls(Object.fromEntries(listening.map((name) => [`ipv6/conf/${name}/accept_ra`, "2"])));
    root.setSysctls({ "ipv6/conf/all/forwarding": "1" });
  }

  async #serveNames(networkId: string, gateway: string): Promise<DnsServer> {
    const { forwarder, log, resolve } = this.#deps;
    const dns = new DnsServer({
      address: gateway,
      forwarder,
      log,
      resolve: (question, source) => resolve(networkId, question, source),
    });
    await dns.start();
    return dns;
  }

  async #applyFilter(): Promise<void> {
    if (this.#isHeld) return;
    const bridges = [...this.#bridges.values()].map(({ facts }) => facts);
    await this.#filter.set(
      localDefinition(this.#deps.table),
      groupsOf(localElements(bridges, this.#published)),
    );
    // Who asks by one socket all the time would go on asking the port that was before.
    for (const gateway of this.#moved)
      deleteFlows(this.#deps.root, { replySource: gateway, protocol: "udp" });
    this.#moved.clear();
    if (bridges.some((bridge) => bridge.ipv6Subnet !== undefined))
      this.#filter6 ??= new NftTable(this.#deps.root.nft, this.#deps.log);
    await this.#filter6?.set(
      localDefinition6(this.#deps.table),
      groupsOf(localElements6(bridges, this.#published)),
    );
  }
}
