/** Containers' interfaces on bridges: making, finding and taking them away. Keeps no descriptor of a container's namespace. */
import { ClusterError } from "../../common/errors.ts";
import { freeInterfaceName, interfaceWithAddress, linkIndex } from "./container-link.ts";
import { NetworkNamespace } from "./namespace.ts";
import {
  addAddress,
  addVeth,
  findLink,
  listRoutes,
  MAIN_TABLE,
  reflectOnPort,
  replaceRoute,
  setLink,
} from "./routing.ts";

export interface BridgedLink {
  readonly hostName: string;
  readonly bridge: string;
  readonly pid: number;
  readonly mtu: number;
  readonly mac: string;
  readonly address: string;
  readonly prefixLength: number;
  /** "" on internal networks. */
  readonly gateway: string;
  /** It publishes ports, and may ask for them itself. */
  readonly isReflecting: boolean;
}

function hasDefaultRoute(container: NetworkNamespace): boolean {
  return listRoutes(container.route).some((route) => route.table === MAIN_TABLE && route.prefixLength === 0);
}

/** Gives the container an interface on the bridge, and its default route if it has none yet. */
export async function plugBridged(root: NetworkNamespace, link: BridgedLink): Promise<void> {
  const container = NetworkNamespace.ofProcess(link.pid);
  try {
    if (findLink(root.route, link.hostName) !== undefined) await root.deleteLinks([link.hostName]);
    const name = freeInterfaceName(container);
    const { mac, mtu } = link;
    root.route.send([
      addVeth(
        link.hostName,
        { mtu, master: linkIndex(root, link.bridge) },
        { name, mac, mtu, namespace: container.fd },
      ),
      setLink(link.hostName, { isUp: true }),
    ]);
    if (link.isReflecting) root.route.send([reflectOnPort(linkIndex(root, link.hostName))]);
    const index = linkIndex(container, name);
    container.route.send([
      setLink("lo", { isUp: true }),
      addAddress(index, { address: link.address, prefixLength: link.prefixLength }),
      setLink(name, { isUp: true }),
    ]);
    if (link.gateway !== "" && !hasDefaultRoute(container)) addDefaultRoute(container, index, link.gateway);
  } finally {
    container.close();
  }
}

function addDefaultRoute(container: NetworkNamespace, device: number, gateway: string): void {
  container.route.send([replaceRoute({ destination: "0.0.0.0", prefixLength: 0, device, via: gateway })]);
}

/** After a network was taken away: another leads out, if the lost one did. */
export function closeDefaultRouteGap(
  pid: number,
  endpoint: { readonly ip: string; readonly gateway: string },
): void {
  const container = NetworkNamespace.ofProcess(pid);
  try {
    const device = interfaceWithAddress(container, endpoint.ip);
    if (device !== undefined && !hasDefaultRoute(container))
      addDefaultRoute(container, device, endpoint.gateway);
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
