/** Frames of HTTP/2 (RFC 9113) as bytes: what both sides of a connection say beyond headers and data. */

export const FRAME_HEAD_BYTES = 9;
/** What every peer takes unless it says otherwise, and what ours says. */
export const FRAME_BYTES_MAX = 16_384;
export const PREFACE: Buffer = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "latin1");
export const WINDOW_BYTES = 65_535;
export const WINDOW_BYTES_MAX = 0x7fff_ffff;

export const FrameType = {
  data: 0,
  headers: 1,
  priority: 2,
  reset: 3,
  settings: 4,
  pushPromise: 5,
  ping: 6,
  goAway: 7,
  windowUpdate: 8,
  continuation: 9,
} as const;

/** END_STREAM and ACK are the same bit, in different frames. */
export const FLAG_END_STREAM = 1;
export const FLAG_ACK = 1;
export const FLAG_END_HEADERS = 4;
const FLAG_PADDED = 8;
const FLAG_PRIORITY = 32;

export const Setting = { maxStreams: 3, initialWindow: 4 } as const;

export const ErrorCode = {
  none: 0,
  protocol: 1,
  flowControl: 3,
  streamClosed: 5,
  frameSize: 6,
  refusedStream: 7,
  compression: 9,
  enhanceYourCalm: 11,
} as const;

/** The connection ends with this code. */
export class ConnectionError extends Error {
  override readonly name = "ConnectionError";
  readonly code: number;

  constructor(code: number, what: string) {
    super(what);
    this.code = code;
  }
}

export interface Frame {
  readonly type: number;
  readonly flags: number;
  readonly streamId: number;
  readonly payload: Buffer;
}

export function frameBytes({ flags, payload, streamId, type }: Frame): Buffer {
  const bytes = Buffer.allocUnsafe(FRAME_HEAD_BYTES + payload.byteLength);
  bytes.writeUIntBE(payload.byteLength, 0, 3);
  bytes[3] = type;
  bytes[4] = flags;
  bytes.writeUInt32BE(streamId, 5);
  bytes.set(payload, FRAME_HEAD_BYTES);
  return bytes;
}

export function settings(pairs: readonly (readonly [id: number, value: number])[]): Buffer {
  const payload = Buffer.alloc(6 * pairs.length);
  for (const [at, [id, value]] of pairs.entries()) {
    payload.writeUInt16BE(id, 6 * at);
    payload.writeUInt32BE(value, 6 * at + 2);
  }
  return frameBytes({ type: FrameType.settings, flags: 0, streamId: 0, payload });
}

function numbered(type: number, streamId: number, numbers: readonly number[]): Buffer {
  const payload = Buffer.alloc(4 * numbers.length);
  for (const [at, number] of numbers.entries()) payload.writeUInt32BE(number, 4 * at);
  return frameBytes({ type, flags: 0, streamId, payload });
}

export function windowUpdate(streamId: number, bytes: number): Buffer {
  return numbered(FrameType.windowUpdate, streamId, [bytes]);
}

export function resetStream(streamId: number, code: number): Buffer {
  return numbered(FrameType.reset, streamId, [code]);
}

export function goAway(lastStreamId: number, code: number): Buffer {
  return numbered(FrameType.goAway, 0, [lastStreamId, code]);
}

/** The content of a frame that may be padded, or begin with a priority. */
export function unpadded({ flags, payload, type }: Frame): Buffer {
  const isPadded = (flags & FLAG_PADDED) !== 0;
  const start = (isPadded ? 1 : 0) + (type === FrameType.headers && (flags & FLAG_PRIORITY) !== 0 ? 5 : 0);
  if (start === 0) return payload;
  const end = payload.byteLength - (isPadded ? (payload[0] ?? 0) : 0);
  if (end < start) throw new ConnectionError(ErrorCode.protocol, "more padding than frame");
  return payload.subarray(start, end);
}
