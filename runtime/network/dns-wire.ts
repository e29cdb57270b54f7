/**
 * DNS messages as bytes, as far as a node's name server needs them: one question in, records out, and the ages of records in
 * an upstream's answer. Pure; hostile input gives undefined, never an exception or a loop.
 */
import { bytesToAddress6 } from "./addresses6.ts";

export const DnsType = { a: 1, ptr: 12, aaaa: 28, srv: 33, opt: 41, any: 255 } as const;
export const DnsCode = { ok: 0, formatError: 1, serverFailure: 2, noSuchName: 3, refused: 5 } as const;

const HEADER_BYTES = 12;
const CLASS_IN = 1;
/** What a client without EDNS can take over UDP. */
const PLAIN_UDP_BYTES = 512;
/** What we send at most over UDP, whatever the client claims: fits any path without fragments. */
const UDP_BYTES_MAX = 1232;
const NAME_BYTES_MAX = 255;

export interface DnsQuestion {
  readonly id: number;
  /** Lower case, without the closing dot; "" is the root. */
  readonly name: string;
  readonly type: number;
  readonly isRecursionWanted: boolean;
  /** Bytes that the client takes over UDP. */
  readonly udpBytes: number;
  readonly hasEdns: boolean;
  /** Question section as received, so that an answer repeats it exactly (resolvers play with letter case). */
  readonly section: Buffer;
}

export interface DnsRecord {
  /** Absent: the question's name. */
  readonly name?: string;
  readonly type: number;
  readonly ttlSeconds: number;
  readonly data: Buffer;
}

/** End of the name that starts at `offset`, or undefined if it is broken. Pointers are not followed. */
function skipName(bytes: Buffer, offset: number): number | undefined {
  let at = offset;
  while (at < bytes.length) {
    const length = bytes[at] ?? 0;
    if (length === 0) return at + 1;
    if ((length & 0xc0) === 0xc0) return at + 2 <= bytes.length ? at + 2 : undefined;
    if (length > 63) return undefined;
    at += 1 + length;
  }
  return undefined;
}

function readPlainName(
  bytes: Buffer,
  offset: number,
): { readonly name: string; readonly end: number } | undefined {
  const labels: string[] = [];
  let at = offset;
  while (at < bytes.length && at - offset <= NAME_BYTES_MAX) {
    const length = bytes[at] ?? 0;
    if (length === 0) return { name: labels.join(".").toLowerCase(), end: at + 1 };
    if (length > 63 || at + 1 + length > bytes.length) return undefined;
    labels.push(bytes.toString("latin1", at + 1, at + 1 + length));
    at += 1 + length;
  }
  return undefined;
}

/** The EDNS record's payload size, if the additional section (right after the question) has one. */
function ednsBytes(bytes: Buffer, offset: number): number | undefined {
  const isOpt =
    bytes.readUInt16BE(10) > 0 &&
    bytes.length >= offset + 11 &&
    bytes[offset] === 0 &&
    bytes.readUInt16BE(offset + 1) === DnsType.opt;
  return isOpt ? bytes.readUInt16BE(offset + 3) : undefined;
}

/** The question of a query; undefined if it is not a plain query with one question. */
export function decodeQuestion(bytes: Buffer): DnsQuestion | undefined {
  if (bytes.length < HEADER_BYTES) return undefined;
  const flags = bytes.readUInt16BE(2);
  const isQuery = (flags & 0x8000) === 0 && (flags & 0x7800) === 0;
  if (!isQuery || bytes.readUInt16BE(4) !== 1) return undefined;
  const found = readPlainName(bytes, HEADER_BYTES);
  if (found === undefined || found.end + 4 > bytes.length) return undefined;
  const sectionEnd = found.end + 4;
  const edns = ednsBytes(bytes, sectionEnd);
  return {
    id: bytes.readUInt16BE(0),
    name: found.name,
    type: bytes.readUInt16BE(found.end),
    isRecursionWanted: (flags & 0x0100) !== 0,
    udpBytes: Math.min(Math.max(edns ?? PLAIN_UDP_BYTES, PLAIN_UDP_BYTES), UDP_BYTES_MAX),
    hasEdns: edns !== undefined,
    section: Buffer.from(bytes.subarray(HEADER_BYTES, sectionEnd)),
  };
}

export function encodeName(name: string): Buffer {
  if (name === "") return Buffer.from([0]);
  const labels = name.split(".").map((label) => {
    const text = Buffer.from(label, "latin1").subarray(0, 63);
    return Buffer.concat([Buffer.from([text.length]), text]);
  });
  return Buffer.concat([...labels, Buffer.from([0])]);
}

function writeRecord(record: DnsRecord, name: Buffer, bytes: Buffer, offset: number): number {
  let at = offset + name.copy(bytes, offset);
  at = bytes.writeUInt16BE(record.type, at);
  at = bytes.writeUInt16BE(CLASS_IN, at);
  at = bytes.writeUInt32BE(record.ttlSeconds, at);
  at = bytes.writeUInt16BE(record.data.length, at);
  return at + record.data.copy(bytes, at);
}

function writeEdns(bytes: Buffer, offset: number): number {
  let at = bytes.writeUInt8(0, offset);
  at = bytes.writeUInt16BE(DnsType.opt, at);
  at = bytes.writeUInt16BE(UDP_BYTES_MAX, at);
  at = bytes.writeUInt32BE(0, at);
  return bytes.writeUInt16BE(0, at);
}

const EDNS_BYTES = 11;
const RECORD_FIXED_BYTES = 10;
const POINTER_TO_QUESTION = Buffer.from([0xc0, HEADER_BYTES]);

export interface DnsAnswer {
  readonly code: number;
  readonly records: readonly DnsRecord[];
}

function recordName(record: DnsRecord): Buffer {
  return record.name === undefined ? POINTER_TO_QUESTION : encodeName(record.name);
}

/** The reply to `question`. Over `bytesMax` it is cut to whole records and marked as truncated. */
export function encodeAnswer(question: DnsQuestion, answer: DnsAnswer, bytesMax: number): Buffer {
  const ednsLength = question.hasEdns ? EDNS_BYTES : 0;
  const names = answer.records.map(recordName);
  let length = HEADER_BYTES + question.section.length + ednsLength;
  let count = 0;
  for (const [index, record] of answer.records.entries()) {
    const recordLength = (names[index]?.length ?? 0) + RECORD_FIXED_BYTES + record.data.length;
    if (length + recordLength > bytesMax) break;
    length += recordLength;
    count += 1;
  }
  const bytes = Buffer.alloc(length);
  const isTruncated = count < answer.records.length;
  // QR, AA, TC, RD as asked, RA, code.
  const flags = 0x8400 | (isTruncated ? 0x0200 : 0) | (question.isRecursionWanted ? 0x0100 : 0) | 0x0080;
  bytes.writeUInt16BE(question.id, 0);
  bytes.writeUInt16BE(flags | answer.code, 2);
  bytes.writeUInt16BE(1, 4);
  bytes.writeUInt16BE(count, 6);
  bytes.writeUInt16BE(question.hasEdns ? 1 : 0, 10);
  let at = HEADER_BYTES + question.section.copy(bytes, HEADER_BYTES);
  for (const [index, record] of answer.records.slice(0, count).entries())
    at = writeRecord(record, names[index] ?? POINTER_TO_QUESTION, bytes, at);
  if (question.hasEdns) writeEdns(bytes, at);
  return bytes;
}

/** Code, truncation and lifetime of an upstream's answer; undefined if it can't be read. */
export function readAnswer(
  bytes: Buffer,
): { readonly code: number; readonly isTruncated: boolean; readonly ttlSeconds: number } | undefined {
  if (bytes.length < HEADER_BYTES || (bytes.readUInt16BE(2) & 0x8000) === 0) return undefined;
  const flags = bytes.readUInt16BE(2);
  const ttlSeconds = shortestTtl(bytes);
  if (ttlSeconds === undefined) return undefined;
  return { code: flags & 15, isTruncated: (flags & 0x0200) !== 0, ttlSeconds };
}

function shortestTtl(bytes: Buffer): number | undefined {
  /** Lifetime of an answer without records (a name that is not there). */
  const EMPTY_TTL_SECONDS = 5;
  const questionCount = bytes.readUInt16BE(4);
  const recordCount = bytes.readUInt16BE(6) + bytes.readUInt16BE(8);
  let at: number | undefined = HEADER_BYTES;
  for (let index = 0; index < questionCount; index += 1) {
    at = skipName(bytes, at);
    if (at === undefined || at + 4 > bytes.length) return undefined;
    at += 4;
  }
  let shortest = recordCount === 0 ? EMPTY_TTL_SECONDS : Number.MAX_SAFE_INTEGER;
  for (let index = 0; index < recordCount; index += 1) {
    at = skipName(bytes, at);
    if (at === undefined || at + 10 > bytes.length) return undefined;
    shortest = Math.min(shortest, bytes.readUInt32BE(at + 4));
    at += 10 + bytes.readUInt16BE(at + 8);
  }
  return shortest;
}

/** "10.1.168.192.in-addr.arpa" as "192.168.1.10", and IPv6's the same way; undefined if it is no whole reverse name. */
export function reverseAddress(name: string): string | undefined {
  const nibbles = /^((?:[0-9a-f]\.){32})ip6\.arpa$/.exec(name)?.[1];
  if (nibbles !== undefined) {
    const digits = nibbles.replaceAll(".", "").split("").toReversed().join("");
    return bytesToAddress6(Buffer.from(digits, "hex"));
  }
  const match = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.in-addr\.arpa$/.exec(name);
  return match === null ? undefined : [match[4], match[3], match[2], match[1]].join(".");
}
