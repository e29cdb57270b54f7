/**
 * Networks of this machine without a cluster: the default bridge, user bridges, host and none, and the containers on them.
 * The API asks the engine face, the container lifecycle the containers face. State is on disk and in the kernel: a new
 * daemon takes over what runs.
 */
import { readdirSync, readFileSync, rmSync } from "node:fs";
import path from "node:path";
import type { Cancel, Env } from "../../common/env.ts";
import { ClusterError } from "../../common/errors.ts";
import { newHexId } from "../../common/ids.ts";
import type { Logger } from "../../common/log.ts";
import type {
  EndpointSettings,
  Filters,
  HostConfig,
  JsonObject,
  LocalNetworkEngine,
} from "../../model/engine.ts";
import type {
  ContainerDirectory,
  ContainerNetworkRequest,
  ContainerNetworkResult,
  ContainerNetworks,
  EventSink,
} from "../ports.ts";
import { macBytes, macOf, overlaps, parseBlock, bytesToMac } from "./addresses.ts";
import { deleteFlows } from "./conntrack.ts";
import { DnsForwarder } from "./dns-forwarder.ts";
import { resolveName } from "./dns-names.ts";
import type { NameDirectory, NameMatch } from "./dns-names.ts";
import type { Resolution } from "./dns-server.ts";
import type { DnsQuestion } from "./dns-wire.ts";
import { LocalAddresses } from "./local-addresses.ts";
import { LocalBridges } from "./local-bridges.ts";
import { describeEndpoint, describeNetwork, matchesFilters } from "./local-describe.ts";
import type { EndpointOwner, LocalEndpoint } from "./local-describe.ts";
import { interfaceOf, plugBridged, removeDefaultRouteGap, unplugBridged } from "./local-links.ts";
import { PortReservations, portRequests } from "./local-ports.ts";
import type { PortRequest, PublishedPort } from "./local-ports.ts";
import {
  chooseSubnet,
  NetworkFile,
  parseCreateRequest,
  PREDEFINED,
  predefinedRecord,
  writeVolatile,
} from "./local-records.ts";
import type { LocalNetworkRecord } from "./local-records.ts";
import { NetworkNamespace, namespaceIdentity } from "./namespace.ts";
import { createHash } from "node:crypto";

const NAME_TTL_SECONDS = 30;
const LEFTOVER_LINK_MS = 5_000;
const AUDIT_INTERVAL_MS = 60_000;

export interface LocalNetworksOptions {
  readonly env: Pick<Env, "clock" | "timers" | "random">;
  readonly log: Logger;
  /** Records live in DATA_ROOT/network. */
  readonly dataRoot: string;
  /** Tells this daemon from others on the machine: its data root will do. Must be the same after a restart. */
  readonly instance: string;
  readonly events: EventSink;
  /** Default /etc/resolv.conf. */
  readonly resolvConf?: string;
}

export interface LocalNetworks {
  readonly networks: LocalNetworkEngine;
  readonly containers: ContainerNetworks;
  /** Who knows the containers; needed for connect and disconnect of those that do not run. */
  setContainers(directory: ContainerDirectory): void;
  /** Lets go. What containers use stays; if no container is left, bridges and packet filter go too. */
  close(): Promise<void>;
}

/** A container that runs on networks of ours. */
interface Member {
  readonly containerId: string;
  readonly name: string;
  readonly hostname: string;
  readonly pid: number;
  /** Inode of its network namespace, by which a new daemon knows that the process is still that one. */
  readonly sandbox: number;
  readonly endpoints: Readonly<Record<string, LocalEndpoint>>;
  readonly ports: readonly PublishedPort[];
  readonly isPublishing: boolean;
  /** Name servers of its own, "" for the host's. */
  readonly dns: readonly string[];
}

export function createLocalNetworks(options: LocalNetworksOptions): Promise<LocalNetworks> {
  const engine = new MachineNetworks(options);
  return engine.open();
}

class MachineNetworks implements LocalNetworkEngine, ContainerNetworks, LocalNetworks {
  readonly networks: LocalNetworkEngine = this;
  readonly containers: ContainerNetworks = this;
  readonly #options: LocalNetworksOptions;
  readonly #log: Logger;
  readonly #root: NetworkNamespace;
  readonly #tag: string;
  readonly #bridges: LocalBridges;
  readonly #forwarder: DnsForwarder;
  readonly #file: NetworkFile;
  readonly #reservations = new PortReservations();
  readonly #records = new Map<string, LocalNetworkRecord>();
  readonly #addresses = new Map<string, LocalAddresses>();
  readonly #members = new Map<string, Member>();
  readonly #names = new Map<string, ReadonlyMap<string, readonly string[]>>();
  readonly #timers = new Set<Cancel>();
  #directory: ContainerDirectory | undefined;
  #tail: Promise<unknown> = Promise.resolve();
  #isClosed = false;

  constructor(options: LocalNetworksOptions) {
    this.#options = options;
    this.#log = options.log.child({ part: "networks" });
    this.#root = NetworkNamespace.current();
    this.#tag = createHash("sha256").update(options.instance).digest("hex").slice(0, 4);
    this.#forwarder = new DnsForwarder(options.env, options.resolvConf);
    this.#file = new NetworkFile(this.#folder);
    this.#bridges = new LocalBridges({
      root: this.#root,
      table: `shoal_${this.#tag}_local`,
      log: this.#log,
      forwarder: this.#forwarder,
      resolve: (networkId, question, source) => this.#resolve(networkId, question, source),
    });
  }

  /** Reads the records and takes up what still runs. */
  async open(): Promise<LocalNetworks> {
    for (const record of this.#file.load()) this.#records.set(record.id, record);
    for (const [name, driver] of PREDEFINED) {
      if (this.#byName(name) !== undefined) continue;
      const record = predefinedRecord(name, driver, this.#identity());
      this.#records.set(record.id, record);
    }
    await this.#save();
    await this.#resume();
    this.#timers.add(this.#options.env.timers.every(AUDIT_INTERVAL_MS, () => void this.#audit()));
    return this;
  }

  setContainers(directory: ContainerDirectory): void {
    this.#directory = directory;
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    for (const cancel of this.#timers) cancel();
    await this.#tail;
    await this.#bridges.close();
    if (this.#members.size === 0) await this.#bridges.removeAll([...this.#records.values()]);
    await this.#reservations.close();
    this.#root.close();
  }

  // ---- networks

  async list(filters: Filters): Promise<readonly JsonObject[]> {
    const found = [...this.#records.values()].filter((record) =>
      matchesFilters(record, filters, this.#owners(record.id).length > 0),
    );
    return found.map((record) => ({ ...describeNetwork(record, []), Containers: {} }));
  }

  async inspect(id: string): Promise<JsonObject> {
    const record = await this.#exclusive(() => this.#withSubnet(this.#require(id)));
    return describeNetwork(record, this.#owners(record.id));
  }

  find(id: string): { readonly Id: string; readonly Name: string } | undefined {
    const record = this.#lookup(id);
    return record === undefined ? undefined : { Id: record.id, Name: record.name };
  }

  create(request: JsonObject): Promise<{ readonly Id: string; readonly Warning: string }> {
    return this.#exclusive(async () => {
      const parsed = parseCreateRequest(request, this.#identity());
      if (this.#byName(parsed.name) !== undefined)
        throw new ClusterError("already_exists", `network with name ${parsed.name} already exists`);
      const configured = this.#inherit(parsed);
      this.#checkOverlap(configured);
      const record = configured.isConfigOnly ? configured : await this.#withSubnet(configured);
      this.#records.set(record.id, record);
      await this.#save();
      this.#emit("create", record);
      return { Id: record.id, Warning: "" };
    });
  }

  remove(id: string): Promise<void> {
    return this.#exclusive(() => this.#remove(this.#require(id)));
  }

  connect(id: string, container: string, settings: EndpointSettings): Promise<void> {
    return this.#exclusive(async () => {
      const record = this.#require(id);
      const target = this.#requireDirectory().find(container);
      if (record.driver === "host" || record.driver === "null")
        throw new ClusterError(
          "permission_denied",
          `container cannot be connected to ${record.driver === "host" ? "host" : "none"} network`,
        );
      const member = this.#members.get(target.id);
      if (member?.endpoints[record.id] !== undefined || target.endpoints[record.name] !== undefined)
        throw new ClusterError(
          "permission_denied",
          `endpoint with name ${target.name} already exists in network ${record.name}`,
        );
      this.#checkSettings(record, settings);
      if (target.pid === 0 || member === undefined) {
        const endpoints = { ...target.endpoints, [record.name]: { ...settings, NetworkID: record.id } };
        await this.#requireDirectory().networksChanged(target.id, endpoints);
      } else await this.#connectRunning(member, record, settings);
      this.#emit("connect", record, { container: target.id, name: target.name });
    });
  }

  disconnect(id: string, container: string, isForced: boolean): Promise<void> {
    return this.#exclusive(async () => {
      const record = this.#require(id);
      const target = this.#findTarget(container, isForced);
      const member = this.#members.get(target.id);
      if (member?.endpoints[record.id] === undefined && target.endpoints[record.name] === undefined)
        throw new ClusterError(
          "permission_denied",
          `container ${target.id} is not connected to network ${record.name}`,
        );
      if (member?.endpoints[record.id] !== undefined) await this.#disconnectRunning(member, record);
      const rest = Object.entries(target.endpoints).filter(([name]) => name !== record.name);
      await this.#directory?.networksChanged(target.id, Object.fromEntries(rest));
      this.#emit("disconnect", record, { container: target.id, name: target.name });
    });
  }

  async prune(filters: Filters): Promise<{ readonly NetworksDeleted: readonly string[] }> {
    return this.#exclusive(async () => {
      const { until, rest } = splitUntil(filters);
      const unused = [...this.#records.values()].filter(
        (record) =>
          !PREDEFINED.has(record.name) &&
          this.#owners(record.id).length === 0 &&
          (until === undefined || Date.parse(record.created) < until) &&
          matchesFilters(record, rest, false),
      );
      for (const record of unused) await this.#remove(record);
      return { NetworksDeleted: unused.map((record) => record.name) };
    });
  }

  // ---- containers

  async validate(request: Omit<ContainerNetworkRequest, "target">): Promise<void> {
    for (const { record, settings } of this.#wanted(request)) this.#checkSettings(record, settings);
    portRequests(request.hostConfig, request.config);
  }

  attach(request: ContainerNetworkRequest): Promise<ContainerNetworkResult> {
    return this.#exclusive(async () => {
      const known = this.#members.get(request.target.containerId);
      const sandbox = namespaceIdentity(request.target.pid);
      if (sandbox === undefined)
        throw new ClusterError(
          "not_found",
          `Cannot connect the container: process ${request.target.pid} is gone`,
        );
      if (known?.sandbox === sandbox && known.pid === request.target.pid)
        return this.#result(known, request.hostConfig);
      if (known !== undefined) await this.#drop(known);
      return this.#attach(request, sandbox);
    });
  }

  detach(containerId: string): Promise<void> {
    return this.#exclusive(async () => {
      const member = this.#members.get(containerId);
      if (member !== undefined) await this.#drop(member);
    });
  }

  adopt(containerId: string, pid: number, result: ContainerNetworkResult): Promise<void> {
    return this.#exclusive(async () => {
      const known = this.#members.get(containerId);
      const sandbox = namespaceIdentity(pid);
      if (sandbox === undefined || known?.sandbox === sandbox) return;
      if (known !== undefined) await this.#drop(known);
      await this.#adoptResult(containerId, pid, sandbox, result);
    });
  }

  // ---- records

  get #folder(): string {
    return path.join(this.#options.dataRoot, "network");
  }

  #identity(): { readonly id: string; readonly created: string } {
    const created = new Date(this.#options.env.clock.wallMs()).toISOString().replace("Z", "000000Z");
    return { id: newHexId(this.#options.env.random), created };
  }

  #save(): Promise<void> {
    return this.#file.save([...this.#records.values()]);
  }

  #byName(name: string): LocalNetworkRecord | undefined {
    return [...this.#records.values()].find((record) => record.name === name);
  }

  #lookup(id: string): LocalNetworkRecord | undefined {
    const exact = this.#records.get(id) ?? this.#byName(id === "default" ? "bridge" : id);
    if (exact !== undefined || id === "") return exact;
    const matches = [...this.#records.values()].filter((record) => record.id.startsWith(id));
    if (matches.length > 1)
      throw new ClusterError(
        "invalid_argument",
        `network ${id} is ambiguous (${matches.length} matches found)`,
      );
    return matches[0];
  }

  #require(id: string): LocalNetworkRecord {
    const record = this.#lookup(id);
    if (record === undefined) throw new ClusterError("not_found", `network ${id} not found`);
    return record;
  }

  /** Settings of the configuration network that `record` names, if any. */
  #inherit(record: LocalNetworkRecord): LocalNetworkRecord {
    if (record.configFrom === "") return record;
    const source = this.#lookup(record.configFrom);
    if (source?.isConfigOnly !== true)
      throw new ClusterError("not_found", `network ${record.configFrom} not found`);
    return {
      ...record,
      plans: source.plans,
      hasChosenSubnet: source.hasChosenSubnet,
      isInternal: source.isInternal,
      isIpv6Wanted: source.isIpv6Wanted,
      options: source.options,
      labels: { ...source.labels, ...record.labels },
    };
  }

  #checkOverlap(record: LocalNetworkRecord): void {
    if (record.isConfigOnly || record.driver !== "bridge") return;
    for (const plan of record.plans) {
      const block = parseBlock(plan.Subnet);
      for (const other of this.#records.values()) {
        const isClash =
          !other.isConfigOnly && other.plans.some((each) => overlaps(parseBlock(each.Subnet), block));
        if (isClash)
          throw new ClusterError("permission_denied", "Pool overlaps with other one on this address space");
      }
    }
  }

  /** The record with a subnet, chosen now if it has none. */
  async #withSubnet(record: LocalNetworkRecord): Promise<LocalNetworkRecord> {
    if (record.plans.length > 0 || record.isConfigOnly) return record;
    if (record.driver === "host" || record.driver === "null") return record;
    const own = [...this.#records.values()].flatMap((each) =>
      each.plans.map((plan) => parseBlock(plan.Subnet)),
    );
    const complete = { ...record, plans: [chooseSubnet([...this.#bridges.usedBlocks(), ...own])] };
    if (this.#records.has(record.id)) {
      this.#records.set(record.id, complete);
      await this.#save();
    }
    return complete;
  }

  async #remove(record: LocalNetworkRecord): Promise<void> {
    if (PREDEFINED.has(record.name))
      throw new ClusterError(
        "permission_denied",
        `${record.name} is a pre-defined network and cannot be removed`,
      );
    const users = [...this.#records.values()].filter((each) => each.configFrom === record.name);
    if (this.#owners(record.id).length > 0 || users.length > 0)
      throw new ClusterError(
        "permission_denied",
        `error while removing network: network ${record.name} id ${record.id} has active endpoints`,
      );
    await this.#bridges.remove(record);
    this.#records.delete(record.id);
    this.#addresses.delete(record.id);
    await this.#save();
    this.#emit("destroy", record);
  }

  #owners(networkId: string): EndpointOwner[] {
    return [...this.#members.values()].flatMap((member) => {
      const endpoint = member.endpoints[networkId];
      return endpoint === undefined
        ? []
        : [{ containerId: member.containerId, containerName: member.name, endpoint }];
    });
  }

  #emit(action: string, record: LocalNetworkRecord, attributes: Readonly<Record<string, string>> = {}): void {
    this.#options.events.emit({
      Type: "network",
      Action: action,
      Actor: {
        ID: record.id,
        // The container's name is of no use to listeners, its id is; the network's name is the event's.
        Attributes: { ...attributes, name: record.name, type: record.driver },
      },
    });
  }

  #requireDirectory(): ContainerDirectory {
    if (this.#directory === undefined)
      throw new ClusterError(
        "unavailable",
        "Cannot change a container's networks: containers are not up yet",
      );
    return this.#directory;
  }

  /** With force a container that is known to nobody else any more will do. */
  #findTarget(reference: string, isForced: boolean): ReturnType<ContainerDirectory["find"]> {
    const member = [...this.#members.values()].find(
      (each) => each.containerId === reference || each.name === reference,
    );
    if (isForced && member !== undefined)
      return { id: member.containerId, name: member.name, pid: member.pid, endpoints: {} };
    return this.#requireDirectory().find(reference);
  }

  // ---- endpoints

  /** Networks that a container asks for: its mode's first, then the others by name. */
  #wanted(
    request: Omit<ContainerNetworkRequest, "target">,
  ): { readonly record: LocalNetworkRecord; readonly settings: EndpointSettings }[] {
    const mode = request.hostConfig.NetworkMode ?? "";
    const first = this.#require(mode === "" || mode === "default" ? "bridge" : mode);
    const asked = Object.entries(request.networkingConfig?.EndpointsConfig ?? {});
    const others = asked
      .map(([name, settings]) => ({ record: this.#require(name), settings: settings ?? {} }))
      .toSorted((one, other) => (one.record.name < other.record.name ? -1 : 1));
    const own = others.find(({ record }) => record.id === first.id)?.settings ?? {};
    const mac = request.config.MacAddress;
    const settings = mac === undefined || mac === "" ? own : { MacAddress: mac, ...own };
    return [{ record: first, settings }, ...others.filter(({ record }) => record.id !== first.id)];
  }

  #checkSettings(record: LocalNetworkRecord, settings: EndpointSettings): void {
    if (record.isConfigOnly)
      throw new ClusterError(
        "permission_denied",
        `network ${record.name} is a configuration network, which can only be used by other networks`,
      );
    if (settings.MacAddress !== undefined && settings.MacAddress !== "") macBytes(settings.MacAddress);
    const address = settings.IPAMConfig?.IPv4Address ?? "";
    if (address === "") return;
    if (PREDEFINED.has(record.name))
      throw new ClusterError(
        "invalid_argument",
        "user specified IP address is supported on user defined networks only",
      );
    if (!record.hasChosenSubnet)
      throw new ClusterError(
        "invalid_argument",
        "user specified IP address is supported only when connecting to networks with user configured subnets",
      );
    this.#addressesOf(record).check(address);
  }

  #addressesOf(record: LocalNetworkRecord): LocalAddresses {
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

  #newEndpoint(
    record: LocalNetworkRecord,
    settings: EndpointSettings,
    container: { readonly id: string; readonly name: string; readonly hostname: string },
  ): LocalEndpoint {
    const addresses = this.#addressesOf(record);
    const chosen = settings.IPAMConfig?.IPv4Address ?? "";
    if (chosen !== "") addresses.claim(chosen);
    const ip = chosen === "" ? addresses.take() : chosen;
    const mac = settings.MacAddress ?? "";
    const isNamed = !PREDEFINED.has(record.name);
    const names = [container.name, ...(settings.Aliases ?? []), container.id.slice(0, 12)];
    if (container.hostname !== "") names.push(container.hostname);
    return {
      endpointId: newHexId(this.#options.env.random),
      ip,
      prefixLength: addresses.prefixLength,
      gateway: record.isInternal ? "" : (record.plans[0]?.Gateway ?? ""),
      mac: mac === "" ? macOf(ip) : bytesToMac(macBytes(mac)),
      settings,
      dnsNames: isNamed ? [...new Set(names)] : [],
    };
  }

  // ---- running containers

  async #attach(request: ContainerNetworkRequest, sandbox: number): Promise<ContainerNetworkResult> {
    const { containerId, pid } = request.target;
    const wanted = this.#wanted(request);
    for (const { record, settings } of wanted) this.#checkSettings(record, settings);
    let member: Member = {
      containerId,
      name: request.name,
      hostname: request.hostname,
      pid,
      sandbox,
      endpoints: {},
      ports: [],
      isPublishing: portRequests(request.hostConfig, request.config).length > 0,
      dns: request.hostConfig.Dns ?? [],
    };
    try {
      for (const { record, settings } of byGateway(wanted))
        member = await this.#addEndpoint(member, record, settings);
      for (const port of portRequests(request.hostConfig, request.config)) {
        const held = await this.#holdPort(port, containerId);
        member = this.#remember({ ...member, ports: [...member.ports, held] });
      }
      await this.#publish();
    } catch (caught) {
      await this.#drop(member);
      throw describeFailure(caught, request.name, member);
    }
    for (const { record } of wanted)
      this.#emit("connect", record, { container: containerId, name: request.name });
    return this.#result(member, request.hostConfig);
  }

  /** Gives the member an interface on one more network. */
  async #addEndpoint(
    member: Member,
    incomplete: LocalNetworkRecord,
    settings: EndpointSettings,
  ): Promise<Member> {
    const record = await this.#withSubnet(incomplete);
    const facts = await this.#bridges.ensure(record);
    const container = { id: member.containerId, name: member.name, hostname: member.hostname };
    const endpoint = this.#newEndpoint(record, settings, container);
    const next = this.#remember({ ...member, endpoints: { ...member.endpoints, [record.id]: endpoint } });
    await plugBridged(this.#root, {
      hostName: this.#linkName(member.containerId, record.id),
      bridge: facts.device,
      pid: member.pid,
      mtu: this.#bridges.mtuOf(record),
      mac: endpoint.mac,
      address: endpoint.ip,
      prefixLength: endpoint.prefixLength,
      gateway: endpoint.gateway,
      isReflecting: member.isPublishing,
    });
    return next;
  }

  #holdPort(port: PortRequest, containerId: string): Promise<PublishedPort> {
    return this.#reservations.take(port, () => {
      const member = this.#members.get(containerId);
      const host = member === undefined ? undefined : this.#publishAddress(member);
      return host === undefined ? undefined : { host, port: port.containerPort };
    });
  }

  /** Where its published ports lead: an address on a network that leads out, if there is one. */
  #publishAddress(member: Member): string | undefined {
    const endpoints = Object.values(member.endpoints);
    return (endpoints.find((endpoint) => endpoint.gateway !== "") ?? endpoints[0])?.ip;
  }

  async #publish(): Promise<void> {
    const published = [...this.#members.values()].flatMap((member) => {
      const address = this.#publishAddress(member);
      return address === undefined || member.ports.length === 0 ? [] : [{ address, ports: member.ports }];
    });
    await this.#bridges.publish(published);
  }

  #remember(member: Member): Member {
    this.#members.set(member.containerId, member);
    this.#names.clear();
    writeVolatile(this.#memberFile(member.containerId), member);
    return member;
  }

  async #drop(member: Member): Promise<void> {
    this.#members.delete(member.containerId);
    this.#names.clear();
    rmSync(this.#memberFile(member.containerId), { force: true });
    await this.#publish();
    for (const port of member.ports) await this.#reservations.release(port);
    for (const [networkId, endpoint] of Object.entries(member.endpoints)) {
      this.#addresses.get(networkId)?.release(endpoint.ip);
      deleteFlows(this.#root, { replySource: endpoint.ip });
      const record = this.#records.get(networkId);
      if (record !== undefined)
        this.#emit("disconnect", record, { container: member.containerId, name: member.name });
    }
    this.#sweepLater(member);
  }

  /** Links go with the container's namespace; should something hold that, they go by themselves a little later. */
  #sweepLater(member: Member): void {
    const names = Object.keys(member.endpoints).map((id) => this.#linkName(member.containerId, id));
    const cancel = this.#options.env.timers.after(LEFTOVER_LINK_MS, () => {
      this.#timers.delete(cancel);
      if (this.#members.has(member.containerId)) return;
      void this.#exclusive(() => this.#root.deleteLinks(names)).catch((caught: unknown) =>
        this.#log.warn("links of a container could not be removed", { error: ClusterError.from(caught) }),
      );
    });
    this.#timers.add(cancel);
  }

  async #connectRunning(
    member: Member,
    record: LocalNetworkRecord,
    settings: EndpointSettings,
  ): Promise<void> {
    const next = await this.#addEndpoint(member, record, settings);
    await this.#publish();
    await this.#directory?.networksChanged(next.containerId, this.#describeEndpoints(next));
  }

  async #disconnectRunning(member: Member, record: LocalNetworkRecord): Promise<void> {
    const endpoint = member.endpoints[record.id];
    if (endpoint === undefined) return;
    const rest = Object.fromEntries(Object.entries(member.endpoints).filter(([id]) => id !== record.id));
    this.#remember({ ...member, endpoints: rest });
    await unplugBridged(this.#root, this.#linkName(member.containerId, record.id));
    this.#addresses.get(record.id)?.release(endpoint.ip);
    const gateway = Object.values(rest).find((each) => each.gateway !== "");
    if (gateway !== undefined) removeDefaultRouteGap(member.pid, gateway);
    await this.#publish();
  }

  #describeEndpoints(member: Member): Record<string, EndpointSettings> {
    return Object.fromEntries(
      Object.entries(member.endpoints).flatMap(([id, endpoint]) => {
        const record = this.#records.get(id);
        return record === undefined ? [] : [[record.name, describeEndpoint(record, endpoint)]];
      }),
    );
  }

  #result(member: Member, hostConfig: HostConfig): ContainerNetworkResult {
    const [first] = Object.values(member.endpoints);
    const [networkId = ""] = Object.keys(member.endpoints);
    const gateway = this.#bridges.facts(networkId)?.gateway ?? "";
    const host = this.#forwarder.host();
    return {
      endpoints: this.#describeEndpoints(member),
      nameservers: [gateway],
      searchDomains: hostConfig.DnsSearch?.length ? hostConfig.DnsSearch : host.search,
      dnsOptions: hostConfig.DnsOptions ?? [],
      ports: describePorts(member.ports),
      hosts: [
        ...(first === undefined
          ? []
          : [{ ip: first.ip, names: [member.hostname === "" ? member.name : member.hostname] }]),
        ...this.#linkHosts(hostConfig),
        ...extraHosts(hostConfig, gateway),
      ],
      sandboxId: createHash("sha256").update(`${member.containerId} ${member.sandbox}`).digest("hex"),
    };
  }

  /** `--link NAME:ALIAS`: the other container's address under its alias and name. */
  #linkHosts(hostConfig: HostConfig): { ip: string; names: string[] }[] {
    return (hostConfig.Links ?? []).flatMap((link) => {
      const [target = "", alias = target] = link.split(":").map((part) => part.split("/").at(-1) ?? part);
      const member = [...this.#members.values()].find(
        (each) => each.name === target || each.containerId.startsWith(target),
      );
      const [endpoint] = Object.values(member?.endpoints ?? {});
      if (member === undefined || endpoint === undefined) return [];
      return [
        { ip: endpoint.ip, names: [...new Set([alias, member.containerId.slice(0, 12), member.name])] },
      ];
    });
  }

  #linkName(containerId: string, networkId: string): string {
    const digest = createHash("sha256").update(`${containerId} ${networkId}`).digest("hex");
    return `sl${this.#tag}-${digest.slice(0, 8)}`;
  }

  // ---- restart

  #memberFile(containerId: string): string {
    return path.join(this.#folder, "containers", `${containerId}.json`);
  }

  /** Containers that still run as the former daemon left them; those that ended meanwhile are forgotten. */
  async #resume(): Promise<void> {
    const folder = path.join(this.#folder, "containers");
    this.#bridges.hold();
    for (const name of listFolder(folder)) {
      const file = path.join(folder, name);
      const member = readMember(file);
      if (member === undefined || namespaceIdentity(member.pid) !== member.sandbox)
        rmSync(file, { force: true });
      else await this.#resumeMember(member);
    }
    await this.#publish();
  }

  async #resumeMember(member: Member): Promise<void> {
    this.#members.set(member.containerId, member);
    try {
      for (const [networkId, endpoint] of Object.entries(member.endpoints)) {
        const record = this.#records.get(networkId);
        if (record === undefined) continue;
        const facts = await this.#bridges.ensure(record);
        this.#addressesOf(record).claim(endpoint.ip);
        const hostName = this.#linkName(member.containerId, networkId);
        if (interfaceOf(member.pid, endpoint.ip) === undefined)
          await plugBridged(this.#root, {
            hostName,
            bridge: facts.device,
            pid: member.pid,
            mtu: this.#bridges.mtuOf(record),
            mac: endpoint.mac,
            address: endpoint.ip,
            prefixLength: endpoint.prefixLength,
            gateway: endpoint.gateway,
            isReflecting: member.isPublishing,
          });
      }
      for (const port of member.ports) await this.#holdPort(asRequest(port), member.containerId);
    } catch (caught) {
      this.#log.warn("network of a running container could not be taken over in full", {
        containerId: member.containerId,
        error: ClusterError.from(caught),
      });
    }
  }

  /** Our own note of the container is lost: what the container remembers must do. */
  async #adoptResult(
    containerId: string,
    pid: number,
    sandbox: number,
    result: ContainerNetworkResult,
  ): Promise<void> {
    const endpoints: Record<string, LocalEndpoint> = {};
    for (const [name, settings] of Object.entries(result.endpoints)) {
      const record = this.#lookup(settings.NetworkID ?? name);
      if (record === undefined || settings.IPAddress === undefined) continue;
      endpoints[record.id] = {
        endpointId: settings.EndpointID ?? newHexId(this.#options.env.random),
        ip: settings.IPAddress,
        prefixLength: settings.IPPrefixLen ?? 16,
        gateway: settings.Gateway ?? "",
        mac: settings.MacAddress ?? macOf(settings.IPAddress),
        settings,
        dnsNames: settings.DNSNames ?? [],
      };
    }
    const name = Object.values(endpoints)[0]?.dnsNames[0] ?? containerId.slice(0, 12);
    const ports = publishedOf(result);
    const isPublishing = ports.length > 0;
    const base = { containerId, name, hostname: "", pid, sandbox, endpoints, dns: [] };
    const member = this.#remember({ ...base, ports, isPublishing });
    await this.#resumeMember(member);
    await this.#publish();
  }

  // ---- names

  #resolve(networkId: string, question: DnsQuestion, source: string): Resolution {
    const member = [...this.#members.values()].find((each) => each.endpoints[networkId]?.ip === source);
    const ids = Object.keys(member?.endpoints ?? {});
    const isInternal = ids.length > 0 && ids.every((id) => this.#records.get(id)?.isInternal === true);
    const own = member?.dns ?? [];
    const upstreams = own.length > 0 ? own : this.#forwarder.host().nameservers;
    return resolveName(
      question,
      this.#directoryOf(ids),
      isInternal ? [] : upstreams,
      this.#options.env.random,
    );
  }

  #directoryOf(networkIds: readonly string[]): NameDirectory {
    const lookup = (name: string): NameMatch | undefined => {
      for (const id of networkIds) {
        const suffix = `.${this.#records.get(id)?.name.toLowerCase() ?? ""}`;
        const names = this.#namesOf(id);
        const addresses =
          names.get(name) ?? (name.endsWith(suffix) ? names.get(name.slice(0, -suffix.length)) : undefined);
        if (addresses !== undefined) return { addresses, ttlSeconds: NAME_TTL_SECONDS };
      }
      return undefined;
    };
    const reverse = (address: string): string | undefined => {
      for (const id of networkIds) {
        const owner = this.#owners(id).find(({ endpoint }) => endpoint.ip === address);
        if (owner !== undefined) return `${owner.containerName}.${this.#records.get(id)?.name ?? ""}`;
      }
      return undefined;
    };
    return { lookup, reverse };
  }

  #namesOf(networkId: string): ReadonlyMap<string, readonly string[]> {
    const known = this.#names.get(networkId);
    if (known !== undefined) return known;
    const names = new Map<string, string[]>();
    for (const { endpoint } of this.#owners(networkId)) {
      for (const name of endpoint.dnsNames) {
        const key = name.toLowerCase();
        names.set(key, [...(names.get(key) ?? []), endpoint.ip]);
      }
    }
    this.#names.set(networkId, names);
    return names;
  }

  // ----

  async #audit(): Promise<void> {
    try {
      const isAsExpected = await this.#exclusive(() => this.#bridges.audit());
      if (!isAsExpected) this.#log.warn("packet filter of the bridges was repaired");
    } catch (caught) {
      this.#log.warn("networks could not be looked over", { error: ClusterError.from(caught) });
    }
  }

  #exclusive<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#tail.then(() => {
      if (this.#isClosed)
        throw new ClusterError("unavailable", "Cannot change networks: the daemon is stopping");
      return work();
    });
    this.#tail = turn.then(
      () => {},
      () => {},
    );
    return turn;
  }
}

/** Interfaces in Docker's order: the highest gateway priority first, else as asked. */
function byGateway<T extends { readonly settings: EndpointSettings }>(wanted: readonly T[]): T[] {
  return wanted.toSorted((one, other) => (other.settings.GwPriority ?? 0) - (one.settings.GwPriority ?? 0));
}

function asRequest(port: PublishedPort): PortRequest {
  const { protocol, containerPort, hostIp, hostPort } = port;
  return { protocol, containerPort, hostIp, first: hostPort, last: hostPort };
}

function describePorts(ports: readonly PublishedPort[]): ContainerNetworkResult["ports"] {
  const described: Record<string, { HostIp: string; HostPort: string }[]> = {};
  for (const port of ports) {
    const key = `${port.containerPort}/${port.protocol}`;
    described[key] = [...(described[key] ?? []), { HostIp: port.hostIp, HostPort: String(port.hostPort) }];
  }
  return described;
}

function publishedOf(result: ContainerNetworkResult): PublishedPort[] {
  return Object.entries(result.ports).flatMap(([key, bindings]) => {
    const [port = "", protocol] = key.split("/");
    return (bindings ?? []).map((binding) => ({
      protocol: protocol === "udp" ? ("udp" as const) : ("tcp" as const),
      containerPort: Number(port),
      hostIp: binding.HostIp,
      hostPort: Number(binding.HostPort),
    }));
  });
}

/** `--add-host NAME:IP`, "host-gateway" standing for this host as the container reaches it. */
function extraHosts(hostConfig: HostConfig, gateway: string): { ip: string; names: string[] }[] {
  return (hostConfig.ExtraHosts ?? []).map((entry) => {
    const at = entry.search(/[:=]/);
    const ip = entry.slice(at + 1);
    return { ip: ip === "host-gateway" ? gateway : ip, names: [entry.slice(0, at)] };
  });
}

function describeFailure(caught: unknown, name: string, member: Member): ClusterError {
  const error = ClusterError.from(caught);
  if (!/port|Bind for|bind host/.test(error.message)) return error;
  const [endpoint] = Object.values(member.endpoints);
  return new ClusterError(
    error.code,
    `failed to set up container networking: driver failed programming external connectivity on endpoint ${name} (${endpoint?.endpointId ?? ""}): ${error.message}`,
    { cause: caught },
  );
}

function splitUntil(filters: Filters): { readonly until: number | undefined; readonly rest: Filters } {
  const rest = new Map([...filters].filter(([key]) => key !== "until"));
  const [text] = filters.get("until") ?? [];
  if (text === undefined) return { until: undefined, rest };
  const seconds = Number(text);
  const untilMs = Number.isNaN(seconds) ? Date.parse(text) : seconds * 1_000;
  if (Number.isNaN(untilMs)) throw new ClusterError("invalid_argument", `invalid filter 'until=[${text}]'`);
  return { until: untilMs, rest };
}

function listFolder(folder: string): string[] {
  try {
    return readdirSync(folder).filter((name) => name.endsWith(".json"));
  } catch (caught) {
    if (ClusterError.from(caught).code === "not_found") return [];
    throw caught;
  }
}

function readMember(file: string): Member | undefined {
  try {
    return JSON.parse(readFileSync(file, "utf8")) as Member;
  } catch {
    return undefined;
  }
}
