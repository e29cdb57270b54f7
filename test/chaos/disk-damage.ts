/** Damages the files of a stopped manager of a dev cluster as disks do: torn and truncated tails, flipped bytes. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import path from "node:path";
import type { DevHost } from "../../dev/cluster.ts";
import { RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES } from "../../manager/raft/wal-format.ts";

function filesBelow(folder: string): readonly string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => path.join(entry.parentPath, entry.name));
}

/** The newest segment of the manager's log. */
function lastSegment(host: DevHost): string {
  const found = filesBelow(path.join(host.folder, "data")).filter((file) =>
    /\/raft\/wal-\d+\/[0-9a-f]{12}\.wal$/.test(file),
  );
  const last = found.toSorted().at(-1);
  assert.ok(last, `${host.name} has a log`);
  return last;
}

/** Offsets of the records in a segment, and where the next one goes. */
function recordOffsets(segment: Buffer): {
  readonly offsets: readonly number[];
  readonly end: number;
} {
  const offsets: number[] = [];
  let offset = SEGMENT_HEADER_BYTES;
  while (offset + RECORD_HEADER_BYTES <= segment.byteLength && segment.readUInt32LE(offset) !== 0) {
    offsets.push(offset);
    offset += Math.ceil((RECORD_HEADER_BYTES + segment.readUInt32LE(offset)) / 8) * 8;
  }
  return { offsets, end: offset };
}

function flipByte(file: string, at: number): void {
  const bytes = readFileSync(file);
  bytes.writeUInt8(bytes.readUInt8(at) ^ 0xff, at);
  writeFileSync(file, bytes);
}

/** The loss of power in the middle of a write: the head and the first part of a record are there, the rest is not. */
export function tearTail(host: DevHost): string {
  const file = lastSegment(host);
  const bytes = readFileSync(file);
  const { offsets, end } = recordOffsets(bytes);
  const last = offsets.at(-1) ?? SEGMENT_HEADER_BYTES;
  const lengthBytes = 4_096;
  bytes.writeUInt32LE(lengthBytes, end);
  bytes.writeUInt32LE(0x1234_5678, end + 4);
  bytes.writeUInt32LE(bytes.readUInt32LE(last + 4), end + 8);
  bytes.fill(0xa5, end + RECORD_HEADER_BYTES, end + 512);
  writeFileSync(file, bytes);
  return `half a record at byte ${end} of ${path.basename(file)}`;
}

/** The file ends in the middle of what was written last. */
export function truncateTail(host: DevHost): string {
  const file = lastSegment(host);
  const { offsets } = recordOffsets(readFileSync(file));
  const at = (offsets.at(-3) ?? 0) + RECORD_HEADER_BYTES + 5;
  const before = statSync(file).size;
  truncateSync(file, at);
  return `${path.basename(file)} cut from ${before} to ${at} bytes`;
}

/** One byte of an entry in the middle of the log. */
export function flipOldEntry(host: DevHost): string {
  const file = lastSegment(host);
  const { offsets } = recordOffsets(readFileSync(file));
  const at = (offsets[Math.floor(offsets.length / 2)] ?? 0) + RECORD_HEADER_BYTES + 20;
  flipByte(file, at);
  return `a byte flipped at ${at} of ${path.basename(file)}, ${Math.ceil(offsets.length / 2)} records before the end`;
}

/** One byte of the last entry that says something: what follows it is the seal. */
export function flipLastEntry(host: DevHost): string {
  const file = lastSegment(host);
  const { offsets } = recordOffsets(readFileSync(file));
  const at = (offsets.at(-2) ?? 0) + RECORD_HEADER_BYTES + 10;
  flipByte(file, at);
  return `a byte flipped at ${at} of ${path.basename(file)}, in the last record but the seal`;
}

/**
 * One byte in each 100 of the checkpoint's tables: a single one may hit what was written over since. Its log is spared:
 * LevelDB passes over a damaged record, and the older state that is left then is whole, with the rest in Raft's log. A
 * daemon that was started on the checkpoint has its keys in tables.
 */
export function flipCheckpoint(host: DevHost): string {
  const files = filesBelow(path.join(host.folder, "data")).filter((file) => /\/state\/\d+\.ldb$/.test(file));
  let count = 0;
  for (const file of files) {
    for (let at = 50; at < statSync(file).size; at += 100) {
      flipByte(file, at);
      count += 1;
    }
  }
  assert.ok(count > 0, `${host.name} has a checkpoint`);
  return `${count} bytes flipped in ${files.map((file) => path.basename(file)).join(", ")}`;
}
