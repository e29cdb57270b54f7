/**
 * Containers that run on this machine's networks: their interfaces, addresses and host ports, noted on disk so that a new
 * daemon finds them. Called by local-networks.ts one step at a time; never decides what a container shall have.
 */
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, rmSync } from "node:fs";
import path from "node:path";
import type { Cancel, Env } from "../../common/env.ts";
import { must } from "../../common/assert.ts";
import { ClusterError } from "../../common/errors.ts";
import { newHexId } from "../../common/ids.ts";
import type { Logger } from "../../common/log.ts";
import type { EndpointSettings } from "../../model/engine.ts";
import type { ContainerNetworkResult } from "../ports.ts";
import { bytesToMac, macBytes, macOf } from "./addresses.ts";
import { deleteFlowsElsewhere } from "./conntrack.ts";
import { endpointOptions } from "./endpoint-options.ts";
import { FlowRemoval } from "./flow-removal.ts";
import type { BridgeLink, LocalBridges } from "./local-bridges.ts";
import type { NetworkCatalog } from "./local-catalog.ts";
import { describeEndpoint } from "./local-describe.ts";
import type { EndpointOwner, Ipv6Endpoint, LocalEndpoint } from "./local-describe.ts";
import { closeDefaultRouteGap, interfaceOf, plugBridged, plugShared, unplugShared } from "./local-links.ts";
import { PortReservations } from "./local-ports.ts";
import type { OutsidePorts } from "./slirp-ports.ts";
import type { PortRequest, PublishedPort } from "./local-ports.ts";
import { PREDEFINED, writeVolatile } from "./local-records.ts";
import type { LocalNetworkRecord } from "./local-records.ts";
import { asRequest, publishedOf } from "./local-results.ts";
import { namespaceIdentity } from "./namespace.ts";
import type { NetworkNamespace } from "./namespace.ts";

const LEFTOVER_LINK_MS = 5_000;

export interface Member {
  readonly containerId: string;
  readonly name: string;
  readonly hostname: string;
  readonly pid: number;
  /** Inode of its network namespace, by which a new daemon knows that the process is still that one. */
  readonly sandbox: number;
  /** By network id; the first leads out. */
  readonly endpoints: Readonly<Record<string, LocalEndpoint>>;
  readonly ports: readonly PublishedPort[];
  readonly isPublishing: boolean;
  /** Name servers of its own; empty: the host's. */
  readonly dns: readonly string[];
}

export interface MembersDeps {
  readonly env: Pick<Env, "timers" | "random">;
  readonly log: Logger;
  readonly root: NetworkNamespace;
  readonly tag: string;
  readonly folder: string;
  /** Where an older daemon has left its notes; may be the same. */
  readonly formerFolder: string;
  readonly catalog: NetworkCatalog;
  readonly bridges: LocalBridges;
  /** Where the machine's ports are not in this network namespace. */
  readonly outside: OutsidePorts | undefined;
}

export class Members {
  readonly #deps: MembersDeps;
  readonly #reservations: PortReservations;
  readonly #members = new Map<string, Member>();
  readonly #timers = new Set<Cancel>();
  readonly #flows: FlowRemoval;
  /** Grows with every change, so that what is derived can tell that it is old. */
  generation = 0;

  constructor(deps: MembersDeps) {
    this.#deps = deps;
    this.#reservations = new PortReservations(deps.outside);
    this.#flows = new FlowRemoval({
      forget: (addresses) => deleteFlowsElsewhere(deps.root, addresses),
      log: deps.log,
    });
  }

  get size(): number {
    return this.#members.size;
  }

  get(containerId: string): Member | undefined {
    return this.#members.get(containerId);
  }

  find(matches: (member: Member) => boolean): Member | undefined {
    return [...this.#members.values()].find(matches);
  }

  owners(networkId: string): EndpointOwner[] {
    return [...this.#members.values()].flatMap((member) => {
      const endpoint = member.endpoints[networkId];
      return endpoint === undefined
        ? []
        : [{ containerId: member.containerId, containerName: member.name, endpoint }];
    });
  }

  /** Gives the member an interface on one more network. */
  async addEndpoint(
    member: Member,
    incomplete: LocalNetworkRecord,
    settings: EndpointSettings,
  ): Promise<Member> {
    const record = await this.#deps.catalog.withSubnet(incomplete);
    const bridge = await this.#bridgeOf(record);
    const endpoint = this.#newEndpoint(record, settings, member);
    const next = { ...member, endpoints: { ...member.endpoints, [record.id]: endpoint } };
    try {
      this.#remember(next);
      for (const address of addressesOf(endpoint)) await this.#flows.settled(address);
      await this.#plug(next, record, { endpoint, bridge });
      return next;
    } catch (caught) {
      // The container goes on without this network.
      await this.removeEndpoint(next, record).catch((error: unknown) => {
        this.#deps.log.warn("connection that failed left something", {
          containerId: member.containerId,
          error,
        });
      });
      throw caught;
    }
  }

  async removeEndpoint(member: Member, record: LocalNetworkRecord): Promise<Member> {
    const endpoint = member.endpoints[record.id];
    if (endpoint === undefined) return member;
    const rest = Object.fromEntries(Object.entries(member.endpoints).filter(([id]) => id !== record.id));
    const next = this.#remember({ ...member, endpoints: rest });
    try {
      if (record.driver === "bridge")
        await this.#deps.root.deleteLinks([this.#linkName(member.containerId, record.id)]);
      else await unplugShared(member.pid, endpoint.ip);
    } finally {
      this.#giveBack(record.id, endpoint);
    }
    for (const each of Object.values(rest)) closeDefaultRouteGap(member.pid, each);
    return next;
  }

  /** Something else that led out of the container is gone. */
  closeGap(containerId: string): void {
    const { pid, endpoints } = this.#members.get(containerId) ?? { pid: 0, endpoints: {} };
    for (const each of Object.values(endpoints)) closeDefaultRouteGap(pid, each);
  }

  async addPort(member: Member, request: PortRequest): Promise<Member> {
    const held = await this.#hold(request, member.containerId);
    return this.#remember({ ...member, ports: [...member.ports, held] });
  }

  /** The packet filter follows what members publish. */
  async publish(): Promise<void> {
    const published = [...this.#members.values()].flatMap((member) => {
      const address = publishAddress(member);
      if (address === undefined || member.ports.length === 0) return [];
      const isForwarded = this.#deps.outside !== undefined;
      const ipv6Address = publishEndpoint(member)?.ipv6?.ip;
      const ipv6 = ipv6Address === undefined ? {} : { ipv6Address };
      return [
        {
          address,
          ...ipv6,
          ports: member.ports.map((port) => (isForwarded ? { ...port, hostIp: "0.0.0.0" } : port)),
        },
      ];
    });
    await this.#deps.bridges.publish(published);
  }

  /** Forgets the member and gives back all that it had; its interfaces go with its namespace. */
  async drop(member: Member): Promise<void> {
    this.#members.delete(member.containerId);
    this.generation += 1;
    rmSync(this.#file(member.containerId), { force: true });
    if (member.ports.length > 0) await this.publish();
    for (const port of member.ports) await this.#reservations.release(port);
    for (const [networkId, endpoint] of Object.entries(member.endpoints)) this.#giveBack(networkId, endpoint);
    this.#sweepLater(member);
  }

  /** Docker's NetworkSettings.Networks. */
  describe(member: Member): Record<string, EndpointSettings> {
    return Object.fromEntries(
      Object.entries(member.endpoints).flatMap(([id, endpoint]) => {
        const record = this.#deps.catalog.get(id);
        return record === undefined ? [] : [[record.name, describeEndpoint(record, endpoint)]];
      }),
    );
  }

  /** Containers that still run as the former daemon left them; those that ended meanwhile are forgotten. */
  async resume(): Promise<void> {
    this.#deps.bridges.hold();
    if (this.#deps.formerFolder !== this.#deps.folder) this.#takeNotes();
    for (const name of listFolder(this.#folder)) {
      const file = path.join(this.#folder, name);
      const member = readMember(file);
      if (member === undefined || namespaceIdentity(member.pid) !== member.sandbox)
        rmSync(file, { force: true });
      else await this.#takeOver(member);
    }
    await this.publish();
    await this.#reservations.settle();
  }

  /** From the place where an older daemon had them. */
  #takeNotes(): void {
    const former = path.join(this.#deps.formerFolder, "containers");
    for (const name of listFolder(former)) {
      const member = readMember(path.join(former, name));
      if (member !== undefined) writeVolatile(this.#file(member.containerId), member);
      rmSync(path.join(former, name), { force: true });
    }
  }

  /** A container of which no note is left: what it remembers itself must do. */
  async adopt(
    container: {
      readonly id: string;
      readonly pid: number;
      readonly sandbox: number;
      readonly dns: readonly string[];
    },
    result: ContainerNetworkResult,
  ): Promise<void> {
    const endpoints: Record<string, LocalEndpoint> = {};
    for (const [name, settings] of Object.entries(result.endpoints)) {
      const record = this.#deps.catalog.lookup(settings.NetworkID ?? name);
      if (record === undefined || settings.IPAddress === undefined) continue;
      endpoints[record.id] = {
        endpointId: settings.EndpointID ?? newHexId(this.#deps.env.random),
        ip: settings.IPAddress,
        prefixLength: settings.IPPrefixLen ?? 16,
        gateway: settings.Gateway ?? "",
        ...ipv6Of(settings),
        mac: settings.MacAddress ?? macOf(settings.IPAddress),
        settings,
        dnsNames: settings.DNSNames ?? [],
      };
    }
    const { id: containerId, pid, sandbox, dns } = container;
    const name = Object.values(endpoints)[0]?.dnsNames[0] ?? containerId.slice(0, 12);
    const ports = publishedOf(result.ports);
    const base = { containerId, name, hostname: "", pid, sandbox, endpoints, dns };
    await this.#takeOver(this.#remember({ ...base, ports, isPublishing: ports.length > 0 }));
    await this.publish();
  }

  async close(): Promise<void> {
    for (const cancel of this.#timers) cancel();
    await this.#flows.close();
    await this.#reservations.close();
  }

  get #folder(): string {
    return path.join(this.#deps.folder, "containers");
  }

  #file(containerId: string): string {
    return path.join(this.#folder, `${containerId}.json`);
  }

  #linkName(containerId: string, networkId: string): string {
    const digest = createHash("sha256").update(`${containerId} ${networkId}`).digest("hex");
    return `sl${this.#deps.tag}-${digest.slice(0, 8)}`;
  }

  #remember(member: Member): Member {
    this.#members.set(member.containerId, member);
    this.generation += 1;
    writeVolatile(this.#file(member.containerId), member);
    return member;
  }

  #newEndpoint(record: LocalNetworkRecord, settings: EndpointSettings, member: Member): LocalEndpoint {
    const addresses = this.#deps.catalog.addressesOf(record);
    const chosen = settings.IPAMConfig?.IPv4Address ?? "";
    if (chosen !== "") addresses.claim(chosen);
    const ip = chosen === "" ? addresses.take() : chosen;
    let ipv6: Ipv6Endpoint | undefined;
    try {
      ipv6 = this.#newIpv6(record, settings);
    } catch (caught) {
      addresses.release(ip);
      throw caught;
    }
    const mac = settings.MacAddress ?? "";
    const names = [member.name, ...(settings.Aliases ?? []), member.containerId.slice(0, 12)];
    if (member.hostname !== "") names.push(member.hostname);
    return {
      endpointId: newHexId(this.#deps.env.random),
      ip,
      prefixLength: addresses.prefixLength,
      gateway: record.isInternal ? "" : (record.plans[0]?.Gateway ?? ""),
      ...(ipv6 === undefined ? {} : { ipv6 }),
      mac: mac === "" ? macOf(ip) : bytesToMac(macBytes(mac)),
      settings,
      dnsNames: PREDEFINED.has(record.name) ? [] : [...new Set(names)],
    };
  }

  #newIpv6(record: LocalNetworkRecord, settings: EndpointSettings): Ipv6Endpoint | undefined {
    const addresses = this.#deps.catalog.addresses6Of(record);
    if (addresses === undefined) return undefined;
    const chosen = settings.IPAMConfig?.IPv6Address ?? "";
    return {
      ip: chosen === "" ? addresses.take() : addresses.claim(chosen),
      prefixLength: addresses.prefixLength,
      gateway: record.isInternal ? "" : (record.ipv6Plan?.Gateway ?? ""),
    };
  }

  /** Addresses are free again, and nothing that was tracked to them is. */
  #giveBack(networkId: string, endpoint: Pick<LocalEndpoint, "ip" | "ipv6">): void {
    const { catalog } = this.#deps;
    const record = catalog.get(networkId);
    if (record !== undefined) {
      catalog.addressesOf(record).release(endpoint.ip);
      if (endpoint.ipv6 !== undefined) catalog.addresses6Of(record)?.release(endpoint.ipv6.ip);
    }
    for (const address of addressesOf(endpoint)) this.#flows.add(address);
  }

  /** Undefined for networks without one. */
  async #bridgeOf(record: LocalNetworkRecord): Promise<BridgeLink | undefined> {
    return record.driver === "bridge" ? this.#deps.bridges.ensure(record) : undefined;
  }

  async #plug(
    member: Member,
    record: LocalNetworkRecord,
    place: { readonly endpoint: LocalEndpoint; readonly bridge: BridgeLink | undefined },
  ): Promise<void> {
    const { root } = this.#deps;
    const { endpoint, bridge } = place;
    const { driver } = record;
    const options = endpointOptions(endpoint.settings);
    if (driver === "macvlan" || driver === "ipvlan")
      return plugShared(root, {
        kind: driver,
        parent: record.options["parent"] ?? "",
        mode: record.options[`${driver}_mode`] ?? "",
        pid: member.pid,
        mac: endpoint.mac,
        address: endpoint.ip,
        prefixLength: endpoint.prefixLength,
        gateway: endpoint.gateway,
        options,
      });
    const { index: bridgeIndex, mtu } = must(bridge, "a network with a subnet of its own is on a bridge");
    await plugBridged(root, {
      hostName: this.#linkName(member.containerId, record.id),
      bridgeIndex,
      pid: member.pid,
      mtu,
      mac: endpoint.mac,
      address: endpoint.ip,
      prefixLength: endpoint.prefixLength,
      gateway: endpoint.gateway,
      ...(endpoint.ipv6 === undefined ? {} : { ipv6: endpoint.ipv6 }),
      isReflecting: member.isPublishing,
      options,
    });
  }

  #hold(port: PortRequest, containerId: string): Promise<PublishedPort> {
    const endpoint = (): LocalEndpoint | undefined => {
      const member = this.#members.get(containerId);
      return member === undefined ? undefined : publishEndpoint(member);
    };
    return this.#reservations.take(port, {
      address: () => {
        const host = endpoint()?.ip;
        return host === undefined ? undefined : { host, port: port.containerPort };
      },
    });
  }

  /** Interfaces go with the namespace; should something hold that, they are taken away a little later. */
  #sweepLater(member: Member): void {
    const names = Object.keys(member.endpoints).map((id) => this.#linkName(member.containerId, id));
    const cancel = this.#deps.env.timers.after(LEFTOVER_LINK_MS, () => {
      this.#timers.delete(cancel);
      if (this.#members.has(member.containerId)) return;
      this.#deps.root.deleteLinks(names).catch((caught: unknown) =>
        this.#deps.log.warn("links of a container could not be removed", {
          error: ClusterError.from(caught),
        }),
      );
    });
    this.#timers.add(cancel);
  }

  async #takeOver(member: Member): Promise<void> {
    this.#members.set(member.containerId, member);
    this.generation += 1;
    try {
      for (const [networkId, endpoint] of Object.entries(member.endpoints)) {
        const record = this.#deps.catalog.get(networkId);
        if (record === undefined) continue;
        const bridge = await this.#bridgeOf(record);
        this.#deps.catalog.addressesOf(record).claim(endpoint.ip);
        if (endpoint.ipv6 !== undefined) this.#deps.catalog.addresses6Of(record)?.claim(endpoint.ipv6.ip);
        if (interfaceOf(member.pid, endpoint.ip) === undefined)
          await this.#plug(member, record, { endpoint, bridge });
      }
      for (const port of member.ports) await this.#hold(asRequest(port), member.containerId);
    } catch (caught) {
      this.#deps.log.warn("network of a running container could not be taken over in full", {
        containerId: member.containerId,
        error: ClusterError.from(caught),
      });
    }
  }
}

/** Where its published ports lead: an address on a network that leads out, if there is one. */
function publishAddress(member: Member): string | undefined {
  return publishEndpoint(member)?.ip;
}

function publishEndpoint(member: Member): LocalEndpoint | undefined {
  const endpoints = Object.values(member.endpoints);
  return endpoints.find((endpoint) => endpoint.gateway !== "") ?? endpoints[0];
}

function addressesOf({ ip, ipv6 }: Pick<LocalEndpoint, "ip" | "ipv6">): readonly string[] {
  return ipv6 === undefined ? [ip] : [ip, ipv6.ip];
}

function ipv6Of(settings: EndpointSettings): Pick<LocalEndpoint, "ipv6"> {
  const { GlobalIPv6Address: ip = "", GlobalIPv6PrefixLen: prefixLength = 64, IPv6Gateway = "" } = settings;
  return ip === "" ? {} : { ipv6: { ip, prefixLength, gateway: IPv6Gateway } };
}

function listFolder(folder: string): string[] {
  try {
    return readdirSync(folder).filter((name) => name.endsWith(".json"));
  } catch (caught) {
    if (ClusterError.from(caught).code === "not_found") return [];
    throw caught;
  }
}

/** Undefined if the note is torn: it is not synced, and a crash of the machine ends the container anyway. */
function readMember(file: string): Member | undefined {
  try {
    return JSON.parse(readFileSync(file, "utf8")) as Member;
  } catch {
    return undefined;
  }
}
