/**
 * Who holds which address, VNI, port and block, derived from the store's objects, and the next free ones. The allocator
 * asks; nothing here waits or writes. A refusal is a text that says what was wanted and what there is.
 */
import { withoutMask } from "../../common/addresses.ts";
import { type Cidr, formatCidr, parseCidr, subBlock, subBlockCount } from "../../common/cidr.ts";
import { networksOf } from "../../model/defaults.ts";
import { guestKey } from "../../model/node-guests.ts";
import type {
  Cluster,
  Endpoint,
  Network,
  NetworkAttachment,
  Node,
  NodeGuest,
  Service,
  Task,
} from "../../model/objects.ts";
import type { IPAMConfig, PortConfig } from "../../model/specs.ts";
import type { StoreView } from "../../model/store-view.ts";
import { isTerminal } from "../../model/task-state.ts";
import {
  ADDRESS_QUARANTINE_MS,
  DEFAULT_ADDRESS_POOL,
  DEFAULT_MESH_POOL,
  DEFAULT_SUBNET_PREFIX,
  MESH_BLOCK_PREFIX,
  PUBLISHED_PORT_FIRST,
  PUBLISHED_PORT_LAST,
  VNI_FIRST,
  VNI_LAST,
} from "../limits.ts";
import { NetworkPool, gatewayOf } from "./network-pool.ts";
import { NumberPool } from "./number-pool.ts";
import { SubnetTable } from "./subnets.ts";

export type Granted<T> = { readonly value: T } | { readonly refusal: string };

type Port = Endpoint["ports"][number];
type Protocol = Port["Protocol"];

const PROTOCOLS: readonly Protocol[] = ["tcp", "udp", "sctp"];
const MESH_HOLDER = "mesh";
/** Names that are networks of every node and need no addresses from us. */
const LOCAL_NETWORKS: ReadonlySet<string> = new Set(["host", "bridge", "none", "default", "nat"]);

/** True if the network's addresses are ours to give. */
export function needsAllocation(network: Network): boolean {
  const { Driver, Scope, ConfigOnly } = network.spec;
  if (ConfigOnly === true || Scope === "local") return false;
  return Driver === undefined || Driver === "" || Driver === "overlay";
}

function protocolOf(port: PortConfig): Protocol {
  return port.Protocol ?? "tcp";
}

function isHost(port: PortConfig): boolean {
  return port.PublishMode === "host";
}

export class Ledger {
  readonly #subnets: SubnetTable;
  readonly #vnis = new NumberPool({ first: VNI_FIRST, last: VNI_LAST, quarantineMs: ADDRESS_QUARANTINE_MS });
  readonly #mesh: Cidr;
  readonly #meshBlocks: NumberPool;
  readonly #pools = new Map<string, NetworkPool>();
  readonly #networkVnis = new Map<string, number>();
  readonly #nodeBlocks = new Map<string, number>();
  /** "tcp/80" to the service that publishes it. */
  readonly #portHolders = new Map<string, string>();
  readonly #autoPorts = new Map<Protocol, NumberPool>();
  readonly #serviceNames = new Map<string, string>();
  /** Service id to network id to VIP. */
  readonly #vips = new Map<string, Map<string, string>>();
  /** Task id to what it holds. */
  readonly #taskAddresses = new Map<
    string,
    readonly { readonly networkId: string; readonly address: string }[]
  >();

  /** Node id to guest to what it holds. */
  readonly #guestAddresses = new Map<
    string,
    Map<string, { readonly networkId: string; readonly address: string }>
  >();

  constructor(view: StoreView) {
    const cluster: Cluster | undefined = view.list("cluster")[0];
    const pools = cluster?.defaultAddressPool.length ? cluster.defaultAddressPool : [DEFAULT_ADDRESS_POOL];
    this.#subnets = new SubnetTable(pools.map(parseCidr), cluster?.subnetSize || DEFAULT_SUBNET_PREFIX);
    this.#mesh = parseCidr(cluster?.meshPool || DEFAULT_MESH_POOL);
    this.#subnets.reserve(MESH_HOLDER, this.#mesh);
    const blockCount = subBlockCount(this.#mesh, MESH_BLOCK_PREFIX);
    this.#meshBlocks = new NumberPool({
      first: 0,
      last: blockCount - 1,
      quarantineMs: ADDRESS_QUARANTINE_MS,
    });
    for (const protocol of PROTOCOLS) {
      this.#autoPorts.set(
        protocol,
        new NumberPool({
          first: PUBLISHED_PORT_FIRST,
          last: PUBLISHED_PORT_LAST,
          quarantineMs: ADDRESS_QUARANTINE_MS,
        }),
      );
    }
    for (const node of view.list("node")) this.#adoptNode(node);
    for (const network of view.list("network"))
      if (network.allocation !== undefined) this.#adoptNetwork(network);
    for (const service of view.list("service")) this.#adoptService(service);
    for (const task of view.list("task")) if (!isTerminal(task.status.state)) this.#adoptTask(task);
    for (const node of view.list("node")) this.#adoptGuests(node);
  }

  grantNode(node: Node, nowMs: number): Granted<string> {
    const index = this.#nodeBlocks.get(node.id) ?? this.#meshBlocks.take(nowMs);
    const block = index === undefined ? undefined : subBlock(this.#mesh, MESH_BLOCK_PREFIX, index);
    if (index === undefined || block === undefined) {
      return { refusal: `no free /${MESH_BLOCK_PREFIX} block in the mesh pool ${formatCidr(this.#mesh)}` };
    }
    this.#nodeBlocks.set(node.id, index);
    return { value: formatCidr(block) };
  }

  releaseNode(nodeId: string, nowMs: number): void {
    const index = this.#nodeBlocks.get(nodeId);
    if (index !== undefined) this.#meshBlocks.release(index, nowMs);
    this.#nodeBlocks.delete(nodeId);
  }

  grantNetwork(network: Network, nowMs: number): Granted<NonNullable<Network["allocation"]>> {
    const subnets = this.#grantSubnets(network);
    if ("refusal" in subnets) return subnets;
    const asked = Number(
      network.spec.Options?.["com.docker.network.driver.overlay.vxlanid_list"]?.split(",")[0],
    );
    const vni =
      Number.isInteger(asked) && asked > 0 && this.#vnis.reserve(asked) ? asked : this.#vnis.take(nowMs);
    if (vni === undefined) {
      this.#subnets.release(network.id);
      return { refusal: "no free VXLAN network identifier" };
    }
    const allocation = { vni, subnets: subnets.value };
    this.#networkVnis.set(network.id, vni);
    this.#pools.set(network.id, new NetworkPool({ ...network, allocation }));
    return { value: allocation };
  }

  releaseNetwork(networkId: string, nowMs: number): void {
    const vni = this.#networkVnis.get(networkId);
    if (vni !== undefined) this.#vnis.release(vni, nowMs);
    this.#networkVnis.delete(networkId);
    this.#pools.delete(networkId);
    this.#subnets.release(networkId);
  }

  /**
   * The endpoint that the service's spec asks for, keeping what it has; what it no longer asks for is given back. Refused, the
   * service goes on with the endpoint that it has, so that nothing of that is given back.
   */
  grantService(service: Service, view: StoreView, nowMs: number): Granted<Endpoint> {
    const mode = service.spec.EndpointSpec?.Mode === "dnsrr" ? "dnsrr" : "vip";
    this.#serviceNames.set(service.id, service.spec.Name);
    const ports = this.#grantPorts(service, nowMs);
    if ("refusal" in ports) return ports;
    const isPublished = (each: Port): boolean => !isHost(each);
    const keys = (of: readonly Port[]): string[] =>
      of.filter(isPublished).map((each) => portKey(each.Protocol, each.PublishedPort));
    const virtualIps = this.#grantVips(service, view, nowMs);
    if ("refusal" in virtualIps) {
      this.#keepPorts(service.id, [...keys(ports.value), ...keys(service.endpoint?.ports ?? [])], nowMs);
      return virtualIps;
    }
    this.#keepPorts(service.id, keys(ports.value), nowMs);
    return { value: { spec: { Mode: mode }, ports: ports.value, virtualIps: virtualIps.value } };
  }

  releaseService(serviceId: string, nowMs: number): void {
    for (const [networkId, vip] of this.#vips.get(serviceId) ?? [])
      this.#pools.get(networkId)?.release(vip, nowMs);
    this.#vips.delete(serviceId);
    this.#serviceNames.delete(serviceId);
    for (const [key, holder] of this.#portHolders) if (holder === serviceId) this.#releasePort(key, nowMs);
  }

  grantTask(
    task: Task,
    service: Service,
    view: StoreView,
    nowMs: number,
  ): Granted<readonly NetworkAttachment[]> {
    const attachments: NetworkAttachment[] = [];
    const held: { networkId: string; address: string }[] = [];
    const undo = (refusal: string): Granted<never> => {
      for (const each of held) this.#pools.get(each.networkId)?.release(each.address, nowMs);
      return { refusal };
    };
    for (const { Target, Aliases } of task.spec.Networks ?? service.spec.Networks ?? []) {
      const network = view.get("network", Target);
      if (network === undefined && !LOCAL_NETWORKS.has(Target)) return undo(`network ${Target} not found`);
      const attachment = { networkId: Target, addresses: [] as string[], aliases: Aliases ?? [] };
      attachments.push(attachment);
      if (network === undefined || !needsAllocation(network)) continue;
      const pool = this.#pools.get(Target);
      const addresses = pool?.take(nowMs);
      if (pool === undefined) return undo(`network ${network.spec.Name} has no subnet yet`);
      if (addresses === undefined) return undo(exhausted(view, Target));
      held.push(...addresses.map((address) => ({ networkId: Target, address })));
      attachment.addresses.push(...addresses.map((address) => pool.withMask(address)));
    }
    if (held.length > 0) this.#taskAddresses.set(task.id, held);
    return { value: attachments };
  }

  /** True if the task held anything. */
  releaseTask(taskId: string, nowMs: number): boolean {
    const held = this.#taskAddresses.get(taskId);
    if (held === undefined) return false;
    for (const { networkId, address } of held) this.#pools.get(networkId)?.release(address, nowMs);
    return this.#taskAddresses.delete(taskId);
  }

  /**
   * The node's guests with the addresses that they can have now: what they hold, what they ask for, or any. One whose wish
   * another holds, or whose network is not for them, stays without.
   */
  grantGuests(node: Node, view: StoreView, nowMs: number): readonly NodeGuest[] {
    const held = this.#guestAddresses.get(node.id) ?? new Map();
    this.#guestAddresses.set(node.id, held);
    return (node.guests ?? []).map((guest) => {
      const { networkId, wanted } = guest;
      const network = view.get("network", networkId);
      const pool = this.#pools.get(networkId);
      if (network?.spec.Attachable !== true || pool === undefined) return guest;
      const key = guestKey(guest);
      const address = held.get(key)?.address ?? takeAddress(pool, wanted, nowMs);
      if (address === undefined) return guest;
      held.set(key, { networkId, address });
      return { ...guest, address: pool.withMask(address) };
    });
  }

  /** Takes back what guests that are gone from the node held, or that want another address now. True if that was anything. */
  releaseGuests(nodeId: string, guests: readonly NodeGuest[], nowMs: number): boolean {
    const wishes = new Map(guests.map((guest) => [guestKey(guest), guest.wanted]));
    let isAny = false;
    const held = this.#guestAddresses.get(nodeId);
    for (const [key, { networkId, address }] of held ?? []) {
      const wish = wishes.get(key);
      if (wish === "" || wish === address) continue;
      this.#pools.get(networkId)?.release(address, nowMs);
      held?.delete(key);
      isAny = true;
    }
    if (held?.size === 0) this.#guestAddresses.delete(nodeId);
    return isAny;
  }

  /**
   * When the next address of any network, port or mesh block leaves quarantine, after `nowMs`: what is out of it by then could
   * be had already.
   */
  nextFreeMs(nowMs: number): number | undefined {
    let next: number | undefined;
    for (const pool of [...this.#pools.values(), ...this.#autoPorts.values(), this.#meshBlocks]) {
      const ms = pool.nextFreeMs(nowMs);
      if (ms !== undefined && (next === undefined || ms < next)) next = ms;
    }
    return next;
  }

  #grantSubnets(network: Network): Granted<{ subnet: string; gateway: string }[]> {
    const granted: { subnet: string; gateway: string }[] = [];
    const refuse = (refusal: string): Granted<never> => {
      this.#subnets.release(network.id);
      return { refusal };
    };
    const configs = (network.spec.IPAM?.Config ?? []).filter((config) => config.Subnet);
    for (const config of configs) {
      const block = this.#grantWanted(network, config);
      if ("refusal" in block) return refuse(block.refusal);
      granted.push(block.value);
    }
    if (granted.some((each) => !each.subnet.includes(":"))) return { value: granted };
    if (granted.length > 0 && network.spec.EnableIPv6 === true) return { value: granted };
    const block = this.#subnets.take(network.id);
    if (block === undefined) return refuse("no free subnet in the default address pool");
    const gateway =
      configs.length === 0 ? network.spec.IPAM?.Config?.find((each) => each.Gateway)?.Gateway : undefined;
    return {
      value: [{ subnet: formatCidr(block), gateway: gateway ?? gatewayOf(block, undefined) }, ...granted],
    };
  }

  #grantWanted(network: Network, config: IPAMConfig): Granted<{ subnet: string; gateway: string }> {
    try {
      const block = parseCidr(config.Subnet ?? "");
      const holder = this.#subnets.conflict(block, network.id);
      if (holder !== undefined) {
        return { refusal: `subnet ${config.Subnet} overlaps with one of network ${holder}` };
      }
      const gateway = gatewayOf(block, config.Gateway);
      this.#subnets.reserve(network.id, block);
      return { value: { subnet: formatCidr(block), gateway } };
    } catch (caught) {
      return { refusal: caught instanceof Error ? caught.message : String(caught) };
    }
  }

  #grantPorts(service: Service, nowMs: number): Granted<readonly Port[]> {
    const specs = service.spec.EndpointSpec?.Ports ?? [];
    const before = (service.endpoint?.ports ?? []).filter((port) => !isHost(port));
    const ports: Port[] = [];
    const kept = new Set<string>();
    const taken: string[] = [];
    const undo = (refusal: string): Granted<never> => {
      for (const key of taken) this.#releasePort(key, nowMs);
      return { refusal };
    };
    for (const spec of specs) {
      const Protocol = protocolOf(spec);
      const port = {
        Protocol,
        TargetPort: spec.TargetPort,
        PublishMode: isHost(spec) ? "host" : "ingress",
      } as const;
      if (isHost(spec)) {
        ports.push({ ...port, PublishedPort: spec.PublishedPort ?? 0 });
        continue;
      }
      // A port that we chose stays the service's as long as it asks for none by number.
      const same = before.find(
        (each) =>
          each.TargetPort === spec.TargetPort &&
          each.Protocol === Protocol &&
          !kept.has(portKey(Protocol, each.PublishedPort)),
      );
      const number = spec.PublishedPort || same?.PublishedPort || this.#autoPorts.get(Protocol)?.take(nowMs);
      if (number === undefined)
        return undo(`no free ${Protocol} port in ${PUBLISHED_PORT_FIRST}-${PUBLISHED_PORT_LAST}`);
      const key = portKey(Protocol, number);
      const holder = this.#portHolders.get(key);
      if (holder !== undefined && holder !== service.id) {
        const name = this.#serviceNames.get(holder) ?? holder;
        return undo(`port '${number}' is already in use by service '${name}' (${holder}) as an ingress port`);
      }
      if (holder === undefined) {
        this.#holdPort(key, service.id);
        taken.push(key);
      }
      kept.add(key);
      ports.push({ ...port, PublishedPort: number });
    }
    return { value: ports };
  }

  /** Gives back the service's ports but those. */
  #keepPorts(serviceId: string, keys: readonly string[], nowMs: number): void {
    const kept = new Set(keys);
    for (const [key, holder] of this.#portHolders)
      if (holder === serviceId && !kept.has(key)) this.#releasePort(key, nowMs);
  }

  #grantVips(service: Service, view: StoreView, nowMs: number): Granted<Endpoint["virtualIps"]> {
    const wanted = new Set<string>();
    const held = this.#vips.get(service.id) ?? new Map<string, string>();
    this.#vips.set(service.id, held);
    for (const { Target } of service.spec.EndpointSpec?.Mode === "dnsrr" ? [] : networksOf(service.spec)) {
      const network = view.get("network", Target);
      if (network === undefined || !needsAllocation(network)) continue;
      if (!this.#pools.has(Target)) return { refusal: `network ${network.spec.Name} has no subnet yet` };
      wanted.add(Target);
    }
    for (const networkId of wanted) {
      if (held.has(networkId)) continue;
      const pool = this.#pools.get(networkId);
      const vip = pool === undefined ? undefined : takeAddress(pool, "", nowMs);
      if (vip === undefined) return { refusal: exhausted(view, networkId) };
      held.set(networkId, vip);
    }
    for (const [networkId, vip] of held) {
      if (wanted.has(networkId)) continue;
      this.#pools.get(networkId)?.release(vip, nowMs);
      held.delete(networkId);
    }
    return { value: [...wanted].map((networkId) => ({ networkId, addr: held.get(networkId) ?? "" })) };
  }

  #holdPort(key: string, serviceId: string): void {
    this.#portHolders.set(key, serviceId);
    const [protocol, number] = splitPortKey(key);
    this.#autoPorts.get(protocol)?.reserve(number);
  }

  #releasePort(key: string, nowMs: number): void {
    this.#portHolders.delete(key);
    const [protocol, number] = splitPortKey(key);
    this.#autoPorts.get(protocol)?.release(number, nowMs);
  }

  #adoptNode(node: Node): void {
    if (node.meshSubnet === undefined) return;
    const block = parseCidr(node.meshSubnet);
    const index = Number((block.base - this.#mesh.base) / block.count);
    if (this.#meshBlocks.contains(index) && this.#meshBlocks.reserve(index))
      this.#nodeBlocks.set(node.id, index);
  }

  #adoptNetwork(network: Network): void {
    const allocation = network.allocation;
    if (allocation === undefined) return;
    for (const each of allocation.subnets) this.#subnets.reserve(network.id, parseCidr(each.subnet));
    this.#vnis.reserve(allocation.vni);
    this.#networkVnis.set(network.id, allocation.vni);
    this.#pools.set(network.id, new NetworkPool(network));
  }

  #adoptService(service: Service): void {
    this.#serviceNames.set(service.id, service.spec.Name);
    for (const port of service.endpoint?.ports ?? []) {
      if (!isHost(port)) this.#holdPort(portKey(port.Protocol, port.PublishedPort), service.id);
    }
    const vips = new Map<string, string>();
    for (const { networkId, addr } of service.endpoint?.virtualIps ?? []) {
      if (this.#pools.get(networkId)?.reserve(addr) === true) vips.set(networkId, addr);
    }
    this.#vips.set(service.id, vips);
  }

  #adoptTask(task: Task): void {
    const held: { networkId: string; address: string }[] = [];
    for (const { networkId, addresses } of task.networks) {
      for (const masked of addresses) {
        const address = withoutMask(masked);
        if (this.#pools.get(networkId)?.reserve(address) === true) held.push({ networkId, address });
      }
    }
    if (held.length > 0) this.#taskAddresses.set(task.id, held);
  }

  #adoptGuests(node: Node): void {
    const held = new Map<string, { readonly networkId: string; readonly address: string }>();
    for (const guest of node.guests ?? []) {
      const address = withoutMask(guest.address);
      if (address === "" || this.#pools.get(guest.networkId)?.reserve(address) !== true) continue;
      held.set(guestKey(guest), { networkId: guest.networkId, address });
    }
    if (held.size > 0) this.#guestAddresses.set(node.id, held);
  }
}

function takeAddress(pool: NetworkPool, wanted: string, nowMs: number): string | undefined {
  if (wanted !== "") return pool.isHost(wanted) && pool.reserve(wanted) ? wanted : undefined;
  const taken = pool.take(nowMs);
  if (taken === undefined) return undefined;
  const [address, ...others] = taken;
  for (const other of others) pool.release(other, nowMs);
  return address;
}

function portKey(protocol: Protocol, number: number): string {
  return `${protocol}/${number}`;
}

function splitPortKey(key: string): readonly [protocol: Protocol, number: number] {
  const [protocol = "", number = ""] = key.split("/");
  return [protocol as Protocol, Number(number)];
}

function exhausted(view: StoreView, networkId: string): string {
  const network = view.get("network", networkId);
  const subnets = (network?.allocation?.subnets ?? []).map((each) => each.subnet).join(", ");
  return `no free address in network ${network?.spec.Name ?? networkId} (${subnets})`;
}
