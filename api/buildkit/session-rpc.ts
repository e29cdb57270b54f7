/**
 * gRPC with the roles turned round: the engine calls, and the client that connected to /session answers. One HTTP/2
 * connection for all calls. Messages are bytes here; what they mean is for others.
 */
import {
  type ClientHttp2Session,
  type ClientHttp2Stream,
  connect,
  constants,
  type IncomingHttpHeaders,
  type OutgoingHttpHeaders,
} from "node:http2";
import type { Duplex } from "node:stream";
import { ClusterError, type ErrorCode } from "../../common/errors.ts";
import { drained } from "./drained.ts";
import { MESSAGE_BYTES_MAX, WINDOW_BYTES } from "./limits.ts";

const PREFIX_BYTES = 5;
const OK = "0";
const CODES: ReadonlyMap<string, ErrorCode> = new Map([
  ["1", "cancelled"],
  ["3", "invalid_argument"],
  ["4", "deadline_exceeded"],
  ["5", "not_found"],
  ["7", "permission_denied"],
  ["12", "unimplemented"],
  ["14", "unavailable"],
  ["16", "unauthenticated"],
]);

/** Several values: the header comes as often. */
export type CallMetadata = Readonly<Record<string, string | readonly string[]>>;

export function frameMessage(message: Uint8Array): Buffer {
  const framed = Buffer.allocUnsafe(PREFIX_BYTES + message.byteLength);
  framed.writeUInt8(0, 0);
  framed.writeUInt32BE(message.byteLength, 1);
  framed.set(message, PREFIX_BYTES);
  return framed;
}

/** Takes messages out of pieces of a stream. */
export class MessageReader {
  #rest: Buffer = Buffer.alloc(0);

  push(piece: Buffer): readonly Buffer[] {
    this.#rest = this.#rest.byteLength === 0 ? piece : Buffer.concat([this.#rest, piece]);
    const messages: Buffer[] = [];
    while (this.#rest.byteLength >= PREFIX_BYTES) {
      const length = this.#rest.readUInt32BE(1);
      if (this.#rest.readUInt8(0) !== 0)
        throw new ClusterError("unimplemented", "Cannot read a message of the client: it is compressed");
      if (length > MESSAGE_BYTES_MAX) {
        throw new ClusterError(
          "invalid_argument",
          `Cannot read a message of the client: want at most ${MESSAGE_BYTES_MAX} bytes, got ${length}`,
        );
      }
      if (this.#rest.byteLength < PREFIX_BYTES + length) break;
      messages.push(this.#rest.subarray(PREFIX_BYTES, PREFIX_BYTES + length));
      this.#rest = this.#rest.subarray(PREFIX_BYTES + length);
    }
    return messages;
  }

  /** Throws if the stream ended within a message. */
  end(): void {
    if (this.#rest.byteLength > 0)
      throw new ClusterError("unavailable", "The client's connection broke within a message");
  }
}

/** One call. Its messages are read by one reader, who gets the call's error thrown. */
export class SessionCall {
  readonly #stream: ClientHttp2Stream;
  #status: IncomingHttpHeaders | undefined;

  constructor(stream: ClientHttp2Stream) {
    this.#stream = stream;
    const keep = (headers: IncomingHttpHeaders): void => {
      if (headers["grpc-status"] !== undefined) this.#status = headers;
    };
    stream.on("response", keep);
    stream.on("trailers", keep);
    // Told to whoever reads or writes.
    stream.on("error", () => undefined);
  }

  /** Resolves when more may be sent. */
  async send(message: Uint8Array): Promise<void> {
    const stream = this.#stream;
    if (stream.destroyed || stream.writableEnded) throw gone();
    if (stream.write(frameMessage(message))) return;
    await drained(stream).catch(() => undefined);
    if (stream.destroyed) throw gone();
  }

  /** The engine says no more. */
  end(): void {
    if (!this.#stream.writableEnded) this.#stream.end();
  }

  /** Nobody wants the rest. */
  cancel(): void {
    this.#stream.close(constants.NGHTTP2_CANCEL);
  }

  async *messages(): AsyncGenerator<Buffer> {
    const reader = new MessageReader();
    try {
      for await (const piece of this.#stream as AsyncIterable<Buffer>) yield* reader.push(piece);
    } catch (caught) {
      throw caught instanceof ClusterError ? caught : gone(caught);
    }
    this.#check();
    reader.end();
  }

  #check(): void {
    const code = this.#status?.["grpc-status"];
    if (code === OK) return;
    if (code === undefined) throw gone();
    const text = this.#status?.["grpc-message"];
    throw new ClusterError(CODES.get(String(code)) ?? "failed_precondition", decodeText(String(text ?? "")));
  }
}

function gone(cause?: unknown): ClusterError {
  return new ClusterError("unavailable", "The build's client is gone: its session has ended", { cause });
}

/** Percent-encoded; what is not remains as it is. */
function decodeText(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

export class SessionRpc {
  readonly #session: ClientHttp2Session;

  constructor(socket: Duplex) {
    this.#session = connect("http://localhost", {
      createConnection: () => socket,
      settings: { initialWindowSize: WINDOW_BYTES, enablePush: false },
    });
    this.#session.on("error", () => undefined);
    this.#session.once("connect", () => this.#session.setLocalWindowSize(WINDOW_BYTES));
  }

  /** Called once when the connection has ended, for whatever reason. */
  onClose(listener: () => void): void {
    this.#session.once("close", listener);
  }

  get isOpen(): boolean {
    return !this.#session.closed && !this.#session.destroyed;
  }

  close(): void {
    this.#session.destroy();
  }

  /** `method`: "/package.Service/Method". */
  open(method: string, metadata: CallMetadata, signal: AbortSignal): SessionCall {
    signal.throwIfAborted();
    if (!this.isOpen) throw gone();
    const headers: OutgoingHttpHeaders = { ":method": "POST", ":path": method };
    for (const [name, value] of Object.entries(metadata))
      headers[name] = typeof value === "string" ? value : [...value];
    headers["content-type"] = "application/grpc";
    headers["te"] = "trailers";
    return new SessionCall(this.#session.request(headers, { endStream: false, signal }));
  }

  async unary(method: string, request: Uint8Array, signal: AbortSignal): Promise<Buffer> {
    const call = this.open(method, {}, signal);
    try {
      await call.send(request);
      call.end();
      let answer: Buffer | undefined;
      for await (const message of call.messages()) answer ??= message;
      if (answer === undefined) throw gone();
      return answer;
    } catch (caught) {
      signal.throwIfAborted();
      throw caught;
    }
  }
}
