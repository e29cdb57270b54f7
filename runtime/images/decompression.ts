/**
 * Archives as people have them: plain, gzip, zstd, xz or bzip2, told by their first bytes. The first three are what registries
 * know and are read in the process. xz and bzip2 are read by the machine's own programs, as Docker's engine does it for xz:
 * every distribution keeps them patched, and npm has no decoder of either with the same care.
 */
import { spawn } from "node:child_process";
import * as fs from "node:fs";
import { pipeline } from "node:stream/promises";
import { createGunzip, createZstdDecompress } from "node:zlib";
import { ClusterError, hasNodeCode, nodeCodeOf } from "../../common/errors.ts";
import type { ArchiveCompression } from "./layer-jobs.ts";
import { fsPath } from "./tar/byte-path.ts";
import { BLOCK_BYTES, parseHeader, tarError } from "./tar/tar-entry.ts";

type Program = "xz" | "bzip2";

export type Pieces = AsyncIterable<Buffer> | Iterable<Buffer>;

/** As many bytes are needed to tell. */
const MAGIC_BYTES = 6;
const ZLIB_CHUNK_BYTES = 512 * 1024;
/** gzip can't reach it; more than that from the others is an attack. */
const GROWTH_MAX = 1100;
const GROWTH_FREE_BYTES = 1024 ** 3;

const PROGRAMS: Readonly<Record<Program, { readonly args: readonly string[]; readonly debian: string }>> = {
  // A dictionary may be 4 GiB by the format; xz itself never makes one above 1.5 GiB, at -9 it is 64 MiB.
  xz: { args: ["--memlimit-decompress=1GiB"], debian: "xz-utils" },
  bzip2: { args: [], debian: "bzip2" },
};
const PROGRAM_ARGS = ["--decompress", "--stdout", "--quiet"];
const STDERR_BYTES_MAX = 4096;

export function compressionOf(head: Buffer): ArchiveCompression {
  if (head[0] === 0x1f && head[1] === 0x8b) return "gzip";
  if (head.length >= 4 && head.readUInt32LE(0) === 0xfd2fb528) return "zstd";
  // Skippable frames may come before zstd data.
  if (head.length >= 4 && head.readUInt32LE(0) >>> 4 === 0x184d2a5) return "zstd";
  if (head.length >= 6 && head.toString("latin1", 0, 6) === "\xfd7zXZ\0") return "xz";
  // The fourth byte is the block size; text may begin with the first three.
  if (/^BZh[1-9]$/.test(head.toString("latin1", 0, 4))) return "bzip2";
  return "none";
}

/** Registries and other engines don't take layers of that form: kept plain instead. */
export function isForeign(compression: ArchiveCompression): compression is Program {
  return compression === "xz" || compression === "bzip2";
}

/** The first piece, without losing it. */
export async function peek(
  pieces: Pieces,
): Promise<{ readonly head: Buffer; readonly all: AsyncGenerator<Buffer> }> {
  const iterator =
    Symbol.asyncIterator in pieces ? pieces[Symbol.asyncIterator]() : pieces[Symbol.iterator]();
  let head: Buffer = Buffer.alloc(0);
  let isEnd = false;
  // Some streams begin with a piece too short to tell.
  while (head.length < MAGIC_BYTES && !isEnd) {
    const next = await iterator.next();
    if (next.done === true) isEnd = true;
    else head = head.length === 0 ? next.value : Buffer.concat([head, next.value]);
  }
  async function* all(): AsyncGenerator<Buffer> {
    try {
      if (head.length > 0) yield head;
      for (let next = await iterator.next(); next.done !== true; next = await iterator.next())
        yield next.value;
    } finally {
      await iterator.return?.();
    }
  }
  return { head, all: all() };
}

function notInstalled(program: Program): ClusterError {
  return new ClusterError(
    "failed_precondition",
    `Cannot decompress archive: it is compressed with ${program}, and the program "${program}" is not installed here (Debian package ${PROGRAMS[program].debian})`,
  );
}

/** `source` through the machine's own decompressor, one process as long as it is read. */
async function* throughProgram(program: Program, source: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  const child = spawn(program, [...PROGRAM_ARGS, ...PROGRAMS[program].args], {
    stdio: ["pipe", "pipe", "pipe"],
  });
  const ended = new Promise<number | null>((resolve, reject) => {
    child.once("error", (error) => reject(hasNodeCode(error, "ENOENT") ? notInstalled(program) : error));
    child.once("close", resolve);
  });
  let said = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    if (said.length < STDERR_BYTES_MAX) said += text;
  });
  let sourceError: unknown;
  async function* watched(): AsyncGenerator<Buffer> {
    try {
      yield* source;
    } catch (caught) {
      sourceError = caught;
      throw caught;
    }
  }
  // A program that ends early breaks the pipe; its exit status tells why.
  const feeding = pipeline(watched(), child.stdin).catch(() => undefined);
  try {
    // Without the program there is no output to wait for.
    await Promise.race([ended, new Promise((resolve) => child.once("spawn", resolve))]);
    for await (const chunk of child.stdout) yield chunk as Buffer;
    const status = await ended;
    await feeding;
    if (sourceError !== undefined) throw sourceError;
    if (status !== 0) throw tarError(`Cannot decompress archive: ${said.trim() || `${program} failed`}`);
  } finally {
    child.kill("SIGKILL");
    ended.catch(() => undefined);
  }
}

/** The uncompressed bytes of `all`, whose first piece is `head`. */
export async function* decompressed({
  head,
  all,
}: {
  readonly head: Buffer;
  readonly all: AsyncIterable<Buffer>;
}): AsyncGenerator<Buffer> {
  const compression = compressionOf(head);
  if (compression === "none") {
    yield* all;
    return;
  }
  let inBytes = 0;
  let outBytes = 0;
  async function* counted(): AsyncGenerator<Buffer> {
    for await (const piece of all) {
      inBytes += piece.length;
      yield piece;
    }
  }
  const chunks = isForeign(compression)
    ? throughProgram(compression, counted())
    : throughZlib(compression, counted());
  for await (const chunk of chunks) {
    outBytes += chunk.length;
    if (outBytes > GROWTH_FREE_BYTES && outBytes > inBytes * GROWTH_MAX) {
      throw tarError("Cannot decompress archive: it grows more than a thousandfold");
    }
    yield chunk;
  }
}

async function* throughZlib(
  compression: "gzip" | "zstd",
  source: AsyncIterable<Buffer>,
): AsyncGenerator<Buffer> {
  const options = { chunkSize: ZLIB_CHUNK_BYTES };
  const decoder = compression === "gzip" ? createGunzip(options) : createZstdDecompress(options);
  // Who reads the decoder hears of its errors and the source's.
  pipeline(source, decoder).catch(() => undefined);
  try {
    for await (const chunk of decoder) yield chunk as Buffer;
  } catch (caught) {
    if (!/^(?:Z_|ZSTD_|ERR_ZLIB)/.test(nodeCodeOf(caught))) throw caught;
    throw tarError(`Cannot decompress archive: ${caught instanceof Error ? caught.message : ""}`);
  }
}

/** Whether the file is a tar, compressed or not, as ADD takes apart: a mere .gz file is none. */
export async function isTarFile(absolute: string): Promise<boolean> {
  const pieces: Buffer[] = [];
  try {
    let length = 0;
    for await (const chunk of decompressed(await peek(fs.createReadStream(fsPath(absolute))))) {
      pieces.push(chunk);
      length += chunk.length;
      if (length >= BLOCK_BYTES) break;
    }
    const block = Buffer.concat(pieces).subarray(0, BLOCK_BYTES);
    return block.length === BLOCK_BYTES && parseHeader(block) !== undefined;
  } catch (caught) {
    // Damaged, or something else: to be copied as it is. Only a missing program is worth an error.
    if (caught instanceof ClusterError && caught.code === "invalid_argument") return false;
    throw caught;
  }
}
