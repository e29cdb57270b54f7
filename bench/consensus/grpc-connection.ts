/**
 * One client's connection to a server of unary gRPC calls, on cleartext HTTP/2 with prior knowledge: frames, flow control
 * both ways, headers, and one message in, one out per stream. node:http2 would do it too, but spends more time on a request
 * than consensus does, and then that is what is measured. Used by door.ts.
 */
import type net from "node:net";
import {
  ConnectionError,
  ErrorCode,
  FLAG_ACK,
  FLAG_END_HEADERS,
  FLAG_END_STREAM,
  type Frame,
  FRAME_BYTES_MAX,
  FRAME_HEAD_BYTES,
  frameBytes,
  FrameType,
  goAway,
  PREFACE,
  resetStream,
  Setting,
  settings,
  unpadded,
  WINDOW_BYTES,
  WINDOW_BYTES_MAX,
  windowUpdate,
} from "./frames.ts";
import { type Field, HeaderDecoder, HeaderError, literalField, STATUS_200 } from "./hpack.ts";

const GrpcStatus = {
  ok: 0,
  resourceExhausted: 8,
  unimplemented: 12,
  internal: 13,
  unavailable: 14,
} as const;

/** Answers a message. A rejection is UNAVAILABLE to the client; undefined: there is no such method. */
export type UnaryHandler = (path: string, message: Buffer) => Promise<Buffer> | undefined;

const MESSAGE_HEAD_BYTES = 5;
const MESSAGE_BYTES_MAX = 4 * 1024 * 1024;
const HEADER_BLOCK_BYTES_MAX = 64 * 1024;
const STREAM_COUNT_MAX = 1_000;
/** A stream's window holds the largest message, so that only the connection's needs to be opened again. */
const STREAM_WINDOW_BYTES = MESSAGE_BYTES_MAX + MESSAGE_HEAD_BYTES;
const CONNECTION_WINDOW_BYTES = 4 * STREAM_WINDOW_BYTES;

const NO_BYTES = Buffer.alloc(0);
const CONTENT_TYPE = literalField("content-type", "application/grpc");
const ANSWER_HEAD = Buffer.concat([STATUS_200, CONTENT_TYPE]);
const UNSUPPORTED = literalField(":status", "415");

function headersFrame(block: Buffer, streamId: number, isLast: boolean): Buffer {
  const flags = FLAG_END_HEADERS | (isLast ? FLAG_END_STREAM : 0);
  return frameBytes({ type: FrameType.headers, flags, streamId, payload: block });
}

function trailersFrame(status: number, streamId: number): Buffer {
  return headersFrame(literalField("grpc-status", String(status)), streamId, true);
}

/** An answer without content, which most are, in one piece. */
const EMPTY_ANSWER = Buffer.concat([
  headersFrame(ANSWER_HEAD, 0, false),
  frameBytes({ type: FrameType.data, flags: 0, streamId: 0, payload: Buffer.alloc(MESSAGE_HEAD_BYTES) }),
  trailersFrame(GrpcStatus.ok, 0),
]);
const STREAM_ID_AT = 5;
const EMPTY_DATA_AT = FRAME_HEAD_BYTES + ANSWER_HEAD.byteLength;
const EMPTY_TRAILERS_AT = EMPTY_DATA_AT + FRAME_HEAD_BYTES + MESSAGE_HEAD_BYTES;

interface Stream {
  readonly id: number;
  readonly path: string;
  /** Of the request, as far as it has come. */
  pieces: Buffer[];
  pieceBytes: number;
  /** It was handed on, or refused. */
  isTaken: boolean;
  isRemoteClosed: boolean;
  isAnswered: boolean;
  /** Bytes that the client would take. */
  window: number;
}

/** What the windows had no room for. */
interface Rest {
  readonly stream: Stream;
  readonly body: Buffer;
  readonly status: number;
}

export class GrpcConnection {
  readonly #socket: net.Socket;
  readonly #handler: UnaryHandler;
  readonly #headers = new HeaderDecoder();
  readonly #streams = new Map<number, Stream>();
  #hasPreface = false;
  /** The beginning of a frame. */
  #cut: Buffer | undefined;
  #lastStreamId = 0;
  /** Headers that are continued. */
  #block: { readonly frame: Frame; bytes: Buffer } | undefined;
  /** Bytes of data since the connection's window was opened last. */
  #receivedBytes = 0;
  #window = WINDOW_BYTES;
  #streamWindow = WINDOW_BYTES;
  #waiting: Rest[] = [];

  constructor(socket: net.Socket, handler: UnaryHandler) {
    this.#socket = socket;
    this.#handler = handler;
    socket.setNoDelay();
    socket.on("data", (chunk: Buffer) => this.#received(chunk));
    socket.on("error", () => undefined);
    socket.on("close", () => this.#streams.clear());
    socket.write(
      Buffer.concat([
        settings([
          [Setting.maxStreams, STREAM_COUNT_MAX],
          [Setting.initialWindow, STREAM_WINDOW_BYTES],
        ]),
        windowUpdate(0, CONNECTION_WINDOW_BYTES - WINDOW_BYTES),
      ]),
    );
  }

  #received(chunk: Buffer): void {
    try {
      this.#readFrames(chunk);
    } catch (caught) {
      const isHeader = caught instanceof HeaderError;
      if (!isHeader && !(caught instanceof ConnectionError)) throw caught;
      this.#streams.clear();
      this.#socket.end(goAway(this.#lastStreamId, isHeader ? ErrorCode.compression : caught.code));
    }
  }

  #readFrames(chunk: Buffer): void {
    const bytes = this.#cut === undefined ? chunk : Buffer.concat([this.#cut, chunk]);
    this.#cut = undefined;
    let at = 0;
    if (!this.#hasPreface) {
      if (!PREFACE.subarray(0, bytes.byteLength).equals(bytes.subarray(0, PREFACE.byteLength))) {
        throw new ConnectionError(ErrorCode.protocol, "not HTTP/2");
      }
      this.#hasPreface = bytes.byteLength >= PREFACE.byteLength;
      at = this.#hasPreface ? PREFACE.byteLength : 0;
    }
    while (this.#hasPreface && bytes.byteLength - at >= FRAME_HEAD_BYTES) {
      const length = bytes.readUIntBE(at, 3);
      if (length > FRAME_BYTES_MAX) throw new ConnectionError(ErrorCode.frameSize, "a frame too long");
      const start = at + FRAME_HEAD_BYTES;
      if (start + length > bytes.byteLength) break;
      this.#onFrame({
        type: bytes[at + 3] ?? 0,
        flags: bytes[at + 4] ?? 0,
        streamId: bytes.readUInt32BE(at + STREAM_ID_AT) & WINDOW_BYTES_MAX,
        payload: bytes.subarray(start, start + length),
      });
      at = start + length;
    }
    if (at < bytes.byteLength) this.#cut = bytes.subarray(at);
  }

  #onFrame(frame: Frame): void {
    if (this.#block !== undefined && frame.type !== FrameType.continuation) {
      throw new ConnectionError(ErrorCode.protocol, "headers are not continued");
    }
    switch (frame.type) {
      case FrameType.data:
        this.#onData(frame);
        return;
      case FrameType.headers:
      case FrameType.continuation:
        this.#onHeaders(frame);
        return;
      case FrameType.reset:
        this.#onReset(frame);
        return;
      case FrameType.settings:
        this.#onSettings(frame);
        return;
      case FrameType.ping:
        if (frame.payload.byteLength !== 8) throw new ConnectionError(ErrorCode.frameSize, "a ping");
        if ((frame.flags & FLAG_ACK) === 0) this.#socket.write(frameBytes({ ...frame, flags: FLAG_ACK }));
        return;
      case FrameType.windowUpdate:
        this.#onWindowUpdate(frame);
        return;
      case FrameType.pushPromise:
        throw new ConnectionError(ErrorCode.protocol, "a client doesn't push");
      default:
        // Priorities, a client that leaves, and what later versions of the protocol have.
        return;
    }
  }

  #onHeaders(frame: Frame): void {
    const pending = this.#block;
    if (frame.type === FrameType.continuation) {
      if (pending === undefined || pending.frame.streamId !== frame.streamId) {
        throw new ConnectionError(ErrorCode.protocol, "nothing to be continued");
      }
      pending.bytes = Buffer.concat([pending.bytes, frame.payload]);
      if (pending.bytes.byteLength > HEADER_BLOCK_BYTES_MAX) {
        throw new ConnectionError(ErrorCode.enhanceYourCalm, "too many headers");
      }
    }
    const first = pending?.frame ?? frame;
    const bytes = pending?.bytes ?? unpadded(frame);
    if ((frame.flags & FLAG_END_HEADERS) === 0) {
      this.#block ??= { frame, bytes };
      return;
    }
    this.#block = undefined;
    this.#onFields(first.streamId, this.#headers.decode(bytes), (first.flags & FLAG_END_STREAM) !== 0);
  }

  #onFields(streamId: number, fields: readonly Field[], isEnd: boolean): void {
    const open = this.#streams.get(streamId);
    if (open !== undefined) {
      if (isEnd) this.#remoteClosed(open);
      return;
    }
    if (streamId % 2 === 0) throw new ConnectionError(ErrorCode.protocol, "a server's stream");
    if (streamId <= this.#lastStreamId) return;
    this.#lastStreamId = streamId;
    if (this.#streams.size >= STREAM_COUNT_MAX) {
      this.#socket.write(resetStream(streamId, ErrorCode.refusedStream));
      return;
    }
    const path = pathOf(fields);
    if (path === undefined) {
      this.#socket.write(headersFrame(UNSUPPORTED, streamId, true));
      if (!isEnd) this.#socket.write(resetStream(streamId, ErrorCode.none));
      return;
    }
    const stream: Stream = {
      id: streamId,
      path,
      pieces: [],
      pieceBytes: 0,
      isTaken: false,
      isRemoteClosed: false,
      isAnswered: false,
      window: this.#streamWindow,
    };
    this.#streams.set(streamId, stream);
    if (isEnd) this.#remoteClosed(stream);
  }

  #onData(frame: Frame): void {
    this.#receivedBytes += frame.payload.byteLength;
    if (this.#receivedBytes >= CONNECTION_WINDOW_BYTES / 2) {
      this.#socket.write(windowUpdate(0, this.#receivedBytes));
      this.#receivedBytes = 0;
    }
    const stream = this.#streams.get(frame.streamId);
    if (stream === undefined) {
      if (frame.streamId > this.#lastStreamId)
        throw new ConnectionError(ErrorCode.protocol, "data of no stream");
      return;
    }
    if (stream.isRemoteClosed) throw new ConnectionError(ErrorCode.streamClosed, "data after the end");
    const payload = unpadded(frame);
    if (payload.byteLength > 0) this.#onPiece(stream, payload);
    if ((frame.flags & FLAG_END_STREAM) !== 0) this.#remoteClosed(stream);
  }

  /** A message is handled once it is whole, as etcd's server does, not once the client has closed its side. */
  #onPiece(stream: Stream, piece: Buffer): void {
    if (stream.isAnswered) return;
    stream.pieces.push(piece);
    stream.pieceBytes += piece.byteLength;
    if (stream.pieceBytes < MESSAGE_HEAD_BYTES) return;
    const [first = NO_BYTES] = stream.pieces;
    const isHeadWhole = first.byteLength >= MESSAGE_HEAD_BYTES;
    const head = isHeadWhole ? first : Buffer.concat(stream.pieces.slice(0, MESSAGE_HEAD_BYTES));
    const length = head.readUInt32BE(1);
    if (head[0] !== 0) this.#refuse(stream, GrpcStatus.unimplemented);
    else if (length > MESSAGE_BYTES_MAX) this.#refuse(stream, GrpcStatus.resourceExhausted);
    else if (stream.isTaken || stream.pieceBytes > MESSAGE_HEAD_BYTES + length) {
      this.#refuse(stream, GrpcStatus.internal);
    } else if (stream.pieceBytes === MESSAGE_HEAD_BYTES + length) {
      // Copied in any case: a message is kept, the whole of what the socket read is not.
      const bytes = Buffer.concat(stream.pieces, stream.pieceBytes);
      stream.isTaken = true;
      this.#handle(stream, bytes.subarray(MESSAGE_HEAD_BYTES));
    }
  }

  #handle(stream: Stream, message: Buffer): void {
    const done = this.#handler(stream.path, message);
    if (done === undefined) {
      this.#refuse(stream, GrpcStatus.unimplemented);
      return;
    }
    done.then(
      (body) => this.#answer(stream, body),
      () => this.#refuse(stream, GrpcStatus.unavailable),
    );
  }

  #remoteClosed(stream: Stream): void {
    stream.isRemoteClosed = true;
    if (stream.isAnswered) this.#streams.delete(stream.id);
    else if (!stream.isTaken) this.#refuse(stream, GrpcStatus.internal);
  }

  /** Trailers alone. */
  #refuse(stream: Stream, status: number): void {
    if (stream.isAnswered || !this.#streams.has(stream.id)) return;
    const block = Buffer.concat([ANSWER_HEAD, literalField("grpc-status", String(status))]);
    this.#socket.write(headersFrame(block, stream.id, true));
    this.#answered(stream);
  }

  #answer(stream: Stream, message: Buffer): void {
    if (stream.isAnswered || !this.#streams.has(stream.id)) return;
    const isRoom = Math.min(this.#window, stream.window) >= MESSAGE_HEAD_BYTES;
    if (message.byteLength === 0 && isRoom) {
      const bytes = Buffer.from(EMPTY_ANSWER);
      bytes.writeUInt32BE(stream.id, STREAM_ID_AT);
      bytes.writeUInt32BE(stream.id, EMPTY_DATA_AT + STREAM_ID_AT);
      bytes.writeUInt32BE(stream.id, EMPTY_TRAILERS_AT + STREAM_ID_AT);
      this.#window -= MESSAGE_HEAD_BYTES;
      stream.window -= MESSAGE_HEAD_BYTES;
      this.#socket.write(bytes);
      this.#answered(stream);
      return;
    }
    const head = Buffer.alloc(MESSAGE_HEAD_BYTES);
    head.writeUInt32BE(message.byteLength, 1);
    stream.isAnswered = true;
    const body = Buffer.concat([head, message]);
    const first = headersFrame(ANSWER_HEAD, stream.id, false);
    this.#send({ stream, body, status: GrpcStatus.ok }, [first]);
  }

  /** As much as the windows have room for, and the trailers behind the last of it. */
  #send({ body, status, stream }: Rest, frames: Buffer[]): void {
    let rest = body;
    while (rest.byteLength > 0) {
      const length = Math.min(rest.byteLength, FRAME_BYTES_MAX, this.#window, stream.window);
      if (length <= 0) break;
      const payload = rest.subarray(0, length);
      frames.push(frameBytes({ type: FrameType.data, flags: 0, streamId: stream.id, payload }));
      this.#window -= length;
      stream.window -= length;
      rest = rest.subarray(length);
    }
    const isDone = rest.byteLength === 0;
    if (isDone) frames.push(trailersFrame(status, stream.id));
    else this.#waiting.push({ stream, body: rest, status });
    if (frames.length > 0) this.#socket.write(Buffer.concat(frames));
    if (isDone) this.#answered(stream);
  }

  #answered(stream: Stream): void {
    stream.isAnswered = true;
    stream.pieces = [];
    if (stream.isRemoteClosed) this.#streams.delete(stream.id);
  }

  #onReset({ payload, streamId }: Frame): void {
    if (payload.byteLength !== 4) throw new ConnectionError(ErrorCode.frameSize, "a reset");
    this.#streams.delete(streamId);
    this.#waiting = this.#waiting.filter((rest) => rest.stream.id !== streamId);
  }

  #onSettings({ flags, payload }: Frame): void {
    if ((flags & FLAG_ACK) !== 0) return;
    if (payload.byteLength % 6 !== 0) throw new ConnectionError(ErrorCode.frameSize, "settings");
    for (let at = 0; at < payload.byteLength; at += 6) {
      if (payload.readUInt16BE(at) !== Setting.initialWindow) continue;
      const bytes = payload.readUInt32BE(at + 2);
      if (bytes > WINDOW_BYTES_MAX) throw new ConnectionError(ErrorCode.flowControl, "too large a window");
      for (const stream of this.#streams.values()) stream.window += bytes - this.#streamWindow;
      this.#streamWindow = bytes;
    }
    this.#socket.write(
      frameBytes({ type: FrameType.settings, flags: FLAG_ACK, streamId: 0, payload: NO_BYTES }),
    );
    this.#sendWaiting();
  }

  #onWindowUpdate({ payload, streamId }: Frame): void {
    if (payload.byteLength !== 4) throw new ConnectionError(ErrorCode.frameSize, "a window's update");
    const bytes = payload.readUInt32BE(0) & WINDOW_BYTES_MAX;
    if (bytes === 0) throw new ConnectionError(ErrorCode.protocol, "a window that grows by nothing");
    const stream = this.#streams.get(streamId);
    if (streamId === 0) this.#window += bytes;
    else if (stream !== undefined) stream.window += bytes;
    if (Math.max(this.#window, stream?.window ?? 0) > WINDOW_BYTES_MAX) {
      throw new ConnectionError(ErrorCode.flowControl, "too large a window");
    }
    this.#sendWaiting();
  }

  #sendWaiting(): void {
    if (this.#waiting.length === 0) return;
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const rest of waiting) this.#send(rest, []);
  }
}

/** Undefined: not a gRPC call. */
function pathOf(fields: readonly Field[]): string | undefined {
  let path: string | undefined;
  let isPost = false;
  let isGrpc = false;
  for (const [name, value] of fields) {
    if (name === ":path") path = value;
    else if (name === ":method") isPost = value === "POST";
    else if (name === "content-type") isGrpc = value.startsWith("application/grpc");
  }
  return isPost && isGrpc ? path : undefined;
}
