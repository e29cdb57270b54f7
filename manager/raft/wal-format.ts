/**
 * Bytes of the write-ahead log: segment headers and records. No I/O; wal.ts writes them, wal-recovery.ts reads them.
 *
 * A segment begins with a header that names cluster, member and position and carries a random salt. A record is
 * `u32 body length, u32 crc, u32 crc of the record before, u32 flags`, body, padding to 8 bytes. The crc is seeded by the
 * header, so that what an earlier life of a recycled file left behind never looks valid; the crc of the record before
 * chains them, so that a lost or repeated record is seen. Since each record can be checked alone, recovery can tell a
 * torn tail (nothing valid follows) from corruption (something does).
 */
import { createCipheriv, createDecipheriv, hkdfSync } from "node:crypto";
import { crc32 } from "node:zlib";
import { assert } from "../../common/assert.ts";
import { ClusterError } from "../../common/errors.ts";
import type { Entry, HardState } from "./core/messages.ts";
import { decodeEntries } from "./entry-codec.ts";
import { refuseNewerFormat } from "./format-version.ts";

export const SEGMENT_HEADER_BYTES = 512;
export const RECORD_HEADER_BYTES = 16;
const MAGIC = "SHOALWAL";
/** Every version keeps magic, version and checksum of the header where they are: a newer one is told from damage. */
const FORMAT_VERSION = 1;
const SALT_BYTES = 32;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;
const NAME_BYTES_MAX = 100;
/** In the header, behind both names. */
const LENGTH_AT = 64 + 2 * (2 + NAME_BYTES_MAX);
const FLAG_ENCRYPTED = 1;
const HAS_HARD_STATE = 1;
const HAS_BASE = 2;
const HAS_ENTRIES = 4;

/** Whose log it is; a file of another cluster or member is refused. */
export interface WalIdentity {
  readonly clusterId: string;
  readonly nodeId: string;
  readonly raftId: number;
}

export interface SegmentHeader {
  readonly identity: WalIdentity;
  /** Grows by one from segment to segment. */
  readonly sequence: number;
  /** crc of the last record of the segment before; 0 in the first. */
  readonly chain: number;
  readonly isEncrypted: boolean;
  /** Of the whole file, which is zero-filled before it is used: a shorter one has lost something. */
  readonly lengthBytes: number;
  readonly salt: Uint8Array;
}

/** What checks and opens the records of one segment. */
export interface SegmentKeys {
  readonly seed: number;
  readonly key: Uint8Array | undefined;
}

/** Log position: everything before it is replaced by a snapshot. */
export interface WalBase {
  readonly index: number;
  readonly term: number;
}

export interface WalRecord {
  readonly hardState: HardState | undefined;
  readonly base: WalBase | undefined;
  readonly entries: readonly Entry[];
}

export function encodeSegmentHeader(header: SegmentHeader): Buffer {
  const buffer = Buffer.alloc(SEGMENT_HEADER_BYTES);
  buffer.write(MAGIC, 0, "latin1");
  buffer.writeUInt16LE(FORMAT_VERSION, 8);
  buffer.writeUInt16LE(header.isEncrypted ? FLAG_ENCRYPTED : 0, 10);
  buffer.writeUInt32LE(header.chain, 12);
  buffer.writeDoubleLE(header.sequence, 16);
  buffer.writeDoubleLE(header.identity.raftId, 24);
  assert(header.salt.byteLength === SALT_BYTES, "a segment's salt has 32 bytes");
  buffer.set(header.salt, 32);
  let offset = 64;
  for (const name of [header.identity.clusterId, header.identity.nodeId]) {
    const bytes = Buffer.from(name);
    assert(bytes.byteLength <= NAME_BYTES_MAX, "cluster and node ids have at most 100 bytes");
    buffer.writeUInt16LE(bytes.byteLength, offset);
    buffer.set(bytes, offset + 2);
    offset += 2 + NAME_BYTES_MAX;
  }
  buffer.writeDoubleLE(header.lengthBytes, LENGTH_AT);
  buffer.writeUInt32LE(crc32(buffer.subarray(0, SEGMENT_HEADER_BYTES - 4)), SEGMENT_HEADER_BYTES - 4);
  return buffer;
}

/** Undefined if the bytes are not a whole, valid header. */
export function decodeSegmentHeader(bytes: Uint8Array): SegmentHeader | undefined {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (buffer.byteLength < SEGMENT_HEADER_BYTES || buffer.toString("latin1", 0, 8) !== MAGIC) return undefined;
  const crc = buffer.readUInt32LE(SEGMENT_HEADER_BYTES - 4);
  if (crc32(buffer.subarray(0, SEGMENT_HEADER_BYTES - 4)) !== crc) return undefined;
  const version = buffer.readUInt16LE(8);
  refuseNewerFormat("the raft log", version, FORMAT_VERSION);
  if (version !== FORMAT_VERSION) return undefined;
  const name = (offset: number): string =>
    buffer.toString("utf8", offset + 2, offset + 2 + buffer.readUInt16LE(offset));
  return {
    identity: {
      clusterId: name(64),
      nodeId: name(66 + NAME_BYTES_MAX),
      raftId: buffer.readDoubleLE(24),
    },
    sequence: buffer.readDoubleLE(16),
    chain: buffer.readUInt32LE(12),
    isEncrypted: (buffer.readUInt16LE(10) & FLAG_ENCRYPTED) !== 0,
    lengthBytes: buffer.readDoubleLE(LENGTH_AT),
    salt: Uint8Array.from(buffer.subarray(32, 32 + SALT_BYTES)),
  };
}

/** The segment's own key: no two segments share one, so random nonces never run out. */
export function segmentKeys(header: SegmentHeader, encryptionKey: Uint8Array | undefined): SegmentKeys {
  // Without the header's own checksum: over a message and its checksum a crc is the same for all messages.
  const seed = crc32(encodeSegmentHeader(header).subarray(0, SEGMENT_HEADER_BYTES - 4));
  if (!header.isEncrypted) return { seed, key: undefined };
  if (encryptionKey === undefined) {
    throw new ClusterError("failed_precondition", "Cannot read the raft log: it is encrypted, got no key");
  }
  const derived = hkdfSync("sha256", encryptionKey, header.salt, "shoal raft log", 32);
  return { seed, key: new Uint8Array(derived) };
}

/** `block`: the entries as encodeEntries gives them, or undefined for none. */
export interface RecordParts {
  readonly hardState: HardState | undefined;
  readonly base: WalBase | undefined;
  readonly block: Uint8Array | undefined;
}

function bodyBytesOf({ hardState, base, block }: RecordParts): number {
  return 4 + (hardState === undefined ? 0 : 24) + (base === undefined ? 0 : 16) + (block?.byteLength ?? 0);
}

function writeBody(parts: RecordParts, into: Buffer, start: number): void {
  const { hardState, base, block } = parts;
  const flags =
    (hardState === undefined ? 0 : HAS_HARD_STATE) |
    (base === undefined ? 0 : HAS_BASE) |
    (block === undefined ? 0 : HAS_ENTRIES);
  let offset = into.writeUInt32LE(flags, start);
  const put = (value: number): void => {
    offset = into.writeDoubleLE(value, offset);
  };
  if (hardState !== undefined) [hardState.term, hardState.vote, hardState.commit].forEach(put);
  if (base !== undefined) [base.index, base.term].forEach(put);
  if (block !== undefined) into.set(block, offset);
}

function decodeBody(body: Buffer): WalRecord {
  const flags = body.readUInt32LE(0);
  let offset = 4;
  const take = (): number => {
    const value = body.readDoubleLE(offset);
    offset += 8;
    return value;
  };
  const hardState =
    (flags & HAS_HARD_STATE) === 0 ? undefined : { term: take(), vote: take(), commit: take() };
  const base = (flags & HAS_BASE) === 0 ? undefined : { index: take(), term: take() };
  const entries = (flags & HAS_ENTRIES) === 0 ? [] : decodeEntries(body.subarray(offset));
  return { hardState, base, entries };
}

function paddedBytes(bodyBytes: number): number {
  return Math.ceil((RECORD_HEADER_BYTES + bodyBytes) / 8) * 8;
}

/** Upper bound of what a record of these parts takes in a segment. */
export function recordBytesMax(parts: RecordParts): number {
  return paddedBytes(4 + 24 + 16 + (parts.block?.byteLength ?? 0) + NONCE_BYTES + TAG_BYTES);
}

export interface EncodedRecord {
  readonly bytes: Buffer;
  readonly crc: number;
}

export interface RecordPlace {
  readonly keys: SegmentKeys;
  /** crc of the record before. */
  readonly chain: number;
  /** 12 random bytes, asked for if the segment is encrypted. */
  readonly nonce: () => Uint8Array;
  /** Memory for that many bytes; what it held is overwritten. */
  readonly room: (bytes: number) => Buffer;
}

export function encodeRecord(parts: RecordParts, segment: RecordPlace): EncodedRecord {
  const { key, seed } = segment.keys;
  const plainBytes = bodyBytesOf(parts);
  const bodyBytes = key === undefined ? plainBytes : NONCE_BYTES + plainBytes + TAG_BYTES;
  const bytes = segment.room(paddedBytes(bodyBytes));
  bytes.fill(0, RECORD_HEADER_BYTES + bodyBytes);
  bytes.writeUInt32LE(bodyBytes, 0);
  bytes.writeUInt32LE(segment.chain, 8);
  bytes.writeUInt32LE(key === undefined ? 0 : FLAG_ENCRYPTED, 12);
  if (key === undefined) {
    writeBody(parts, bytes, RECORD_HEADER_BYTES);
  } else {
    const plain = Buffer.allocUnsafe(plainBytes);
    writeBody(parts, plain, 0);
    bytes.set(seal(plain, key, segment.nonce()), RECORD_HEADER_BYTES);
  }
  const crc = recordCrc(bytes, bodyBytes, seed);
  bytes.writeUInt32LE(crc, 4);
  return { bytes, crc };
}

function recordCrc(record: Buffer, bodyBytes: number, seed: number): number {
  const head = crc32(record.subarray(0, 4), seed);
  return crc32(record.subarray(8, RECORD_HEADER_BYTES + bodyBytes), head);
}

export interface CheckedRecord {
  readonly chain: number;
  readonly crc: number;
  /** Bytes it takes, padding included. */
  readonly bytes: number;
}

/** The record at `offset` if its checksum holds. Looks at nothing else. */
export function checkRecord(segment: Buffer, offset: number, seed: number): CheckedRecord | undefined {
  if (offset + RECORD_HEADER_BYTES > segment.byteLength) return undefined;
  const bodyBytes = segment.readUInt32LE(offset);
  if (bodyBytes < 4 || offset + RECORD_HEADER_BYTES + bodyBytes > segment.byteLength) return undefined;
  // Of old, encrypted bytes one place in a few hundred looks like the length of a record, of megabytes mostly: what can't be
  // one is not worth a checksum.
  if (segment.readUInt32LE(offset + 12) > FLAG_ENCRYPTED) return undefined;
  const crc = segment.readUInt32LE(offset + 4);
  if (recordCrc(segment.subarray(offset), bodyBytes, seed) !== crc) return undefined;
  return { chain: segment.readUInt32LE(offset + 8), crc, bytes: paddedBytes(bodyBytes) };
}

/** The content of a record that checkRecord found valid. Throws failed_precondition on the wrong key. */
export function openRecord(segment: Buffer, offset: number, keys: SegmentKeys): WalRecord {
  const bodyBytes = segment.readUInt32LE(offset);
  const body = segment.subarray(offset + RECORD_HEADER_BYTES, offset + RECORD_HEADER_BYTES + bodyBytes);
  return decodeBody(keys.key === undefined ? body : unseal(body, keys.key));
}

/** AES-256-GCM: nonce, ciphertext, tag. */
export function seal(plain: Uint8Array, key: Uint8Array, nonce: Uint8Array): Buffer {
  const cipher = createCipheriv("aes-256-gcm", key, nonce);
  return Buffer.concat([nonce, cipher.update(plain), cipher.final(), cipher.getAuthTag()]);
}

export function unseal(sealed: Uint8Array, key: Uint8Array): Buffer {
  const tagAt = sealed.byteLength - TAG_BYTES;
  try {
    const decipher = createDecipheriv("aes-256-gcm", key, sealed.subarray(0, NONCE_BYTES));
    decipher.setAuthTag(sealed.subarray(tagAt));
    return Buffer.concat([decipher.update(sealed.subarray(NONCE_BYTES, tagAt)), decipher.final()]);
  } catch (caught) {
    throw new ClusterError("failed_precondition", "Cannot decrypt the raft data: the key does not fit", {
      cause: caught,
    });
  }
}
