/**
 * Reads a tar archive that is pushed in pieces of any size: GNU long names, PAX records, base-256 numbers and all four
 * sparse forms. Synchronous and without copies of file data, so that one pass can hash, read and write. Refuses what is
 * malformed and what is larger than a header may be; it does not judge where names lead (layer-unpack.ts does).
 */
import {
  BLOCK_BYTES,
  parseHeader,
  readNumber,
  tarError,
  type RawHeader,
  type SparsePiece,
  type TarEntry,
  type TarType,
} from "./tar-entry.ts";

/** A PAX header or GNU long name may take so much memory, no more. */
const EXTENSION_BYTES_MAX = 1024 * 1024;
const SPARSE_PIECES_MAX = 1024 * 1024;

export interface TarSink {
  entry(entry: TarEntry): void;
  /** Next bytes of the current file, in order; for sparse files `offset` jumps over holes. Valid only during the call. */
  data(chunk: Buffer, offset: number): void;
  /** The current entry is complete. */
  entryEnd(): void;
}

const TYPES: Readonly<Record<string, TarType>> = {
  "0": "file",
  "\0": "file",
  "7": "file",
  "1": "link",
  "2": "symlink",
  "3": "char",
  "4": "block",
  "5": "folder",
  "6": "fifo",
  S: "file",
};

/** What the records before a header say about it. */
interface Extension {
  name?: string;
  linkName?: string;
  pax?: Map<string, string>;
  /** GNU.sparse 0.0 repeats its keys, in order. */
  sparsePairs?: number[];
}

type Stage =
  | { readonly kind: "header" }
  | { readonly kind: "extension"; readonly flag: string; readonly pieces: Buffer[] }
  | {
      readonly kind: "gnuSparse";
      readonly header: RawHeader;
      readonly pieces: SparsePiece[];
      realSize: number;
    }
  | {
      readonly kind: "paxSparse";
      readonly header: RawHeader;
      readonly realSize: number;
      /** How many pieces, then offset and length of each. */
      readonly numbers: number[];
      /** Begin of a number whose end is in the next block. */
      rest: string;
      mapBytes: number;
    }
  | { readonly kind: "skip" }
  | { readonly kind: "file" }
  | { readonly kind: "done" };

export class TarReader {
  readonly #sink: TarSink;
  #stage: Stage = { kind: "header" };
  /** Bytes of a block that came in pieces. */
  #partial: Buffer = Buffer.alloc(0);
  /** Data bytes still to come for the current member, and zeros after them. */
  #remaining = 0;
  #padding = 0;
  #extension: Extension = {};
  #offset = 0;
  #sparse: readonly SparsePiece[] | undefined;
  #sparseIndex = 0;
  #sparseUsed = 0;

  constructor(sink: TarSink) {
    this.#sink = sink;
  }

  get isDone(): boolean {
    return this.#stage.kind === "done";
  }

  feed(chunk: Buffer): void {
    let rest = chunk;
    while (rest.length > 0) {
      if (this.#stage.kind === "done") return;
      if (this.#stage.kind === "file" || this.#stage.kind === "skip" || this.#stage.kind === "extension") {
        rest = this.#body(rest);
        continue;
      }
      const block = this.#takeBlock(rest);
      rest = block.rest;
      if (block.bytes !== undefined) this.#block(block.bytes);
    }
  }

  /**
   * Call after the last feed: throws if the archive was cut off. Only the zeros at the very end may be missing, those
   * after the last file too: `docker build -f` of a file elsewhere ends its archive so.
   */
  finish(): void {
    const isInBody = this.#stage.kind === "file" || this.#stage.kind === "skip";
    if (isInBody && this.#remaining === 0) this.#endBody();
    const isBetween = this.#stage.kind === "header" && this.#partial.length === 0;
    if (this.#stage.kind !== "done" && !isBetween) throw tarError("unexpected EOF");
  }

  #takeBlock(rest: Buffer): { readonly bytes: Buffer | undefined; readonly rest: Buffer } {
    if (this.#partial.length === 0 && rest.length >= BLOCK_BYTES) {
      return { bytes: rest.subarray(0, BLOCK_BYTES), rest: rest.subarray(BLOCK_BYTES) };
    }
    const missing = BLOCK_BYTES - this.#partial.length;
    const joined = Buffer.concat([this.#partial, rest.subarray(0, missing)]);
    if (joined.length < BLOCK_BYTES) {
      this.#partial = joined;
      return { bytes: undefined, rest: rest.subarray(rest.length) };
    }
    this.#partial = Buffer.alloc(0);
    return { bytes: joined, rest: rest.subarray(missing) };
  }

  #block(block: Buffer): void {
    const stage = this.#stage;
    if (stage.kind === "gnuSparse") {
      this.#sparsePieces(block, 0, 21, stage.pieces);
      if (block[504] !== 1) this.#startFile(stage.header, stage.pieces, stage.realSize);
      return;
    }
    if (stage.kind === "paxSparse") {
      this.#paxSparseBlock(block, stage);
      return;
    }
    const header = parseHeader(block);
    if (header === undefined) {
      this.#stage = { kind: "done" };
      return;
    }
    if (header.size < 0) throw tarError("Cannot read tar header: negative size");
    this.#member(header, block);
  }

  #member(header: RawHeader, block: Buffer): void {
    const flag = header.typeFlag;
    if (flag === "x" || flag === "g" || flag === "L" || flag === "K") {
      if (header.size > EXTENSION_BYTES_MAX) {
        throw tarError(
          `Cannot read tar header: extension has ${header.size} bytes, at most 1 MiB is allowed`,
        );
      }
      this.#setBody(header.size);
      this.#stage = { kind: "extension", flag, pieces: [] };
      if (header.size === 0) this.#endBody();
      return;
    }
    const pax = this.#extension.pax;
    const size = pax?.has("size") === true ? paxNumber(pax, "size") : header.size;
    const merged: RawHeader = { ...header, size };
    if (flag === "S") {
      const pieces: SparsePiece[] = [];
      this.#sparsePieces(block, 386, 4, pieces);
      const realSize = readNumber(block, 483, 12);
      if (block[482] === 1) this.#stage = { kind: "gnuSparse", header: merged, pieces, realSize };
      else this.#startFile(merged, pieces, realSize);
      return;
    }
    this.#startFileOrPaxSparse(merged);
  }

  #sparsePieces(block: Buffer, start: number, count: number, into: SparsePiece[]): void {
    for (let index = 0; index < count; index++) {
      const at = start + index * 24;
      const length = readNumber(block, at + 12, 12);
      const offset = readNumber(block, at, 12);
      if (offset === 0 && length === 0) continue;
      into.push({ offset, length });
    }
    if (into.length > SPARSE_PIECES_MAX) throw tarError("Cannot read tar: too many holes in a file");
  }

  #startFileOrPaxSparse(header: RawHeader): void {
    const { pax, sparsePairs } = this.#extension;
    if (pax?.get("GNU.sparse.major") === "1" && pax.get("GNU.sparse.minor") === "0") {
      const realSize = paxNumber(pax, "GNU.sparse.realsize");
      this.#stage = { kind: "paxSparse", header, realSize, numbers: [], rest: "", mapBytes: 0 };
      return;
    }
    const list =
      pax
        ?.get("GNU.sparse.map")
        ?.split(",")
        .map((each) => paxInteger(each, "GNU.sparse.map")) ?? sparsePairs;
    if (pax === undefined || list === undefined) {
      this.#startFile(header, undefined, header.size);
      return;
    }
    const sizeKey = pax.has("GNU.sparse.realsize") ? "GNU.sparse.realsize" : "GNU.sparse.size";
    this.#startFile(header, pairsToPieces(list), paxNumber(pax, sizeKey));
  }

  /** Form 1.0: the map stands before the data as decimal lines, filled up to whole blocks. */
  #paxSparseBlock(block: Buffer, stage: Extract<Stage, { kind: "paxSparse" }>): void {
    stage.mapBytes += block.length;
    const lines = `${stage.rest}${block.toString("latin1")}`.split("\n");
    stage.rest = lines.pop() ?? "";
    const { numbers } = stage;
    for (const line of lines) {
      // Zeros follow the last one.
      if (numbers.length === 1 + (numbers[0] ?? 1) * 2) break;
      numbers.push(paxInteger(line, "sparse map"));
    }
    const [count = 1] = numbers;
    if (count > SPARSE_PIECES_MAX) throw tarError("Cannot read tar: too many holes in a file");
    if (stage.mapBytes > EXTENSION_BYTES_MAX * 16) throw tarError("Cannot read tar: sparse map is too long");
    if (numbers.length < 1 + count * 2) {
      // What never ends is no number.
      if (stage.rest !== "") paxInteger(stage.rest, "sparse map");
      return;
    }
    const header = { ...stage.header, size: stage.header.size - stage.mapBytes };
    if (header.size < 0) throw tarError("Cannot read tar: sparse map is longer than its file");
    this.#startFile(header, pairsToPieces(numbers.slice(1)), stage.realSize);
  }

  /** `header.size` is what follows in the archive, `realSize` the file's size with its holes. */
  #startFile(header: RawHeader, sparse: readonly SparsePiece[] | undefined, realSize: number): void {
    const entry = this.#entryOf(header, sparse, realSize);
    this.#extension = {};
    const hasData = entry !== undefined && entry.type === "file";
    // Links and folders may carry a size by mistake of their writer; only links' is known to be without data.
    const bodyBytes = hasData || entry === undefined || header.typeFlag !== "1" ? header.size : 0;
    this.#setBody(bodyBytes);
    this.#sparse = sparse;
    this.#sparseIndex = 0;
    this.#sparseUsed = 0;
    this.#offset = 0;
    this.#stage = hasData ? { kind: "file" } : { kind: "skip" };
    if (entry !== undefined) this.#sink.entry(entry);
    if (entry !== undefined && !hasData) this.#sink.entryEnd();
    if (bodyBytes === 0) this.#endBody();
  }

  #entryOf(
    header: RawHeader,
    sparse: readonly SparsePiece[] | undefined,
    realSize: number,
  ): TarEntry | undefined {
    let type = TYPES[header.typeFlag];
    if (type === undefined) return undefined;
    const { pax = new Map<string, string>(), name: longName, linkName: longLink } = this.#extension;
    const name = pax.get("GNU.sparse.name") ?? pax.get("path") ?? longName ?? header.name;
    const linkName = pax.get("linkpath") ?? longLink ?? header.linkName;
    if (type === "file" && name.endsWith("/") && header.typeFlag !== "S") type = "folder";
    checkSparse(sparse, realSize);
    return {
      name,
      type,
      mode: header.mode,
      uid: pax.has("uid") ? paxNumber(pax, "uid") : header.uid,
      gid: pax.has("gid") ? paxNumber(pax, "gid") : header.gid,
      size: type === "file" ? realSize : 0,
      mtime: pax.has("mtime") ? paxSeconds(pax.get("mtime") ?? "") : header.mtime,
      linkName,
      devMajor: header.devMajor,
      devMinor: header.devMinor,
      xattrs: xattrsOf(pax),
      ...(sparse === undefined ? {} : { sparse }),
      userName: pax.get("uname") ?? header.userName,
      groupName: pax.get("gname") ?? header.groupName,
    };
  }

  #setBody(bytes: number): void {
    this.#remaining = bytes;
    this.#padding = (BLOCK_BYTES - (bytes % BLOCK_BYTES)) % BLOCK_BYTES;
  }

  #body(rest: Buffer): Buffer {
    if (this.#remaining > 0) {
      const taken = rest.subarray(0, Math.min(rest.length, this.#remaining));
      this.#remaining -= taken.length;
      if (this.#stage.kind === "file") this.#fileData(taken);
      // A copy: the caller's buffer is only valid during the call.
      else if (this.#stage.kind === "extension") this.#stage.pieces.push(Buffer.from(taken));
      if (this.#remaining === 0 && this.#padding === 0) this.#endBody();
      return rest.subarray(taken.length);
    }
    const skipped = Math.min(rest.length, this.#padding);
    this.#padding -= skipped;
    if (this.#padding === 0) this.#endBody();
    return rest.subarray(skipped);
  }

  #fileData(chunk: Buffer): void {
    if (this.#sparse === undefined) {
      this.#sink.data(chunk, this.#offset);
      this.#offset += chunk.length;
      return;
    }
    let rest = chunk;
    while (rest.length > 0) {
      const piece = this.#sparse[this.#sparseIndex];
      if (piece === undefined) throw tarError("Cannot read tar: sparse file has more data than its map");
      const taken = rest.subarray(0, Math.min(rest.length, piece.length - this.#sparseUsed));
      if (taken.length > 0) this.#sink.data(taken, piece.offset + this.#sparseUsed);
      this.#sparseUsed += taken.length;
      rest = rest.subarray(taken.length);
      if (this.#sparseUsed === piece.length) {
        this.#sparseIndex++;
        this.#sparseUsed = 0;
      }
    }
  }

  #endBody(): void {
    const stage = this.#stage;
    this.#stage = { kind: "header" };
    if (stage.kind === "file") this.#sink.entryEnd();
    if (stage.kind !== "extension") return;
    const bytes = Buffer.concat(stage.pieces);
    if (stage.flag === "L") this.#extension.name = untilZero(bytes);
    else if (stage.flag === "K") this.#extension.linkName = untilZero(bytes);
    else if (stage.flag === "x") this.#paxHeader(bytes);
    // "g": records for all that follow; layer tools write none that matter (git writes a comment), so they are dropped.
  }

  #paxHeader(bytes: Buffer): void {
    const pax = new Map<string, string>();
    const pairs: number[] = [];
    let at = 0;
    while (at < bytes.length) {
      const space = bytes.indexOf(0x20, at);
      const length = Number(bytes.toString("latin1", at, Math.max(space, at)));
      const end = at + length;
      if (
        space < 0 ||
        !Number.isInteger(length) ||
        length < 5 ||
        end > bytes.length ||
        bytes[end - 1] !== 0x0a
      ) {
        throw tarError("Cannot read tar: malformed PAX record");
      }
      const equals = bytes.indexOf(0x3d, space);
      if (equals < 0 || equals >= end) throw tarError("Cannot read tar: malformed PAX record");
      const key = bytes.toString("latin1", space + 1, equals);
      const value = bytes.toString("latin1", equals + 1, end - 1);
      if (key === "GNU.sparse.offset" || key === "GNU.sparse.numbytes") pairs.push(paxInteger(value, key));
      // An empty value takes an earlier one back.
      else if (value === "" && !key.startsWith("SCHILY.xattr.")) pax.delete(key);
      else pax.set(key, value);
      at = end;
    }
    this.#extension.pax = pax;
    if (pairs.length > 0) this.#extension.sparsePairs = pairs;
  }
}

function untilZero(bytes: Buffer): string {
  const end = bytes.indexOf(0);
  return bytes.toString("latin1", 0, end < 0 ? bytes.length : end);
}

function paxInteger(text: string, key: string): number {
  const value = Number(text);
  if (!/^\d{1,16}$/.test(text) || !Number.isSafeInteger(value)) {
    throw tarError(`Cannot read tar: PAX record "${key}" must be a number`);
  }
  return value;
}

function paxNumber(pax: ReadonlyMap<string, string>, key: string): number {
  return paxInteger(pax.get(key) ?? "", key);
}

function paxSeconds(text: string): number {
  const value = Number(text);
  if (text === "" || !Number.isFinite(value))
    throw tarError('Cannot read tar: PAX record "mtime" must be a time');
  return value;
}

const XATTR_PREFIX = "SCHILY.xattr.";

const NO_XATTRS: ReadonlyMap<string, Buffer> = new Map<string, Buffer>();

function xattrsOf(pax: ReadonlyMap<string, string>): ReadonlyMap<string, Buffer> {
  let xattrs: Map<string, Buffer> | undefined;
  for (const [key, value] of pax) {
    if (!key.startsWith(XATTR_PREFIX)) continue;
    xattrs ??= new Map<string, Buffer>();
    xattrs.set(key.slice(XATTR_PREFIX.length), Buffer.from(value, "latin1"));
  }
  return xattrs ?? NO_XATTRS;
}

function pairsToPieces(numbers: readonly number[]): SparsePiece[] {
  if (numbers.length % 2 !== 0) throw tarError("Cannot read tar: odd sparse map");
  const pieces: SparsePiece[] = [];
  for (let index = 0; index < numbers.length; index += 2) {
    pieces.push({ offset: numbers[index] ?? 0, length: numbers[index + 1] ?? 0 });
  }
  return pieces;
}

/** Pieces must be in order, apart and inside the file, or a small archive could write anywhere in a huge one. */
function checkSparse(sparse: readonly SparsePiece[] | undefined, realSize: number): void {
  let end = 0;
  for (const piece of sparse ?? []) {
    if (piece.offset < end || piece.offset + piece.length > realSize) {
      throw tarError("Cannot read tar: sparse map is out of order or outside its file");
    }
    end = piece.offset + piece.length;
  }
}
