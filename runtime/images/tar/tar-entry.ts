/**
 * One member of a tar archive and its 512-byte header: ustar with the GNU and PAX extensions, read in every form that
 * layer tools write, written as ustar where it fits and with a PAX header where it does not. Pure: bytes in, values out.
 */
import type { Stats } from "node:fs";
import { ClusterError } from "../../../common/errors.ts";

export const BLOCK_BYTES = 512;

export type TarType = "file" | "link" | "symlink" | "char" | "block" | "folder" | "fifo";

/** undefined for what archives can't hold: sockets. */
export function tarTypeOf(stats: Stats): TarType | undefined {
  if (stats.isFile()) return "file";
  if (stats.isDirectory()) return "folder";
  if (stats.isSymbolicLink()) return "symlink";
  if (stats.isCharacterDevice()) return "char";
  if (stats.isBlockDevice()) return "block";
  return stats.isFIFO() ? "fifo" : undefined;
}

/** Names are byte strings (byte-path.ts). */
export interface TarEntry {
  readonly name: string;
  readonly type: TarType;
  /** Permission bits with setuid, setgid and sticky. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Bytes of the file, holes included; 0 for all but files. */
  readonly size: number;
  /** Seconds since 1970, with fractions. */
  readonly mtime: number;
  readonly linkName: string;
  readonly devMajor: number;
  readonly devMinor: number;
  readonly xattrs: ReadonlyMap<string, Buffer>;
  /** Where the archive's data lies in a file with holes; absent for plain files. */
  readonly sparse?: readonly SparsePiece[];
  /** Names of owner and group; shown to people, never used to decide anything. */
  readonly userName?: string;
  readonly groupName?: string;
}

export interface SparsePiece {
  readonly offset: number;
  readonly length: number;
}

/** A header block as it stands, before PAX and GNU records are applied. */
export interface RawHeader {
  readonly typeFlag: string;
  readonly name: string;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly size: number;
  readonly mtime: number;
  readonly linkName: string;
  readonly userName: string;
  readonly groupName: string;
  readonly devMajor: number;
  readonly devMinor: number;
}

export function tarError(message: string): ClusterError {
  return new ClusterError("invalid_argument", message);
}

function text(block: Buffer, start: number, length: number): string {
  const end = block.indexOf(0, start);
  return block.toString("latin1", start, end < 0 || end > start + length ? start + length : end);
}

/** Octal text, or base 256 when the first bit is set (GNU, for what octal can't hold). */
export function readNumber(block: Buffer, start: number, length: number): number {
  const first = block[start] ?? 0;
  if ((first & 0x80) !== 0) {
    const isNegative = (first & 0x40) !== 0;
    let value = isNegative ? (first | 0x80) - 0x100 : first & 0x7f;
    for (let index = start + 1; index < start + length; index++) value = value * 256 + (block[index] ?? 0);
    if (!Number.isSafeInteger(value)) throw tarError("Cannot read tar header: number out of range");
    return value;
  }
  const digits = text(block, start, length).trim();
  if (digits === "") return 0;
  if (!/^-?[0-7]+$/.test(digits)) throw tarError("Cannot read tar header: number is not octal");
  return Number.parseInt(digits, 8);
}

const CHECKSUM_START = 148;
const CHECKSUM_END = 156;

/** Sum of all bytes with the checksum's own counted as spaces; some old tars summed signed bytes. */
function checksums(block: Buffer): { readonly unsigned: number; readonly signed: number } {
  let unsigned = 0;
  let signed = 0;
  for (let index = 0; index < BLOCK_BYTES; index++) {
    const byte = index >= CHECKSUM_START && index < CHECKSUM_END ? 0x20 : (block[index] ?? 0);
    unsigned += byte;
    signed += byte > 127 ? byte - 256 : byte;
  }
  return { unsigned, signed };
}

/** Reads a header block; undefined for a block of zeros, which ends the archive. */
export function parseHeader(block: Buffer): RawHeader | undefined {
  const sums = checksums(block);
  // All zeros: only the eight spaces that stand in for the checksum are counted.
  if (sums.unsigned === 8 * 0x20) return undefined;
  const sum = readNumber(block, CHECKSUM_START, 8);
  if (sum !== sums.unsigned && sum !== sums.signed) {
    throw tarError("Cannot read tar header: checksum does not match (is this a tar archive?)");
  }
  const magic = block.toString("latin1", 257, 263);
  const isUstar = magic === "ustar\0";
  const prefix = isUstar ? text(block, 345, 155) : "";
  const name = text(block, 0, 100);
  const hasOwners = magic.startsWith("ustar");
  return {
    typeFlag: String.fromCharCode(block[156] ?? 0),
    name: prefix === "" ? name : `${prefix}/${name}`,
    mode: readNumber(block, 100, 8) & 0o7777,
    uid: readNumber(block, 108, 8),
    gid: readNumber(block, 116, 8),
    size: readNumber(block, 124, 12),
    mtime: readNumber(block, 136, 12),
    linkName: text(block, 157, 100),
    userName: hasOwners ? text(block, 265, 32) : "",
    groupName: hasOwners ? text(block, 297, 32) : "",
    devMajor: hasOwners ? readNumber(block, 329, 8) : 0,
    devMinor: hasOwners ? readNumber(block, 337, 8) : 0,
  };
}

const TYPE_FLAGS: Readonly<Record<TarType, string>> = {
  file: "0",
  link: "1",
  symlink: "2",
  char: "3",
  block: "4",
  folder: "5",
  fifo: "6",
};

const OCTAL_8_MAX = 0o7777777;
const OCTAL_12_MAX = 0o77777777777;
const NAME_BYTES_MAX = 100;

/** `name` as prefix and name of a ustar header, or undefined when only a PAX record can hold it. */
function splitName(name: string): readonly [string, string] | undefined {
  if (name.length <= NAME_BYTES_MAX) return ["", name];
  // The prefix takes up to 155 bytes and the slash between the two is implied; a trailing slash stays with the name.
  const slash = name.lastIndexOf("/", Math.min(155, name.length - 2));
  if (slash <= 0 || name.length - slash - 1 > NAME_BYTES_MAX) return undefined;
  return [name.slice(0, slash), name.slice(slash + 1)];
}

function paxRecord(key: string, value: string): string {
  const rest = ` ${key}=${value}\n`;
  // The length counts its own digits.
  let length = rest.length + String(rest.length).length;
  if (String(length).length + rest.length !== length) length++;
  return `${length}${rest}`;
}

/** The time as PAX wants it: decimal, nanoseconds at most, no exponent. */
function paxTime(seconds: number): string {
  return Number.isInteger(seconds) ? String(seconds) : seconds.toFixed(9).replace(/0+$/, "");
}

function paxRecords(entry: TarEntry): string {
  let records = "";
  if (splitName(entry.name) === undefined) records += paxRecord("path", entry.name);
  if (entry.linkName.length > NAME_BYTES_MAX) records += paxRecord("linkpath", entry.linkName);
  if (entry.size > OCTAL_12_MAX) records += paxRecord("size", String(entry.size));
  if (entry.uid > OCTAL_8_MAX) records += paxRecord("uid", String(entry.uid));
  if (entry.gid > OCTAL_8_MAX) records += paxRecord("gid", String(entry.gid));
  if (!Number.isInteger(entry.mtime) || entry.mtime < 0 || entry.mtime > OCTAL_12_MAX) {
    records += paxRecord("mtime", paxTime(entry.mtime));
  }
  for (const [key, value] of [...entry.xattrs].sort(([left], [right]) => (left < right ? -1 : 1))) {
    records += paxRecord(`SCHILY.xattr.${key}`, value.toString("latin1"));
  }
  return records;
}

interface BlockFields extends Omit<TarEntry, "type" | "xattrs" | "sparse"> {
  readonly prefix: string;
  readonly typeFlag: string;
  readonly userName: string;
  readonly groupName: string;
}

function octal(value: number, length: number): string {
  return `${value.toString(8).padStart(length - 1, "0")}\0`;
}

function encodeBlock(fields: BlockFields): Buffer {
  const block = Buffer.alloc(BLOCK_BYTES);
  const put = (value: string, at: number, bytesMax = value.length): void => {
    block.write(value, at, bytesMax, "latin1");
  };
  put(fields.name, 0, 100);
  put(octal(fields.mode, 8), 100);
  put(octal(fields.uid > OCTAL_8_MAX ? 0 : fields.uid, 8), 108);
  put(octal(fields.gid > OCTAL_8_MAX ? 0 : fields.gid, 8), 116);
  put(octal(fields.size > OCTAL_12_MAX ? 0 : fields.size, 12), 124);
  const seconds = Math.floor(fields.mtime);
  put(octal(seconds < 0 || seconds > OCTAL_12_MAX ? 0 : seconds, 12), 136);
  put(fields.typeFlag, 156);
  put(fields.linkName, 157, 100);
  put("ustar\x0000", 257);
  put(fields.userName, 265, 31);
  put(fields.groupName, 297, 31);
  put(octal(fields.devMajor, 8), 329);
  put(octal(fields.devMinor, 8), 337);
  put(fields.prefix, 345, 155);
  put(`${checksums(block).unsigned.toString(8).padStart(6, "0")}\0 `, CHECKSUM_START);
  return block;
}

/** Zeros that fill `bytes` up to a whole block. */
export function paddingOf(bytes: number): Buffer {
  return Buffer.alloc((BLOCK_BYTES - (bytes % BLOCK_BYTES)) % BLOCK_BYTES);
}

/** The header of `entry`, with a PAX header before it where ustar can't say it. Same entry, same bytes. */
export function encodeHeader(entry: TarEntry): Buffer {
  const records = paxRecords(entry);
  const [prefix, name] = splitName(entry.name) ?? ["", entry.name.slice(0, NAME_BYTES_MAX)];
  const fields: BlockFields = {
    ...entry,
    name,
    prefix,
    typeFlag: TYPE_FLAGS[entry.type],
    linkName: entry.linkName.slice(0, NAME_BYTES_MAX),
    size: entry.type === "file" ? entry.size : 0,
    userName: entry.userName ?? "",
    groupName: entry.groupName ?? "",
  };
  const block = encodeBlock(fields);
  if (records === "") return block;
  const pax = encodeBlock({
    ...fields,
    name: `PaxHeaders.0/${name.split("/").findLast((part) => part !== "") ?? ""}`.slice(0, NAME_BYTES_MAX),
    prefix: "",
    typeFlag: "x",
    mode: 0,
    uid: 0,
    gid: 0,
    mtime: 0,
    size: records.length,
    linkName: "",
    devMajor: 0,
    devMinor: 0,
    userName: "",
    groupName: "",
  });
  return Buffer.concat([pax, Buffer.from(records, "latin1"), paddingOf(records.length), block]);
}

/** Two blocks of zeros. */
export const END_OF_ARCHIVE: Buffer = Buffer.alloc(2 * BLOCK_BYTES);
