/**
 * One network interface of a container: a veth pair whose other end is in a namespace that routes or bridges for it. The
 * routed form needs no ARP: both ends know each other by permanent entries. Called when containers are attached, and again
 * by whoever repairs; never keeps a descriptor of the container's namespace.
 */
import { ClusterError } from "../../common/errors.ts";
import { hasErrno } from "./libc.ts";
import { NetworkNamespace } from "./namespace.ts";
import { attribute, plainNested, u32 } from "./netlink-wire.ts";
import type { Request } from "./netlink-wire.ts";
import type { LinkSettings } from "./routing.ts";
import {
  addAddress,
  addVeth,
  EAFNOSUPPORT,
  findLinkIndex,
  listAddresses,
  listLinks,
  replaceNeighbour,
  replaceRoute,
  setLink,
} from "./routing.ts";

/** The first finds a leftover pair, the second eth0 taken; more than that is somebody else at work. */
const PLUG_ATTEMPTS_MAX = 4;

export interface RoutedLink {
  /** Name of the end outside of the container. */
  readonly hostName: string;
  readonly hostMac: string;
  readonly containerMac: string;
  readonly mtu: number;
  readonly address: string;
  /** Shown in the container; nothing is on-link but the gateway. */
  readonly prefixLength: number;
  readonly gateway: string;
  /** Prefixes reached through it, "0.0.0.0/0" for all. */
  readonly destinations: readonly { readonly address: string; readonly prefixLength: number }[];
}

/** First name of eth0, eth1… that is free in the container. */
export function freeInterfaceName(container: NetworkNamespace): string {
  const taken = new Set(listLinks(container.route).map((link) => link.name));
  for (let index = 0; index < 1_000; index += 1) if (!taken.has(`eth${index}`)) return `eth${index}`;
  throw new ClusterError("resource_exhausted", "Cannot add an interface: the container has 1000 already");
}

/** Index of the container's interface with this address, or undefined. */
export function interfaceWithAddress(container: NetworkNamespace, address: string): number | undefined {
  return listAddresses(container.route).find((each) => each.address === address)?.index;
}

/** A pair to be made: its end outside, and what its end in the container needs beside a name. */
export interface VethPair {
  readonly hostName: string;
  readonly host: LinkSettings;
  readonly inside: LinkSettings;
}

/** True if made; false if one of the names is taken. */
function tryPair(
  host: NetworkNamespace,
  container: NetworkNamespace,
  options: { readonly pair: VethPair; readonly name: string },
): boolean {
  const { pair, name } = options;
  try {
    host.route.send([addVeth(pair.hostName, pair.host, { ...pair.inside, name, namespace: container.fd })]);
    return true;
  } catch (caught) {
    if (!hasErrno(caught, "EEXIST")) throw caught;
    return false;
  }
}

/**
 * Makes the pair and returns the container's name of its end: eth0, or the first that is free. Nothing is looked up
 * beforehand, which would cost as much as trying: nearly every container is new. What an earlier try left under the
 * host's name is replaced, unless `isWanted` says that it is good; undefined then. With `interfaceName` it has that name.
 */
export async function addPair(
  host: NetworkNamespace,
  container: NetworkNamespace,
  options: {
    readonly pair: VethPair;
    readonly isWanted: () => boolean;
    readonly interfaceName?: string;
  },
): Promise<string | undefined> {
  const { pair, isWanted, interfaceName } = options;
  let name = interfaceName ?? "eth0";
  for (let attempt = 1; !tryPair(host, container, { pair, name }); attempt++) {
    if (attempt >= PLUG_ATTEMPTS_MAX)
      throw new ClusterError(
        "unavailable",
        `Cannot add link "${pair.hostName}": its name is taken again and again`,
      );
    if (findLinkIndex(host.route, pair.hostName) !== undefined) {
      if (isWanted()) return undefined;
      await host.deleteLinks([pair.hostName]);
    }
    name = interfaceName ?? freeInterfaceName(container);
    if (interfaceName !== undefined && findLinkIndex(container.route, interfaceName) !== undefined)
      throw new ClusterError(
        "conflict",
        `Cannot add interface "${interfaceName}": the container has one of this name`,
      );
  }
  return name;
}

/** Gives a process's network this link, unless it has it. */
export async function plugRouted(host: NetworkNamespace, pid: number, link: RoutedLink): Promise<void> {
  const container = NetworkNamespace.ofProcess(pid);
  try {
    const { hostName, mtu } = link;
    const name = await addPair(host, container, {
      pair: { hostName, host: { mac: link.hostMac, mtu }, inside: { mac: link.containerMac, mtu } },
      isWanted: () => interfaceWithAddress(container, link.address) !== undefined,
    });
    if (name !== undefined) configure(host, container, { link, name });
  } finally {
    container.close();
  }
}

/** Gives both ends what they need. */
function configure(
  host: NetworkNamespace,
  container: NetworkNamespace,
  options: { readonly link: RoutedLink; readonly name: string },
): void {
  const { link, name } = options;
  const hostIndex = linkIndex(host, link.hostName);
  const index = linkIndex(container, name);
  container.route.send([withoutLinkLocal(index)], { tolerate: [EAFNOSUPPORT] });
  container.route.send([
    setLink("lo", { isUp: true }),
    setLink(name, { isUp: true }),
    addAddress(index, { address: link.address, prefixLength: link.prefixLength, isWithoutRoute: true }),
    replaceNeighbour(index, link.gateway, link.hostMac),
    replaceRoute({ destination: link.gateway, prefixLength: 32, device: index, scope: "link" }),
    ...link.destinations.map((each) =>
      replaceRoute({
        destination: each.address,
        prefixLength: each.prefixLength,
        device: index,
        via: link.gateway,
        isOnLink: true,
        source: link.address,
      }),
    ),
  ]);
  host.route.send([
    setLink(link.hostName, { isUp: true }),
    allowLoopbackSources(hostIndex),
    replaceNeighbour(hostIndex, link.address, link.containerMac),
    replaceRoute({ destination: link.address, prefixLength: 32, device: hostIndex, scope: "link" }),
  ]);
}

/**
 * Lets this device carry packets that a local process sent to 127.0.0.1 and that were redirected to a container.
 * Whoever sets it must also drop packets to 127.0.0.0/8 that come in by the device.
 */
export function allowLoopbackSources(index: number): Request {
  const [AF_INET, IFLA_INET_CONF, ROUTE_LOCALNET] = [2, 1, 26];
  const setting = plainNested(AF_INET, plainNested(IFLA_INET_CONF, u32(ROUTE_LOCALNET, 1)));
  return familySetting(index, setting, `allow loopback sources on link ${index}`);
}

/**
 * Keeps the kernel from giving this device, which is still down, an IPv6 address by itself: one that leads nowhere makes
 * resolvers believe that there is IPv6 here, and clients try that first. EAFNOSUPPORT on kernels without IPv6.
 */
export function withoutLinkLocal(index: number): Request {
  const [AF_INET6, IFLA_INET6_ADDR_GEN_MODE, NONE] = [10, 8, 1];
  const setting = plainNested(AF_INET6, attribute(IFLA_INET6_ADDR_GEN_MODE, Buffer.from([NONE])));
  return familySetting(index, setting, `keep IPv6 addresses off link ${index}`);
}

function familySetting(index: number, setting: Buffer, action: string): Request {
  const [NEW_LINK, IFLA_AF_SPEC] = [16, 26];
  const header = Buffer.alloc(16);
  header.writeInt32LE(index, 4);
  return {
    type: NEW_LINK,
    flags: 0,
    action,
    body: Buffer.concat([header, plainNested(IFLA_AF_SPEC, setting)]),
  };
}

/** Index of a link that must be there. */
export function linkIndex(namespace: NetworkNamespace, name: string): number {
  const index = findLinkIndex(namespace.route, name);
  if (index === undefined)
    throw new ClusterError("not_found", `Cannot find link "${name}": it is not in its namespace`);
  return index;
}
