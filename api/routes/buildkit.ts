/** /grpc and /session: connections that BuildKit's clients turn into gRPC, one on which they call and one on which they answer. */
import type { Duplex } from "node:stream";
import type { ApiContext } from "../context.ts";
import { badParameter } from "../error-body.ts";
import type { Exchange } from "../exchange.ts";
import { writeProgress } from "../progress.ts";
import type { BuildkitServer } from "../buildkit/buildkit-server.ts";
import { hijacking, post, type Route } from "./table.ts";

const PROTOCOL = "h2c";
const SWITCHED = `HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: ${PROTOCOL}\r\n\r\n`;

const SERVERS = new WeakMap<ApiContext, Promise<BuildkitServer>>();

/** Loaded for the first client only: it brings gRPC along. */
function serverOf(context: ApiContext): Promise<BuildkitServer> {
  const known = SERVERS.get(context);
  if (known !== undefined) return known;
  const made = import("../buildkit/buildkit-server.ts").then((module) => new module.BuildkitServer(context));
  SERVERS.set(context, made);
  return made;
}

function checkUpgrade(exchange: Exchange): void {
  const wanted = exchange.header("upgrade") ?? "";
  if (exchange.isUpgrade && wanted.toLowerCase() === PROTOCOL) return;
  throw badParameter(`Cannot switch protocols: Upgrade must be "${PROTOCOL}", got "${wanted}"`);
}

/**
 * The connection for HTTP/2. Unlike the streams that other routes hand over, it has no use for half of one. What was
 * written before must be out: HTTP/2 takes the connection's handle over, and the end of a write that is not its own ends
 * the process.
 */
async function switchProtocol(exchange: Exchange): Promise<Duplex> {
  const socket = exchange.hijackSilently();
  socket.once("end", () => socket.destroy());
  // A client that left meanwhile is found out by HTTP/2.
  await new Promise<unknown>((resolve) => socket.write(SWITCHED, resolve));
  // Over TLS Node asks what ALPN has agreed on; here the Upgrade header has.
  return Object.assign(socket, { alpnProtocol: "h2" });
}

async function grpc(exchange: Exchange, context: ApiContext): Promise<void> {
  checkUpgrade(exchange);
  const server = await serverOf(context);
  server.acceptControl(await switchProtocol(exchange));
}

async function session(exchange: Exchange, context: ApiContext): Promise<void> {
  checkUpgrade(exchange);
  const server = await serverOf(context);
  const id = exchange.header("x-docker-expose-session-uuid") ?? "";
  const methods = exchange.headerValues("x-docker-expose-session-grpc-method");
  server.checkSession(id, methods);
  server.acceptSession(await switchProtocol(exchange), id, methods);
}

/** POST /build of a client whose session answers for its files. */
export async function buildWithSession(exchange: Exchange, context: ApiContext): Promise<void> {
  const { params } = exchange.query;
  const server = await serverOf(context);
  const { uploadedId } = await import("../buildkit/http-build.ts");
  const upload = uploadedId(params);
  if (upload !== undefined) {
    await server.holdUpload(upload, exchange.body());
    exchange.empty(200);
    return;
  }
  await writeProgress(exchange, server.httpBuild(params, exchange.signal));
}

/** Other builds are cancelled by closing their connection. */
export async function cancelBuild(exchange: Exchange, context: ApiContext): Promise<void> {
  const server = await SERVERS.get(context);
  server?.cancel(exchange.query.text("id"));
  exchange.empty(204);
}

export const BUILDKIT_ROUTES: readonly Route[] = [
  hijacking("POST", "/grpc", grpc),
  hijacking("POST", "/session", session),
  post("/build/cancel", cancelBuild),
];
