/**
 * A UDP port of an IPv6 address, relayed to a container that has none: each client gets a socket of its own towards the
 * container, so that answers find their way back. The container sees this machine as its client. Answers leave by the address
 * that the kernel chooses, which on a machine of several may be another one than was asked.
 */
import { createSocket } from "node:dgram";
import type { RemoteInfo, Socket } from "node:dgram";

/** Clients at a time; one more takes the place of the one that has been silent longest. */
const CLIENT_COUNT_MAX = 256;
/** Datagrams of a client that may wait for its socket. */
const WAITING_COUNT_MAX = 16;
/** As long as docker-proxy remembers a client. */
const IDLE_MS = 90_000;

interface Client {
  readonly socket: Socket;
  readonly idle: NodeJS.Timeout;
  /** Until the socket is connected. */
  waiting: Buffer[] | undefined;
}

export interface UdpRelayOptions {
  /** Where datagrams go; undefined while the container has no address: they are dropped. */
  readonly target: () => { readonly host: string; readonly port: number } | undefined;
  readonly clientCountMax?: number;
  readonly idleMs?: number;
}

export class UdpRelay {
  readonly #socket: Socket;
  readonly #options: UdpRelayOptions;
  /** By address and port, the one that spoke last at the end. */
  readonly #clients = new Map<string, Client>();
  #isClosed = false;

  /** `socket`: bound; it belongs to the relay from here on. */
  constructor(socket: Socket, options: UdpRelayOptions) {
    this.#socket = socket;
    this.#options = options;
    socket.on("message", (data, from) => this.#toContainer(data, from));
  }

  get clientCount(): number {
    return this.#clients.size;
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    for (const key of this.#clients.keys()) this.#forget(key);
    await new Promise<void>((resolve) => this.#socket.close(resolve));
  }

  #toContainer(data: Buffer, from: RemoteInfo): void {
    const key = `${from.address} ${from.port}`;
    const client = this.#clients.get(key) ?? this.#open(key, from);
    if (client === undefined) return;
    this.#clients.delete(key);
    this.#clients.set(key, client);
    client.idle.refresh();
    if (client.waiting === undefined) client.socket.send(data, () => {});
    else if (client.waiting.length < WAITING_COUNT_MAX) client.waiting.push(data);
  }

  #open(key: string, { address, port }: RemoteInfo): Client | undefined {
    const to = this.#options.target();
    if (to === undefined) return undefined;
    const { clientCountMax = CLIENT_COUNT_MAX, idleMs = IDLE_MS } = this.#options;
    const [eldest] = this.#clients.keys();
    if (eldest !== undefined && this.#clients.size >= clientCountMax) this.#forget(eldest);
    // The container's address is a number: the resolver's queue has no part in that.
    const socket = createSocket({ type: "udp4", lookup: (host, _options, done) => done(null, host, 4) });
    const idle = setTimeout(() => this.#forget(key), idleMs).unref();
    const client: Client = { socket, idle, waiting: [] };
    socket.on("message", (data) => {
      if (this.#isClosed) return;
      idle.refresh();
      this.#socket.send(data, port, address, () => {});
    });
    // Nobody listens there: a datagram is lost, as datagrams may be. One that could not be opened serves nobody.
    socket.on("error", () => {
      if (client.waiting !== undefined) this.#forget(key, client);
    });
    socket.connect(to.port, to.host, () => {
      const waiting = client.waiting ?? [];
      client.waiting = undefined;
      for (const data of waiting) socket.send(data, () => {});
    });
    this.#clients.set(key, client);
    return client;
  }

  #forget(key: string, only?: Client): void {
    const client = this.#clients.get(key);
    if (client === undefined || (only !== undefined && client !== only)) return;
    this.#clients.delete(key);
    clearTimeout(client.idle);
    client.socket.close();
  }
}
