/**
 * The serving side of the mTLS edge: one TLS port for members of the cluster and for machines that have no certificate
 * yet. All checks of who may call what are here: a handler runs only for a peer of its audience. Services can be added
 * and removed while it listens, since a node changes roles. It never decides what a service does.
 */
import { once } from "node:events";
import type { Socket } from "node:net";
import {
  createServer,
  type PeerCertificate,
  type TlsOptions,
  type TLSSocket,
  type Server as TlsServer,
} from "node:tls";
import {
  Server,
  ServerCredentials,
  status,
  type MethodDefinition,
  type sendUnaryData,
  type ServerDuplexStream,
  type ServerReadableStream,
  type ServerUnaryCall,
  type ServerWritableStream,
} from "@grpc/grpc-js";
import { assert } from "../common/assert.ts";
import { ClusterError } from "../common/errors.ts";
import type { Logger } from "../common/log.ts";
import { Doorman } from "../common/doorman.ts";
import type { Audience, NodeIdentity, PeerIdentity, Standing } from "./rpc.ts";
import { MESSAGE_BYTES_MAX } from "./rpc-client.ts";
import { failStream, toStatus } from "./rpc-errors.ts";
import { expiredPeer, peerIdentity } from "./rpc-identity.ts";

/** Open connections, those in the TLS handshake included. Far above 10,000 nodes with a few channels each. */
const CONNECTION_COUNT_MAX = 65_536;
const HANDSHAKE_TIMEOUT_MS = 10_000;
/** Of a connection whose peer showed a certificate that is not valid: it may renew it, and come back with the new one. */
const INVALID_PEER_LIFE_MS = 3_000;
const KEEPALIVE_MS = 5_000;
const KEEPALIVE_TIMEOUT_MS = 5_000;
const STREAMS_PER_CONNECTION_MAX = 1_000;
/** Of a machine that joins: two calls in turn, with a certificate request (16 KiB at most) and a token. */
const ANONYMOUS_MESSAGE_BYTES_MAX = 32 * 1024;
const ANONYMOUS_STREAMS_MAX = 4;

/** Who calls, and whether they still wait. */
export interface CallContext {
  /** Undefined only where the audience is "anyone". */
  readonly peer: PeerIdentity | undefined;
  /** "address:port" of the other end. */
  readonly remoteAddress: string;
  /** Aborted when the caller gives up or the connection breaks. */
  readonly signal: AbortSignal;
}

/** One of the kinds of handler. What it throws, or rejects with, reaches the caller as the same ClusterError. */
export type MethodHandler<Request, Response> =
  | { readonly unary: (request: Request, context: CallContext) => Promise<Response> | Response }
  | {
      /** Answers by writing to `call`; the stream ends when the promise settles. */
      readonly serverStream: (
        call: ServerWritableStream<Request, Response>,
        context: CallContext,
      ) => Promise<void>;
    }
  | {
      /** Reads and writes `call`, and ends it. Errors: `failStream(call, error)`. */
      readonly duplex: (call: ServerDuplexStream<Request, Response>, context: CallContext) => void;
    };

export type ServiceHandlers<S> = {
  readonly [K in keyof S]: S[K] extends MethodDefinition<infer Request, infer Response>
    ? MethodHandler<Request, Response>
    : never;
};

export interface RpcServerOptions {
  readonly identity: NodeIdentity;
  readonly log: Logger;
}

type SurfaceCall = Pick<ServerUnaryCall<unknown, unknown>, "getAuthContext" | "getPath" | "getPeer"> & {
  on(event: "cancelled", listener: () => void): unknown;
};

export class RpcServer {
  #identity: NodeIdentity;
  readonly #log: Logger;
  /** The same methods twice: messages are read before their sender is judged, so those of strangers must be small. */
  readonly #members = surface({ messageBytesMax: MESSAGE_BYTES_MAX, streamsMax: STREAMS_PER_CONNECTION_MAX });
  readonly #strangers = surface({
    messageBytesMax: ANONYMOUS_MESSAGE_BYTES_MAX,
    streamsMax: ANONYMOUS_STREAMS_MAX,
  });
  readonly #sockets = new Set<TLSSocket>();
  /** Peers whose certificate has expired, by the address that a call says it came from. */
  readonly #expired = new Map<string, PeerIdentity>();
  readonly #doorman = new Doorman();
  #tls: TlsServer | undefined;
  #standingOf: (peer: PeerIdentity) => Standing = () => undefined;

  constructor(options: RpcServerOptions) {
    this.#identity = options.identity;
    this.#log = options.log;
  }

  get identity(): NodeIdentity {
    return this.#identity;
  }

  /** What the cluster says of a peer today; its certificate may be older. */
  setStanding(standingOf: (peer: PeerIdentity) => Standing): void {
    this.#standingOf = standingOf;
  }

  /** From the next handshake on this certificate is shown and these roots are trusted. Open connections stay. */
  setIdentity(identity: NodeIdentity): void {
    this.#identity = identity;
    this.#tls?.setSecureContext(secureContext(identity));
  }

  /**
   * Serves `definition`. Also while listening. `audience` is for all methods, or for each by its name.
   * Adding a service twice is a programming error.
   */
  addService<S extends object>(
    definition: S,
    handlers: ServiceHandlers<S>,
    audience: Audience | { readonly [K in keyof S]: Audience },
  ): void {
    for (const name of Object.keys(definition) as (keyof S & string)[]) {
      const method = definition[name] as MethodDefinition<unknown, unknown>;
      const handler = handlers[name] as MethodHandler<unknown, unknown>;
      this.#register(method, handler, typeof audience === "string" ? audience : audience[name]);
    }
  }

  /** Calls under way go on; new ones are answered UNIMPLEMENTED. Fine if it was not served. */
  removeService(definition: object): void {
    for (const { path } of Object.values(definition) as MethodDefinition<unknown, unknown>[]) {
      for (const { server } of [this.#members, this.#strangers]) server.unregister(path);
    }
  }

  /** Listens on `host:port`; port 0 takes a free one. Rejects as net.Server does. */
  async listen(host: string, port: number): Promise<{ readonly port: number }> {
    assert(this.#tls === undefined, "an RpcServer listens once");
    const tls = createServer({
      ...secureContext(this.#identity),
      requestCert: true,
      // Machines that join have none; a certificate that is shown but not valid makes its peer as good as anonymous.
      rejectUnauthorized: false,
      ALPNProtocols: ["h2"],
      handshakeTimeout: HANDSHAKE_TIMEOUT_MS,
    });
    tls.maxConnections = CONNECTION_COUNT_MAX;
    tls.on("connection", (socket: Socket) => this.#doorman.arrived(socket));
    tls.on("secureConnection", (socket) => this.#accept(socket));
    tls.on("tlsClientError", (error, socket) => {
      this.#log.debug("TLS handshake failed", { error, remoteAddress: socket.remoteAddress });
      socket.destroy();
    });
    this.#tls = tls;
    tls.listen(port, host);
    await once(tls, "listening");
    tls.on("error", (error) => this.#log.error("listening socket failed", { error }));
    const address = tls.address();
    assert(typeof address === "object" && address !== null, "a TCP server has an address");
    return { port: address.port };
  }

  /** The verified identity behind a call; undefined for anonymous peers and foreign certificates. */
  peerOf(call: Pick<SurfaceCall, "getAuthContext">): PeerIdentity | undefined {
    return this.#member(call.getAuthContext().sslPeerCertificate);
  }

  /** Stops listening and breaks every connection. */
  async stop(): Promise<void> {
    const tls = this.#tls;
    const closed = tls?.listening === true ? once(tls, "close") : undefined;
    tls?.close();
    for (const { server } of [this.#members, this.#strangers]) server.forceShutdown();
    for (const socket of this.#sockets) socket.destroy();
    await closed;
  }

  #accept(socket: TLSSocket): void {
    this.#sockets.add(socket);
    const from = `${socket.remoteAddress}:${socket.remotePort}`;
    const expired = expiredPeer(socket, this.#identity);
    if (expired === undefined) this.#expired.delete(from);
    else this.#expired.set(from, expired);
    const isInvalid = !socket.authorized && socket.getPeerX509Certificate() !== undefined;
    const ending = isInvalid ? setTimeout(() => socket.destroy(), INVALID_PEER_LIFE_MS) : undefined;
    socket.once("close", () => {
      clearTimeout(ending);
      this.#sockets.delete(socket);
      if (this.#expired.get(from) === expired) this.#expired.delete(from);
    });
    socket.on("error", (error) => this.#log.debug("connection broke", { error }));
    socket.setNoDelay(true);
    const peer = socket.authorized ? this.#member(socket.getPeerCertificate()) : undefined;
    if (!this.#doorman.admits(socket, peer?.nodeId)) return;
    (peer === undefined ? this.#strangers : this.#members).injector.injectConnection(socket);
  }

  #member(certificate: PeerCertificate | undefined): PeerIdentity | undefined {
    const peer = peerIdentity(certificate);
    return peer !== undefined && peer.clusterId === this.#identity.clusterId ? peer : undefined;
  }

  #register(
    method: MethodDefinition<unknown, unknown>,
    handler: MethodHandler<unknown, unknown>,
    audience: Audience,
  ): void {
    for (const { server } of [this.#members, this.#strangers]) {
      const isNew = this.#registerAt(server, method, { handler, audience });
      assert(isNew, `${method.path} is served once`);
    }
  }

  #registerAt(
    server: Server,
    method: MethodDefinition<unknown, unknown>,
    { handler, audience }: { handler: MethodHandler<unknown, unknown>; audience: Audience },
  ): boolean {
    const { path, responseSerialize, requestDeserialize } = method;
    if ("unary" in handler) {
      return server.register(
        path,
        (call: ServerUnaryCall<unknown, unknown>, callback: sendUnaryData<unknown>) =>
          void this.#runUnary(call, callback, { audience, run: handler.unary }),
        responseSerialize,
        requestDeserialize,
        "unary",
      );
    }
    if ("duplex" in handler) {
      return server.register(
        path,
        (call: ServerDuplexStream<unknown, unknown>) =>
          this.#guard(call, audience, (context) => handler.duplex(call, context)),
        responseSerialize,
        requestDeserialize,
        "bidi",
      );
    }
    return server.register(
      path,
      (call: ServerWritableStream<unknown, unknown>) =>
        this.#guard(call, audience, (context) => {
          handler.serverStream(call, context).then(
            () => call.end(),
            (error: unknown) => failStream(call, error),
          );
        }),
      responseSerialize,
      requestDeserialize,
      "serverStream",
    );
  }

  async #runUnary(
    call: ServerUnaryCall<unknown, unknown>,
    callback: sendUnaryData<unknown>,
    method: {
      readonly audience: Audience;
      readonly run: (request: unknown, context: CallContext) => unknown;
    },
  ): Promise<void> {
    try {
      const context = this.#authorize(call, method.audience);
      callback(null, await method.run(call.request, context));
    } catch (error) {
      this.#logInternal(call, error);
      callback(toStatus(error));
    }
  }

  #guard(
    call: ServerDuplexStream<unknown, unknown> | ServerWritableStream<unknown, unknown>,
    audience: Audience,
    run: (context: CallContext) => void,
  ): void {
    // Without a listener an error of a broken stream would end the process.
    call.on("error", (error: unknown) => this.#log.debug("stream ended", { path: call.getPath(), error }));
    try {
      run(this.#authorize(call, audience));
    } catch (error) {
      this.#logInternal(call, error);
      failStream(call, error);
    }
  }

  #authorize(call: SurfaceCall, audience: Audience): CallContext {
    const certified =
      this.peerOf(call) ?? (audience === "renewing" ? this.#expired.get(call.getPeer()) : undefined);
    const path = call.getPath();
    const standing = certified === undefined ? undefined : this.#standingOf(certified);
    if (certified !== undefined && standing === "removed") {
      throw new ClusterError("permission_denied", `Node "${certified.nodeId}" was removed from the cluster`, {
        details: { nodeId: certified.nodeId, removed: true },
      });
    }
    if (audience !== "anyone" && certified === undefined) {
      throw new ClusterError(
        "unauthenticated",
        `Call of ${path} needs a certificate of cluster "${this.#identity.clusterId}", none that is valid was shown`,
      );
    }
    const isDemoted = standing === "worker" && certified?.role === "manager";
    const peer: PeerIdentity | undefined =
      isDemoted && audience !== "raft" ? { ...certified, role: "worker" } : certified;
    if ((audience === "managers" || audience === "raft") && peer?.role !== "manager") {
      const who = isDemoted ? "no manager any more" : "a worker";
      throw new ClusterError("permission_denied", `Call of ${path} is for managers, the caller is ${who}`);
    }
    const controller = new AbortController();
    call.on("cancelled", () => controller.abort());
    return { peer, remoteAddress: call.getPeer(), signal: controller.signal };
  }

  #logInternal(call: SurfaceCall, error: unknown): void {
    const wire = toStatus(error);
    if (wire.code === status.INTERNAL) this.#log.error("call failed", { path: call.getPath(), error });
  }
}

interface Surface {
  readonly server: Server;
  readonly injector: ReturnType<Server["createConnectionInjector"]>;
}

function surface(limits: { readonly messageBytesMax: number; readonly streamsMax: number }): Surface {
  const server = new Server({
    "grpc.max_receive_message_length": limits.messageBytesMax,
    "grpc.max_send_message_length": MESSAGE_BYTES_MAX,
    "grpc.keepalive_time_ms": KEEPALIVE_MS,
    "grpc.keepalive_timeout_ms": KEEPALIVE_TIMEOUT_MS,
    "grpc.max_concurrent_streams": limits.streamsMax,
    "grpc.enable_channelz": 0,
  });
  return { server, injector: server.createConnectionInjector(ServerCredentials.createInsecure()) };
}

function secureContext(identity: NodeIdentity): TlsOptions {
  return {
    cert: identity.certificate,
    key: identity.key,
    ca: identity.rootCa,
    minVersion: "TLSv1.3",
  };
}

export type { ServerDuplexStream, ServerReadableStream, ServerWritableStream };
