/** Attach, exec and resize: the routes that hand a connection over to a process. */
import type { AttachOptions, ExecConfig } from "../../model/engine.ts";
import type { ApiContext } from "../context.ts";
import { badParameter } from "../error-body.ts";
import type { Exchange } from "../exchange.ts";
import { pumpStreams, streamType } from "../hijack.ts";
import { ENGINE_FIELDS } from "../vocabulary.ts";
import { acceptWebSocket, pumpWebSocket } from "../websocket.ts";
import { get, hijacking, post, type Route } from "./table.ts";

function attachOptions(exchange: Exchange): AttachOptions {
  const { query } = exchange;
  const detachKeys = query.optional("detachKeys");
  return {
    stdin: query.flag("stdin"),
    stdout: query.flag("stdout"),
    stderr: query.flag("stderr"),
    logs: query.flag("logs"),
    stream: query.flag("stream"),
    ...(detachKeys === undefined ? {} : { detachKeys }),
  };
}

/**
 * The streams are attached before the answer: a client starts the container once it has the 101, and the first byte of
 * output must not be lost.
 */
async function attach(exchange: Exchange, { engine, env }: ApiContext): Promise<void> {
  const streams = await engine.containers.attach(exchange.param("id"), attachOptions(exchange));
  const hijacked = exchange.hijack(streamType(streams.isTty, exchange.apiMinor));
  await pumpStreams(hijacked, streams, env.timers);
}

async function attachWebSocket(exchange: Exchange, { engine, env }: ApiContext): Promise<void> {
  const accept = acceptWebSocket(exchange);
  const options = { ...attachOptions(exchange), ...consoleStreams(exchange) };
  const streams = await engine.containers.attach(exchange.param("id"), options);
  await pumpWebSocket(accept(), streams, env.timers);
}

/** Consoles leave the streams away and mean all of them. */
function consoleStreams(exchange: Exchange): Partial<AttachOptions> {
  const { query } = exchange;
  const saysNothing = !["stdin", "stdout", "stderr"].some((name) => query.has(name));
  return saysNothing ? { stdin: true, stdout: true, stderr: true, stream: true } : { stream: true };
}

function terminalSize(exchange: Exchange): readonly [height: number, width: number] {
  const [height, width] = [exchange.query.integer("h"), exchange.query.integer("w")];
  if (height === undefined || width === undefined || height < 0 || width < 0) {
    throw badParameter("invalid terminal size: h and w must be integers of 0 or more");
  }
  return [height, width];
}

async function resize(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  const [height, width] = terminalSize(exchange);
  await engine.containers.resize(exchange.param("id"), height, width);
  exchange.empty(200);
}

async function createExec(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  const config = (await exchange.json(ENGINE_FIELDS)) as unknown as ExecConfig;
  if (config.Cmd === undefined || config.Cmd.length === 0) throw badParameter("No exec command specified");
  exchange.send(201, await engine.containers.createExec(exchange.param("id"), config));
}

interface ExecStartBody {
  readonly Detach?: boolean;
  readonly Tty?: boolean;
  readonly ConsoleSize?: readonly number[];
}

async function startExec(exchange: Exchange, { engine, env }: ApiContext): Promise<void> {
  const body = (await exchange.optionalJson(ENGINE_FIELDS)) as ExecStartBody;
  const streams = await engine.containers.startExec(exchange.param("id"), {
    detach: body.Detach ?? false,
    tty: body.Tty ?? false,
    ...(body.ConsoleSize === undefined ? {} : { consoleSize: body.ConsoleSize }),
  });
  if (streams === undefined) {
    exchange.empty(200);
    return;
  }
  const hijacked = exchange.hijack(streamType(streams.isTty, exchange.apiMinor));
  await pumpStreams(hijacked, streams, env.timers);
}

async function resizeExec(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  const [height, width] = terminalSize(exchange);
  await engine.containers.resizeExec(exchange.param("id"), height, width);
  exchange.empty(200);
}

async function inspectExec(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  exchange.send(200, await engine.containers.inspectExec(exchange.param("id")));
}

export const STREAM_ROUTES: readonly Route[] = [
  hijacking("POST", "/containers/{id}/attach", attach),
  hijacking("GET", "/containers/{id}/attach/ws", attachWebSocket),
  post("/containers/{id}/resize", resize),
  post("/containers/{id}/exec", createExec),
  hijacking("POST", "/exec/{id}/start", startExec),
  post("/exec/{id}/resize", resizeExec),
  get("/exec/{id}/json", inspectExec),
];
