/**
 * Published ports of this machine's containers: reading Docker's bindings, and holding each host port by a socket of the
 * daemon, so that no other program takes it and a second container is refused. Packets themselves go through the packet
 * filter; what reaches the IPv6 wildcard is relayed here.
 */
import { createSocket } from "node:dgram";
import type { Socket as UdpSocket } from "node:dgram";
import { readFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import type { Server, Socket } from "node:net";
import { ClusterError } from "../../common/errors.ts";
import type { ContainerConfig, HostConfig } from "../../model/engine.ts";
import { tryParseAddress } from "./addresses.ts";
import type { OutsidePorts } from "./slirp-ports.ts";

export type HostProtocol = "tcp" | "udp";

export interface PortRequest {
  readonly protocol: HostProtocol;
  readonly containerPort: number;
  /** "0.0.0.0" for all addresses. */
  readonly hostIp: string;
  /** Range of ports to choose from; 0 to 0: any that is free. */
  readonly first: number;
  readonly last: number;
}

export interface PublishedPort {
  readonly protocol: HostProtocol;
  readonly containerPort: number;
  readonly hostIp: string;
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
export function parsePortKey(key: string): { readonly port: number; readonly protocol: HostProtocol } {
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

function parseHostIp(text: string, fallback: string): string {
  if (text === "" || text === "0.0.0.0") return text === "" ? fallback : text;
  if (text === "::") return "0.0.0.0";
  if (tryParseAddress(text) === undefined)
    throw new ClusterError("invalid_argument", `invalid host IP "${text}": it must be IPv4`);
  return text;
}

/** What `-p` and `-P` ask for, sorted by container port. */
export function portRequests(
  hostConfig: HostConfig,
  config: ContainerConfig,
  defaultHostIp = "0.0.0.0",
): PortRequest[] {
  const requests: PortRequest[] = [];
  const bindings = hostConfig.PortBindings ?? {};
  for (const [key, wanted] of Object.entries(bindings)) {
    const { port, protocol } = parsePortKey(key);
    for (const binding of wanted ?? []) {
      const hostIp = parseHostIp(binding.HostIp ?? "", defaultHostIp);
      const range = parseRange(binding.HostPort ?? "");
      const request = { protocol, containerPort: port, hostIp, ...range };
      // CLIs ask for 0.0.0.0 and :: side by side; both are one here.
      if (!requests.some((each) => JSON.stringify(each) === JSON.stringify(request))) requests.push(request);
    }
  }
  if (hostConfig.PublishAllPorts === true) {
    for (const key of Object.keys(config.ExposedPorts ?? {})) {
      const { port, protocol } = parsePortKey(key);
      const isBound = (bindings[key] ?? []).length > 0;
      if (!isBound)
        requests.push({ protocol, containerPort: port, hostIp: defaultHostIp, first: 0, last: 0 });
    }
  }
  return requests.toSorted((one, other) => one.containerPort - other.containerPort);
}

interface Holder {
  close(): Promise<void>;
}

function listenTcp(hostIp: string, port: number): Promise<Server> {
  return new Promise((resolve, reject) => {
    const server = createServer((socket) => socket.destroy());
    server.once("error", reject);
    server.listen({ host: hostIp, port, exclusive: true }, () => {
      server.off("error", reject);
      resolve(server);
    });
  });
}

function bindUdp(hostIp: string, port: number): Promise<UdpSocket> {
  return new Promise((resolve, reject) => {
    const socket = createSocket("udp4");
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
  one.pipe(other);
  other.pipe(one);
  const end = (): void => {
    one.destroy();
    other.destroy();
  };
  one.on("error", end);
  other.on("error", end);
}

/** Serves the IPv6 wildcard for a port of all addresses; undefined where there is no IPv6 or the port is taken there. */
function relayIpv6(
  hostPort: number,
  target: () => { host: string; port: number } | undefined,
): Promise<Server | undefined> {
  return new Promise((resolve) => {
    const server = createServer({ allowHalfOpen: true }, (socket) => {
      const to = target();
      if (to === undefined) socket.destroy();
      else joinBothWays(socket, connect({ ...to, allowHalfOpen: true }));
    });
    server.once("error", () => resolve(undefined));
    server.listen({ host: "::", port: hostPort, ipv6Only: true, exclusive: true }, () => resolve(server));
  });
}

function closeServer(server: Server): Promise<void> {
  return new Promise((resolve) => server.close(() => resolve()));
}

function isTaken(caught: unknown): boolean {
  return (
    caught instanceof Error && "code" in caught && (caught.code === "EADDRINUSE" || caught.code === "EACCES")
  );
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

  /** Takes a port as asked. `target` is where IPv6 clients are relayed to, once known. */
  async take(
    request: PortRequest,
    target: () => { host: string; port: number } | undefined,
  ): Promise<PublishedPort> {
    const { protocol, containerPort, hostIp } = request;
    if (request.first > 0) {
      for (let port = request.first; port <= request.last; port += 1) {
        if (await this.#hold(protocol, hostIp, port, target))
          return { protocol, containerPort, hostIp, hostPort: port };
      }
      throw new ClusterError(
        "internal",
        `Bind for ${hostIp}:${request.first} failed: port is already allocated`,
      );
    }
    for (let attempt = 0; attempt < EPHEMERAL_ATTEMPTS; attempt += 1) {
      const port = this.#cursor;
      this.#cursor = port >= this.#range.last ? this.#range.first : port + 1;
      if (await this.#hold(protocol, hostIp, port, target))
        return { protocol, containerPort, hostIp, hostPort: port };
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

  async #hold(
    protocol: HostProtocol,
    hostIp: string,
    port: number,
    target: () => { host: string; port: number } | undefined,
  ): Promise<boolean> {
    const key = keyOf(protocol, hostIp, port);
    if (this.#holders.has(key)) return false;
    try {
      // Packets for a port of the outside come to whatever address this namespace has.
      const address = this.#outside === undefined ? hostIp : "0.0.0.0";
      const holder = protocol === "udp" ? await holdUdp(address, port) : await holdTcp(address, port, target);
      const giveBack = await this.#outside?.take(protocol, hostIp, port).catch(async (caught: unknown) => {
        await holder.close();
        throw caught;
      });
      if (this.#outside !== undefined && giveBack === undefined) {
        await holder.close();
        return false;
      }
      this.#holders.set(key, {
        close: async () => {
          await holder.close();
          await giveBack?.();
        },
      });
      return true;
    } catch (caught) {
      if (isTaken(caught)) return false;
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

async function holdUdp(hostIp: string, port: number): Promise<Holder> {
  const socket = await bindUdp(hostIp, port);
  return { close: () => new Promise((resolve) => socket.close(resolve)) };
}

async function holdTcp(
  hostIp: string,
  port: number,
  target: () => { host: string; port: number } | undefined,
): Promise<Holder> {
  const server = await listenTcp(hostIp, port);
  const relay = hostIp === "0.0.0.0" ? await relayIpv6(port, target) : undefined;
  return {
    async close(): Promise<void> {
      await closeServer(server);
      if (relay !== undefined) await closeServer(relay);
    },
  };
}
