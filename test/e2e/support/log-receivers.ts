/** Collectors of logs for tests: each takes what comes over a real socket, and can go away and come back at the same place. */
import * as dgram from "node:dgram";
import * as net from "node:net";
import * as tls from "node:tls";
import { unlinkSync } from "node:fs";
import koffi from "koffi";

/** What all have in common. */
export interface Receiver {
  /** Datagrams, or what each connection has brought so far. */
  readonly received: readonly Buffer[];
  /** As after a crash: what was not read is lost, connections break. */
  stop(): Promise<void>;
}

export interface StreamPlace {
  /** A port of the loopback address (0: any that is free), or a path. */
  readonly at: number | string;
  readonly tls?: tls.TlsOptions;
  /** Called with all that a connection has brought whenever more comes; answers what it returns. */
  readonly heard?: (bytes: Buffer, socket: net.Socket) => Buffer | undefined;
}

export class StreamReceiver implements Receiver {
  readonly received: Buffer[] = [];
  readonly #server: net.Server;
  readonly #sockets = new Set<net.Socket>();

  private constructor(server: net.Server, heard: StreamPlace["heard"]) {
    this.#server = server;
    const event = server instanceof tls.Server ? "secureConnection" : "connection";
    server.on(event, (socket: net.Socket) => this.#take(socket, heard));
  }

  static async open({ at, tls: secure, heard }: StreamPlace): Promise<StreamReceiver> {
    const server = secure === undefined ? net.createServer() : tls.createServer(secure);
    const receiver = new StreamReceiver(server, heard);
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      if (typeof at === "string") server.listen(at, resolve);
      else server.listen(at, "127.0.0.1", resolve);
    });
    return receiver;
  }

  get port(): number {
    const address = this.#server.address();
    return typeof address === "object" && address !== null ? address.port : 0;
  }

  /** All connections' bytes in one, in the order of the connections. */
  get bytes(): Buffer {
    return Buffer.concat(this.received);
  }

  #take(socket: net.Socket, heard: StreamPlace["heard"]): void {
    const number = this.received.push(Buffer.alloc(0)) - 1;
    this.#sockets.add(socket);
    socket.on("error", () => undefined);
    socket.on("close", () => this.#sockets.delete(socket));
    socket.on("data", (bytes: Buffer) => {
      const all = Buffer.concat([this.received[number] ?? Buffer.alloc(0), bytes]);
      this.received[number] = all;
      const answer = heard?.(all, socket);
      if (answer !== undefined) socket.write(answer);
    });
  }

  async stop(): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    for (const socket of this.#sockets) {
      if (socket instanceof tls.TLSSocket || socket.remoteAddress === undefined) socket.destroy();
      else socket.resetAndDestroy();
    }
    await closed;
  }
}

export class UdpReceiver implements Receiver {
  readonly received: Buffer[] = [];
  readonly #socket = dgram.createSocket({ type: "udp4", recvBufferSize: 1 << 22 });

  static async open(port = 0): Promise<UdpReceiver> {
    const receiver = new UdpReceiver();
    receiver.#socket.on("message", (bytes) => receiver.received.push(bytes));
    await new Promise<void>((resolve) => receiver.#socket.bind(port, "127.0.0.1", resolve));
    return receiver;
  }

  get port(): number {
    return this.#socket.address().port;
  }

  async stop(): Promise<void> {
    await new Promise<void>((resolve) => this.#socket.close(() => resolve()));
  }
}

const libc = koffi.load("libc.so.6");
const socketCall = libc.func("int socket(int, int, int)") as (a: number, b: number, c: number) => number;
const bindCall = libc.func("int bind(int, void *, uint32_t)") as (
  fd: number,
  address: Uint8Array,
  length: number,
) => number;
const receiveCall = libc.func("intptr_t recv(int, void *, size_t, int)") as (
  fd: number,
  into: Uint8Array,
  length: number,
  flags: number,
) => number;
const closeCall = libc.func("int close(int)") as (fd: number) => number;
const AF_UNIX = 1;
const SOCK_DGRAM = 2;
const MSG_DONTWAIT = 0x40;
const POLL_MS = 5;

/** As /dev/log and the journal's socket are: Node has none of these. */
export class UnixDatagramReceiver implements Receiver {
  readonly received: Buffer[] = [];
  readonly #path: string;
  readonly #fd: number;
  readonly #timer: NodeJS.Timeout;

  constructor(path: string) {
    this.#path = path;
    this.#fd = socketCall(AF_UNIX, SOCK_DGRAM, 0);
    const address = Buffer.alloc(110);
    address.writeUInt16LE(AF_UNIX, 0);
    address.write(path, 2);
    if (bindCall(this.#fd, address, address.length) !== 0) throw new Error(`Cannot bind ${path}`);
    const buffer = Buffer.alloc(1 << 20);
    this.#timer = setInterval(() => {
      for (;;) {
        const length = receiveCall(this.#fd, buffer, buffer.length, MSG_DONTWAIT);
        if (length < 0) return;
        this.received.push(Buffer.from(buffer.subarray(0, length)));
      }
    }, POLL_MS);
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer);
    closeCall(this.#fd);
    unlinkSync(this.#path);
    await Promise.resolve();
  }
}
