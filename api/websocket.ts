/**
 * The server's half of RFC 6455, as far as /attach/ws needs it: binary messages out, any messages in, ping and close
 * answered, everything bounded. Used by routes/streams.ts.
 */
import { createHash } from "node:crypto";
import type { Duplex } from "node:stream";
import type { Timers } from "../common/env.ts";
import type { AttachStreams } from "../model/engine.ts";
import { ByteSink } from "./byte-sink.ts";
import { badParameter } from "./error-body.ts";
import type { Exchange } from "./exchange.ts";
import { LINGER_MS, WEBSOCKET_MESSAGE_BYTES_MAX } from "./limits.ts";

const KEY_SUFFIX = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const OPCODE = { continuation: 0, text: 1, binary: 2, close: 8, ping: 9, pong: 10 } as const;
const CLOSE_NORMAL = 1000;
const CLOSE_PROTOCOL_ERROR = 1002;
const CLOSE_TOO_BIG = 1009;

export interface WebSocketMessage {
  readonly opcode: number;
  readonly payload: Buffer;
}

/** Thrown by the decoder; the number is the status of the closing handshake. */
class WebSocketViolation extends Error {
  readonly status: number;

  constructor(status: number, why: string) {
    super(why);
    this.status = status;
  }
}

/** Cuts frames out of what a client sends. Clients must mask; masks are taken off here. */
export class FrameDecoder {
  #buffered: Buffer = Buffer.alloc(0);

  push(chunk: Buffer): readonly WebSocketMessage[] {
    this.#buffered = this.#buffered.byteLength === 0 ? chunk : Buffer.concat([this.#buffered, chunk]);
    const messages: WebSocketMessage[] = [];
    for (let message = this.#next(); message !== undefined; message = this.#next()) messages.push(message);
    return messages;
  }

  #next(): WebSocketMessage | undefined {
    const bytes = this.#buffered;
    if (bytes.byteLength < 2) return undefined;
    const [first, second] = [bytes.readUInt8(0), bytes.readUInt8(1)];
    if ((first & 0x70) !== 0) throw new WebSocketViolation(CLOSE_PROTOCOL_ERROR, "reserved bits are set");
    if ((second & 0x80) === 0)
      throw new WebSocketViolation(CLOSE_PROTOCOL_ERROR, "a client's frame is not masked");
    const short = second & 0x7f;
    const lengthBytes = short === 126 ? 2 : short === 127 ? 8 : 0;
    const maskAt = 2 + lengthBytes;
    if (bytes.byteLength < maskAt + 4) return undefined;
    const length =
      lengthBytes === 0
        ? short
        : lengthBytes === 2
          ? bytes.readUInt16BE(2)
          : Number(bytes.readBigUInt64BE(2));
    if (length > WEBSOCKET_MESSAGE_BYTES_MAX) throw new WebSocketViolation(CLOSE_TOO_BIG, "message too big");
    const start = maskAt + 4;
    if (bytes.byteLength < start + length) return undefined;
    const payload = Buffer.from(bytes.subarray(start, start + length));
    for (let index = 0; index < payload.byteLength; index += 1) {
      payload[index] = (payload[index] ?? 0) ^ (bytes[maskAt + (index & 3)] ?? 0);
    }
    this.#buffered = bytes.subarray(start + length);
    return { opcode: first & 0x0f, payload };
  }
}

/** A whole frame from server to client, not masked. */
export function encodeFrame(opcode: number, payload: Uint8Array): Buffer {
  const length = payload.byteLength;
  const head = Buffer.alloc(length < 126 ? 2 : length < 65_536 ? 4 : 10);
  head.writeUInt8(0x80 | opcode, 0);
  if (length < 126) head.writeUInt8(length, 1);
  else if (length < 65_536) {
    head.writeUInt8(126, 1);
    head.writeUInt16BE(length, 2);
  } else {
    head.writeUInt8(127, 1);
    head.writeBigUInt64BE(BigInt(length), 2);
  }
  return Buffer.concat([head, payload]);
}

export function acceptKey(key: string): string {
  return createHash("sha1").update(`${key}${KEY_SUFFIX}`).digest("base64");
}

/** Checks the handshake. The answer goes out when the returned function is called, once the container is attached. */
export function acceptWebSocket(exchange: Exchange): () => Duplex {
  const key = exchange.header("sec-websocket-key");
  if (exchange.header("upgrade")?.toLowerCase() !== "websocket" || key === undefined || !exchange.isUpgrade) {
    throw badParameter("Cannot attach: the request must be a WebSocket handshake");
  }
  const protocol = exchange.header("sec-websocket-protocol")?.split(",", 1)[0]?.trim();
  return () => {
    const socket = exchange.hijackSilently();
    const lines = [
      "HTTP/1.1 101 Switching Protocols",
      "Upgrade: websocket",
      "Connection: Upgrade",
      `Sec-WebSocket-Accept: ${acceptKey(key)}`,
      ...(protocol === undefined ? [] : [`Sec-WebSocket-Protocol: ${protocol}`]),
    ];
    socket.write(`${lines.join("\r\n")}\r\n\r\n`);
    return socket;
  };
}

function closeFrame(status: number): Buffer {
  const payload = Buffer.alloc(2);
  payload.writeUInt16BE(status, 0);
  return encodeFrame(OPCODE.close, payload);
}

/** What the client sends goes to the process; control frames are answered. */
function takeMessages(socket: Duplex, streams: AttachStreams, chunk: Buffer, decoder: FrameDecoder): void {
  try {
    for (const { opcode, payload } of decoder.push(chunk)) {
      if (opcode === OPCODE.close) {
        streams.close();
        return;
      }
      if (opcode === OPCODE.ping) socket.write(encodeFrame(OPCODE.pong, payload));
      else if (opcode !== OPCODE.pong && streams.stdin?.writable === true) streams.stdin.write(payload);
    }
  } catch (error) {
    socket.write(closeFrame(error instanceof WebSocketViolation ? error.status : CLOSE_PROTOCOL_ERROR));
    streams.close();
  }
}

/** Moves bytes until the process has ended or the client is gone. Never rejects. */
export async function pumpWebSocket(socket: Duplex, streams: AttachStreams, timers: Timers): Promise<void> {
  const decoder = new FrameDecoder();
  const sink = new ByteSink(socket);
  const letGo = (): void => streams.close();
  socket.once("close", letGo).once("end", letGo).on("error", letGo);
  streams.stdin?.on("error", () => {}).on("drain", () => socket.resume());
  socket.on("data", (chunk: Buffer) => {
    takeMessages(socket, streams, chunk, decoder);
    if (streams.stdin?.writableNeedDrain === true) socket.pause();
  });
  try {
    for await (const { data } of streams.output) {
      if (!(await sink.write(encodeFrame(OPCODE.binary, data)))) break;
    }
    await sink.write(closeFrame(CLOSE_NORMAL));
  } catch {
    await sink.write(closeFrame(1011));
  } finally {
    streams.close();
    const cancel = timers.after(LINGER_MS, () => socket.destroy());
    socket.once("close", cancel);
    socket.end();
  }
}
