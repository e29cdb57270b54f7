/**
 * This node's part of the mesh: in the daemon's own network namespace, one tunnel device to all nodes, one interface per
 * task for its way out, its published ports and its name server, and the packet filter for them. Called by
 * worker-network.ts with what the managers say; never asks them for anything, and keeps forwarding when they are silent.
 */
import { isIPv4 } from "node:net";
import { ipv4Text, withoutMask } from "../../common/addresses.ts";
import type { Clock } from "../../common/env.ts";
import { ClusterError } from "../../common/errors.ts";
import type { Logger } from "../../common/log.ts";
import type { MeshAssignment } from "../../model/dispatch.ts";
import type { Task } from "../../model/objects.ts";
import { blockSize, firstHost, macOf, parseBlock } from "../../runtime/network/addresses.ts";
import { deleteFlows } from "../../runtime/network/conntrack.ts";
import { linkIndex, plugRouted } from "../../runtime/network/container-link.ts";
import { KernelSet } from "../../runtime/network/kernel-set.ts";
import type { KernelObject } from "../../runtime/network/kernel-set.ts";
import type { NetworkNamespace } from "../../runtime/network/namespace.ts";
import { groupsOf, NftTable } from "../../runtime/network/nft-table.ts";
import type { ElementGroup, ElementGroups } from "../../runtime/network/nft-table.ts";
import {
  addAddress,
  addRule,
  deleteRule,
  findLinkIndex,
  listLinks,
  listRoutes,
  listRules,
  ROUTE_PROTOCOL,
} from "../../runtime/network/routing.ts";
import type { RuleOptions } from "../../runtime/network/routing.ts";
import { HostPorts } from "./host-ports.ts";
import { QUARANTINE_SECONDS } from "./limits.ts";
import { MeshAddresses } from "./mesh-addresses.ts";
import { meshDefinition } from "./mesh-rules.ts";
import { linkName, tagNumber } from "./names.ts";
import { MARK_MASK, markBase, tunnelEnds, tunnelMac } from "./peers.ts";
import type { TunnelEnd } from "./peers.ts";
import { slotGroup } from "./slots.ts";
import { ensureTunnel, observeTunnel, routeObject, routeThrough, tunnelObjects, underlay } from "./tunnel.ts";

/** After the kernel's own rules for local traffic, before all others. */
const RULE_PRIORITY = 5_100;
const TABLE_NUMBER_BITS = 12;
const HOST_LINK_MAC = "02:53:ff:00:00:01";

export interface MeshDeps {
  readonly root: NetworkNamespace;
  readonly tag: string;
  readonly clock: Clock;
  readonly log: Logger;
  readonly dataPathAddress: string;
  readonly clientAddress: "client" | "node";
}

/** What the mesh needs to know of a task. */
export type MeshTask = Pick<Task, "id" | "ports">;

interface MeshAttachment {
  readonly meshIp: string;
  readonly isSealed: boolean;
  readonly ports: Task["ports"];
}

export class Mesh {
  readonly #deps: MeshDeps;
  readonly #vxlan: string;
  readonly #linkPrefix: string;
  readonly #tableName: string;
  readonly #markBase: number;
  readonly #table: NftTable;
  readonly #objects = new KernelSet();
  readonly #hostPorts: HostPorts;
  readonly #attachments = new Map<string, MeshAttachment>();
  #assignment: MeshAssignment | undefined;
  #addresses: MeshAddresses | undefined;
  #drained: ReadonlySet<string> = new Set();
  #dnsPort: number | undefined;
  #underlay = { mtu: 0, local: "" };
  /** Addresses in the kernel's set of those that are gone, and until when. */
  readonly #gone = new Map<string, number>();

  constructor(deps: MeshDeps) {
    this.#deps = deps;
    this.#vxlan = `smx-${deps.tag}`;
    this.#linkPrefix = `sm${deps.tag}-`;
    this.#tableName = `shoal_${deps.tag}_mesh`;
    this.#markBase = markBase(tagNumber(deps.tag, TABLE_NUMBER_BITS));
    this.#table = new NftTable(deps.root.nft, deps.log);
    this.#hostPorts = new HostPorts(deps.log);
  }

  /** This node's own address on the mesh; undefined outside of a cluster. */
  get address(): string | undefined {
    const { subnet } = this.#assignment ?? { subnet: "" };
    return subnet === "" ? undefined : firstHost(parseBlock(subnet));
  }

  /** Every other node's end of the tunnels. */
  get ends(): readonly TunnelEnd[] {
    return this.#assignment === undefined ? [] : tunnelEnds(this.#assignment, this.#markBase);
  }

  get assignment(): MeshAssignment | undefined {
    return this.#assignment;
  }

  /** MTU inside of tunnels, and this node's own end of them. */
  get underlay(): { readonly mtu: number; readonly local: string } {
    return this.#underlay;
  }

  taskOf(meshIp: string): string | undefined {
    return this.#addresses?.ownerOf(meshIp);
  }

  /** Brings the node to this state; also mends what has been changed behind our back if `isAudit`. */
  async apply(
    assignment: MeshAssignment,
    options: { readonly drained: ReadonlySet<string>; readonly isAudit?: boolean },
  ): Promise<void> {
    if (assignment.subnet === "")
      throw new ClusterError("unavailable", "Cannot set up the mesh: this node has no address block yet");
    const isNewBlock = this.#assignment?.subnet !== assignment.subnet;
    this.#assignment = assignment;
    this.#drained = options.drained;
    if (isNewBlock) this.#renewAddresses(assignment.subnet);
    // Looking at all links and addresses takes milliseconds on a full node: not for every change of an endpoint.
    const isSure = !isNewBlock && options.isAudit !== true && this.#underlay.mtu > 0;
    if (!isSure) {
      await this.#ensureDevice(assignment);
      this.#observe();
    }
    this.#objects.apply(this.#deps.root.route, this.#wanted(assignment));
    if (options.isAudit === true && !(await this.#table.audit()))
      this.#deps.log.warn("packet filter of the mesh was repaired");
    await this.#applyFilter();
  }

  /** Where the name server listens: queries are sent there. */
  async setDnsPort(port: number): Promise<void> {
    this.#dnsPort = port;
    await this.#applyFilter();
    // Who asks by one socket all the time would go on asking the port that was before.
    const { address } = this;
    if (address !== undefined) deleteFlows(this.#deps.root, { replySource: address, protocol: "udp" });
  }

  /** Gives the task its interface. Fine if it has it already. */
  async attach(task: MeshTask, pid: number, isSealed: boolean): Promise<string> {
    const known = this.#attachments.get(task.id);
    const addresses = this.#requireAddresses();
    const meshIp = known?.meshIp ?? addresses.take(task.id, this.#deps.clock.monotonicMs());
    await this.#forgive(meshIp);
    try {
      await this.#hostPorts.take(task, meshIp);
      await this.#plug(task.id, pid, meshIp);
    } catch (caught) {
      if (known === undefined) await this.#hostPorts.release(task.id);
      if (known === undefined) addresses.release(meshIp, this.#deps.clock.monotonicMs());
      throw caught;
    }
    this.#attachments.set(task.id, { meshIp, isSealed, ports: task.ports });
    await this.#applyFilter();
    return meshIp;
  }

  /**
   * Takes over a task that runs since before this daemon; mends its interface if that is gone. `noted` is "" where the former
   * daemon was killed before it told anybody the address: its interface has it. Returns the address.
   */
  async adopt(task: MeshTask, pid: number, noted: string, isSealed: boolean): Promise<string> {
    const meshIp = noted === "" ? this.#addressOf(task.id) : noted;
    if (meshIp === undefined) return this.attach(task, pid, isSealed);
    this.#attachments.set(task.id, { meshIp, isSealed, ports: task.ports });
    this.#addresses?.claim(meshIp, task.id);
    await this.#hostPorts.adopt(task, meshIp);
    if (this.#assignment !== undefined) await this.#plug(task.id, pid, meshIp);
    await this.#applyFilter();
    return meshIp;
  }

  /** What is routed to the task's interface; undefined if it has none. */
  #addressOf(taskId: string): string | undefined {
    const { route } = this.#deps.root;
    const index = findLinkIndex(route, this.linkNameOf(taskId));
    if (index === undefined) return undefined;
    return listRoutes(route).find((each) => each.device === index && each.prefixLength === 32)?.destination;
  }

  /** Returns the address that the task had; its link goes with the container's namespace. */
  async detach(taskId: string): Promise<string | undefined> {
    const attachment = this.#attachments.get(taskId);
    if (attachment === undefined) return undefined;
    this.#attachments.delete(taskId);
    await this.#hostPorts.release(taskId);
    this.#addresses?.release(attachment.meshIp, this.#deps.clock.monotonicMs());
    await this.#applyFilter();
    await this.#refuseGone(attachment.meshIp);
    deleteFlows(this.#deps.root, { replySource: attachment.meshIp });
    return attachment.meshIp;
  }

  /** New connections go elsewhere from now on; datagram flows have no end, so they are forgotten. */
  async drain(taskId: string, drained: ReadonlySet<string>): Promise<void> {
    this.#drained = drained;
    await this.#applyFilter();
    const attachment = this.#attachments.get(taskId);
    if (attachment !== undefined)
      deleteFlows(this.#deps.root, { replySource: attachment.meshIp, protocol: "udp" });
  }

  has(taskId: string): boolean {
    return this.#attachments.has(taskId);
  }

  linkNameOf(taskId: string): string {
    return linkName(this.#linkPrefix, taskId);
  }

  /** Lets go of what the daemon itself holds; what is in the kernel stays. */
  async close(): Promise<void> {
    await this.#hostPorts.close();
  }

  /** Takes everything of the mesh off this machine. */
  async remove(): Promise<void> {
    await this.#hostPorts.close();
    const { root } = this.#deps;
    this.#objects.observe(this.#existingRules());
    this.#objects.apply(root.route, []);
    const links = listLinks(root.route).map((link) => link.name);
    await root.deleteLinks(links.filter((name) => name === this.#vxlan || name.startsWith(this.#linkPrefix)));
    const block = this.#assignment === undefined ? undefined : this.#blockRoute(this.#assignment.subnet);
    if (block !== undefined) {
      this.#objects.observe([block]);
      this.#objects.apply(root.route, []);
    }
    await this.#table.remove(this.#tableName);
    this.#attachments.clear();
    this.#assignment = undefined;
    this.#addresses = undefined;
  }

  #requireAddresses(): MeshAddresses {
    if (this.#addresses === undefined)
      throw new ClusterError("unavailable", "Cannot connect the task: this node has no mesh block yet", {
        retryable: true,
      });
    return this.#addresses;
  }

  #renewAddresses(subnet: string): void {
    const addresses = new MeshAddresses(subnet);
    for (const [taskId, { meshIp }] of this.#attachments) addresses.claim(meshIp, taskId);
    this.#addresses = addresses;
  }

  async #ensureDevice(assignment: MeshAssignment): Promise<void> {
    const { root, dataPathAddress } = this.#deps;
    this.#underlay = underlay(root, dataPathAddress);
    const { mtu, local } = this.#underlay;
    if (root.readSysctl("ipv4/ip_forward") !== "1") root.setSysctls({ "ipv4/ip_forward": "1" });
    const address = firstHost(parseBlock(assignment.subnet));
    await ensureTunnel(root, root, {
      name: this.#vxlan,
      vni: assignment.vni,
      port: assignment.dataPathPort,
      local,
      mac: tunnelMac(address),
      mtu,
    });
    const index = linkIndex(root, this.#vxlan);
    root.route.send([addAddress(index, { address, prefixLength: 32 })]);
    this.#relaxReversePathCheck();
  }

  /** Packets come through the tunnel with the addresses of clients, whom this node would reach another way. */
  #relaxReversePathCheck(): void {
    const { root } = this.#deps;
    const loosest = root.readSysctl("ipv4/conf/all/rp_filter") === "0" ? "0" : "2";
    root.setSysctls({
      [`ipv4/conf/${this.#vxlan}/rp_filter`]: loosest,
      [`ipv4/conf/${this.#vxlan}/route_localnet`]: "1",
    });
  }

  #observe(): void {
    const { root } = this.#deps;
    const index = linkIndex(root, this.#vxlan);
    const subnet = this.#assignment === undefined ? undefined : withoutMask(this.#assignment.subnet);
    const found = observeTunnel(
      root,
      this.#vxlan,
      (route) => route.device === index || (route.destination === subnet && route.device === 0),
    );
    const drift = this.#objects.observe([...found, ...this.#existingRules()]);
    if (drift > 0) this.#deps.log.warn("routes of the mesh differ from what they should be", { drift });
  }

  #ruleObject(rule: RuleOptions): KernelObject {
    const { priority, mark, mask, table } = rule;
    return {
      key: `rule ${priority} ${mark}`,
      content: `${mask} ${table}`,
      add: addRule(rule),
      remove: deleteRule(rule),
    };
  }

  #existingRules(): KernelObject[] {
    return listRules(this.#deps.root.route)
      .filter((rule) => rule.protocol === ROUTE_PROTOCOL && this.#isOurMark(rule.mark))
      .map((rule) => this.#ruleObject(rule));
  }

  #isOurMark(mark: number): boolean {
    return (mark & MARK_MASK) >>> 0 === this.#markBase;
  }

  #blockRoute(subnet: string): KernelObject {
    const [destination = "", length = ""] = subnet.split("/");
    return routeObject({ destination, prefixLength: Number(length), kind: "unreachable" });
  }

  #wanted(assignment: MeshAssignment): KernelObject[] {
    const index = linkIndex(this.#deps.root, this.#vxlan);
    const { ends } = this;
    return [
      this.#blockRoute(assignment.subnet),
      ...tunnelObjects(index, ends),
      ...ends.map((end) => routeThrough(index, end.meshSubnet, end)),
      ...ends.map((end) =>
        routeObject({
          destination: "0.0.0.0",
          prefixLength: 0,
          table: end.mark,
          device: index,
          via: end.address,
          isOnLink: true,
        }),
      ),
      ...ends.map((end) =>
        this.#ruleObject({ priority: RULE_PRIORITY, mark: end.mark, mask: 0xffffffff, table: end.mark }),
      ),
    ];
  }

  async #applyFilter(): Promise<void> {
    const assignment = this.#assignment;
    const { address } = this;
    if (assignment === undefined || address === undefined) return;
    const definition = meshDefinition({
      table: this.#tableName,
      vxlan: this.#vxlan,
      linkPrefix: this.#linkPrefix,
      pool: assignment.pool,
      subnet: assignment.subnet,
      address,
      dataPathPort: assignment.dataPathPort,
      markBase: this.#markBase,
      markMask: MARK_MASK,
      dnsPort: this.#dnsPort,
      clientAddress: this.#deps.clientAddress,
    });
    await this.#table.set(definition, this.#groups(assignment));
  }

  #groups(assignment: MeshAssignment): ElementGroups {
    const { ends } = this;
    const attachments = [...this.#attachments.values()];
    const sealed = attachments.filter((each) => each.isSealed);
    const groups = groupsOf(
      new Map([
        ["vteps", new Map(ends.map((end) => [end.dataPathAddress, ""]))],
        ["via", new Map(ends.map((end) => [end.mac, `0x${end.mark.toString(16).padStart(8, "0")}`]))],
        ["zones", new Map(ends.map((end) => [end.mac, String(end.zone)]))],
        ["sealed", new Map(sealed.map(({ meshIp }) => [meshIp, ""]))],
        ["host", new Map(attachments.flatMap(hostPorts))],
      ]),
    );
    groups.set("self", selfGroup(assignment.subnet));
    for (const port of assignment.ingressPorts) {
      const backends = this.#backends(port.backends).map((meshIp) => `${meshIp} . ${port.targetPort}`);
      const key = `${port.protocol} . ${port.publishedPort}`;
      groups.set(`publish ${key}`, slotGroup("publish", key, backends));
    }
    return groups;
  }

  /** Those that are not about to stop; all if that leaves nobody. What is no address is nobody's. */
  #backends(backends: readonly { readonly taskId: string; readonly meshIp: string }[]): string[] {
    const usable = backends.filter((backend) => isIPv4(backend.meshIp));
    const staying = usable.filter((backend) => !this.#drained.has(backend.taskId));
    return (staying.length > 0 ? staying : usable).map((backend) => backend.meshIp);
  }

  /** For a while, whoever still has connections to the address is told that they are over. */
  async #refuseGone(meshIp: string): Promise<void> {
    const nowMs = this.#deps.clock.monotonicMs();
    for (const [address, untilMs] of this.#gone) if (untilMs < nowMs) this.#gone.delete(address);
    this.#gone.set(meshIp, nowMs + QUARANTINE_SECONDS * 1_000);
    await this.#table.run(
      `add element ip ${this.#tableName} gone { ${meshIp} timeout ${QUARANTINE_SECONDS}s }`,
    );
  }

  /** The address may still be marked as gone from its last owner. */
  async #forgive(meshIp: string): Promise<void> {
    if (!this.#gone.delete(meshIp)) return;
    const set = `element ip ${this.#tableName} gone { ${meshIp} }`;
    await this.#table.run(`add ${set}\ndelete ${set}`);
  }

  #plug(taskId: string, pid: number, meshIp: string): Promise<void> {
    return plugRouted(this.#deps.root, pid, {
      hostName: this.linkNameOf(taskId),
      hostMac: HOST_LINK_MAC,
      containerMac: macOf(meshIp),
      mtu: this.#underlay.mtu,
      address: meshIp,
      prefixLength: 32,
      gateway: firstHost(parseBlock(this.#assignment?.subnet ?? "")),
      destinations: [{ address: "0.0.0.0", prefixLength: 0 }],
    });
  }
}

/** Elements of the map of ports that a task has for itself on this node. */
function hostPorts(attachment: MeshAttachment): (readonly [string, string])[] {
  return attachment.ports
    .filter((port) => port.PublishMode === "host" && port.PublishedPort > 0)
    .map((port) => [`${port.Protocol} . ${port.PublishedPort}`, `${attachment.meshIp} . ${port.TargetPort}`]);
}

/**
 * Every address of the block with itself, for clients that are balanced to themselves. All of them from the start, so that
 * attaching a task changes no packet filter.
 */
function selfGroup(subnet: string): ElementGroup {
  return {
    signature: subnet,
    elements: () => {
      const block = parseBlock(subnet);
      const addresses = Array.from({ length: blockSize(block) }, (_, index) => ipv4Text(block.base + index));
      return new Map([["self", new Map(addresses.map((address) => [`${address} . ${address}`, ""]))]]);
    },
  };
}
