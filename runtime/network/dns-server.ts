/**
 * A name server on one address, UDP and TCP. It knows who asks by the source address, asks its resolver for names of this
 * network, and passes on what the resolver does not claim. Listens on any port but 53, which the caller redirects to it: a
 * socket on 53 of one address would keep containers from publishing that port on all. Never listens on more than its one
 * address.
 */
import { createSocket } from "node:dgram";
import type { RemoteInfo, Socket as UdpSocket } from "node:dgram";
import { createServer } from "node:net";
import type { Server, Socket } from "node:net";
import { ClusterError, hasNodeCode } from "../../common/errors.ts";
import type { Logger } from "../../common/log.ts";
import type { DnsForwarder, Upstreams } from "./dns-forwarder.ts";
import { decodeQuestion, DnsCode, encodeAnswer } from "./dns-wire.ts";
import type { DnsAnswer, DnsQuestion } from "./dns-wire.ts";

/** What clients ask; nothing listens there. */
export const DNS_PORT = 53;
const TCP_CONNECTIONS_MAX = 256;
const TCP_IDLE_MS = 10_000;
const TCP_MESSAGE_BYTES_MAX = 65_535;
/** How often a pair of ports is tried: that of UDP may be taken for TCP. */
const PORT_ATTEMPTS = 20;

export type Resolution =
  | { readonly kind: "answer"; readonly answer: DnsAnswer }
  | { readonly kind: "forward"; readonly upstreams: Upstreams };

export interface DnsServerOptions {
  readonly address: string;
  readonly forwarder: DnsForwarder;
  readonly log: Logger;
  /** Who `source` is and what `question` is to it. Must not throw. */
  readonly resolve: (question: DnsQuestion, source: string) => Resolution;
}

export class DnsServer {
  readonly #options: DnsServerOptions;
  readonly #connections = new Set<Socket>();
  #udp: UdpSocket | undefined;
  #tcp: Server | undefined;
  #port = 0;

  constructor(options: DnsServerOptions) {
    this.#options = options;
  }

  get address(): string {
    return this.#options.address;
  }

  /** Port that it listens on; another one after each start. */
  get port(): number {
    return this.#port;
  }

  async start(): Promise<void> {
    for (let attempt = 0; attempt < PORT_ATTEMPTS; attempt += 1) {
      try {
        await this.#listen();
        return;
      } catch (caught) {
        await this.stop();
        if (!hasNodeCode(caught, "EADDRINUSE")) throw ClusterError.from(caught);
      }
    }
    throw new ClusterError("unavailable", `Cannot serve names on ${this.address}: every port is taken`);
  }

  async stop(): Promise<void> {
    const udp = this.#udp;
    const tcp = this.#tcp;
    this.#udp = undefined;
    this.#tcp = undefined;
    for (const connection of this.#connections) connection.destroy();
    await new Promise<void>((resolve) => (udp === undefined ? resolve() : udp.close(resolve)));
    await new Promise<void>((resolve) => (tcp === undefined ? resolve() : tcp.close(() => resolve())));
  }

  async #listen(): Promise<void> {
    // Answers go to the numeric address that asked: the resolver's queue has no part in that.
    const udp = createSocket({ type: "udp4", lookup: (host, _options, done) => done(null, host, 4) });
    await new Promise<void>((resolve, reject) => {
      udp.once("error", reject);
      udp.bind({ port: 0, address: this.address, exclusive: true }, () => {
        udp.off("error", reject);
        resolve();
      });
    });
    this.#udp = udp;
    this.#port = udp.address().port;
    udp.on("error", (error) => this.#options.log.warn("name server's socket failed", { error }));
    udp.on("message", (message, from) => this.#onMessage(udp, message, from));
    const tcp = createServer((connection) => this.#onConnection(connection));
    tcp.maxConnections = TCP_CONNECTIONS_MAX;
    this.#tcp = tcp;
    await new Promise<void>((resolve, reject) => {
      tcp.once("error", reject);
      tcp.listen({ port: this.#port, host: this.address, exclusive: true }, () => {
        tcp.off("error", reject);
        resolve();
      });
    });
    tcp.on("error", (error) => this.#options.log.warn("name server's listener failed", { error }));
  }

  #onMessage(udp: UdpSocket, message: Buffer, from: RemoteInfo): void {
    const send = (answer: Buffer): void => {
      if (this.#udp === udp) udp.send(answer, from.port, from.address, () => {});
    };
    this.#answer(message, from.address, false, send);
  }

  #onConnection(connection: Socket): void {
    const source = (connection.remoteAddress ?? "").replace(/^::ffff:/, "");
    this.#connections.add(connection);
    connection.setTimeout(TCP_IDLE_MS, () => connection.destroy());
    connection.on("close", () => this.#connections.delete(connection));
    connection.on("error", () => connection.destroy());
    let received = Buffer.alloc(0);
    connection.on("data", (bytes: Buffer) => {
      received = Buffer.concat([received, Buffer.from(bytes)]);
      while (received.length >= 2 && received.length >= 2 + received.readUInt16BE(0)) {
        const end = 2 + received.readUInt16BE(0);
        this.#answer(Buffer.from(received.subarray(2, end)), source, true, (answer) =>
          writeFramed(connection, answer),
        );
        received = received.subarray(end);
      }
    });
  }

  #answer(message: Buffer, source: string, isTcp: boolean, send: (answer: Buffer) => void): void {
    const question = decodeQuestion(message);
    // What is no question gets no answer: two servers would go on for ever.
    if (question === undefined) return;
    const bytesMax = isTcp ? TCP_MESSAGE_BYTES_MAX : question.udpBytes;
    const resolution = this.#options.resolve(question, source);
    if (resolution.kind === "answer") return send(encodeAnswer(question, resolution.answer, bytesMax));
    this.#options.forwarder
      .forward(message, question, { upstreams: resolution.upstreams, isTcp })
      .then(send, () => send(encodeAnswer(question, { code: DnsCode.serverFailure, records: [] }, bytesMax)));
  }
}

function writeFramed(connection: Socket, answer: Buffer): void {
  const length = Buffer.alloc(2);
  length.writeUInt16BE(answer.length, 0);
  connection.write(Buffer.concat([length, answer]));
}
