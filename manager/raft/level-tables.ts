/**
 * Checksums of LevelDB's tables, all of them, before LevelDB itself reads one: a compaction, which begins by itself as
 * soon as a database is opened, trusts the bytes of a table and ends the whole process where flipped ones bring keys
 * out of order.
 *
 * Formats: LevelDB's doc/table_format.md and doc/log_format.md; the manifest's records are those of db/version_edit.cc.
 */
import { readFile } from "node:fs/promises";
import path from "node:path";
import { crc32c } from "../../common/crc32c.ts";
import { VarintReader } from "../../common/varint-reader.ts";

const LOG_BLOCK_BYTES = 32 * 1024;
const LOG_HEADER_BYTES = 7;
/** A log record's kinds: whole, or the first, a middle or the last part of one. */
const WHOLE_RECORD = 1;
const FIRST_PART = 2;
const LAST_PART = 4;

/** Tags of a manifest's fields. */
const COMPARATOR = 1;
const LOG_NUMBER = 2;
const NEXT_FILE_NUMBER = 3;
const LAST_SEQUENCE = 4;
const COMPACT_POINTER = 5;
const DELETED_FILE = 6;
const NEW_FILE = 7;
const PREVIOUS_LOG_NUMBER = 9;

const FOOTER_BYTES = 48;
const TABLE_MAGIC = 0xdb4775248b80fb57n;
/** Behind each block: how it is compressed, and a checksum of both. */
const TRAILER_BYTES = 5;
const UNCOMPRESSED = 0;

interface BlockHandle {
  readonly offset: number;
  readonly bytes: number;
}

function readHandle(reader: VarintReader): BlockHandle {
  return { offset: reader.varint(), bytes: reader.varint() };
}

/** Checksums of checksums are weak, so LevelDB turns and shifts those that it stores. */
function masked(crc: number): number {
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}

/** The records of a log up to its end, or to the first that isn't whole. */
function* logRecords(bytes: Buffer): Generator<Buffer> {
  let parts: Buffer[] = [];
  let at = 0;
  while (at + LOG_HEADER_BYTES <= bytes.length) {
    const left = LOG_BLOCK_BYTES - (at % LOG_BLOCK_BYTES);
    if (left < LOG_HEADER_BYTES) {
      at += left;
      continue;
    }
    const end = at + LOG_HEADER_BYTES + bytes.readUInt16LE(at + 4);
    const kind = bytes.readUInt8(at + 6);
    if (end > bytes.length || masked(crc32c(bytes.subarray(at + 6, end))) !== bytes.readUInt32LE(at)) return;
    const part = bytes.subarray(at + LOG_HEADER_BYTES, end);
    parts = kind === WHOLE_RECORD || kind === FIRST_PART ? [part] : [...parts, part];
    if (kind === WHOLE_RECORD || kind === LAST_PART) yield Buffer.concat(parts);
    at = end;
  }
}

/** Carries a manifest's record out on the tables by level and number, with their sizes in bytes. */
function applyEdit(record: Buffer, tables: Map<string, number>): void {
  const reader = new VarintReader(record);
  const added = new Map<string, number>();
  while (!reader.isAtEnd) {
    const tag = reader.varint();
    switch (tag) {
      case COMPARATOR:
        reader.byteString();
        break;
      case LOG_NUMBER:
      case NEXT_FILE_NUMBER:
      case LAST_SEQUENCE:
      case PREVIOUS_LOG_NUMBER:
        reader.varint();
        break;
      case COMPACT_POINTER:
        reader.varint();
        reader.byteString();
        break;
      case DELETED_FILE:
        tables.delete(`${reader.varint()}/${reader.varint()}`);
        break;
      case NEW_FILE:
        added.set(`${reader.varint()}/${reader.varint()}`, reader.varint());
        reader.byteString();
        reader.byteString();
        break;
      default:
        throw new RangeError(`unknown tag ${tag}`);
    }
  }
  for (const [table, bytes] of added) tables.set(table, bytes);
}

function isIntact(table: Buffer, handle: BlockHandle): boolean {
  const end = handle.offset + handle.bytes + TRAILER_BYTES;
  if (end > table.length - FOOTER_BYTES) return false;
  return masked(crc32c(table.subarray(handle.offset, end - 4))) === table.readUInt32LE(end - 4);
}

/** The blocks that an intact block of handles names; none of a compressed one, as the first programs wrote them. */
function handlesOf(table: Buffer, handle: BlockHandle): readonly BlockHandle[] {
  const end = handle.offset + handle.bytes;
  if (table.readUInt8(end) !== UNCOMPRESSED) return [];
  const restarts = table.readUInt32LE(end - 4);
  const reader = new VarintReader(table.subarray(handle.offset, end - 4 * (restarts + 1)));
  const handles: BlockHandle[] = [];
  while (!reader.isAtEnd) {
    reader.varint();
    const keyBytes = reader.varint();
    reader.varint();
    reader.skip(keyBytes);
    handles.push(readHandle(reader));
  }
  return handles;
}

function isTableIntact(table: Buffer): boolean {
  if (table.length < FOOTER_BYTES || table.readBigUInt64LE(table.length - 8) !== TABLE_MAGIC) return false;
  const footer = new VarintReader(table.subarray(table.length - FOOTER_BYTES));
  const [metaIndex, index] = [readHandle(footer), readHandle(footer)];
  if (!isIntact(table, metaIndex) || !isIntact(table, index)) return false;
  return [...handlesOf(table, metaIndex), ...handlesOf(table, index)].every((each) => isIntact(table, each));
}

/** The tables that make up the database, by number, with their sizes; undefined if LevelDB itself will say what is wrong. */
async function liveTables(folder: string): Promise<ReadonlyMap<string, number> | undefined> {
  const tables = new Map<string, number>();
  try {
    const manifest = (await readFile(path.join(folder, "CURRENT"), "utf8")).trim();
    for (const record of logRecords(await readFile(path.join(folder, manifest)))) applyEdit(record, tables);
  } catch {
    return undefined;
  }
  return tables;
}

/**
 * What is damaged in the tables of a database that nobody has open, in words; undefined if nothing is, or if it is
 * something that LevelDB finds when it opens the database. A table that isn't part of it, as a crash in the middle of a
 * compaction leaves one, is passed over.
 */
export async function findTableDamage(folder: string): Promise<string | undefined> {
  for (const [table, bytes] of (await liveTables(folder)) ?? []) {
    const name = `${path.basename(table).padStart(6, "0")}.ldb`;
    const content = await readFile(path.join(folder, name)).catch(() => undefined);
    if (content === undefined) continue;
    if (content.length < bytes || !isTableIntact(content.subarray(0, bytes)))
      return `bytes of the table "${name}" are not those that were written`;
  }
  return undefined;
}
