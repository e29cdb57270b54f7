/**
 * Connections that stop being HTTP: attach and exec. Takes the connection from Node's parser, answers 101 or the bare
 * 200, and moves bytes between it and a process, with half-close, frames and back-pressure. Called by the container and
 * exec routes; knows nothing of containers.
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Socket } from "node:net";
import { PassThrough, type Duplex, type Readable } from "node:stream";
import type { Timers } from "../common/env.ts";
import { ClusterError } from "../common/errors.ts";
import type { AttachStreams } from "../model/engine.ts";
import { ByteSink } from "./byte-sink.ts";
import { LATE_OUTPUT_MS, LINGER_MS } from "./limits.ts";
import { frame } from "./stdcopy.ts";

const RAW_STREAM = "application/vnd.docker.raw-stream";
const MULTIPLEXED_STREAM = "application/vnd.docker.multiplexed-stream";
/** From this version on, streams with frames say so in their type. */
const MULTIPLEXED_SINCE_MINOR = 42;

/** A connection that was taken over. */
export interface Hijacked {
  /** Both directions; what is written goes out as it is. */
  readonly socket: Duplex;
  /** What the client sends after its request; ends with its half-close. */
  readonly input: Readable;
  /** The client loses output that it receives together with the head. */
  readonly needsLateOutput: boolean;
}

/**
 * docker-py (and docker-compose v1 on it) reads the head through a buffer and then the socket under it, so that output which
 * came in the same read is lost. Engines that take long to start an exec never meet that.
 */
const BUFFERING_CLIENT = /\bdocker-(?:sdk-python|py)\//;

export interface TakeOverParts {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly upgraded: Duplex | undefined;
  readonly contentType: string;
}

export function streamType(isTty: boolean, apiMinor: number): string {
  return isTty || apiMinor < MULTIPLEXED_SINCE_MINOR ? RAW_STREAM : MULTIPLEXED_STREAM;
}

function headLines(parts: TakeOverParts, firstLine: string, extra: readonly string[]): string {
  const common = Object.entries(parts.response.getHeaders()).map(
    ([name, value]) => `${name}: ${String(value)}`,
  );
  return [firstLine, `Content-Type: ${parts.contentType}`, ...extra, ...common, "", ""].join("\r\n");
}

/**
 * Node's parser lets go of a connection when its data listener is gone and another one is added, which has to happen in
 * the same turn. The connection must not be paused in between: the parser's own pause would then never be undone.
 */
function releaseFromParser(socket: Socket): Readable {
  socket.removeAllListeners("data");
  socket.removeAllListeners("end");
  socket.setTimeout(0);
  return socket.pipe(new PassThrough());
}

/** Answers the request and hands over its connection. */
export function takeOver(parts: TakeOverParts): Hijacked {
  const { request, response, upgraded } = parts;
  const { socket } = request;
  const needsLateOutput = BUFFERING_CLIENT.test(request.headers["user-agent"] ?? "");
  if (upgraded !== undefined) {
    response.detachSocket(socket);
    // What follows the request's body comes only after that was read, whoever wants it.
    request.resume();
    upgraded.write(headLines(parts, "HTTP/1.1 101 UPGRADED", ["Connection: Upgrade", "Upgrade: tcp"]));
    return { socket: upgraded, input: upgraded, needsLateOutput };
  }
  // A request whose body is still coming (chunked) has its stdin in that body; others send it bare, after the head.
  const isBodyComing = request.headers["transfer-encoding"] !== undefined && !request.readableEnded;
  const input = isBodyComing ? request : releaseFromParser(socket);
  // The bare form is older than the name for streams with frames and never bears it.
  socket.write(headLines({ ...parts, contentType: RAW_STREAM }, "HTTP/1.1 200 OK", []));
  return { socket, input, needsLateOutput };
}

/** Sends what the client types to the process, at the pace of the process. */
function pumpInput(input: Readable, streams: AttachStreams): void {
  const { stdin } = streams;
  if (stdin === undefined) {
    input.resume();
    return;
  }
  stdin.on("error", () => {
    // The process closed its stdin or is gone: what the client still sends has no reader.
    input.removeAllListeners("data");
    input.resume();
  });
  stdin.on("drain", () => input.resume());
  input.on("data", (chunk: Buffer) => {
    if (stdin.writable && !stdin.write(chunk)) input.pause();
  });
  input.once("end", () => stdin.end());
  // It was paused while its head or body was cut off.
  input.resume();
}

/** Ends our side, lets the client end its own, and cuts the connection if it doesn't. Somebody must read what still comes. */
export function finish(socket: Duplex, timers: Timers): void {
  if (socket.destroyed) return;
  const cancel = timers.after(LINGER_MS, () => socket.destroy());
  socket.once("close", cancel);
  socket.end();
}

/** Moves bytes until the process has ended and everything was sent, or the client is gone. Never rejects. */
export async function pumpStreams(hijacked: Hijacked, streams: AttachStreams, timers: Timers): Promise<void> {
  const { socket, input } = hijacked;
  const sink = new ByteSink(socket);
  const letGo = (): void => streams.close();
  socket.once("close", letGo);
  socket.on("error", letGo);
  pumpInput(input, streams);
  if (hijacked.needsLateOutput) {
    await new Promise<void>((resolve) => void timers.after(LATE_OUTPUT_MS, resolve));
  }
  try {
    for await (const { stream, data } of streams.output) {
      const isOpen = await sink.write(streams.isTty ? data : frame(stream, data));
      if (!isOpen) break;
    }
  } catch (error) {
    const text = Buffer.from(`${ClusterError.from(error).message}\n`, "utf8");
    await sink.write(streams.isTty ? text : frame("engineError", text));
  } finally {
    streams.close();
    input.resume();
    finish(socket, timers);
  }
}
