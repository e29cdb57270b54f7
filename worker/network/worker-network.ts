/**
 * The cluster's network on this node: takes what the dispatcher says, connects tasks, answers their name queries. Made by
 * the daemon when the node is in a cluster; the agent calls apply(), the task controllers attach, drain, detach and adopt.
 * Everything it does is in the kernel: stopping or losing the daemon stops no traffic.
 */
import path from "node:path";
import type { Cancel, Env } from "../../common/env.ts";
import { ClusterError } from "../../common/errors.ts";
import type { Logger } from "../../common/log.ts";
import type { GuestReport, MeshAssignment, NetworkAssignment } from "../../model/dispatch.ts";
import type {
  AttachedNetworks,
  EndpointSettings,
  Guest,
  GuestNetworks,
  NameDirectory,
  NetworkNamespaceTarget,
} from "../../model/engine.ts";
import type { NetworkAttachment, Task } from "../../model/objects.ts";
import { macOf, splitCidr } from "../../runtime/network/addresses.ts";
import { DnsForwarder } from "../../runtime/network/dns-forwarder.ts";
import { resolveName } from "../../runtime/network/dns-names.ts";
import { DnsServer } from "../../runtime/network/dns-server.ts";
import type { Resolution } from "../../runtime/network/dns-server.ts";
import type { DnsQuestion } from "../../runtime/network/dns-wire.ts";
import { NetworkNamespace } from "../../runtime/network/namespace.ts";
import { type GuestAttachment, NodeGuests } from "./guests.ts";
import { AUDIT_INTERVAL_MS, LEFTOVER_LINK_MS, SAVE_INTERVAL_MS } from "./limits.ts";
import { Mesh } from "./mesh.ts";
import { instanceTag } from "./names.ts";
import { joinNames, NetworkNames } from "./network-names.ts";
import { Overlay, removeNamespace } from "./overlay.ts";
import type { Underlay } from "./overlay.ts";
import { tunnelMac } from "./peers.ts";
import { SavedAssignment } from "./saved-assignment.ts";

export interface NetworkState {
  readonly networks: ReadonlyMap<string, NetworkAssignment>;
  readonly mesh: MeshAssignment | undefined;
}

export interface WorkerNetworkOptions {
  readonly env: Pick<Env, "clock" | "timers" | "random" | "disk">;
  readonly log: Logger;
  /** Tells this daemon from others on the machine: its data root will do. Must be the same after a restart. */
  readonly instance: string;
  readonly nodeId: string;
  /** Address (no port) of this node's end of the tunnels. */
  readonly dataPathAddress: string;
  /** Where namespaces are pinned and the last state is kept until the next boot, e.g. EXEC_ROOT/network. */
  readonly runFolder: string;
  /** What a backend on another node sees as the source of published connections. Default "client". */
  readonly clientAddress?: "client" | "node";
  /** Default /etc/resolv.conf. */
  readonly resolvConf?: string;
}

export interface WorkerNetwork {
  /**
   * Puts the state into effect: differences only, safe to repeat. Errors are per network; the rest is applied all the
   * same.
   */
  apply(state: NetworkState): Promise<{ readonly errors: readonly string[] }>;
  attach(task: Task, target: NetworkNamespaceTarget): Promise<AttachedNetworks & { readonly meshIp: string }>;
  /** New connections stop on this node at once; established ones go on. Other nodes follow the managers. */
  drain(taskId: string): Promise<void>;
  detach(taskId: string): Promise<void>;
  /**
   * A task that runs since before this daemon: what the kernel still has is kept, the rest is made again. Returns its address on
   * the mesh, which nobody may have noted yet (`meshIp` is "" then).
   */
  adopt(task: Task, target: NetworkNamespaceTarget, meshIp: string): Promise<string>;
  /** Containers outside of any service on networks of the cluster. */
  readonly guests: GuestNetworks;
  /** Called with all that guests use or ask for, whenever that changes: for the managers. */
  onGuests(listener: (report: GuestReport) => void): void;
  /** Networks of the cluster that are set up here. */
  networks(): readonly NetworkAssignment[];
  /** This node's address on the mesh, for health probes and proxies; undefined before the first assignment. */
  meshAddress(): string | undefined;
  /** Stops serving names and looking after things; traffic goes on. */
  close(): Promise<void>;
  /** Takes everything off the machine, on leaving the cluster. */
  removeAll(): Promise<void>;
}

/** A task or guest that is connected here. */
interface KnownTask {
  readonly id: string;
  readonly networks: readonly NetworkAttachment[];
  readonly nameservers: readonly string[];
  readonly pid: number;
}

/** Opens the daemon's namespace and takes the last known state up again. */
export async function createWorkerNetwork(options: WorkerNetworkOptions): Promise<WorkerNetwork> {
  const network = new NodeNetwork(options);
  await network.resume();
  return network;
}

class NodeNetwork implements WorkerNetwork {
  readonly #options: WorkerNetworkOptions;
  readonly #log: Logger;
  readonly #tag: string;
  readonly #root: NetworkNamespace;
  readonly #mesh: Mesh;
  readonly #forwarder: DnsForwarder;
  readonly #saved: SavedAssignment;
  readonly #overlays = new Map<string, Overlay>();
  readonly #names = new Map<string, NetworkNames>();
  readonly #tasks = new Map<string, KnownTask>();
  readonly #drained = new Set<string>();
  readonly guests: NodeGuests;
  readonly #timers = new Set<Cancel>();
  #dns: DnsServer | undefined;
  #state: NetworkState = { networks: new Map(), mesh: undefined };
  /** apply, attach, detach one after the other: they share the kernel's state. */
  #tail: Promise<unknown> = Promise.resolve();
  #isClosed = false;

  constructor(options: WorkerNetworkOptions) {
    this.#options = options;
    this.#log = options.log.child({ part: "network" });
    this.#tag = instanceTag(options.instance);
    this.#root = NetworkNamespace.current();
    this.#mesh = new Mesh({
      root: this.#root,
      tag: this.#tag,
      clock: options.env.clock,
      log: this.#log,
      dataPathAddress: options.dataPathAddress,
      clientAddress: options.clientAddress ?? "client",
    });
    this.#forwarder = new DnsForwarder(options.env, options.resolvConf);
    this.guests = new NodeGuests({
      timers: options.env.timers,
      networks: () => [...this.#state.networks.values()],
      connect: (guest, attachments) => this.#exclusive(() => this.#connectGuest(guest, attachments)),
      names: (containerId) => this.#namesFor(this.#tasks.get(containerId)),
      takeOver: (guest, meshIp) => this.#exclusive(() => this.#adoptGuest(guest, meshIp)),
      disconnect: (containerId) => this.detach(containerId),
    });
    const file = path.join(options.runFolder, "assignment.json");
    this.#saved = new SavedAssignment(file, options.env, this.#log, SAVE_INTERVAL_MS);
    this.#every(AUDIT_INTERVAL_MS, () => this.#audit());
  }

  /** After a restart: what the managers said last, until they say more. */
  async resume(): Promise<void> {
    const state = await this.#saved.load();
    if (state === undefined) return;
    const { errors } = await this.#exclusive(() => this.#apply(state, false));
    if (errors.length > 0) this.#log.warn("last network state could not be restored in full", { errors });
  }

  async apply(state: NetworkState): Promise<{ readonly errors: readonly string[] }> {
    this.#saved.save(state);
    const result = await this.#exclusive(() => this.#apply(state, false));
    this.guests.networksChanged();
    return result;
  }

  onGuests(listener: (report: GuestReport) => void): void {
    this.guests.onChange(listener);
  }

  attach(
    task: Task,
    target: NetworkNamespaceTarget,
  ): Promise<AttachedNetworks & { readonly meshIp: string }> {
    return this.#exclusive(async () => {
      for (const attachment of task.networks) {
        const overlay = this.#requireOverlay(attachment);
        await overlay.attach(task.id, target.pid, firstAddress(attachment));
      }
      const meshIp = await this.#mesh.attach(task, target.pid, this.#isSealed(task));
      this.#tasks.set(task.id, knownTask(task, target.pid));
      return { ...this.#describe(task, meshIp), meshIp };
    });
  }

  adopt(task: Task, target: NetworkNamespaceTarget, meshIp: string): Promise<string> {
    return this.#exclusive(async () => {
      this.#tasks.set(task.id, knownTask(task, target.pid));
      for (const attachment of task.networks) {
        const overlay = this.#overlays.get(attachment.networkId);
        if (overlay !== undefined) await overlay.attach(task.id, target.pid, firstAddress(attachment));
      }
      return this.#mesh.adopt(task, target.pid, meshIp, this.#isSealed(task));
    });
  }

  drain(taskId: string): Promise<void> {
    return this.#exclusive(async () => {
      this.#drained.add(taskId);
      for (const [networkId, overlay] of this.#overlays) {
        if (!overlay.assignment.endpoints.some((endpoint) => endpoint.taskId === taskId)) continue;
        await overlay.drain(this.#drained, taskId);
        this.#names.set(networkId, new NetworkNames(overlay.assignment, this.#drained));
      }
      await this.#mesh.drain(taskId, this.#drained);
    });
  }

  detach(taskId: string): Promise<void> {
    return this.#exclusive(async () => {
      this.#tasks.delete(taskId);
      for (const overlay of this.#overlays.values()) await overlay.detach(taskId);
      await this.#mesh.detach(taskId);
      this.#after(LEFTOVER_LINK_MS, () => this.#sweep(taskId));
    });
  }

  networks(): readonly NetworkAssignment[] {
    return [...this.#state.networks.values()];
  }

  meshAddress(): string | undefined {
    return this.#mesh.address;
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    for (const cancel of this.#timers) cancel();
    await this.#tail;
    await this.#saved.close();
    await this.#dns?.stop();
    for (const overlay of this.#overlays.values()) overlay.close();
    await this.#mesh.close();
    this.#root.close();
  }

  removeAll(): Promise<void> {
    return this.#exclusive(async () => {
      await this.#saved.remove();
      await this.#dns?.stop();
      this.#dns = undefined;
      for (const overlay of this.#overlays.values()) await overlay.remove();
      this.#overlays.clear();
      this.#names.clear();
      await this.#removeStrayNamespaces(new Set());
      await this.#mesh.remove();
      this.#state = { networks: new Map(), mesh: undefined };
      this.#tasks.clear();
    });
  }

  async #apply(state: NetworkState, isAudit: boolean): Promise<{ readonly errors: readonly string[] }> {
    this.#state = state;
    const errors: string[] = [];
    const attempt = async (what: string, work: () => Promise<void>): Promise<void> => {
      try {
        await work();
      } catch (caught) {
        const error = ClusterError.from(caught);
        this.#log.error("network state could not be applied", { what, error });
        errors.push(`${what}: ${error.message}`);
      }
    };
    this.#forgetDrained(state);
    const { mesh } = state;
    if (mesh === undefined) return { errors };
    await attempt("mesh", () => this.#applyMesh(mesh, isAudit));
    const isMeshUp = this.#mesh.address !== undefined && this.#mesh.underlay.mtu > 0;
    if (!isMeshUp) return { errors };
    for (const assignment of state.networks.values())
      await attempt(`network "${assignment.name}"`, () => this.#applyNetwork(assignment, mesh, isAudit));
    await attempt("networks that are over", () => this.#removeOverlays(state));
    return { errors };
  }

  async #applyMesh(mesh: MeshAssignment, isAudit: boolean): Promise<void> {
    const hadAddress = this.#mesh.address;
    await this.#mesh.apply(mesh, { drained: this.#drained, isAudit });
    if (this.#mesh.address !== hadAddress || this.#dns === undefined) await this.#serveNames();
  }

  async #applyNetwork(assignment: NetworkAssignment, mesh: MeshAssignment, isAudit: boolean): Promise<void> {
    if (isEncrypted(assignment))
      throw new ClusterError(
        "unimplemented",
        `Cannot carry network "${assignment.name}": it must be encrypted, and this node has no encrypted tunnels`,
      );
    const overlay = this.#overlays.get(assignment.networkId) ?? this.#openOverlay(assignment);
    await overlay.apply(assignment, this.#underlay(mesh), { drained: this.#drained, isAudit });
    this.#names.set(assignment.networkId, new NetworkNames(assignment, this.#drained));
  }

  #openOverlay(assignment: NetworkAssignment): Overlay {
    const overlay = new Overlay({
      root: this.#root,
      log: this.#log,
      file: path.join(this.#namespaceFolder, assignment.networkId),
      assignment,
    });
    this.#overlays.set(assignment.networkId, overlay);
    for (const { id, networks, pid } of this.#tasks.values()) {
      const attachment = networks.find((each) => each.networkId === assignment.networkId);
      if (attachment !== undefined) overlay.adopt(id, pid, firstAddress(attachment));
    }
    return overlay;
  }

  /** Networks that no task here is on any more. One with a task is kept whatever the managers say. */
  async #removeOverlays(state: NetworkState): Promise<void> {
    for (const [networkId, overlay] of this.#overlays) {
      if (state.networks.has(networkId) || overlay.attachedTaskIds.length > 0) continue;
      await overlay.remove();
      this.#overlays.delete(networkId);
      this.#names.delete(networkId);
    }
    await this.#removeStrayNamespaces(new Set([...this.#overlays.keys(), ...state.networks.keys()]));
  }

  /** Left by a former daemon for networks that are not this node's any more. */
  async #removeStrayNamespaces(keep: ReadonlySet<string>): Promise<void> {
    for (const name of NetworkNamespace.listPinned(this.#namespaceFolder))
      if (!keep.has(name)) await removeNamespace(path.join(this.#namespaceFolder, name));
  }

  get #namespaceFolder(): string {
    return path.join(this.#options.runFolder, "netns");
  }

  #underlay(mesh: MeshAssignment): Underlay {
    return {
      nodeId: this.#options.nodeId,
      port: mesh.dataPathPort,
      ...this.#mesh.underlay,
      mac: tunnelMac(this.#mesh.address ?? ""),
      ends: this.#mesh.ends,
    };
  }

  /** A task that was drained and is no longer named by anyone will not come back: tasks are never rerun. */
  #forgetDrained(state: NetworkState): void {
    const named = new Set<string>();
    for (const { endpoints } of state.networks.values())
      for (const { taskId } of endpoints) named.add(taskId);
    for (const { backends } of state.mesh?.ingressPorts ?? [])
      for (const { taskId } of backends) named.add(taskId);
    for (const taskId of this.#drained)
      if (!named.has(taskId) && !this.#tasks.has(taskId)) this.#drained.delete(taskId);
  }

  async #serveNames(): Promise<void> {
    await this.#dns?.stop();
    const { address } = this.#mesh;
    if (address === undefined) return;
    const dns = new DnsServer({
      address,
      forwarder: this.#forwarder,
      log: this.#log,
      resolve: (question, source) => this.#resolve(question, source),
    });
    await dns.start();
    this.#dns = dns;
    await this.#mesh.setDnsPort(dns.port);
  }

  #resolve(question: DnsQuestion, source: string): Resolution {
    const known = this.#tasks.get(this.#mesh.taskOf(source) ?? "");
    const own = known?.nameservers ?? [];
    const upstreams = own.length > 0 ? own : this.#forwarder.host().nameservers;
    return resolveName(question, this.#namesFor(known), upstreams, this.#options.env.random);
  }

  #namesFor(known: KnownTask | undefined): NameDirectory {
    const networks = known?.networks ?? [];
    return joinNames(
      networks
        .map((attachment) => this.#names.get(attachment.networkId))
        .filter((each) => each !== undefined),
    );
  }

  #requireOverlay(attachment: NetworkAttachment): Overlay {
    const overlay = this.#overlays.get(attachment.networkId);
    if (overlay === undefined)
      throw new ClusterError(
        "unavailable",
        `Cannot connect the task to network "${attachment.networkId}": it is not set up on this node yet`,
        { retryable: true },
      );
    return overlay;
  }

  /** All of its networks are internal: the task may answer what is published, and start nothing outwards. */
  #isSealed(task: Pick<Task, "networks">): boolean {
    const overlays = task.networks.map((attachment) => this.#state.networks.get(attachment.networkId));
    return overlays.length > 0 && overlays.every((network) => network?.isInternal === true);
  }

  async #connectGuest(guest: Guest, attachments: readonly GuestAttachment[]): Promise<AttachedNetworks> {
    const { containerId: id, pid } = guest.target;
    const former = this.#tasks.get(id)?.networks ?? [];
    const networks = attachments.map(({ network, address }) => guestAttachment(network.networkId, address));
    const { isLedOut = false, ports } = guest;
    // Ports that it has published there stay where they are.
    const isOnMesh = !isLedOut || (ports.length > 0 && this.#mesh.has(id));
    let meshIp: string | undefined;
    try {
      for (const attachment of networks)
        await this.#requireOverlay(attachment).attach(id, pid, firstAddress(attachment));
      if (isOnMesh)
        meshIp = await this.#mesh.attach({ id, ports: guestPorts(guest) }, pid, this.#isSealed({ networks }));
    } catch (caught) {
      await this.#leave(id, networks, former);
      throw caught;
    }
    await this.#leave(id, former, networks);
    if (!isOnMesh && (await this.#mesh.detach(id)) !== undefined)
      await this.#root.deleteLinks([this.#mesh.linkNameOf(id)]);
    this.#tasks.set(id, { id, networks, nameservers: guest.nameservers, pid });
    const endpoints = Object.fromEntries(
      attachments.map((each) => [each.network.name, guestEndpoint(id, each)]),
    );
    const searchDomains = this.#forwarder.host().search;
    if (meshIp === undefined) return { endpoints, nameservers: [], searchDomains, dnsOptions: [] };
    const nameService = this.#mesh.address ?? meshIp;
    return {
      endpoints,
      nameservers: [nameService],
      nameService,
      searchDomains,
      dnsOptions: ["ndots:0"],
      meshIp,
    };
  }

  /** Takes the guest off the networks that it does not keep, while it goes on. */
  async #leave(
    id: string,
    networks: readonly NetworkAttachment[],
    kept: readonly NetworkAttachment[],
  ): Promise<void> {
    for (const { networkId } of networks) {
      const overlay = this.#overlays.get(networkId);
      if (overlay === undefined || kept.some((each) => each.networkId === networkId)) continue;
      await overlay.detach(id);
      await overlay.sweep(id);
    }
  }

  async #adoptGuest(guest: Guest, meshIp: string): Promise<void> {
    const { containerId: id, pid } = guest.target;
    const networks = guest.places.map(({ networkId, address }) => guestAttachment(networkId, address));
    this.#tasks.set(id, { id, networks, nameservers: guest.nameservers, pid });
    for (const attachment of networks)
      await this.#overlays.get(attachment.networkId)?.attach(id, pid, firstAddress(attachment));
    if (meshIp === "") return;
    const isSealed = this.#isSealed({ networks });
    await this.#mesh.adopt({ id, ports: guestPorts(guest) }, pid, meshIp, isSealed);
  }

  #describe(task: Task, meshIp: string): AttachedNetworks {
    const endpoints: Record<string, EndpointSettings> = {};
    for (const attachment of task.networks) {
      const overlay = this.#requireOverlay(attachment);
      const { address, prefixLength } = splitCidr(firstAddress(attachment));
      endpoints[overlay.assignment.name] = {
        IPAMConfig: { IPv4Address: address },
        Aliases: attachment.aliases,
        NetworkID: attachment.networkId,
        EndpointID: endpointId(task.id, attachment.networkId),
        // As Docker: a container's way out is not through its overlay.
        Gateway: "",
        IPAddress: address,
        IPPrefixLen: prefixLength,
        MacAddress: macOf(address),
        DNSNames: [task.name, ...attachment.aliases],
      };
    }
    const dns = task.spec.ContainerSpec.DNSConfig;
    const options = dns?.Options ?? [];
    const nameService = this.#mesh.address ?? meshIp;
    return {
      endpoints,
      nameservers: [nameService],
      nameService,
      searchDomains: dns?.Search ?? this.#forwarder.host().search,
      dnsOptions: options.some((option) => option.startsWith("ndots:")) ? options : [...options, "ndots:0"],
    };
  }

  #audit(): void {
    if (this.#state.mesh === undefined) return;
    this.#inTurn("audit of the network", () => this.#apply(this.#state, true));
  }

  async #sweep(taskId: string): Promise<void> {
    const link = this.#mesh.linkNameOf(taskId);
    if (!this.#tasks.has(taskId)) await this.#root.deleteLinks([link]);
    for (const overlay of this.#overlays.values()) await overlay.sweep(taskId);
  }

  #exclusive<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#tail.then(() => {
      if (this.#isClosed) throw new ClusterError("unavailable", "Cannot change the network after close");
      return work();
    });
    this.#tail = turn.then(
      () => {},
      () => {},
    );
    return turn;
  }

  #after(delayMs: number, work: () => Promise<void>): void {
    const cancel = this.#options.env.timers.after(delayMs, () => {
      this.#timers.delete(cancel);
      this.#inTurn("clean-up of a task's links", work);
    });
    this.#timers.add(cancel);
  }

  /** Work that nobody waits for. Its turn may come when all is closed already. */
  #inTurn(what: string, work: () => Promise<unknown>): void {
    this.#exclusive(work).catch((caught: unknown) => {
      if (!this.#isClosed) this.#log.warn(`${what} failed`, { error: ClusterError.from(caught) });
    });
  }

  #every(intervalMs: number, work: () => void): void {
    this.#timers.add(this.#options.env.timers.every(intervalMs, work));
  }
}

function knownTask(task: Task, pid: number): KnownTask {
  const nameservers = task.spec.ContainerSpec.DNSConfig?.Nameservers ?? [];
  return { id: task.id, networks: task.networks, nameservers, pid };
}

/** Its names are the managers' to tell. */
function guestAttachment(networkId: string, address: string): NetworkAttachment {
  return { networkId, addresses: [address], aliases: [] };
}

function guestEndpoint(id: string, { network, names, address: masked }: GuestAttachment): EndpointSettings {
  const { address, prefixLength } = splitCidr(masked);
  return {
    NetworkID: network.networkId,
    EndpointID: endpointId(id, network.networkId),
    Gateway: "",
    IPAddress: address,
    IPPrefixLen: prefixLength,
    MacAddress: macOf(address),
    DNSNames: names,
  };
}

function guestPorts(guest: Guest): Task["ports"] {
  return guest.ports.map(({ protocol, containerPort, hostPort }) => ({
    Protocol: protocol,
    TargetPort: containerPort,
    PublishedPort: hostPort,
    PublishMode: "host",
  }));
}

function firstAddress(attachment: NetworkAttachment): string {
  const address = attachment.addresses.find((each) => !each.includes(":"));
  if (address === undefined)
    throw new ClusterError(
      "failed_precondition",
      `Cannot connect the task to network "${attachment.networkId}": it must have an IPv4 address, got none`,
    );
  return address;
}

function isEncrypted(assignment: NetworkAssignment): boolean {
  const value = assignment.options["encrypted"];
  return value !== undefined && value !== "false";
}

/** 64 hex characters, the same on every call. */
function endpointId(taskId: string, networkId: string): string {
  return Buffer.from(`${taskId}${networkId}`.padEnd(32, "0")).toString("hex").slice(0, 64);
}
