/**
 * Links, addresses, routes, neighbours, forwarding entries and rules as rtnetlink requests, and what the kernel has of them.
 * The builders are pure and make no difference between "not there" and "there already": callers batch them and say which
 * refusals they tolerate. Addresses and routes of both families, all else IPv4. Everything made here carries ROUTE_PROTOCOL
 * where the kernel has a field for it.
 */
import { addressBytes, bytesToAddress, bytesToMac, macBytes } from "./addresses.ts";
import { addressBytes6, bytesToAddress6 } from "./addresses6.ts";
import { hasErrno } from "./libc.ts";
import type { NetlinkSocket } from "./netlink-socket.ts";
import {
  decodeAttributes,
  NLM_F_CREATE,
  NLM_F_EXCL,
  NLM_F_REPLACE,
  nested,
  numberOf,
  plainNested,
  text,
  textOf,
  attribute,
  u16be,
  u32,
  u8,
} from "./netlink-wire.ts";
import type { Request } from "./netlink-wire.ts";

export const ESRCH = 3;
export const ENOENT = 2;
export const EEXIST = 17;
export const ENODEV = 19;
export const EAFNOSUPPORT = 97;
export const EADDRNOTAVAIL = 99;

/** Marks our routes and rules in `ip route` (shown as "proto 83"). */
export const ROUTE_PROTOCOL = 83;
export const MAIN_TABLE = 254;

const AF_INET = 2;
const AF_INET6 = 10;
const AF_BRIDGE = 7;
const NEW_LINK = 16;
const DELETE_LINK = 17;
const GET_LINK = 18;
const NEW_ADDRESS = 20;
const GET_ADDRESS = 22;
const NEW_ROUTE = 24;
const DELETE_ROUTE = 25;
const GET_ROUTE = 26;
const NEW_NEIGHBOUR = 28;
const DELETE_NEIGHBOUR = 29;
const GET_NEIGHBOUR = 30;
const NEW_RULE = 32;
const DELETE_RULE = 33;
const GET_RULE = 34;

const IFLA_ADDRESS = 1;
const IFLA_IFNAME = 3;
const IFLA_MTU = 4;
const IFLA_LINK = 5;
const IFLA_MASTER = 10;
const IFLA_LINKINFO = 18;
const IFLA_IFALIAS = 20;
const IFLA_NET_NS_FD = 28;
const IFLA_NUM_TX_QUEUES = 31;
const IFLA_NUM_RX_QUEUES = 32;
const IFLA_INFO_KIND = 1;
const IFLA_INFO_DATA = 2;
const IFF_UP = 1;

function isIpv6(address: string): boolean {
  return address.includes(":");
}

function bytesOf(address: string): Buffer {
  return isIpv6(address) ? addressBytes6(address) : addressBytes(address);
}

const ONE_QUEUE: readonly Buffer[] = [u32(IFLA_NUM_TX_QUEUES, 1), u32(IFLA_NUM_RX_QUEUES, 1)];

interface LinkHeader {
  readonly index?: number;
  readonly flags?: number;
  readonly change?: number;
}

function linkHeader(header: LinkHeader = {}): Buffer {
  const bytes = Buffer.alloc(16);
  bytes.writeInt32LE(header.index ?? 0, 4);
  bytes.writeUInt32LE(header.flags ?? 0, 8);
  bytes.writeUInt32LE(header.change ?? 0, 12);
  return bytes;
}

/** What a link may be given at birth or later. */
export interface LinkSettings {
  readonly mac?: string;
  readonly mtu?: number;
  /** Index of the bridge it belongs to; 0 releases it. */
  readonly master?: number;
  /** Descriptor of the namespace it is to live in. */
  readonly namespace?: number;
  readonly rename?: string;
  readonly alias?: string;
}

function settingAttributes(settings: LinkSettings): Buffer[] {
  return [
    ...(settings.mac === undefined ? [] : [attribute(IFLA_ADDRESS, macBytes(settings.mac))]),
    ...(settings.mtu === undefined ? [] : [u32(IFLA_MTU, settings.mtu)]),
    ...(settings.master === undefined ? [] : [u32(IFLA_MASTER, settings.master)]),
    ...(settings.namespace === undefined ? [] : [u32(IFLA_NET_NS_FD, settings.namespace)]),
    ...(settings.rename === undefined ? [] : [text(IFLA_IFNAME, settings.rename)]),
    ...(settings.alias === undefined ? [] : [text(IFLA_IFALIAS, settings.alias)]),
  ];
}

function createLink(name: string, kind: string, data: readonly Buffer[], settings: LinkSettings): Request {
  return {
    type: NEW_LINK,
    flags: NLM_F_CREATE | NLM_F_EXCL,
    action: `add ${kind} "${name}"`,
    body: Buffer.concat([
      linkHeader(),
      text(IFLA_IFNAME, name),
      ...settingAttributes(settings),
      plainNested(
        IFLA_LINKINFO,
        text(IFLA_INFO_KIND, kind),
        ...(data.length === 0 ? [] : [plainNested(IFLA_INFO_DATA, ...data)]),
      ),
    ]),
  };
}

export function addBridge(name: string, settings: LinkSettings = {}): Request {
  const IFLA_BR_FORWARD_DELAY = 1;
  const IFLA_BR_STP_STATE = 5;
  return createLink(name, "bridge", [u32(IFLA_BR_FORWARD_DELAY, 0), u32(IFLA_BR_STP_STATE, 0)], settings);
}

/**
 * With one queue each: left to itself the kernel makes one for each CPU, which only programs on the packets' way (XDP)
 * would use.
 */
export function addVeth(
  name: string,
  settings: LinkSettings,
  peer: LinkSettings & { readonly name: string },
): Request {
  const VETH_INFO_PEER = 1;
  const data = plainNested(
    VETH_INFO_PEER,
    linkHeader(),
    text(IFLA_IFNAME, peer.name),
    ...settingAttributes(peer),
    ...ONE_QUEUE,
  );
  const request = createLink(name, "veth", [data], settings);
  return { ...request, body: Buffer.concat([request.body, ...ONE_QUEUE]) };
}

export interface VxlanOptions {
  readonly vni: number;
  /** UDP port. */
  readonly port: number;
  /** This node's end. Absent: by route. */
  readonly local?: string;
}

/** Without learning and without checksums on the outer packet (the inner ones have their own). */
export function addVxlan(name: string, options: VxlanOptions, settings: LinkSettings = {}): Request {
  const [id, local, learning, port, checksum] = [1, 4, 7, 15, 18];
  const data = [
    u32(id, options.vni),
    u16be(port, options.port),
    u8(learning, 0),
    u8(checksum, 0),
    ...(options.local === undefined ? [] : [attribute(local, addressBytes(options.local))]),
  ];
  return createLink(name, "vxlan", data, settings);
}

/** A macvlan or ipvlan device on `parent`. `mode` is the kernel's number of the kind. */
export function addSubLink(
  name: string,
  kind: "macvlan" | "ipvlan",
  options: { readonly parent: number; readonly mode: number },
  settings: LinkSettings = {},
): Request {
  const mode = kind === "macvlan" ? u32(1, options.mode) : attribute(1, Buffer.from([options.mode, 0]));
  const request = createLink(name, kind, [mode], settings);
  return { ...request, body: Buffer.concat([request.body, u32(IFLA_LINK, options.parent)]) };
}

/** Changes a link by name: settings, and up or down. */
export function setLink(name: string, settings: LinkSettings & { readonly isUp?: boolean }): Request {
  const header = settings.isUp === undefined ? {} : { flags: settings.isUp ? IFF_UP : 0, change: IFF_UP };
  return {
    type: NEW_LINK,
    flags: 0,
    action: `change link "${name}"`,
    body: Buffer.concat([
      linkHeader(header),
      ...(settings.rename === undefined ? [text(IFLA_IFNAME, name)] : []),
      ...settingAttributes(settings),
    ]),
  };
}

/**
 * The bridge may send back by this port what came in by it: needed where a packet filter turns a container's traffic to
 * itself.
 */
export function reflectOnPort(index: number): Request {
  const [SET_LINK, IFLA_PROTINFO, IFLA_BRPORT_MODE] = [19, 12, 4];
  const header = linkHeader({ index });
  header[0] = AF_BRIDGE;
  return {
    type: SET_LINK,
    flags: 0,
    action: `let bridge port ${index} reflect`,
    body: Buffer.concat([header, nested(IFLA_PROTINFO, u8(IFLA_BRPORT_MODE, 1))]),
  };
}

export function deleteLink(name: string): Request {
  return {
    type: DELETE_LINK,
    flags: 0,
    action: `delete link "${name}"`,
    body: Buffer.concat([linkHeader(), text(IFLA_IFNAME, name)]),
  };
}

export interface LinkState {
  readonly index: number;
  readonly name: string;
  readonly kind: string;
  readonly mac: string;
  readonly mtu: number;
  readonly master: number;
  readonly alias: string;
  readonly isUp: boolean;
  /** Attributes of the kind (IFLA_INFO_DATA), raw. */
  readonly details: ReadonlyMap<number, Buffer>;
}

function decodeLink(body: Buffer): LinkState {
  const attributes = decodeAttributes(body, 16);
  const info = decodeAttributes(attributes.get(IFLA_LINKINFO) ?? Buffer.alloc(0));
  return {
    index: body.readInt32LE(4),
    name: textOf(attributes.get(IFLA_IFNAME)),
    kind: textOf(info.get(IFLA_INFO_KIND)),
    mac: bytesToMac(attributes.get(IFLA_ADDRESS) ?? Buffer.alloc(0)),
    mtu: numberOf(attributes.get(IFLA_MTU)),
    master: numberOf(attributes.get(IFLA_MASTER)),
    alias: textOf(attributes.get(IFLA_IFALIAS)),
    isUp: (body.readUInt32LE(8) & IFF_UP) !== 0,
    details: decodeAttributes(info.get(IFLA_INFO_DATA) ?? Buffer.alloc(0)),
  };
}

function getLink(socket: NetlinkSocket, name: string): Buffer | undefined {
  const body = Buffer.concat([linkHeader(), text(IFLA_IFNAME, name)]);
  try {
    return socket.get({ type: GET_LINK, flags: 0, body, action: `find link "${name}"` }).body;
  } catch (caught) {
    if (hasErrno(caught, "ENODEV")) return undefined;
    throw caught;
  }
}

/** The link of that name, or undefined. */
export function findLink(socket: NetlinkSocket, name: string): LinkState | undefined {
  const body = getLink(socket, name);
  return body === undefined ? undefined : decodeLink(body);
}

/** Its index alone. */
export function findLinkIndex(socket: NetlinkSocket, name: string): number | undefined {
  return getLink(socket, name)?.readInt32LE(4);
}

export function listLinks(socket: NetlinkSocket): LinkState[] {
  const replies = socket.dump({ type: GET_LINK, flags: 0, body: linkHeader(), action: "list links" });
  return replies.map((reply) => decodeLink(reply.body));
}

function broadcastOf(address: Buffer, prefixLength: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE((address.readUInt32BE(0) | (2 ** (32 - prefixLength) - 1)) >>> 0);
  return bytes;
}

function addressMessage(type: number, flags: number, index: number, options: AddressOptions): Request {
  const IFA_F_NOPREFIXROUTE = 0x200;
  const IFA_F_NODAD = 2;
  const header = Buffer.alloc(8);
  header[0] = isIpv6(options.address) ? AF_INET6 : AF_INET;
  header[1] = options.prefixLength;
  // We give out addresses and know that nobody else has this one: it serves at once.
  header[2] = isIpv6(options.address) ? IFA_F_NODAD : 0;
  header[3] = options.scope ?? 0;
  header.writeInt32LE(index, 4);
  const address = bytesOf(options.address);
  const [ifaAddress, ifaLocal, ifaBroadcast, ifaFlags] = [1, 2, 4, 8];
  const hasBroadcast =
    !isIpv6(options.address) && options.prefixLength < 31 && options.isWithoutRoute !== true;
  return {
    type,
    flags,
    action: `${type === NEW_ADDRESS ? "add" : "delete"} address ${options.address}/${options.prefixLength}`,
    body: Buffer.concat([
      header,
      attribute(ifaLocal, address),
      attribute(ifaAddress, address),
      // Programs that look for others of their kind ask the interface for it (SIOCGIFBRDADDR).
      ...(hasBroadcast ? [attribute(ifaBroadcast, broadcastOf(address, options.prefixLength))] : []),
      ...(options.isWithoutRoute === true ? [u32(ifaFlags, IFA_F_NOPREFIXROUTE)] : []),
    ]),
  };
}

export interface AddressOptions {
  readonly address: string;
  readonly prefixLength: number;
  /** The kernel makes no route to the prefix. */
  readonly isWithoutRoute?: boolean;
  readonly scope?: number;
}

export function addAddress(index: number, options: AddressOptions): Request {
  return addressMessage(NEW_ADDRESS, NLM_F_CREATE | NLM_F_REPLACE, index, options);
}

export interface AddressState {
  readonly index: number;
  readonly address: string;
  readonly prefixLength: number;
}

export function listAddresses(socket: NetlinkSocket): AddressState[] {
  const body = Buffer.alloc(8);
  body[0] = AF_INET;
  return socket.dump({ type: GET_ADDRESS, flags: 0, body, action: "list addresses" }).map((reply) => {
    const attributes = decodeAttributes(reply.body, 8);
    return {
      index: reply.body.readInt32LE(4),
      address: bytesToAddress(attributes.get(2) ?? attributes.get(1) ?? Buffer.alloc(4)),
      prefixLength: reply.body[1] ?? 0,
    };
  });
}

const ROUTE_KINDS = { unicast: 1, local: 2, blackhole: 6, unreachable: 7 } as const;
const SCOPES = { universe: 0, link: 253, host: 254 } as const;

export interface RouteOptions {
  /** "0.0.0.0" or "::" with length 0 for the default route. */
  readonly destination: string;
  readonly prefixLength: number;
  readonly device?: number;
  readonly via?: string;
  /** `via` counts as a neighbour even where no route says so. */
  readonly isOnLink?: boolean;
  readonly kind?: keyof typeof ROUTE_KINDS;
  readonly scope?: keyof typeof SCOPES;
  readonly table?: number;
  readonly source?: string;
  readonly metric?: number;
}

function routeMessage(type: number, flags: number, options: RouteOptions): Request {
  const RTNH_F_ONLINK = 4;
  const [dst, oif, gateway, priority, prefsrc, tableAttribute] = [1, 4, 5, 6, 7, 15];
  const table = options.table ?? MAIN_TABLE;
  const header = Buffer.alloc(12);
  header[0] = isIpv6(options.destination) ? AF_INET6 : AF_INET;
  header[1] = options.prefixLength;
  header[4] = table < 256 ? table : 0;
  header[5] = ROUTE_PROTOCOL;
  header[6] = SCOPES[options.scope ?? (options.kind === "local" ? "host" : "universe")];
  header[7] = ROUTE_KINDS[options.kind ?? "unicast"];
  header.writeUInt32LE(options.isOnLink === true ? RTNH_F_ONLINK : 0, 8);
  return {
    type,
    flags,
    action: `${type === NEW_ROUTE ? "add" : "delete"} route ${options.destination}/${options.prefixLength}`,
    body: Buffer.concat([
      header,
      ...(options.prefixLength === 0 ? [] : [attribute(dst, bytesOf(options.destination))]),
      ...(options.device === undefined ? [] : [u32(oif, options.device)]),
      ...(options.via === undefined ? [] : [attribute(gateway, bytesOf(options.via))]),
      ...(options.source === undefined ? [] : [attribute(prefsrc, addressBytes(options.source))]),
      ...(options.metric === undefined ? [] : [u32(priority, options.metric)]),
      u32(tableAttribute, table),
    ]),
  };
}

/** Whether there is an IPv6 default route in the main table. */
export function hasDefaultRoute6(socket: NetlinkSocket): boolean {
  const body = Buffer.alloc(12);
  body[0] = AF_INET6;
  const replies = socket.dump({ type: GET_ROUTE, flags: 0, body, action: "list IPv6 routes" });
  return replies.some((reply) => {
    const [prefixLength, table, kind] = [reply.body[1], reply.body[4], reply.body[7]];
    return prefixLength === 0 && table === MAIN_TABLE && kind === ROUTE_KINDS.unicast;
  });
}

/** IPv6 addresses of all links but the link-local ones. */
export function listAddresses6(socket: NetlinkSocket): AddressState[] {
  const SCOPE_LINK = 253;
  const body = Buffer.alloc(8);
  body[0] = AF_INET6;
  const replies = socket.dump({ type: GET_ADDRESS, flags: 0, body, action: "list IPv6 addresses" });
  return replies
    .filter((reply) => reply.body[3] !== SCOPE_LINK)
    .map((reply) => ({
      index: reply.body.readInt32LE(4),
      address: bytesToAddress6(decodeAttributes(reply.body, 8).get(1) ?? Buffer.alloc(16)),
      prefixLength: reply.body[1] ?? 0,
    }));
}

/** Adds, or replaces the route to the same prefix in the same table. */
export function replaceRoute(options: RouteOptions): Request {
  return routeMessage(NEW_ROUTE, NLM_F_CREATE | NLM_F_REPLACE, options);
}

/** Adds a route; refused with EEXIST where there is one to the prefix. */
export function addRoute(options: RouteOptions): Request {
  return routeMessage(NEW_ROUTE, NLM_F_CREATE | NLM_F_EXCL, options);
}

export function deleteRoute(options: RouteOptions): Request {
  return routeMessage(DELETE_ROUTE, 0, options);
}

export interface RouteState {
  readonly destination: string;
  readonly prefixLength: number;
  readonly device: number;
  readonly via: string;
  readonly table: number;
  readonly protocol: number;
  readonly kind: number;
}

export function listRoutes(socket: NetlinkSocket): RouteState[] {
  const body = Buffer.alloc(12);
  body[0] = AF_INET;
  return socket.dump({ type: GET_ROUTE, flags: 0, body, action: "list routes" }).map((reply) => {
    const attributes = decodeAttributes(reply.body, 12);
    const via = attributes.get(5);
    return {
      destination: bytesToAddress(attributes.get(1) ?? Buffer.alloc(4)),
      prefixLength: reply.body[1] ?? 0,
      device: numberOf(attributes.get(4)),
      via: via === undefined ? "" : bytesToAddress(via),
      table: numberOf(attributes.get(15), reply.body[4] ?? 0),
      protocol: reply.body[5] ?? 0,
      kind: reply.body[7] ?? 0,
    };
  });
}

interface NeighbourHeader {
  readonly family: number;
  readonly device: number;
  readonly flags: number;
}

function neighbourMessage(
  type: number,
  flags: number,
  header: NeighbourHeader,
  ip: string,
  mac: string,
): Request {
  const NUD_PERMANENT = 0x80;
  const [dst, linkAddress] = [1, 2];
  const bytes = Buffer.alloc(12);
  bytes[0] = header.family;
  bytes.writeInt32LE(header.device, 4);
  bytes.writeUInt16LE(NUD_PERMANENT, 8);
  bytes[10] = header.flags;
  return {
    type,
    flags,
    action: `${type === NEW_NEIGHBOUR ? "set" : "delete"} neighbour ${ip} at ${mac}`,
    body: Buffer.concat([
      bytes,
      attribute(dst, addressBytes(ip)),
      ...(mac === "" ? [] : [attribute(linkAddress, macBytes(mac))]),
    ]),
  };
}

/** A permanent ARP entry. */
export function replaceNeighbour(device: number, ip: string, mac: string): Request {
  const header = { family: AF_INET, device, flags: 0 };
  return neighbourMessage(NEW_NEIGHBOUR, NLM_F_CREATE | NLM_F_REPLACE, header, ip, mac);
}

export function deleteNeighbour(device: number, ip: string): Request {
  return neighbourMessage(DELETE_NEIGHBOUR, 0, { family: AF_INET, device, flags: 0 }, ip, "");
}

const NTF_SELF = 2;

/** Frames for `mac` go through the tunnel to `ip`. */
export function replaceForwarding(device: number, mac: string, ip: string): Request {
  const header = { family: AF_BRIDGE, device, flags: NTF_SELF };
  return neighbourMessage(NEW_NEIGHBOUR, NLM_F_CREATE | NLM_F_REPLACE, header, ip, mac);
}

export function deleteForwarding(device: number, mac: string, ip: string): Request {
  return neighbourMessage(DELETE_NEIGHBOUR, 0, { family: AF_BRIDGE, device, flags: NTF_SELF }, ip, mac);
}

export interface NeighbourState {
  readonly device: number;
  readonly ip: string;
  readonly mac: string;
  readonly isPermanent: boolean;
}

function listNeighbourFamily(socket: NetlinkSocket, family: number): NeighbourState[] {
  const body = Buffer.alloc(12);
  body[0] = family;
  return socket.dump({ type: GET_NEIGHBOUR, flags: 0, body, action: "list neighbours" }).map((reply) => {
    const attributes = decodeAttributes(reply.body, 12);
    const ip = attributes.get(1);
    return {
      device: reply.body.readInt32LE(4),
      ip: ip?.length === 4 ? bytesToAddress(ip) : "",
      mac: bytesToMac(attributes.get(2) ?? Buffer.alloc(0)),
      isPermanent: (reply.body.readUInt16LE(8) & 0x80) !== 0,
    };
  });
}

export function listNeighbours(socket: NetlinkSocket): NeighbourState[] {
  return listNeighbourFamily(socket, AF_INET);
}

export function listForwarding(socket: NetlinkSocket): NeighbourState[] {
  return listNeighbourFamily(socket, AF_BRIDGE);
}

export interface RuleOptions {
  readonly priority: number;
  readonly mark: number;
  readonly mask: number;
  readonly table: number;
}

function ruleMessage(type: number, flags: number, options: RuleOptions): Request {
  const FR_ACT_TO_TBL = 1;
  const [priority, mark, tableAttribute, mask, protocol] = [6, 10, 15, 16, 21];
  const header = Buffer.alloc(12);
  header[0] = AF_INET;
  header[4] = options.table < 256 ? options.table : 0;
  header[7] = FR_ACT_TO_TBL;
  return {
    type,
    flags,
    action: `${type === NEW_RULE ? "add" : "delete"} rule for mark ${options.mark}`,
    body: Buffer.concat([
      header,
      u32(priority, options.priority),
      u32(mark, options.mark),
      u32(mask, options.mask),
      u32(tableAttribute, options.table),
      u8(protocol, ROUTE_PROTOCOL),
    ]),
  };
}

/** Packets with `mark` (under `mask`) are routed by `table`. */
export function addRule(options: RuleOptions): Request {
  return ruleMessage(NEW_RULE, NLM_F_CREATE | NLM_F_EXCL, options);
}

export function deleteRule(options: RuleOptions): Request {
  return ruleMessage(DELETE_RULE, 0, options);
}

export interface RuleState extends RuleOptions {
  readonly protocol: number;
}

export function listRules(socket: NetlinkSocket): RuleState[] {
  const body = Buffer.alloc(12);
  body[0] = AF_INET;
  return socket.dump({ type: GET_RULE, flags: 0, body, action: "list rules" }).map((reply) => {
    const attributes = decodeAttributes(reply.body, 12);
    return {
      priority: numberOf(attributes.get(6)),
      mark: numberOf(attributes.get(10)),
      mask: numberOf(attributes.get(16)),
      table: numberOf(attributes.get(15), reply.body[4] ?? 0),
      protocol: attributes.get(21)?.[0] ?? 0,
    };
  });
}
