/**
 * Entries as bytes, one form for the log on disk and for the wire, so that a batch is encoded once and the same bytes go
 * to the disk and to every peer. Numbers below 2^53 travel as IEEE doubles, which hold them exactly.
 *
 * Layout, little-endian: u32 count, f64 first index, then per entry u32 payload length, u32 kind, f64 term, payload.
 */
import { ClusterError } from "../../common/errors.ts";
import { type Entry, EntryKind } from "./core/messages.ts";

const HEAD_BYTES = 12;
const ENTRY_HEAD_BYTES = 16;
/** How many batches are remembered: the disk's and each peer's differ only when one lags. */
const CACHE_COUNT_MAX = 4;
/** What the log's small entries are copied into; a buffer at least half of which an entry fills is left to it. */
const SLAB_BYTES = 64 * 1024;

/** The same memory. */
export function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function encodedBytes(entries: readonly Entry[]): number {
  let bytes = HEAD_BYTES;
  for (const entry of entries) bytes += ENTRY_HEAD_BYTES + entry.payload.byteLength;
  return bytes;
}

export function encodeEntries(entries: readonly Entry[]): Buffer {
  const buffer = Buffer.allocUnsafe(encodedBytes(entries));
  buffer.writeUInt32LE(entries.length, 0);
  buffer.writeDoubleLE(entries[0]?.index ?? 0, 4);
  let offset = HEAD_BYTES;
  for (const entry of entries) {
    buffer.writeUInt32LE(entry.payload.byteLength, offset);
    buffer.writeUInt32LE(entry.kind, offset + 4);
    buffer.writeDoubleLE(entry.term, offset + 8);
    buffer.set(entry.payload, offset + ENTRY_HEAD_BYTES);
    offset += ENTRY_HEAD_BYTES + entry.payload.byteLength;
  }
  return buffer;
}

function kindOf(value: number): EntryKind {
  switch (value) {
    case EntryKind.normal:
      return EntryKind.normal;
    case EntryKind.config:
      return EntryKind.config;
    case EntryKind.empty:
      return EntryKind.empty;
    default:
      throw new ClusterError("invalid_argument", `Cannot read raft entries: want kind 0 to 2, got ${value}`);
  }
}

/** Payloads are views into `bytes`, which must not change afterwards. Throws invalid_argument on malformed input. */
export function decodeEntries(bytes: Uint8Array): readonly Entry[] {
  const buffer = asBuffer(bytes);
  const bad = (got: string): ClusterError =>
    new ClusterError("invalid_argument", `Cannot read raft entries: want a whole batch, got ${got}`);
  if (buffer.byteLength < HEAD_BYTES) throw bad(`${buffer.byteLength} bytes`);
  const count = buffer.readUInt32LE(0);
  const firstIndex = buffer.readDoubleLE(4);
  if (!Number.isSafeInteger(firstIndex) || firstIndex < 0) throw bad(`first index ${firstIndex}`);
  if (count > buffer.byteLength / ENTRY_HEAD_BYTES) throw bad(`count ${count} in ${buffer.byteLength} bytes`);
  const entries: Entry[] = [];
  let offset = HEAD_BYTES;
  for (let position = 0; position < count; position += 1) {
    if (offset + ENTRY_HEAD_BYTES > buffer.byteLength) throw bad("a cut entry");
    const length = buffer.readUInt32LE(offset);
    const kind = kindOf(buffer.readUInt32LE(offset + 4));
    const term = buffer.readDoubleLE(offset + 8);
    offset += ENTRY_HEAD_BYTES;
    if (offset + length > buffer.byteLength || !Number.isSafeInteger(term)) throw bad("a cut payload");
    entries.push({
      index: firstIndex + position,
      term,
      kind,
      payload: buffer.subarray(offset, offset + length),
    });
    offset += length;
  }
  if (offset !== buffer.byteLength) throw bad(`${buffer.byteLength - offset} bytes after the last entry`);
  return entries;
}

/**
 * Encodes the same run of entries once, and holds what the log keeps in memory. One per member; entries are immutable, so
 * identity of the ends is enough.
 */
export class EntryEncoder {
  readonly #recent: { readonly entries: readonly Entry[]; readonly bytes: Buffer }[] = [];
  #slab = Buffer.alloc(0);

  /**
   * `bytes` in memory that is shared with other entries only. The log holds entries by the ten thousand, and a view of
   * Node's buffer pool, or of what a socket read, holds all of the 64 KiB around it: hundreds of megabytes in a leader.
   */
  own(bytes: Uint8Array): Buffer {
    const { byteLength } = bytes;
    if (byteLength * 2 >= bytes.buffer.byteLength) return asBuffer(bytes);
    if (byteLength * 2 >= SLAB_BYTES) return Buffer.from(new Uint8Array(bytes).buffer);
    if (byteLength > this.#slab.byteLength) this.#slab = Buffer.allocUnsafeSlow(SLAB_BYTES);
    const copy = this.#slab.subarray(0, byteLength);
    copy.set(bytes);
    this.#slab = this.#slab.subarray(byteLength);
    return copy;
  }

  encode(entries: readonly Entry[]): Buffer {
    const known = this.#recent.find(
      (each) =>
        each.entries.length === entries.length &&
        each.entries[0] === entries[0] &&
        each.entries.at(-1) === entries.at(-1),
    );
    if (known !== undefined) return known.bytes;
    const bytes = encodeEntries(entries);
    this.remember(entries, bytes);
    return bytes;
  }

  /**
   * `entries` were read from `bytes`: a follower writes to its log what the leader sent, unless batches have joined meanwhile.
   */
  remember(entries: readonly Entry[], bytes: Buffer): void {
    this.#recent.push({ entries, bytes });
    if (this.#recent.length > CACHE_COUNT_MAX) this.#recent.shift();
  }
}
