/**
 * Containers' interfaces on bridges: making, finding and taking them away. Keeps no descriptor of a container's
 * namespace.
 */
import { ClusterError } from "../../common/errors.ts";
import {
  addPair,
  freeInterfaceName,
  interfaceWithAddress,
  linkIndex,
  withoutLinkLocal,
} from "./container-link.ts";
import type { EndpointOptions } from "./endpoint-options.ts";
import type { Ipv6Endpoint, LocalEndpoint } from "./local-describe.ts";
import { NetworkNamespace } from "./namespace.ts";
import type { Request } from "./netlink-wire.ts";
import {
  addAddress,
  addRoute,
  addSubLink,
  EAFNOSUPPORT,
  EEXIST,
  hasDefaultRoute6,
  listLinks,
  listRoutes,
  MAIN_TABLE,
  reflectOnPort,
  replaceRoute,
  setLink,
} from "./routing.ts";

export interface BridgedLink {
  readonly hostName: string;
  readonly bridgeIndex: number;
  readonly pid: number;
  readonly mtu: number;
  readonly mac: string;
  readonly address: string;
  readonly prefixLength: number;
  /** "" on internal networks. */
  readonly gateway: string;
  readonly ipv6?: Ipv6Endpoint;
  /** It publishes ports, and may ask for them itself. */
  readonly isReflecting: boolean;
  readonly options: EndpointOptions;
}

/** What the user asked of the interface itself; last, so that it holds. */
function applySysctls(container: NetworkNamespace, name: string, { sysctls }: EndpointOptions): void {
  for (const { path, value } of sysctls) {
    try {
      container.setSysctls({ [path.replace("IFNAME", name)]: value });
    } catch (caught) {
      throw new ClusterError("invalid_argument", `Cannot set net/${path} of "${name}" to "${value}"`, {
        cause: caught,
      });
    }
  }
}

function hasDefaultRoute(container: NetworkNamespace): boolean {
  return listRoutes(container.route).some((route) => route.table === MAIN_TABLE && route.prefixLength === 0);
}

/** Gives the container an interface on the bridge, and its default route if it has none yet. */
export async function plugBridged(root: NetworkNamespace, link: BridgedLink): Promise<void> {
  const container = NetworkNamespace.ofProcess(link.pid);
  try {
    const { mac, mtu, hostName } = link;
    const { interfaceName } = link.options;
    const name = await addPair(root, container, {
      pair: { hostName, host: { mtu, master: link.bridgeIndex }, inside: { mac, mtu } },
      isWanted: () => false,
      ...(interfaceName === undefined ? {} : { interfaceName }),
    });
    if (name === undefined) return;
    root.route.send([setLink(hostName, { isUp: true })]);
    if (link.isReflecting) root.route.send([reflectOnPort(linkIndex(root, hostName))]);
    const index = linkIndex(container, name);
    const leadsOut = link.gateway !== "" && (name === "eth0" || !hasDefaultRoute(container));
    container.route.send(
      [
        setLink("lo", { isUp: true }),
        ...(link.ipv6 === undefined ? [withoutLinkLocal(index)] : []),
        addAddress(index, { address: link.address, prefixLength: link.prefixLength }),
        setLink(name, { isUp: true }),
        ...(leadsOut ? [firstDefaultRoute(index, link.gateway)] : []),
      ],
      // A default route that is there stays as it is; nothing else can be refused with this.
      { tolerate: [EEXIST, EAFNOSUPPORT] },
    );
    if (link.ipv6 !== undefined) addIpv6(container, { index, name, ipv6: link.ipv6 });
    applySysctls(container, name, link.options);
  } finally {
    container.close();
  }
}

function addIpv6(
  container: NetworkNamespace,
  { index, name, ipv6 }: { readonly index: number; readonly name: string; readonly ipv6: Ipv6Endpoint },
): void {
  // Off by default on some hosts, which new namespaces may take over.
  container.setSysctls({ [`ipv6/conf/${name}/disable_ipv6`]: "0" });
  container.route.send([addAddress(index, { address: ipv6.ip, prefixLength: ipv6.prefixLength })]);
  ensureDefaultRoute6(container, index, ipv6.gateway);
}

function ensureDefaultRoute6(container: NetworkNamespace, device: number, gateway: string): void {
  if (gateway === "" || hasDefaultRoute6(container.route)) return;
  container.route.send([replaceRoute({ destination: "::", prefixLength: 0, via: gateway, device })]);
}

export interface SubLink {
  readonly kind: "macvlan" | "ipvlan";
  /** The host's interface that it shares. */
  readonly parent: string;
  /** Docker's word for it, "" for the usual one. */
  readonly mode: string;
  readonly pid: number;
  readonly mac: string;
  readonly address: string;
  readonly prefixLength: number;
  readonly gateway: string;
  readonly options: EndpointOptions;
}

const MODES: Readonly<Record<SubLink["kind"], Readonly<Record<string, number>>>> = {
  macvlan: { "": 4, bridge: 4, private: 1, vepa: 2, passthru: 8 },
  ipvlan: { "": 0, l2: 0, l3: 1, l3s: 2 },
};

/** Refuses a mode that the kind does not have. */
export function subLinkMode(kind: SubLink["kind"], mode: string): number {
  const number = MODES[kind][mode];
  if (number === undefined) throw new ClusterError("invalid_argument", `unknown ${kind} mode "${mode}"`);
  return number;
}

/** Gives the container an interface of its own on the host's network, beside the host's. */
export function plugShared(root: NetworkNamespace, link: SubLink): void {
  const container = NetworkNamespace.ofProcess(link.pid);
  try {
    const name = link.options.interfaceName ?? freeInterfaceName(container);
    const options = { parent: linkIndex(root, link.parent), mode: subLinkMode(link.kind, link.mode) };
    const mac = link.kind === "macvlan" ? { mac: link.mac } : {};
    root.route.send([addSubLink(name, link.kind, options, { ...mac, namespace: container.fd })]);
    const index = linkIndex(container, name);
    container.route.send([withoutLinkLocal(index)], { tolerate: [EAFNOSUPPORT] });
    container.route.send([
      setLink("lo", { isUp: true }),
      addAddress(index, { address: link.address, prefixLength: link.prefixLength }),
      setLink(name, { isUp: true }),
    ]);
    if (link.gateway !== "" && !hasDefaultRoute(container)) addDefaultRoute(container, index, link.gateway);
    applySysctls(container, name, link.options);
  } finally {
    container.close();
  }
}

/** Takes the interface with this address out of the container; fine if it is gone. */
export async function unplugShared(pid: number, address: string): Promise<void> {
  const container = NetworkNamespace.ofProcess(pid);
  try {
    const index = interfaceWithAddress(container, address);
    const link = listLinks(container.route).find((each) => each.index === index);
    if (link !== undefined) await container.deleteLinks([link.name]);
  } finally {
    container.close();
  }
}

function addDefaultRoute(container: NetworkNamespace, device: number, gateway: string): void {
  container.route.send([replaceRoute({ destination: "0.0.0.0", prefixLength: 0, device, via: gateway })]);
}

/** Refused where there is one. */
function firstDefaultRoute(device: number, gateway: string): Request {
  return addRoute({ destination: "0.0.0.0", prefixLength: 0, device, via: gateway });
}

/** After a network was taken away: another leads out, if the lost one did. */
export function closeDefaultRouteGap(
  pid: number,
  { ip, gateway, ipv6 }: Pick<LocalEndpoint, "ip" | "gateway" | "ipv6">,
): void {
  const container = NetworkNamespace.ofProcess(pid);
  try {
    const device = interfaceWithAddress(container, ip);
    if (device === undefined) return;
    if (gateway !== "" && !hasDefaultRoute(container)) addDefaultRoute(container, device, gateway);
    if (ipv6 !== undefined) ensureDefaultRoute6(container, device, ipv6.gateway);
  } finally {
    container.close();
  }
}

/** Index of the process's interface that has the address; undefined if there is none, or no process. */
export function interfaceOf(pid: number, address: string): number | undefined {
  try {
    const container = NetworkNamespace.ofProcess(pid);
    try {
      return interfaceWithAddress(container, address);
    } finally {
      container.close();
    }
  } catch (caught) {
    if (ClusterError.from(caught).code === "not_found") return undefined;
    throw caught;
  }
}
