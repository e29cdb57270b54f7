/**
 * Networks of this machine without a cluster: the default bridge, user bridges, host and none, and the containers on them.
 * The API asks the engine face, the container lifecycle the containers face. State is on disk and in the kernel: a new
 * daemon takes over what runs.
 */
import { createHash } from "node:crypto";
import path from "node:path";
import type { Cancel, Env } from "../../common/env.ts";
import { ClusterError } from "../../common/errors.ts";
import type { Logger } from "../../common/log.ts";
import type {
  ClusterNetwork,
  EndpointSettings,
  GuestNetworks,
  Filters,
  JsonObject,
  LocalNetworkEngine,
  NetworkNamespaceTarget,
} from "../../model/engine.ts";
import type {
  ContainerDirectory,
  ContainerNetworkRequest,
  ContainerNetworkResult,
  ContainerNetworks,
  EventSink,
  NameServers,
} from "../ports.ts";
import { DnsForwarder } from "./dns-forwarder.ts";
import { LocalBridges } from "./local-bridges.ts";
import { NetworkCatalog } from "./local-catalog.ts";
import { describeNetwork, matchesFilters } from "./local-describe.ts";
import { LocalGuests } from "./local-guests.ts";
import { Members } from "./local-members.ts";
import type { Member } from "./local-members.ts";
import { LocalNames } from "./local-names.ts";
import { portRequests } from "./local-ports.ts";
import { type AddressPool, subnetRanges } from "./address-pools.ts";
import { HOST_BINDING, PREDEFINED } from "./local-records.ts";
import type { LocalNetworkRecord } from "./local-records.ts";
import { LocalResolution } from "./local-resolution.ts";
import { untilOf } from "../until-filter.ts";
import { byGateway, describePorts, inUse, publishFailure } from "./local-results.ts";
import { type Target, checkJoinable, endpointOn } from "./local-targets.ts";
import { NetworkNamespace, namespaceIdentity } from "./namespace.ts";
import type { OutsidePorts } from "./slirp-ports.ts";

const AUDIT_INTERVAL_MS = 60_000;

export interface LocalNetworksOptions {
  readonly env: Pick<Env, "clock" | "timers" | "random">;
  readonly log: Logger;
  /** Records live in DATA_ROOT/network. */
  readonly dataRoot: string;
  /** Notes of what runs live in EXEC_ROOT/network, in memory. Default: with the records. */
  readonly execRoot?: string;
  /** Tells this daemon from others on the machine: its data root will do. Must be the same after a restart. */
  readonly instance: string;
  readonly events: EventSink;
  /** Where subnets come from that users leave open. Default: Docker's own pools. */
  readonly addressPools?: readonly AddressPool[];
  /** Default /etc/resolv.conf. */
  readonly resolvConf?: string;
  /** Absent: published ports are of this network namespace. */
  readonly outsidePorts?: OutsidePorts;
}

export interface LocalNetworks {
  readonly networks: LocalNetworkEngine;
  readonly containers: ContainerNetworks;
  /** Who knows the containers; needed for connect and disconnect of those that do not run. */
  setContainers(directory: ContainerDirectory): void;
  /** Lets go. What containers use stays; if no container is left, bridges and packet filter go too. */
  close(): Promise<void>;
}

export async function createLocalNetworks(options: LocalNetworksOptions): Promise<LocalNetworks> {
  const machine = new MachineNetworks(options);
  await machine.open();
  return {
    networks: machine,
    containers: machine,
    setContainers: (directory) => machine.setContainers(directory),
    close: () => machine.close(),
  };
}

class MachineNetworks implements LocalNetworkEngine, ContainerNetworks {
  readonly #options: LocalNetworksOptions;
  readonly #log: Logger;
  readonly #root: NetworkNamespace;
  readonly #catalog: NetworkCatalog;
  readonly #bridges: LocalBridges;
  readonly #members: Members;
  readonly #guests: LocalGuests;
  readonly #resolution: LocalResolution;
  #cancelAudit: Cancel | undefined;
  #directory: ContainerDirectory | undefined;
  /** Changes one after the other: they share addresses, ports and the packet filter. */
  #tail: Promise<unknown> = Promise.resolve();
  #isClosed = false;

  constructor(options: LocalNetworksOptions) {
    const { env } = options;
    const folder = path.join(options.dataRoot, "network");
    const tag = createHash("sha256").update(options.instance).digest("hex").slice(0, 4);
    const log = options.log.child({ part: "networks" });
    const root = NetworkNamespace.current();
    const forwarder = new DnsForwarder(env, options.resolvConf);
    const bridges = new LocalBridges({
      root,
      table: `shoal_${tag}_local`,
      log,
      forwarder,
      resolve: (networkId, question, source) => names.resolve(networkId, question, source),
    });
    const catalog = new NetworkCatalog({
      env,
      folder,
      usedBlocks: () => bridges.usedBlocks(),
      usedBlocks6: () => bridges.usedBlocks6(),
      ranges: subnetRanges(options.addressPools ?? []),
      instance: options.instance,
    });
    const members = new Members({
      env,
      log,
      root,
      tag,
      folder: options.execRoot === undefined ? folder : path.join(options.execRoot, "network"),
      formerFolder: folder,
      catalog,
      bridges,
      outside: options.outsidePorts,
    });
    const guests = new LocalGuests(catalog, log);
    const names = new LocalNames({ members, catalog, guests, forwarder, random: env.random });
    this.#options = options;
    this.#log = log;
    this.#root = root;
    this.#catalog = catalog;
    this.#bridges = bridges;
    this.#members = members;
    this.#guests = guests;
    this.#resolution = new LocalResolution({ forwarder, catalog, bridges, guests, members });
  }

  /** Reads the records and takes up what still runs. */
  async open(): Promise<void> {
    await this.#catalog.open();
    await this.#members.resume();
    this.#cancelAudit = this.#options.env.timers.every(AUDIT_INTERVAL_MS, () => void this.#audit());
  }

  setContainers(directory: ContainerDirectory): void {
    this.#directory = directory;
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#cancelAudit?.();
    await this.#tail;
    await this.#bridges.close();
    if (this.#members.size === 0) await this.#bridges.removeAll(this.#catalog.all());
    await this.#members.close();
    this.#root.close();
  }

  async list(filters: Filters): Promise<readonly JsonObject[]> {
    const found = this.#catalog
      .all()
      .filter((record) => matchesFilters(record, filters, this.#members.owners(record.id).length > 0));
    return found.map((record) => describeNetwork(record, []));
  }

  async inspect(id: string): Promise<JsonObject> {
    const record = await this.#exclusive(() => this.#catalog.withSubnet(this.#catalog.require(id)));
    return describeNetwork(record, this.#members.owners(record.id));
  }

  find(id: string): { readonly Id: string; readonly Name: string } | undefined {
    const record = this.#catalog.lookup(id);
    return record === undefined ? undefined : { Id: record.id, Name: record.name };
  }

  create(request: JsonObject): Promise<{ readonly Id: string; readonly Warning: string }> {
    return this.#exclusive(async () => {
      const record = await this.#catalog.create(request);
      this.#emit("create", record);
      return { Id: record.id, Warning: "" };
    });
  }

  remove(id: string): Promise<void> {
    return this.#exclusive(() => this.#remove(this.#catalog.require(id)));
  }

  async connect(id: string, container: string, settings: EndpointSettings): Promise<void> {
    if (this.#catalog.lookup(id) === undefined && this.#guests.isUp) {
      const network = await this.#guests.open(id);
      return this.#exclusive(() => this.#connectCluster(network, container, settings));
    }
    return this.#exclusive(async () => {
      const record = this.#catalog.require(id);
      const target = this.#requireDirectory().find(container);
      if (record.driver === "host" || record.driver === "null")
        throw new ClusterError(
          "permission_denied",
          record.driver === "host"
            ? "cannot connect container to host network - container must be created in host network mode"
            : "container cannot be connected to multiple networks with one of the networks in private (none) mode",
        );
      const member = this.#members.get(target.id) ?? this.#newMember(target);
      if (member?.endpoints[record.id] !== undefined || target.endpoints[record.name] !== undefined)
        throw new ClusterError(
          "permission_denied",
          `endpoint with name ${target.name} already exists in network ${record.name}`,
        );
      this.#catalog.checkSettings(record, settings);
      const connected = await this.#connected(member, record, settings);
      const names = await this.#lead(target.id);
      await this.#networksChanged(target.id, { ...this.#endpointsOf(target), ...connected }, names);
      this.#emit("connect", record, { container: target.id, name: target.name });
    });
  }

  disconnect(id: string, container: string, isForced: boolean): Promise<void> {
    return this.#exclusive(async () => {
      if (this.#catalog.lookup(id) === undefined) {
        const found = this.#requireDirectory().find(container);
        // Also of a cluster that the machine has left.
        if (this.#guests.isUp || endpointOn(found, id, id) !== undefined)
          return this.#disconnectCluster(id, found);
      }
      const record = this.#catalog.require(id);
      const target = this.#findTarget(container, isForced);
      const member = this.#members.get(target.id);
      if (member?.endpoints[record.id] === undefined && target.endpoints[record.name] === undefined)
        throw new ClusterError(
          "permission_denied",
          `container ${target.id} is not connected to network ${record.name}`,
        );
      if (member !== undefined) {
        await this.#members.removeEndpoint(member, record);
        await this.#members.publish();
      }
      const names = await this.#lead(target.id);
      const rest = Object.entries(this.#endpointsOf(target)).filter(([name]) => name !== record.name);
      await this.#networksChanged(target.id, Object.fromEntries(rest), names);
      this.#emit("disconnect", record, { container: target.id, name: target.name });
    });
  }

  prune(filters: Filters): Promise<{ readonly NetworksDeleted: readonly string[] }> {
    return this.#exclusive(async () => {
      const untilMs = untilOf(filters, this.#options.env.clock.wallMs());
      const rest = new Map([...filters].filter(([key]) => key !== "until"));
      const unused = this.#catalog
        .all()
        .filter(
          (record) =>
            !PREDEFINED.has(record.name) &&
            !this.#isUsed(record) &&
            Date.parse(record.created) < untilMs &&
            matchesFilters(record, rest, false),
        );
      for (const record of unused) await this.#remove(record);
      this.#options.events.emit({
        Type: "network",
        Action: "prune",
        Actor: { ID: "", Attributes: { reclaimed: "0" } },
      });
      return { NetworksDeleted: unused.map((record) => record.name) };
    });
  }

  setGuests(guests: GuestNetworks | undefined): void {
    this.#guests.set(guests);
  }

  async validate(request: Omit<ContainerNetworkRequest, "target">): Promise<void> {
    const { local } = await this.#guests.split(request);
    if (local === undefined) return;
    for (const { record, settings } of this.#wanted(local)) this.#catalog.checkAtCreation(record, settings);
    portRequests(request.hostConfig, request.config);
  }

  async attach(request: ContainerNetworkRequest): Promise<ContainerNetworkResult> {
    const { foreign, local } = await this.#guests.split(request);
    if (local === undefined) return this.#joinCluster(request, foreign, undefined);
    const attached = await this.#attachLocal(local);
    if (foreign.length === 0) return attached;
    try {
      return await this.#joinCluster(request, foreign, attached);
    } catch (caught) {
      await this.detach(request.target.containerId);
      throw caught;
    }
  }

  #attachLocal(request: ContainerNetworkRequest): Promise<ContainerNetworkResult> {
    return this.#exclusive(async () => {
      const { containerId, pid } = request.target;
      const known = this.#members.get(containerId);
      const sandbox = namespaceIdentity(pid);
      if (sandbox === undefined)
        throw new ClusterError("not_found", `Cannot connect the container: process ${pid} is gone`);
      if (known?.sandbox === sandbox && known.pid === pid) return this.#result(known, request);
      if (known !== undefined) await this.#members.drop(known);
      return this.#attach(request, sandbox);
    });
  }

  async detach(containerId: string): Promise<void> {
    this.#emitGuest("disconnect", containerId);
    await this.#guests.detach(containerId);
    return this.#exclusive(async () => {
      const member = this.#members.get(containerId);
      if (member === undefined) return;
      await this.#members.drop(member);
      this.#emitMember("disconnect", member);
    });
  }

  async adopt(
    container: NetworkNamespaceTarget & { readonly dns: readonly string[] },
    result: ContainerNetworkResult,
  ): Promise<void> {
    const { containerId, pid, dns } = container;
    const isPublished = (this.#members.get(containerId)?.ports ?? []).length > 0;
    if (this.#guests.adopt(container, isPublished ? { ...result, ports: {} } : result)) return;
    return this.#exclusive(async () => {
      const known = this.#members.get(containerId);
      const sandbox = namespaceIdentity(pid);
      if (sandbox === undefined || known?.sandbox === sandbox) return;
      if (known !== undefined) await this.#members.drop(known);
      await this.#members.adopt({ id: containerId, pid, sandbox, dns }, result);
    });
  }

  async #remove(record: LocalNetworkRecord): Promise<void> {
    if (PREDEFINED.has(record.name))
      throw new ClusterError(
        "permission_denied",
        `${record.name} is a pre-defined network and cannot be removed`,
      );
    if (this.#isUsed(record)) throw inUse(record, this.#members.owners(record.id));
    if (record.driver === "bridge") await this.#bridges.remove(record);
    await this.#catalog.delete(record);
    this.#emit("destroy", record);
  }

  #isUsed(record: LocalNetworkRecord): boolean {
    return this.#members.owners(record.id).length > 0 || this.#catalog.isInherited(record);
  }

  #emit(
    action: string,
    record: Pick<LocalNetworkRecord, "id" | "name"> & { readonly driver: string },
    attributes: Readonly<Record<string, string>> = {},
  ): void {
    this.#options.events.emit({
      Type: "network",
      Action: action,
      // As Docker: `name` is the network's, also where a container is the other half of the event.
      Actor: { ID: record.id, Attributes: { ...attributes, name: record.name, type: record.driver } },
    });
  }

  #emitMember(action: string, member: Member): void {
    for (const networkId of Object.keys(member.endpoints)) {
      const record = this.#catalog.get(networkId);
      if (record !== undefined) this.#emit(action, record, { container: member.containerId });
    }
  }

  #emitGuest(action: string, containerId: string): void {
    for (const [name, { NetworkID: id = "" }] of Object.entries(this.#guests.describe(containerId)))
      this.#emit(action, { id, name, driver: "overlay" }, { container: containerId });
  }

  /** `clusterNames`: what the cluster's network says of names, for containers that no local network gives any. */
  async #networksChanged(
    containerId: string,
    endpoints: Readonly<Record<string, EndpointSettings>>,
    clusterNames?: NameServers,
  ): Promise<void> {
    const member = this.#members.get(containerId);
    const names = this.#resolution.namesOf(member, clusterNames);
    const meshIp = this.#guests.meshIp(containerId);
    const changed = names === undefined || meshIp === undefined ? names : { ...names, meshIp };
    await this.#directory?.networksChanged(containerId, endpoints, changed);
  }

  /** After a change of its local networks, a guest of the cluster has its way out where it should. */
  async #lead(containerId: string): Promise<NameServers | undefined> {
    if (!this.#guests.has(containerId)) return undefined;
    try {
      const names = await this.#guests.lead(containerId, this.#leadsOut(containerId));
      this.#members.closeGap(containerId);
      return names;
    } catch (caught) {
      this.#log.warn("way out of a container on networks of the cluster could not be changed", {
        containerId,
        error: ClusterError.from(caught),
      });
      return undefined;
    }
  }

  /** The container's networks as they are if it runs, else as asked for. */
  #endpointsOf(target: Target): Record<string, EndpointSettings> {
    const member = this.#members.get(target.id);
    const local = member === undefined ? {} : this.#members.describe(member);
    const now = { ...local, ...this.#guests.describe(target.id) };
    const ids = new Set(Object.values(now).map(({ NetworkID }) => NetworkID));
    const asked = Object.entries(target.endpoints).filter(([reference]) => !ids.has(reference));
    return { ...Object.fromEntries(asked), ...now };
  }

  /** One of its networks on this machine has a way out. */
  #leadsOut(containerId: string): boolean {
    const endpoints = Object.values(this.#members.get(containerId)?.endpoints ?? {});
    return endpoints.some(({ gateway }) => gateway !== "");
  }

  /** A container that runs without a local network; undefined if it doesn't run. */
  #newMember(target: Target): Member | undefined {
    const { id: containerId, name, hostname, pid, dns } = target;
    const sandbox = pid === 0 || !this.#guests.has(containerId) ? undefined : namespaceIdentity(pid);
    if (sandbox === undefined) return undefined;
    return { containerId, name, hostname, pid, sandbox, endpoints: {}, ports: [], isPublishing: false, dns };
  }

  async #connectCluster(
    network: ClusterNetwork,
    container: string,
    settings: EndpointSettings,
  ): Promise<void> {
    const target = this.#requireDirectory().find(container);
    checkJoinable(target);
    const { id, name } = network;
    if (endpointOn(target, id, name) !== undefined)
      throw new ClusterError(
        "permission_denied",
        `endpoint with name ${target.name} already exists in network ${name}`,
      );
    const isLedOut = this.#leadsOut(target.id);
    const added = { ...settings, NetworkID: id };
    const names =
      target.pid === 0 ? undefined : await this.#guests.join(target, network, { settings, isLedOut });
    await this.#networksChanged(target.id, { [name]: added, ...this.#endpointsOf(target) }, names);
    this.#emit("connect", { ...network, driver: "overlay" }, { container: target.id, name: target.name });
  }

  async #disconnectCluster(reference: string, target: Target): Promise<void> {
    const name = endpointOn(target, reference, reference);
    if (name === undefined)
      throw new ClusterError(
        "permission_denied",
        `container ${target.id} is not connected to network ${reference}`,
      );
    const all = this.#endpointsOf(target);
    const id = all[name]?.NetworkID ?? "";
    const names = await this.#guests.leave(target.id, id, this.#leadsOut(target.id));
    const rest = Object.entries(all).filter(([key]) => key !== name);
    await this.#networksChanged(target.id, Object.fromEntries(rest), names);
    this.#emit("disconnect", { id, name, driver: "overlay" }, { container: target.id, name: target.name });
  }

  /** Networks of the cluster for a container that starts, beside what it has of this machine's. */
  async #joinCluster(
    request: ContainerNetworkRequest,
    foreign: readonly string[],
    local: ContainerNetworkResult | undefined,
  ): Promise<ContainerNetworkResult> {
    const { containerId } = request.target;
    const isLedOut = this.#leadsOut(containerId);
    const isLocalToo = local !== undefined;
    const joined = await this.#guests.attach(request, { foreign, isLedOut, isLocalToo });
    this.#emitGuest("connect", containerId);
    if (local === undefined) return joined;
    const member = this.#members.get(containerId);
    const { nameservers, nameService } = this.#resolution.namesOf(member, joined) ?? joined;
    const { nameService: _, ...rest } = local;
    return {
      ...rest,
      nameservers,
      ...(nameService === undefined ? {} : { nameService }),
      ...(joined.meshIp === undefined ? {} : { meshIp: joined.meshIp }),
      endpoints: { ...local.endpoints, ...joined.endpoints },
      hosts: [...local.hosts, ...joined.hosts],
    };
  }

  #requireDirectory(): ContainerDirectory {
    if (this.#directory === undefined)
      throw new ClusterError(
        "unavailable",
        "Cannot change a container's networks: containers are not up yet",
      );
    return this.#directory;
  }

  /** With force, a container that nobody else knows any more will do. */
  #findTarget(reference: string, isForced: boolean): Target {
    const member = this.#members.find((each) => each.containerId === reference || each.name === reference);
    if (isForced && member !== undefined)
      return { ...member, id: member.containerId, mode: "bridge", isNetworked: true, endpoints: {} };
    return this.#requireDirectory().find(reference);
  }

  /** Networks that a container asks for: its mode's first, then the others by name. */
  #wanted(
    request: Omit<ContainerNetworkRequest, "target">,
  ): { readonly record: LocalNetworkRecord; readonly settings: EndpointSettings }[] {
    const mode = request.hostConfig.NetworkMode ?? "";
    const first = this.#catalog.require(mode === "" ? "default" : mode);
    const asked = Object.entries(request.networkingConfig?.EndpointsConfig ?? {});
    const others = asked
      .map(([name, settings]) => ({ record: this.#catalog.require(name), settings: settings ?? {} }))
      .toSorted((one, other) => (one.record.name < other.record.name ? -1 : 1));
    const own = others.find(({ record }) => record.id === first.id)?.settings ?? {};
    const mac = request.config.MacAddress ?? "";
    const settings = mac === "" ? own : { MacAddress: mac, ...own };
    return [{ record: first, settings }, ...others.filter(({ record }) => record.id !== first.id)];
  }

  async #attach(request: ContainerNetworkRequest, sandbox: number): Promise<ContainerNetworkResult> {
    const wanted = this.#wanted(request);
    for (const { record, settings } of wanted) this.#catalog.checkSettings(record, settings);
    const defaultIp = byGateway(wanted)[0]?.record.options[HOST_BINDING] ?? "";
    const ports = portRequests(request.hostConfig, request.config, { defaultIp });
    let member: Member = {
      containerId: request.target.containerId,
      name: request.name,
      hostname: request.hostname,
      pid: request.target.pid,
      sandbox,
      endpoints: {},
      ports: [],
      isPublishing: ports.length > 0,
      dns: request.hostConfig.Dns ?? [],
    };
    try {
      for (const { record, settings } of byGateway(wanted))
        member = await this.#members.addEndpoint(member, record, settings);
      for (const port of ports) member = await this.#members.addPort(member, port);
      if (ports.length > 0) await this.#members.publish();
    } catch (caught) {
      await this.#members.drop(this.#members.get(member.containerId) ?? member);
      throw publishFailure(caught, request.name, Object.values(member.endpoints)[0]?.endpointId ?? "");
    }
    this.#emitMember("connect", member);
    return this.#result(member, request);
  }

  /** What is added to the container's networks: as it is now if it runs, else as asked for. */
  async #connected(
    member: Member | undefined,
    record: LocalNetworkRecord,
    settings: EndpointSettings,
  ): Promise<Record<string, EndpointSettings>> {
    if (member === undefined) return { [record.name]: { ...settings, NetworkID: record.id } };
    const next = await this.#members.addEndpoint(member, record, settings);
    await this.#members.publish();
    return this.#members.describe(next);
  }

  #result(member: Member, request: ContainerNetworkRequest): ContainerNetworkResult {
    return {
      endpoints: this.#members.describe(member),
      ...this.#resolution.resolver(member, request.hostConfig),
      ports: describePorts(member.ports),
      hosts: this.#resolution.hosts(member, request),
      sandboxId: createHash("sha256").update(`${member.containerId} ${member.sandbox}`).digest("hex"),
    };
  }

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
