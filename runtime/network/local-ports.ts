/**
 * Published ports of this machine's containers: reading Docker's bindings, and holding each host port by a socket of the
 * daemon, so that no other program takes it and a second container is refused. Packets themselves go through the packet
 * filter; what comes by IPv6 and can't go there is relayed here.
 */
import { createSocket } from "node:dgram";
import type { Socket as UdpSocket } from "node:dgram";
import { readFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import type { Server, Socket } from "node:net";
import { ipv4Number, ipv6Text } from "../../common/addresses.ts";
import { ClusterError, hasNodeCode } from "../../common/errors.ts";
import type { ContainerConfig, HostConfig } from "../../model/engine.ts";
import { tryParseAddress6 } from "./addresses6.ts";
import type { OutsidePorts } from "./slirp-ports.ts";
import { UdpRelay } from "./udp-relay.ts";

export type HostProtocol = "tcp" | "udp";

export interface PortRequest {
  readonly protocol: HostProtocol;
  readonly containerPort: number;
  /** "0.0.0.0" and "::" for all addresses of their kind. */
  readonly hostIp: string;
  /** With 0.0.0.0: on all IPv6 addresses too, where that can be had. */
  readonly isDual?: boolean;
  /** Range of ports to choose from; 0 to 0: any that is free. */
  readonly first: number;
  readonly last: number;
}

export interface PublishedPort {
  readonly protocol: HostProtocol;
  readonly containerPort: number;
  readonly hostIp: string;
  readonly isDual?: boolean;
  readonly hostPort: number;
}

const PORT_MAX = 65_535;
const EPHEMERAL_ATTEMPTS = 1_000;

function parsePort(text: string, what: string): number {
  const port = Number(text);
  if (!/^\d{1,5}$/.test(text) || port > PORT_MAX)
    throw new ClusterError("invalid_argument", `invalid ${what}: "${text}"`);
  return port;
}

/** "80/tcp" taken apart. */
function parsePortKey(key: string): { readonly port: number; readonly protocol: HostProtocol } {
  const [port = "", protocol = "tcp"] = key.split("/");
  if (protocol !== "tcp" && protocol !== "udp")
    throw new ClusterError("invalid_argument", `invalid port "${key}": protocol must be tcp or udp here`);
  return { port: parsePort(port, "container port"), protocol };
}

function parseRange(text: string): { readonly first: number; readonly last: number } {
  if (text === "") return { first: 0, last: 0 };
  const [first = "", last = first, ...rest] = text.split("-");
  const range = { first: parsePort(first, "host port"), last: parsePort(last, "host port") };
  if (rest.length > 0 || range.last < range.first)
    throw new ClusterError("invalid_argument", `invalid host port range: "${text}"`);
  return range;
}

function parseHostIp(text: string): Pick<PortRequest, "hostIp" | "isDual"> {
  if (text === "") return { hostIp: "0.0.0.0", isDual: true };
  const bare = text.replace(/^\[(.*)\]$/, "$1");
  if (ipv4Number(bare) !== undefined) return { hostIp: bare };
  const value = tryParseAddress6(bare);
  if (value === undefined)
    throw new ClusterError(
      "invalid_argument",
      `invalid host IP "${text}": it must be an IPv4 or IPv6 address`,
    );
  return { hostIp: ipv6Text(value) };
}

/** CLIs ask for 0.0.0.0 and :: side by side; both are one port then. */
function addRequest(requests: PortRequest[], request: PortRequest): void {
  const isWild = ({ hostIp }: PortRequest): boolean => hostIp === "0.0.0.0" || hostIp === "::";
  const at = requests.findIndex(
    (each) =>
      each.protocol === request.protocol &&
      each.containerPort === request.containerPort &&
      each.first === request.first &&
      each.last === request.last &&
      (each.hostIp === request.hostIp || (isWild(each) && isWild(request))),
  );
  const known = requests[at];
  if (known === undefined) requests.push(request);
  else if (known.hostIp !== request.hostIp || request.isDual === true)
    requests[at] = { ...known, hostIp: isWild(known) ? "0.0.0.0" : known.hostIp, isDual: true };
}

/** What `-p` and `-P` ask for, sorted by container port. `defaultIp`: of ports that name no address; "" and 0.0.0.0 for all of both families. */
export function portRequests(
  hostConfig: HostConfig,
  config: ContainerConfig,
  { defaultIp = "" }: { readonly defaultIp?: string } = {},
): PortRequest[] {
  const requests: PortRequest[] = [];
  const ownIp = defaultIp === "0.0.0.0" ? "" : defaultIp;
  const bindings = hostConfig.PortBindings ?? {};
  for (const [key, wanted] of Object.entries(bindings)) {
    const { port, protocol } = parsePortKey(key);
    for (const binding of wanted ?? []) {
      const host = parseHostIp(binding.HostIp || ownIp);
      const range = parseRange(binding.HostPort ?? "");
      addRequest(requests, { protocol, containerPort: port, ...host, ...range });
    }
  }
  if (hostConfig.PublishAllPorts === true) {
    for (const key of Object.keys(config.ExposedPorts ?? {})) {
      const { port, protocol } = parsePortKey(key);
      const isBound = (bindings[key] ?? []).length > 0;
      if (!isBound)
        requests.push({ protocol, containerPort: port, ...parseHostIp(ownIp), first: 0, last: 0 });
    }
  }
  return requests.toSorted((one, other) => one.containerPort - other.containerPort);
}

interface Holder {
  /** All IPv6 addresses have it too. */
  readonly isDual: boolean;
  close(): Promise<void>;
}

/** Where a port that is held leads to. */
export interface PortTarget {
  /** By IPv4, once known. */
  readonly address: () => { host: string; port: number } | undefined;
}

/** Opens a server that holds a port. Closing it ends its connections. */
function openServer(server: Server, host: string, port: number): Promise<Omit<Holder, "isDual">> {
  const connections = new Set<Socket>();
  server.on("connection", (socket) => {
    connections.add(socket);
    socket.once("close", () => connections.delete(socket));
  });
  const close = (): Promise<void> =>
    new Promise((resolve) => {
      server.close(() => resolve());
      for (const socket of connections) socket.destroy();
    });
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen({ host, port, ipv6Only: host.includes(":"), exclusive: true }, () => {
      server.off("error", reject);
      // A connection that could not be accepted, for want of memory or descriptors: the next one may be.
      server.on("error", () => {});
      resolve({ close });
    });
  });
}

/** Nobody answers: the packet filter leads elsewhere before anything comes here. */
function listenTcp(host: string, port: number): Promise<Omit<Holder, "isDual">> {
  return openServer(
    createServer((socket) => socket.destroy()),
    host,
    port,
  );
}

function bindUdp(hostIp: string, port: number): Promise<UdpSocket> {
  return new Promise((resolve, reject) => {
    const isIpv6 = hostIp.includes(":");
    const socket = createSocket({ type: isIpv6 ? "udp6" : "udp4", ipv6Only: isIpv6 });
    socket.once("error", (error) => {
      socket.close();
      reject(error);
    });
    socket.bind({ address: hostIp, port, exclusive: true }, () => {
      socket.removeAllListeners("error");
      socket.on("error", () => {});
      resolve(socket);
    });
  });
}

function joinBothWays(one: Socket, other: Socket): void {
  for (const [from, to] of [
    [one, other],
    [other, one],
  ] as const) {
    from.pipe(to);
    from.on("error", () => to.destroy());
    // What is on its way still gets there.
    from.on("close", () => to.destroySoon());
  }
}

/** Serves a port of an IPv6 address: what the packet filter doesn't turn (`::1`, containers without IPv6) is relayed. */
function relayIpv6(
  host: string,
  hostPort: number,
  target: PortTarget["address"],
): Promise<Omit<Holder, "isDual">> {
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    const to = target();
    if (to === undefined) socket.destroy();
    else joinBothWays(socket, connect({ ...to, allowHalfOpen: true }));
  });
  return openServer(server, host, hostPort);
}

function isTaken(caught: unknown): boolean {
  return hasNodeCode(caught, "EADDRINUSE", "EACCES");
}

/** The host ports that containers of this daemon hold. */
export class PortReservations {
  readonly #holders = new Map<string, Holder>();
  readonly #range: { readonly first: number; readonly last: number };
  readonly #outside: OutsidePorts | undefined;
  #cursor: number;

  /** `outside`: has the machine's ports where they are not this namespace's. */
  constructor(outside?: OutsidePorts, rangeFile = "/proc/sys/net/ipv4/ip_local_port_range") {
    this.#outside = outside;
    const [first = 32_768, last = 60_999] = readFileSync(rangeFile, "utf8").trim().split(/\s+/).map(Number);
    this.#range = { first, last };
    this.#cursor = first;
  }

  /** Takes a port as asked. */
  async take(request: PortRequest, target: PortTarget): Promise<PublishedPort> {
    const { protocol, containerPort, hostIp } = request;
    const published = (hostPort: number, { isDual }: Holder): PublishedPort => ({
      protocol,
      containerPort,
      hostIp,
      ...(isDual ? { isDual } : {}),
      hostPort,
    });
    if (request.first > 0) {
      for (let port = request.first; port <= request.last; port += 1) {
        const holder = await this.#hold(request, port, target);
        if (holder !== undefined) return published(port, holder);
      }
      throw new ClusterError(
        "internal",
        `Bind for ${hostIp}:${request.first} failed: port is already allocated`,
      );
    }
    for (let attempt = 0; attempt < EPHEMERAL_ATTEMPTS; attempt += 1) {
      const port = this.#cursor;
      this.#cursor = port >= this.#range.last ? this.#range.first : port + 1;
      const holder = await this.#hold(request, port, target);
      if (holder !== undefined) return published(port, holder);
    }
    throw new ClusterError("resource_exhausted", "all ports are allocated");
  }

  async release(port: PublishedPort): Promise<void> {
    const key = keyOf(port.protocol, port.hostIp, port.hostPort);
    const holder = this.#holders.get(key);
    this.#holders.delete(key);
    await holder?.close();
  }

  /** Once all that runs holds its ports again. */
  async settle(): Promise<void> {
    await this.#outside?.sweep();
  }

  async close(): Promise<void> {
    for (const holder of this.#holders.values()) await holder.close();
    this.#holders.clear();
  }

  /** Undefined if the port is taken. */
  async #hold(request: PortRequest, port: number, target: PortTarget): Promise<Holder | undefined> {
    const { protocol, hostIp } = request;
    const key = keyOf(protocol, hostIp, port);
    if (this.#holders.has(key)) return undefined;
    try {
      // Packets for a port of the outside come to whatever address this namespace has.
      const address = this.#outside === undefined ? hostIp : "0.0.0.0";
      const isDual = request.isDual === true && this.#outside === undefined;
      const holder = await (protocol === "udp" ? holdUdp : holdTcp)({ address, port, isDual, target });
      const giveBack = await this.#outside?.take(protocol, hostIp, port).catch(async (caught: unknown) => {
        await holder.close();
        throw caught;
      });
      if (this.#outside !== undefined && giveBack === undefined) {
        await holder.close();
        return undefined;
      }
      const held = {
        isDual: holder.isDual,
        close: async () => {
          await holder.close();
          await giveBack?.();
        },
      };
      this.#holders.set(key, held);
      return held;
    } catch (caught) {
      if (isTaken(caught)) return undefined;
      if (caught instanceof ClusterError) throw caught;
      throw new ClusterError(
        "internal",
        `failed to bind host port for ${hostIp}:${port}/${protocol}: cannot assign requested address`,
        { cause: caught },
      );
    }
  }
}

function keyOf(protocol: HostProtocol, hostIp: string, port: number): string {
  return `${protocol} ${hostIp} ${port}`;
}

interface HoldRequest {
  readonly address: string;
  readonly port: number;
  readonly isDual: boolean;
  readonly target: PortTarget;
}

/** What the IPv6 side of a port of all addresses is held by; undefined where there is no IPv6 or the port is taken there. */
function ifFree<T>(held: Promise<T>): Promise<T | undefined> {
  return held.catch(() => undefined);
}

/** Nobody answers on an IPv4 address: the packet filter leads elsewhere before anything comes here. */
async function holdUdp({ address, port, isDual, target }: HoldRequest): Promise<Holder> {
  const relayed = (socket: UdpSocket): UdpRelay => new UdpRelay(socket, { target: target.address });
  const socket = await bindUdp(address, port);
  const own = address.includes(":") ? relayed(socket) : undefined;
  const other = isDual ? await ifFree(bindUdp("::", port).then(relayed)) : undefined;
  return {
    isDual: other !== undefined,
    async close(): Promise<void> {
      await other?.close();
      if (own === undefined) await new Promise<void>((resolve) => socket.close(resolve));
      else await own.close();
    },
  };
}

async function holdTcp({ address, port, isDual, target }: HoldRequest): Promise<Holder> {
  const server = address.includes(":")
    ? await relayIpv6(address, port, target.address)
    : await listenTcp(address, port);
  const relay = isDual ? await ifFree(relayIpv6("::", port, target.address)) : undefined;
  return {
    isDual: relay !== undefined,
    async close(): Promise<void> {
      await server.close();
      await relay?.close();
    },
  };
}
