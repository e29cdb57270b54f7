/**
 * How lines lie in log files: one JSON object each (json-file), or binary records of Docker's `local` driver, which are a length, a
 * protobuf message (source, time, line, partial) and the length again, so that files can be read from either end. Pure but for tails.
 */
import type { FileHandle } from "node:fs/promises";
import { rfc3339OfNanoseconds } from "../../common/time.ts";
import { VarintReader } from "../../common/varint-reader.ts";
import type { LogLine } from "../../model/engine.ts";

const READ_BYTES = 128 * 1024;
/** A longer record is none: lines are cut at 16 KiB. */
const RECORD_BYTES_MAX = 1 << 20;

/** A line as it was cut for the file. */
export interface StoredLogLine extends LogLine {
  /** A piece of a line that was too long for one record; its last one has the newline. Not known of json-file. */
  readonly piece?: "inner" | "last";
}

export interface LogFormat {
  /** Whole lines at the beginning of `bytes`, and how many bytes they took. */
  take(bytes: Buffer): { readonly lines: readonly StoredLogLine[]; readonly used: number };
  /** Where the last `count` lines of a file begin, and how many there are if it has fewer. */
  tailOffset(handle: FileHandle, count: number): Promise<{ readonly offset: number; readonly found: number }>;
}

interface StoredLine {
  readonly log: string;
  readonly stream: string;
  readonly time: string;
  readonly attrs?: Readonly<Record<string, string>>;
}

export function parseStoredLine(text: string): LogLine | undefined {
  if (!text.startsWith("{")) return undefined;
  let stored: StoredLine;
  try {
    stored = JSON.parse(text) as StoredLine;
  } catch {
    // Torn by a loss of power in the middle of a write.
    return undefined;
  }
  if (typeof stored.log !== "string" || typeof stored.time !== "string") return undefined;
  return {
    stream: stored.stream === "stderr" ? "stderr" : "stdout",
    timestamp: stored.time,
    data: Buffer.from(stored.log),
    ...(stored.attrs === undefined ? {} : { attrs: stored.attrs }),
  };
}

async function jsonTailOffset(
  handle: FileHandle,
  count: number,
): Promise<{ readonly offset: number; readonly found: number }> {
  let end = (await handle.stat()).size;
  let found = 0;
  const buffer = Buffer.allocUnsafe(READ_BYTES);
  const size = end;
  while (end > 0) {
    const start = Math.max(0, end - READ_BYTES);
    const { bytesRead } = await handle.read(buffer, 0, end - start, start);
    for (let at = bytesRead - 1; at >= 0; at--) {
      // The newline at the very end closes the last line.
      if (buffer[at] !== 10 || start + at === size - 1) continue;
      found++;
      if (found === count) return { offset: start + at + 1, found };
    }
    end = start;
  }
  return { offset: 0, found: size > 0 ? found + 1 : 0 };
}

export const JSON_FORMAT: LogFormat = {
  take: (bytes) => {
    const used = bytes.lastIndexOf(10) + 1;
    const texts = used === 0 ? [] : bytes.toString("utf8", 0, used - 1).split("\n");
    return { lines: texts.map(parseStoredLine).filter((line) => line !== undefined), used };
  },
  tailOffset: jsonTailOffset,
};

/** One message; undefined if it is none. */
function parseLocalEntry(bytes: Buffer): StoredLogLine | undefined {
  try {
    return readLocalEntry(new VarintReader(bytes));
  } catch (caught) {
    // Damaged: it ends within a number, or has a time that there is not.
    if (caught instanceof RangeError) return undefined;
    throw caught;
  }
}

function readLocalEntry(fields: VarintReader): StoredLogLine | undefined {
  let source = "";
  let nanoseconds = 0n;
  let data: Buffer = Buffer.alloc(0);
  let isPiece = false;
  while (!fields.isAtEnd) {
    const tag = fields.varint();
    if (tag === 0x0a) source = fields.byteString().toString();
    else if (tag === 0x10) nanoseconds = BigInt.asIntN(64, fields.bigVarint());
    else if (tag === 0x1a) data = fields.byteString();
    else if (tag === 0x20) isPiece = fields.varint() !== 0;
    else if ((tag & 7) === 0) fields.varint();
    else if ((tag & 7) === 2) fields.byteString();
    else return undefined;
  }
  if (source !== "stdout" && source !== "stderr") return undefined;
  const line = { stream: source, timestamp: rfc3339OfNanoseconds(nanoseconds), data } as const;
  return isPiece ? { ...line, piece: data.at(-1) === 10 ? "last" : "inner" } : line;
}

export const LOCAL_FORMAT: LogFormat = {
  take: (bytes) => {
    const lines: StoredLogLine[] = [];
    let used = 0;
    while (bytes.length - used >= 8) {
      const length = bytes.readUInt32BE(used);
      if (length > RECORD_BYTES_MAX || bytes.length - used < length + 8) break;
      const line = parseLocalEntry(bytes.subarray(used + 4, used + 4 + length));
      if (line !== undefined) lines.push(line);
      used += length + 8;
    }
    return { lines, used };
  },
  tailOffset: async (handle, count) => {
    let offset = (await handle.stat()).size;
    let window: Buffer = Buffer.alloc(0);
    let windowStart = offset;
    let found = 0;
    while (found < count && offset >= 8) {
      if (offset - 4 < windowStart) {
        const start = Math.max(0, offset - READ_BYTES);
        const { bytesRead, buffer } = await handle.read(
          Buffer.alloc(offset - start),
          0,
          offset - start,
          start,
        );
        window = buffer.subarray(0, bytesRead);
        windowStart = start;
      }
      const length = window.readUInt32BE(offset - 4 - windowStart);
      if (length > RECORD_BYTES_MAX || length + 8 > offset) break;
      offset -= length + 8;
      found++;
    }
    return { offset, found };
  },
};
