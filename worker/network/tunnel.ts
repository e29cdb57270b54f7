/**
 * VXLAN devices: made so that outer packets use the node's underlay, whatever namespace the device lives in; and the kernel
 * objects by which one device reaches the other nodes. Used by the mesh and by every overlay.
 */
import { formatBlock, parseBlock } from "../../runtime/network/addresses.ts";
import type { KernelObject } from "../../runtime/network/kernel-set.ts";
import type { NetworkNamespace } from "../../runtime/network/namespace.ts";
import { numberOf } from "../../runtime/network/netlink-wire.ts";
import { linkIndex } from "../../runtime/network/container-link.ts";
import {
  addVxlan,
  deleteForwarding,
  deleteNeighbour,
  deleteRoute,
  findLink,
  listAddresses,
  listForwarding,
  listLinks,
  listNeighbours,
  listRoutes,
  replaceForwarding,
  replaceNeighbour,
  replaceRoute,
  ROUTE_PROTOCOL,
  setLink,
} from "../../runtime/network/routing.ts";
import type { LinkState, RouteOptions } from "../../runtime/network/routing.ts";
import { DEFAULT_UNDERLAY_MTU_BYTES, UNDERLAY_MTU_BYTES_MAX, VXLAN_OVERHEAD_BYTES } from "./limits.ts";
import type { TunnelEnd } from "./peers.ts";

export interface TunnelDevice {
  readonly name: string;
  readonly vni: number;
  readonly port: number;
  /** Underlay address of this node; "" where the host does not have it itself. */
  readonly local: string;
  readonly mac: string;
  readonly mtu: number;
}

/** MTU of what carries `address`, less the tunnel's headers. `local` is "" when no link has the address. */
export function underlay(
  root: NetworkNamespace,
  address: string,
): { readonly mtu: number; readonly local: string } {
  const owner = listAddresses(root.route).find((each) => each.address === address);
  const link = listLinks(root.route).find((each) => each.index === owner?.index);
  const isUsable = link !== undefined && link.name !== "lo";
  const mtu = isUsable ? Math.min(link.mtu, UNDERLAY_MTU_BYTES_MAX) : DEFAULT_UNDERLAY_MTU_BYTES;
  return { mtu: mtu - VXLAN_OVERHEAD_BYTES, local: owner === undefined ? "" : address };
}

function isSameTunnel(link: LinkState, device: TunnelDevice): boolean {
  const [id, local, port] = [1, 4, 15];
  const localBytes = link.details.get(local);
  return (
    link.kind === "vxlan" &&
    numberOf(link.details.get(id)) === device.vni &&
    link.details.get(port)?.readUInt16BE(0) === device.port &&
    (localBytes === undefined ? "" : Array.from(localBytes).join(".")) === device.local
  );
}

/** Makes or mends the device in `home`. True if it was made anew, and so has lost all that was on it. */
export async function ensureTunnel(
  root: NetworkNamespace,
  home: NetworkNamespace,
  device: TunnelDevice,
): Promise<boolean> {
  const found = findLink(home.route, device.name);
  const isKept = found !== undefined && isSameTunnel(found, device);
  if (found !== undefined && !isKept) await home.deleteLinks([device.name]);
  const settings = { mac: device.mac, mtu: device.mtu };
  if (!isKept) {
    const { vni, port, local } = device;
    const options = local === "" ? { vni, port } : { vni, port, local };
    root.route.send([addVxlan(device.name, options, { ...settings, namespace: home.fd })]);
  } else if (found.mtu !== device.mtu || found.mac !== device.mac) {
    home.route.send([setLink(device.name, settings)]);
  }
  if (found?.isUp !== true || !isKept) home.route.send([setLink(device.name, { isUp: true })]);
  return !isKept;
}

export function routeObject(route: RouteOptions): KernelObject {
  const { destination, prefixLength, table, via = "", device = 0, kind = "unicast" } = route;
  return {
    key: `route ${destination}/${prefixLength} table ${table ?? 254}`,
    content: `${kind === "unicast" ? `${via} dev ${device}` : kind}`,
    add: replaceRoute(route),
    remove: deleteRoute({ destination, prefixLength, ...(table === undefined ? {} : { table }), kind }),
  };
}

function neighbourObject(device: number, ip: string, mac: string): KernelObject {
  return {
    key: `neighbour ${ip} dev ${device}`,
    content: mac,
    add: replaceNeighbour(device, ip, mac),
    remove: deleteNeighbour(device, ip),
  };
}

function forwardingObject(device: number, mac: string, ip: string): KernelObject {
  return {
    key: `forwarding ${mac} dev ${device}`,
    content: ip,
    add: replaceForwarding(device, mac, ip),
    remove: deleteForwarding(device, mac, ip),
  };
}

/** One neighbour and one forwarding entry for each node, however many endpoints it has. */
export function tunnelObjects(device: number, ends: readonly TunnelEnd[]): KernelObject[] {
  return ends.flatMap((end) => [
    neighbourObject(device, end.address, end.mac),
    forwardingObject(device, end.mac, end.dataPathAddress),
  ]);
}

/** Route to a whole block or a single address (`prefix`, CIDR) behind a node. */
export function routeThrough(device: number, prefix: string, end: TunnelEnd): KernelObject {
  const block = parseBlock(prefix);
  const [destination = "", length = ""] = formatBlock(block).split("/");
  return routeObject({
    destination,
    prefixLength: Number(length),
    device,
    via: end.address,
    isOnLink: true,
  });
}

const KIND_NAMES: Readonly<Record<number, "unicast" | "local" | "unreachable">> = {
  1: "unicast",
  2: "local",
  7: "unreachable",
};

/**
 * What the kernel has in `home` of the kinds that a tunnel's owner makes: entries of the device and routes with our protocol
 * that `isOwned` accepts.
 */
export function observeTunnel(
  home: NetworkNamespace,
  deviceName: string,
  isOwned: (route: {
    readonly device: number;
    readonly table: number;
    readonly destination: string;
  }) => boolean,
): KernelObject[] {
  const device = linkIndex(home, deviceName);
  const neighbours = listNeighbours(home.route)
    .filter((each) => each.device === device && each.isPermanent)
    .map((each) => neighbourObject(device, each.ip, each.mac));
  const forwarding = listForwarding(home.route)
    .filter((each) => each.device === device && each.ip !== "")
    .map((each) => forwardingObject(device, each.mac, each.ip));
  const routes = listRoutes(home.route)
    .filter((each) => each.protocol === ROUTE_PROTOCOL && isOwned(each))
    .map((each) => {
      const kind = KIND_NAMES[each.kind] ?? "unicast";
      const { destination, prefixLength, table, via } = each;
      const base = { destination, prefixLength, ...(table === 254 ? {} : { table }), kind };
      return routeObject(
        via === "" ? { ...base, device: each.device } : { ...base, device: each.device, via, isOnLink: true },
      );
    });
  return [...neighbours, ...forwarding, ...routes];
}
