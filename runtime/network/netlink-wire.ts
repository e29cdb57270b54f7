/**
 * Netlink messages as bytes: building and taking apart, nothing else. Pure; used by netlink-socket.ts and the files that
 * speak a family (routing.ts, conntrack.ts). Numbers are in the host's byte order, which is little-endian on every machine
 * that the product runs on (x64, arm64); addresses and ports are in network order.
 */

const NLM_F_REQUEST = 0x1;
export const NLM_F_ACK = 0x4;
export const NLM_F_DUMP = 0x300;
export const NLM_F_REPLACE = 0x100;
export const NLM_F_EXCL = 0x200;
export const NLM_F_CREATE = 0x400;

const HEADER_BYTES = 16;
const ATTRIBUTE_HEADER_BYTES = 4;
const NESTED = 0x8000;
const TYPE_MASK = 0x3fff;

function padded(length: number): number {
  return (length + 3) & ~3;
}

/** One attribute, padded. */
export function attribute(type: number, payload: Uint8Array): Buffer {
  const bytes = Buffer.alloc(padded(ATTRIBUTE_HEADER_BYTES + payload.length));
  bytes.writeUInt16LE(ATTRIBUTE_HEADER_BYTES + payload.length, 0);
  bytes.writeUInt16LE(type, 2);
  bytes.set(payload, ATTRIBUTE_HEADER_BYTES);
  return bytes;
}

export function nested(type: number, ...children: readonly Uint8Array[]): Buffer {
  return attribute(type | NESTED, Buffer.concat(children));
}

/** Nested without the flag, for families that were written before it (link info, veth peer). */
export function plainNested(type: number, ...children: readonly Uint8Array[]): Buffer {
  return attribute(type, Buffer.concat(children));
}

export function u8(type: number, value: number): Buffer {
  return attribute(type, Buffer.from([value]));
}

/** In network byte order. */
export function u16be(type: number, value: number): Buffer {
  const payload = Buffer.alloc(2);
  payload.writeUInt16BE(value, 0);
  return attribute(type, payload);
}

export function u32(type: number, value: number): Buffer {
  const payload = Buffer.alloc(4);
  payload.writeUInt32LE(value >>> 0, 0);
  return attribute(type, payload);
}

/** With the closing zero that the kernel wants. */
export function text(type: number, value: string): Buffer {
  return attribute(type, Buffer.from(`${value}\0`, "utf8"));
}

export interface Request {
  readonly type: number;
  /** Beyond REQUEST and ACK, which are always set. */
  readonly flags: number;
  /** Family header and attributes. */
  readonly body: Uint8Array;
  /** What was asked for, for error texts: `add link "br0"`. */
  readonly action: string;
}

export function encodeRequest(request: Request, sequence: number, flags: number): Buffer {
  const bytes = Buffer.alloc(padded(HEADER_BYTES + request.body.length));
  bytes.writeUInt32LE(HEADER_BYTES + request.body.length, 0);
  bytes.writeUInt16LE(request.type, 4);
  bytes.writeUInt16LE(request.flags | flags | NLM_F_REQUEST, 6);
  bytes.writeUInt32LE(sequence, 8);
  bytes.set(request.body, HEADER_BYTES);
  return bytes;
}

export interface Reply {
  readonly type: number;
  readonly flags: number;
  readonly sequence: number;
  /** Family header and attributes; copied, safe to keep. */
  readonly body: Buffer;
}

/** The messages of one datagram. A torn one ends the list. */
export function decodeReplies(datagram: Buffer): Reply[] {
  const replies: Reply[] = [];
  let offset = 0;
  while (offset + HEADER_BYTES <= datagram.length) {
    const length = datagram.readUInt32LE(offset);
    if (length < HEADER_BYTES || offset + length > datagram.length) break;
    replies.push({
      type: datagram.readUInt16LE(offset + 4),
      flags: datagram.readUInt16LE(offset + 6),
      sequence: datagram.readUInt32LE(offset + 8),
      body: Buffer.from(datagram.subarray(offset + HEADER_BYTES, offset + length)),
    });
    offset += padded(length);
  }
  return replies;
}

/** Attributes from `offset` on; of a type that comes twice the last one counts. */
export function decodeAttributes(bytes: Buffer, offset = 0): Map<number, Buffer> {
  const attributes = new Map<number, Buffer>();
  let at = offset;
  while (at + ATTRIBUTE_HEADER_BYTES <= bytes.length) {
    const length = bytes.readUInt16LE(at);
    if (length < ATTRIBUTE_HEADER_BYTES || at + length > bytes.length) break;
    attributes.set(
      bytes.readUInt16LE(at + 2) & TYPE_MASK,
      bytes.subarray(at + ATTRIBUTE_HEADER_BYTES, at + length),
    );
    at += padded(length);
  }
  return attributes;
}

/** A string attribute without its closing zero. */
export function textOf(payload: Buffer | undefined): string {
  if (payload === undefined) return "";
  const end = payload.indexOf(0);
  return payload.toString("utf8", 0, end === -1 ? payload.length : end);
}

/** A 32-bit attribute in host order; `fallback` if it is missing or short. */
export function numberOf(payload: Buffer | undefined, fallback = 0): number {
  return payload === undefined || payload.length < 4 ? fallback : payload.readUInt32LE(0);
}
