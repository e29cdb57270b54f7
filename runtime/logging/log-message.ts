/** Lines of a log as what goes to a collector: without their newline, and with the pieces of long ones told as such. */
import { createHash } from "node:crypto";
import { parseNanoseconds } from "../../common/time.ts";
import type { StoredLogLine } from "../containers/log-formats.ts";

const NEWLINE = 10;
const PIECE_ID_CHARS = 64;

/** Docker's words for a piece of a line that was longer than 16 KiB. */
export interface LinePiece {
  /** The same for all pieces of a line. */
  readonly id: string;
  /** From 1. */
  readonly ordinal: number;
  readonly isLast: boolean;
}

export interface LogMessage {
  readonly stream: "stdout" | "stderr";
  readonly line: Uint8Array;
  /** RFC 3339, nine digits. */
  readonly timestamp: string;
  /** Since 1970. */
  readonly nanoseconds: bigint;
  readonly piece?: LinePiece;
}

export class LineAssembler {
  readonly #containerId: string;
  readonly #open = new Map<string, { readonly id: string; ordinal: number }>();

  constructor(containerId: string) {
    this.#containerId = containerId;
  }

  message({ stream, timestamp, data, piece }: StoredLogLine): LogMessage {
    const line = data.at(-1) === NEWLINE ? data.subarray(0, -1) : data;
    const plain = { stream, line, timestamp, nanoseconds: parseNanoseconds(timestamp) };
    return piece === undefined
      ? plain
      : { ...plain, piece: this.#piece(stream, timestamp, piece === "last") };
  }

  #piece(stream: string, timestamp: string, isLast: boolean): LinePiece {
    let open = this.#open.get(stream);
    if (open === undefined) {
      const hash = createHash("sha256").update(`${this.#containerId} ${stream} ${timestamp}`);
      open = { id: hash.digest("hex").slice(0, PIECE_ID_CHARS), ordinal: 0 };
      this.#open.set(stream, open);
    }
    open.ordinal += 1;
    if (isLast) this.#open.delete(stream);
    return { id: open.id, ordinal: open.ordinal, isLast };
  }
}
