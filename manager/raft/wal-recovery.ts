/**
 * Reads a write-ahead log back. Every overwrite is replayed in the order in which it was written. A record that doesn't
 * check out is a torn tail only at the very end: in the last segment, with nothing valid behind it. Anything else is
 * corruption, and so is a file that has become shorter; then the valid records before it are given, together with the
 * newest vote found anywhere, and the caller must not vote until its peers have given back what is lost. Called by
 * wal.ts when it opens; writes nothing.
 */
import type { Disk } from "../../common/env.ts";
import { ClusterError } from "../../common/errors.ts";
import type { Entry, HardState } from "./core/messages.ts";
import { newerVote, readVote } from "./vote-file.ts";
import {
  checkRecord,
  decodeSegmentHeader,
  openRecord,
  SEGMENT_HEADER_BYTES,
  segmentKeys,
  type SegmentHeader,
  type WalBase,
  type WalIdentity,
} from "./wal-format.ts";

export interface SegmentRange {
  readonly sequence: number;
  readonly path: string;
  readonly lengthBytes: number;
  /** Highest entry index in it or before; what must be compacted before it may go. */
  readonly lastIndex: number;
}

export interface RecoveredWal {
  /** With the newest vote of log and vote-file.ts. */
  readonly hardState: HardState;
  /** Where the log starts, as the last snapshot record says; undefined if there was none. */
  readonly base: WalBase | undefined;
  /** Contiguous. */
  readonly entries: readonly Entry[];
  readonly segments: readonly SegmentRange[];
  /** Where the next record goes, in the last segment. */
  readonly endOffset: number;
  readonly chain: number;
  readonly lastHeader: SegmentHeader | undefined;
  /** What was found wrong, in words; undefined if all is well. */
  readonly corruption: string | undefined;
  /** Bytes of a torn tail were dropped. */
  readonly isTailCut: boolean;
}

export function segmentName(sequence: number): string {
  return `${sequence.toString(16).padStart(12, "0")}.wal`;
}

function sequenceOf(name: string): number | undefined {
  const found = /^([0-9a-f]{12})\.wal$/.exec(name);
  return found?.[1] === undefined ? undefined : Number.parseInt(found[1], 16);
}

class Replay {
  hardState: HardState = { term: 0, vote: 0, commit: 0 };
  base: WalBase | undefined;
  entries: Entry[] = [];
  corruption: string | undefined;

  add(record: {
    readonly hardState: HardState | undefined;
    readonly base: WalBase | undefined;
    readonly entries: readonly Entry[];
  }): void {
    if (record.hardState !== undefined) this.hardState = record.hardState;
    if (record.base !== undefined) {
      this.base = record.base;
      this.entries = [];
    }
    const first = record.entries[0];
    if (first === undefined) return;
    const start = this.entries[0]?.index ?? (this.base === undefined ? first.index : this.base.index + 1);
    const keep = first.index - start;
    if (keep > this.entries.length) {
      this.corruption = `entry ${start + this.entries.length} is missing before ${first.index}`;
      return;
    }
    this.entries.length = Math.max(0, keep);
    for (const entry of record.entries) this.entries.push(entry);
  }

  get lastIndex(): number {
    return this.entries.at(-1)?.index ?? this.base?.index ?? 0;
  }
}

/** Offset of a valid record at or after `offset`, or undefined. Records lie on multiples of 8. */
function findValid(segment: Buffer, offset: number, seed: number): number | undefined {
  for (let at = offset; at + 16 <= segment.byteLength; at += 8) {
    if (segment.readUInt32LE(at) !== 0 && checkRecord(segment, at, seed) !== undefined) return at;
  }
  return undefined;
}

/** True if a record of this log was begun at `offset`: what a recycled file held before chains to something else. */
function isBegunRecord(segment: Buffer, offset: number, chain: number): boolean {
  if (offset + 16 > segment.byteLength) return false;
  return segment.readUInt32LE(offset) !== 0 && segment.readUInt32LE(offset + 8) === chain;
}

function checkIdentity(found: WalIdentity, wanted: WalIdentity): void {
  if (found.clusterId === wanted.clusterId && found.raftId === wanted.raftId) return;
  throw new ClusterError(
    "failed_precondition",
    `Cannot open the raft log: want cluster "${wanted.clusterId}" member ${wanted.raftId}, ` +
      `got cluster "${found.clusterId}" member ${found.raftId}`,
  );
}

/** What keeps a segment from being the continuation of those before it; undefined if nothing does. */
function brokenChain(
  {
    name,
    sequence,
    header,
  }: { readonly name: string; readonly sequence: number; readonly header: SegmentHeader | undefined },
  previous: SegmentRange | undefined,
  chain: number | undefined,
): string | undefined {
  if (header === undefined || header.sequence !== sequence) return `segment ${name} has no valid header`;
  if (previous !== undefined && previous.sequence !== sequence - 1)
    return `a segment before ${name} is missing`;
  if (chain !== undefined && header.chain !== chain)
    return `segment ${name} does not continue the one before it`;
  return undefined;
}

export async function recoverWal(
  disk: Disk,
  folder: string,
  options: { readonly identity: WalIdentity; readonly encryptionKey: Uint8Array | undefined },
): Promise<RecoveredWal> {
  const replay = new Replay();
  const segments: SegmentRange[] = [];
  let chain: number | undefined;
  let endOffset = SEGMENT_HEADER_BYTES;
  let isTailCut = false;
  let lastHeader: SegmentHeader | undefined;
  const sequences = (await disk.list(folder)).map(sequenceOf).filter((each) => each !== undefined);
  for (const [position, sequence] of sequences.entries()) {
    const isLast = position === sequences.length - 1;
    const name = segmentName(sequence);
    const path = `${folder}/${name}`;
    const bytes = await disk.readFile(path);
    const segment = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const header = decodeSegmentHeader(segment);
    const previous = segments.at(-1);
    if (header !== undefined) checkIdentity(header.identity, options.identity);
    replay.corruption ??= brokenChain({ name, sequence, header }, previous, chain);
    if (header !== undefined) {
      const keys = segmentKeys(header, options.encryptionKey);
      chain = header.chain;
      let offset = SEGMENT_HEADER_BYTES;
      while (true) {
        const record = checkRecord(segment, offset, keys.seed);
        if (record === undefined || (replay.corruption === undefined && record.chain !== chain)) {
          const next = record === undefined ? findValid(segment, offset, keys.seed) : offset;
          if (next === undefined) {
            if (isLast && replay.corruption === undefined) isTailCut = isBegunRecord(segment, offset, chain);
            break;
          }
          replay.corruption ??= `segment ${name} is damaged at byte ${offset} and goes on at ${next}`;
          offset = next;
          continue;
        }
        chain = record.crc;
        const content = openRecord(segment, offset, keys);
        if (replay.corruption === undefined) replay.add(content);
        // Behind the damage only the vote counts: it must never be given twice.
        else if (content.hardState !== undefined) replay.hardState = content.hardState;
        offset += record.bytes;
      }
      // Files are made in full length before they are used: no crash makes one shorter, so what was cut off is not a tear.
      if (segment.byteLength < header.lengthBytes)
        replay.corruption ??= `segment ${name} has ${segment.byteLength} of ${header.lengthBytes} bytes`;
      endOffset = offset;
      lastHeader = header;
    }
    segments.push({ sequence, path, lengthBytes: segment.byteLength, lastIndex: replay.lastIndex });
  }
  const noted = await readVote(disk, folder, options.identity.raftId);
  return {
    hardState: { ...replay.hardState, ...newerVote(replay.hardState, noted ?? replay.hardState) },
    base: replay.base,
    entries: replay.entries,
    segments,
    endOffset,
    chain: chain ?? 0,
    lastHeader,
    corruption: replay.corruption,
    isTailCut,
  };
}
