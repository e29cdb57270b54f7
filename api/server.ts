/**
 * The HTTP server: listeners on UNIX sockets and TCP (with TLS), versions, headers, dispatch, errors, upgrades. The
 * daemon makes one and adds listeners; routes/ does the work. A request may fail in any way without harm to others.
 */
import type { IncomingMessage, Server, ServerResponse } from "node:http";
import { createServer as createHttpsServer } from "node:https";
import type { Socket } from "node:net";
import { hostname } from "node:os";
import type { Duplex } from "node:stream";
import type { TlsOptions, TLSSocket } from "node:tls";
import { ClusterError, hasNodeCode } from "../common/errors.ts";
import type { Counter, Histogram } from "../common/metrics.ts";
import { Doorman } from "../common/doorman.ts";
import type { ApiContext } from "./context.ts";
import { errorReply, JSON_TYPE, pageNotFound, type ErrorReply } from "./error-body.ts";
import { Exchange } from "./exchange.ts";
import {
  API_VERSION,
  CONNECTION_COUNT_MAX,
  DRAIN_MS,
  HANDSHAKE_TIMEOUT_MS,
  HEAD_BYTES_MAX,
  HEAD_TIMEOUT_MS,
  KEEP_ALIVE_MS,
  STOP_GRACE_MS,
} from "./limits.ts";
import { finish } from "./hijack.ts";
import { bindUnix, type UnixAccess } from "./listeners.ts";
import { Query } from "./query.ts";
import { Router, type RouteMatch } from "./router.ts";
import type { Route } from "./routes/table.ts";
import { checkHost, checkOrigin, checkReadOnly } from "./safety.ts";
import { minorOf, negotiate, splitPath } from "./versions.ts";

// Not imported: that reads all that the module exports, which makes Node load its WebSocket and with that a second HTTP client.
const { createServer: createHttpServer, ServerResponse: HttpResponse } =
  process.getBuiltinModule("node:http");

export interface ListenOptions {
  /** Refuses everything that changes something. */
  readonly isReadOnly?: boolean;
}

export type ListenAddress =
  | ({ readonly unix: string } & UnixAccess & ListenOptions)
  | ({
      readonly tcp: { readonly host: string; readonly port: number };
      readonly tls?: TlsOptions;
    } & ListenOptions);

interface RouteEntry {
  readonly route: Route;
}

export class HttpApi {
  readonly #context: ApiContext;
  readonly #router = new Router<RouteEntry>();
  readonly #servers = new Set<Server>();
  readonly #sockets = new Set<Socket>();
  readonly #requests: Counter;
  readonly #durations: Histogram;
  readonly #cleanups: (() => Promise<void>)[] = [];
  #isStopping = false;

  constructor(context: ApiContext, routes: readonly Route[]) {
    this.#context = context;
    for (const route of routes) this.#router.add(route.method, route.pattern, { route });
    this.#requests = context.metrics.counter(
      "shoal_api_requests_total",
      "API requests by route, method and status",
    );
    this.#durations = context.metrics.histogram("shoal_api_request_seconds", "Time to answer API requests");
  }

  /** Resolves when connections are accepted; with port 0, to the port that was chosen. */
  async listen(address: ListenAddress): Promise<number> {
    const server = this.#makeServer(address);
    if ("unix" in address) {
      this.#cleanups.push(await bindUnix(server, address.unix, address));
    } else {
      await new Promise<void>((resolve, reject) => {
        server.once("error", reject);
        server.listen(address.tcp.port, address.tcp.host, () => {
          server.off("error", reject);
          resolve();
        });
      });
    }
    server.on("error", (error) => this.#context.log.error("listener failed", { error }));
    this.#servers.add(server);
    const bound = server.address();
    return typeof bound === "object" && bound !== null ? bound.port : 0;
  }

  /** Stops accepting, lets short requests end, cuts streams after STOP_GRACE_MS. */
  async stop(): Promise<void> {
    this.#isStopping = true;
    const closed = [...this.#servers].map(
      (server) => new Promise<void>((resolve) => void server.close(() => resolve())),
    );
    for (const server of this.#servers) server.closeIdleConnections();
    const cancel = this.#context.env.timers.after(STOP_GRACE_MS, () => {
      for (const socket of this.#sockets) socket.destroy();
    });
    for (const cleanUp of this.#cleanups.splice(0)) await cleanUp();
    await Promise.all(closed);
    cancel();
    this.#servers.clear();
  }

  #makeServer(address: ListenAddress): Server {
    const options = {
      maxHeaderSize: HEAD_BYTES_MAX,
      headersTimeout: HEAD_TIMEOUT_MS,
      // Uploads of contexts and images take as long as they take; JSON bodies have their own limit.
      requestTimeout: 0,
      keepAliveTimeout: KEEP_ALIVE_MS,
      // Only routes that hand the connection over get upgrades; other requests with such headers are plain ones.
      shouldUpgradeCallback: (request: IncomingMessage) =>
        this.#findRoute(request)?.handler.route.canHijack === true,
    };
    const tls = "tls" in address ? address.tls : undefined;
    const server =
      tls === undefined
        ? createHttpServer(options)
        : createHttpsServer({
            minVersion: "TLSv1.2",
            // As plain sockets are: else our side would end together with the client's.
            allowHalfOpen: true,
            handshakeTimeout: HANDSHAKE_TIMEOUT_MS,
            ...tls,
            // An authority is given to check clients with.
            ...(tls.ca === undefined ? {} : { requestCert: true, rejectUnauthorized: true }),
            ...options,
          });
    // A client may shut down its side and still wait for the answer.
    Object.assign(server, { httpAllowHalfOpen: true });
    server.maxConnections = CONNECTION_COUNT_MAX;
    const isReadOnly = address.isReadOnly ?? false;
    const isPlainTcp = "tcp" in address && tls === undefined;
    server.on("connection", (socket: Socket) => this.#track(socket));
    if (tls?.ca !== undefined) guardDoor(server);
    const isSecured = new WeakSet<Duplex>();
    server.on("secureConnection", (socket: TLSSocket) => isSecured.add(socket));
    server.on("request", (request, response) => {
      void this.#serve({ request, response, upgraded: undefined, isReadOnly, isPlainTcp });
    });
    server.on("upgrade", (request: IncomingMessage, socket: Duplex, head: Buffer) => {
      this.#upgrade(request, socket, { head, isReadOnly, isPlainTcp });
    });
    server.on("clientError", (error, socket) => {
      if (hasNodeCode(error, "ERR_SSL_HTTP_REQUEST")) this.#refusePlain(socket as Socket);
      // An answer would wait for the end of a handshake that failed, and so for ever.
      else if (tls !== undefined && !isSecured.has(socket)) socket.destroy();
      else refuse(error, socket);
    });
    return server;
  }

  /** HTTP at a TLS port: what dockerd answers, in the clear. The TLS connection is gone, the one below it is there for an answer. */
  #refusePlain(tls: Socket): void {
    const below = [...this.#sockets].find(
      (each) => each.remotePort === tls.remotePort && each.remoteAddress === tls.remoteAddress,
    );
    below?.end("HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n");
  }

  #track(socket: Socket): void {
    this.#sockets.add(socket);
    socket.once("close", () => this.#sockets.delete(socket));
    socket.on("error", () => socket.destroy());
  }

  #upgrade(request: IncomingMessage, socket: Duplex, extra: UpgradeExtra): void {
    if (extra.head.byteLength > 0) socket.unshift(extra.head);
    const response = new HttpResponse(request);
    response.shouldKeepAlive = false;
    response.assignSocket(request.socket);
    response.once("finish", () => {
      response.detachSocket(request.socket);
      // What a client sends after a request that was refused is not read, and would hide that it left.
      socket.resume();
      finish(socket, this.#context.env.timers);
    });
    void this.#serve({
      request,
      response,
      upgraded: socket,
      isReadOnly: extra.isReadOnly,
      isPlainTcp: extra.isPlainTcp,
    });
  }

  #findRoute(request: IncomingMessage): RouteMatch<RouteEntry> | undefined {
    const { path } = splitPath(request.url ?? "/");
    return this.#router.find(request.method ?? "GET", path);
  }

  async #serve(parts: ServeParts): Promise<void> {
    const { request, response } = parts;
    const startedMs = this.#context.env.clock.monotonicMs();
    response.setHeader("Api-Version", API_VERSION);
    response.setHeader("Docker-Experimental", "false");
    response.setHeader("Ostype", "linux");
    response.setHeader("Server", `Docker/${this.#context.version.version} (linux)`);
    if (parts.isReadOnly) response.setHeader("X-Shoal-Read-Only", "true");
    if (this.#isStopping) response.setHeader("Connection", "close");
    let pattern = "none";
    let exchange: Exchange | undefined;
    try {
      const { path, version, params } = splitPath(request.url ?? "/");
      negotiate(version);
      if (parts.isReadOnly) checkReadOnly(request);
      checkOrigin(request);
      if (parts.isPlainTcp) checkHost(request, hostname());
      const match = this.#router.find(request.method ?? "GET", path);
      if (match === undefined) throw pageNotFound();
      pattern = match.pattern;
      exchange = new Exchange({
        request,
        response,
        params: match.params,
        query: new Query(params),
        apiMinor: minorOf(version),
        timers: this.#context.env.timers,
        upgraded: parts.upgraded,
      });
      await match.handler.route.handler(exchange, this.#context);
    } catch (error) {
      this.#fail(error, parts, exchange);
    }
    if (exchange === undefined) request.resume();
    else if (!exchange.isHijacked) exchange.dropBody();
    this.#requests.add(1, {
      route: pattern,
      method: request.method ?? "",
      status: String(response.statusCode),
    });
    this.#durations.observe((this.#context.env.clock.monotonicMs() - startedMs) / 1000, { route: pattern });
  }

  #fail(caught: unknown, { request, response }: ServeParts, exchange: Exchange | undefined): void {
    const error = ClusterError.from(caught);
    if (error.code === "internal") this.#logInternal(caught, request);
    if (response.headersSent || exchange?.isHijacked === true) {
      // The status is out; a cut connection is the only way left to say that the answer is not whole.
      if (!response.writableEnded) request.socket.destroy();
      return;
    }
    const reply = errorReply(error);
    sendReply(response, reply);
    if (!request.complete) this.#drainSoon(request);
  }

  /**
   * A client that is still sending sees only a broken pipe if the connection is closed under it, so what it sends is
   * read and dropped; for a while.
   */
  #drainSoon(request: IncomingMessage): void {
    const cancel = this.#context.env.timers.after(DRAIN_MS, () => request.socket.destroy());
    request.once("end", cancel).once("close", cancel);
  }

  /** Engines have errors of users for which Docker's status is 500 as well; only what nobody meant to throw is ours. */
  #logInternal(caught: unknown, request: IncomingMessage): void {
    const { log } = this.#context;
    const where = { method: request.method, path: splitPath(request.url ?? "/").path };
    if (caught instanceof ClusterError) {
      log.info("request failed", { ...where, error: caught });
      return;
    }
    log.error("request broke", {
      ...where,
      error: caught,
      stack: caught instanceof Error ? caught.stack : undefined,
    });
  }
}

interface UpgradeExtra {
  readonly head: Buffer;
  readonly isReadOnly: boolean;
  readonly isPlainTcp: boolean;
}

interface ServeParts {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly upgraded: Duplex | undefined;
  readonly isReadOnly: boolean;
  readonly isPlainTcp: boolean;
}

/** Who has not proved a certificate must not take the places of those who have. */
function guardDoor(server: Server): void {
  const doorman = new Doorman();
  server.on("connection", (socket: Socket) => doorman.arrived(socket));
  server.on("secureConnection", (socket: TLSSocket) => doorman.proved(socket));
}

function sendReply(response: ServerResponse, reply: ErrorReply): void {
  if (response.destroyed) return;
  if (reply.body === "") {
    response.writeHead(reply.status);
    response.end();
    return;
  }
  const bytes = Buffer.from(reply.body, "utf8");
  response.writeHead(reply.status, { "Content-Type": reply.contentType, "Content-Length": bytes.byteLength });
  response.end(bytes);
}

/** Not HTTP, or a head that is too large or too slow. */
function refuse(error: Error, socket: Duplex): void {
  if (!socket.writable || hasNodeCode(error, "ECONNRESET")) {
    socket.destroy();
    return;
  }
  const isTooLarge = hasNodeCode(error, "HPE_HEADER_OVERFLOW");
  const status = isTooLarge ? "431 Request Header Fields Too Large" : "400 Bad Request";
  const body = `${JSON.stringify({ message: isTooLarge ? "request head too large" : "malformed HTTP request" })}\n`;
  socket.end(
    `HTTP/1.1 ${status}\r\nContent-Type: ${JSON_TYPE}\r\nContent-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`,
  );
}
