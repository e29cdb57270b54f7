/**
 * One overlay network on this node: a namespace with a tunnel device, a route for every endpoint, and the virtual addresses
 * of its services. The namespace outlives the daemon; a new daemon takes it over and sends only what differs. Called by
 * worker-network.ts; knows of containers no more than a process id.
 */
import { withoutMask } from "../../common/addresses.ts";
import { ClusterError } from "../../common/errors.ts";
import type { Logger } from "../../common/log.ts";
import type { NetworkAssignment, RemoteEndpoint } from "../../model/dispatch.ts";
import { firstHost, macOf, parseBlock, splitCidr } from "../../runtime/network/addresses.ts";
import { deleteFlows } from "../../runtime/network/conntrack.ts";
import { linkIndex, plugRouted } from "../../runtime/network/container-link.ts";
import { KernelSet } from "../../runtime/network/kernel-set.ts";
import type { KernelObject } from "../../runtime/network/kernel-set.ts";
import { NetworkNamespace } from "../../runtime/network/namespace.ts";
import { groupsOf, NftTable } from "../../runtime/network/nft-table.ts";
import type { ElementGroups, TableDefinition } from "../../runtime/network/nft-table.ts";
import { addAddress, findLink, setLink } from "../../runtime/network/routing.ts";
import { QUARANTINE_SECONDS } from "./limits.ts";
import { linkName } from "./names.ts";
import { OVERLAY_TABLE, overlayDefinition } from "./overlay-rules.ts";
import type { TunnelEnd } from "./peers.ts";
import { slotGroup } from "./slots.ts";
import { ensureTunnel, observeTunnel, routeObject, routeThrough, tunnelObjects } from "./tunnel.ts";

const TUNNEL = "vx";
const LINK_PREFIX = "t";
/** The end of every task's link in here; links have no segment in common, so one address serves all. */
const HOST_LINK_MAC = "02:53:ff:00:00:02";
const SYSCTLS = {
  "ipv4/ip_forward": "1",
  "ipv4/conf/all/rp_filter": "0",
  "ipv4/conf/default/rp_filter": "1",
  "ipv4/conf/all/send_redirects": "0",
  "ipv4/conf/default/send_redirects": "0",
} as const;

/** What an overlay needs to know of the node and its peers. */
export interface Underlay {
  readonly nodeId: string;
  readonly port: number;
  /** This node's tunnel address and the MTU inside. */
  readonly local: string;
  readonly mac: string;
  readonly mtu: number;
  readonly ends: readonly TunnelEnd[];
}

interface OverlayAttachment {
  readonly pid: number;
  /** With mask. */
  readonly address: string;
}

export class Overlay {
  readonly #root: NetworkNamespace;
  readonly #log: Logger;
  readonly #file: string;
  readonly #home: NetworkNamespace;
  readonly #table: NftTable;
  readonly #objects = new KernelSet();
  readonly #attachments = new Map<string, OverlayAttachment>();
  #assignment: NetworkAssignment;
  #mtu = 0;
  #drained: ReadonlySet<string> = new Set();
  #isFresh = true;
  readonly #gone = new Set<string>();

  /** Opens the namespace bound to `file`, or makes it. */
  constructor(options: {
    readonly root: NetworkNamespace;
    readonly log: Logger;
    readonly file: string;
    readonly assignment: NetworkAssignment;
  }) {
    this.#root = options.root;
    this.#log = options.log;
    this.#file = options.file;
    this.#assignment = options.assignment;
    const found = NetworkNamespace.openPinned(options.file);
    this.#home = found ?? NetworkNamespace.createPinned(options.file);
    this.#table = new NftTable(this.#home.nft, options.log);
    if (found === undefined) this.#home.setSysctls(SYSCTLS);
  }

  get assignment(): NetworkAssignment {
    return this.#assignment;
  }

  get gateway(): string {
    const subnet = this.#subnets[0];
    if (subnet === undefined)
      throw new ClusterError(
        "failed_precondition",
        `Cannot use network "${this.#assignment.name}": it must have an IPv4 subnet`,
      );
    return subnet.gateway === "" ? firstHost(parseBlock(subnet.subnet)) : withoutMask(subnet.gateway);
  }

  get attachedTaskIds(): readonly string[] {
    return [...this.#attachments.keys()];
  }

  /** Routes, tunnels and virtual addresses as the managers say. */
  async apply(
    assignment: NetworkAssignment,
    underlay: Underlay,
    options: { readonly drained: ReadonlySet<string>; readonly isAudit?: boolean },
  ): Promise<void> {
    this.#assignment = assignment;
    this.#drained = options.drained;
    this.#mtu = this.#mtuOf(underlay);
    const isUnsure = this.#isFresh || options.isAudit === true;
    if (isUnsure) {
      await this.#ensureDevices(underlay);
      this.#observe();
    }
    this.#objects.apply(this.#home.route, this.#wanted(underlay));
    if (options.isAudit === true && !(await this.#table.audit()))
      this.#log.warn("packet filter of an overlay was repaired", { network: assignment.name });
    await this.#applyFilter();
    if (isUnsure) await this.#mendLinks();
    this.#isFresh = false;
  }

  /** Gives the task its interface on this network. Fine if it has it already; mends what is missing. */
  async attach(taskId: string, pid: number, address: string): Promise<void> {
    await this.#forgive(splitCidr(address).address);
    await this.#plug(taskId, pid, address);
    this.#attachments.set(taskId, { pid, address });
    await this.#applyFilter();
  }

  /** Remembers a task that was attached by a former daemon; apply() mends its link. */
  adopt(taskId: string, pid: number, address: string): void {
    this.#attachments.set(taskId, { pid, address });
  }

  async detach(taskId: string): Promise<void> {
    const attachment = this.#attachments.get(taskId);
    if (attachment === undefined) return;
    this.#attachments.delete(taskId);
    const { address } = splitCidr(attachment.address);
    await this.#applyFilter();
    this.#gone.add(address);
    await this.#table.run(
      `add element ip ${OVERLAY_TABLE} gone { ${address} timeout ${QUARANTINE_SECONDS}s }`,
    );
    deleteFlows(this.#home, { replySource: address });
  }

  async drain(drained: ReadonlySet<string>, taskId: string): Promise<void> {
    this.#drained = drained;
    await this.#applyFilter();
    const endpoint = this.#assignment.endpoints.find((each) => each.taskId === taskId);
    if (endpoint !== undefined) deleteFlows(this.#home, { replySource: endpoint.ip, protocol: "udp" });
  }

  /** Deletes links of tasks that are gone but whose namespaces linger. */
  async sweep(taskId: string): Promise<void> {
    const name = linkName(LINK_PREFIX, taskId);
    if (!this.#attachments.has(taskId) && findLink(this.#home.route, name) !== undefined)
      await this.#home.deleteLinks([name]);
  }

  /** Lets go; everything goes on forwarding. */
  close(): void {
    this.#home.close();
  }

  /** Ends the namespace with all that is in it. */
  async remove(): Promise<void> {
    this.#home.close();
    await removeNamespace(this.#file);
  }

  get #subnets(): readonly { readonly subnet: string; readonly gateway: string }[] {
    return this.#assignment.subnets.filter(({ subnet }) => !subnet.includes(":"));
  }

  #mtuOf(underlay: Underlay): number {
    const asked = Number(this.#assignment.options["com.docker.network.driver.mtu"] ?? "");
    return Number.isInteger(asked) && asked >= 576 ? Math.min(asked, underlay.mtu) : underlay.mtu;
  }

  /** Tasks that run have their interfaces, also after the namespace was lost. */
  async #mendLinks(): Promise<void> {
    for (const [taskId, { pid, address }] of this.#attachments) {
      try {
        await this.#plug(taskId, pid, address);
      } catch (caught) {
        this.#log.warn("a task's interface could not be mended", {
          taskId,
          error: ClusterError.from(caught),
        });
      }
    }
  }

  async #ensureDevices(underlay: Underlay): Promise<void> {
    const home = this.#home;
    await ensureTunnel(this.#root, home, {
      name: TUNNEL,
      vni: this.#assignment.vni,
      port: underlay.port,
      local: underlay.local,
      mac: underlay.mac,
      mtu: this.#mtu,
    });
    const loopback = linkIndex(home, "lo");
    home.route.send([
      setLink("lo", { isUp: true }),
      addAddress(loopback, { address: this.gateway, prefixLength: 32 }),
    ]);
  }

  #observe(): void {
    const tunnel = linkIndex(this.#home, TUNNEL);
    const loopback = linkIndex(this.#home, "lo");
    const drift = this.#objects.observe(
      observeTunnel(
        this.#home,
        TUNNEL,
        (route) => route.table === 254 && (route.device === tunnel || route.device === loopback),
      ),
    );
    if (drift > 0)
      this.#log.warn("routes of an overlay differ from what they should be", {
        network: this.#assignment.name,
        drift,
      });
  }

  #wanted(underlay: Underlay): KernelObject[] {
    const tunnel = linkIndex(this.#home, TUNNEL);
    const loopback = linkIndex(this.#home, "lo");
    const ends = new Map(underlay.ends.map((end) => [end.nodeId, end]));
    const remote = this.#assignment.endpoints.filter((each) => ends.has(each.nodeId) && !this.#isLocal(each));
    const used = new Set(remote.map((each) => each.nodeId));
    return [
      // Whatever has no endpoint behind it is refused here and now rather than timing out.
      ...this.#subnets.map(({ subnet }) => {
        const { address, prefixLength } = splitCidr(subnet);
        return routeObject({ destination: address, prefixLength, device: loopback, kind: "local" });
      }),
      ...tunnelObjects(
        tunnel,
        underlay.ends.filter((end) => used.has(end.nodeId)),
      ),
      ...remote.flatMap((endpoint) => {
        const end = ends.get(endpoint.nodeId);
        return end === undefined ? [] : [routeThrough(tunnel, `${endpoint.ip}/32`, end)];
      }),
    ];
  }

  #isLocal(endpoint: RemoteEndpoint): boolean {
    return this.#attachments.has(endpoint.taskId);
  }

  #applyFilter(): Promise<void> {
    return this.#table.set(this.#definition(), this.#groups());
  }

  #definition(): TableDefinition {
    return overlayDefinition(this.gateway);
  }

  #groups(): ElementGroups {
    const local = [...this.#attachments.values()].map(({ address }) => splitCidr(address).address);
    const groups = groupsOf(
      new Map([["self", new Map(local.map((address) => [`${address} . ${address}`, ""]))]]),
    );
    const byService = Map.groupBy(this.#assignment.endpoints, (endpoint) => endpoint.serviceId);
    for (const { serviceId, vip } of this.#assignment.services) {
      if (vip === "") continue;
      groups.set(`vip ${vip}`, slotGroup("vip", vip, this.#backends(byService.get(serviceId) ?? [])));
    }
    return groups;
  }

  /** Ready ones; if there is none, those that are about to stop but still serve. */
  #backends(endpoints: readonly RemoteEndpoint[]): string[] {
    const serving = endpoints.filter((each) => each.state !== "starting");
    const ready = serving.filter((each) => each.state === "ready" && !this.#drained.has(each.taskId));
    return (ready.length > 0 ? ready : serving).map((each) => each.ip);
  }

  async #forgive(address: string): Promise<void> {
    if (!this.#gone.delete(address)) return;
    const set = `element ip ${OVERLAY_TABLE} gone { ${address} }`;
    await this.#table.run(`add ${set}\ndelete ${set}`);
  }

  #plug(taskId: string, pid: number, cidr: string): Promise<void> {
    const { address, prefixLength } = splitCidr(cidr);
    return plugRouted(this.#home, pid, {
      hostName: linkName(LINK_PREFIX, taskId),
      hostMac: HOST_LINK_MAC,
      containerMac: macOf(address),
      mtu: this.#mtu,
      address,
      prefixLength,
      gateway: this.gateway,
      destinations: this.#subnets.map(({ subnet }) => splitCidr(subnet)),
    });
  }
}

/**
 * Ends an overlay's namespace. The tunnel device goes first: the kernel takes namespaces down in its own time, and until then
 * the network's number could not be used again on this node.
 */
export async function removeNamespace(file: string): Promise<void> {
  const home = NetworkNamespace.openPinned(file);
  try {
    await home?.deleteLinks([TUNNEL]);
  } finally {
    home?.close();
    NetworkNamespace.removePinned(file);
  }
}
