/**
 * A blob's bytes in order from several sources at once: it is cut into pieces that are fetched ahead from different sources,
 * a few at a time. A source that fails or stalls is left out and its piece fetched from another, going on where it stopped.
 * Nothing is believed: whoever reads checks the digest.
 */
import type { Readable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { ClusterError } from "../../common/errors.ts";

export interface BlobSource {
  readonly name: string;
  /** Bytes from `offset`, at least `length` of them (the rest is not read). */
  open(offset: number, length: number, signal: AbortSignal): Promise<Readable>;
}

export interface BlobStreamOptions {
  readonly digest: string;
  readonly sizeBytes: number;
  readonly signal: AbortSignal;
  /** Pieces on their way at a time. */
  readonly parallelCount?: number;
  readonly pieceBytes?: number;
  readonly retryMs?: number;
}

const PIECE_BYTES = 8 * 1024 * 1024;
const PARALLEL_COUNT = 2;
/** How often a piece is tried before the blob is given up. */
const ATTEMPTS_MAX = 6;
const RETRY_MS = 250;
const STALL_MS = 30_000;

/** A piece being filled; read while it grows. */
class Piece {
  readonly chunks: Buffer[] = [];
  bytes = 0;
  isDone = false;
  error: unknown;
  #wake: (() => void) | undefined;

  changed(): void {
    this.#wake?.();
  }

  waitForChange(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }
}

class BlobStream {
  readonly #options: BlobStreamOptions;
  readonly #sources: () => readonly BlobSource[];
  /** Failures of each source; those with fewer are asked first. */
  readonly #failures = new Map<BlobSource, number>();
  #turn = 0;
  readonly #stop = new AbortController();

  constructor(sources: () => readonly BlobSource[], options: BlobStreamOptions) {
    this.#sources = sources;
    this.#options = options;
  }

  #pick(): BlobSource {
    const sources = this.#sources();
    const fewest = Math.min(...sources.map((each) => this.#failures.get(each) ?? 0));
    const best = sources.filter((each) => (this.#failures.get(each) ?? 0) === fewest);
    const source = best[this.#turn++ % best.length];
    if (source === undefined)
      throw new ClusterError("not_found", `No source has blob ${this.#options.digest}`);
    return source;
  }

  async #fill(piece: Piece, offset: number, length: number): Promise<void> {
    const signal = AbortSignal.any([this.#options.signal, this.#stop.signal]);
    for (let attempt = 1; piece.bytes < length; attempt++) {
      const source = this.#pick();
      const before = piece.bytes;
      try {
        await this.#read(source, piece, { offset: offset + piece.bytes, length, signal });
      } catch (caught) {
        if (signal.aborted) throw caught;
        const failures = (this.#failures.get(source) ?? 0) + 1;
        this.#failures.set(source, failures);
        // Progress counts: a source that breaks off now and then still gets there.
        if (piece.bytes > before) attempt = 1;
        if (attempt >= ATTEMPTS_MAX) throw caught;
        // A better source is asked at once.
        if (this.#sources().some((each) => (this.#failures.get(each) ?? 0) < failures)) continue;
        await sleep((this.#options.retryMs ?? RETRY_MS) * attempt, undefined, { signal });
      }
    }
    piece.isDone = true;
    piece.changed();
  }

  async #read(
    source: BlobSource,
    piece: Piece,
    wanted: { readonly offset: number; readonly length: number; readonly signal: AbortSignal },
  ): Promise<void> {
    const stall = new AbortController();
    let timer = setTimeout(() => stall.abort(new Error("stalled")), STALL_MS);
    const signal = AbortSignal.any([wanted.signal, stall.signal]);
    let stream: Readable | undefined;
    try {
      stream = await source.open(wanted.offset, wanted.length - piece.bytes, signal);
      for await (const chunk of stream) {
        clearTimeout(timer);
        timer = setTimeout(() => stall.abort(new Error("stalled")), STALL_MS);
        if (signal.aborted) throw new ClusterError("cancelled", "context canceled");
        const taken = (chunk as Buffer).subarray(0, wanted.length - piece.bytes);
        piece.chunks.push(taken);
        piece.bytes += taken.length;
        piece.changed();
        if (piece.bytes >= wanted.length) return;
      }
      throw new ClusterError("unavailable", `unexpected EOF from ${source.name}`, { retryable: true });
    } finally {
      clearTimeout(timer);
      stream?.destroy();
    }
  }

  async *pieces(): AsyncGenerator<Buffer> {
    const { sizeBytes, pieceBytes = PIECE_BYTES, parallelCount = PARALLEL_COUNT } = this.#options;
    const ahead: Piece[] = [];
    let next = 0;
    try {
      while (next < sizeBytes || ahead.length > 0) {
        while (next < sizeBytes && ahead.length < parallelCount) {
          const piece = new Piece();
          const length = Math.min(pieceBytes, sizeBytes - next);
          this.#fill(piece, next, length).catch((caught: unknown) => {
            piece.error = caught;
            piece.isDone = true;
            piece.changed();
          });
          ahead.push(piece);
          next += length;
        }
        const first = ahead.shift();
        if (first !== undefined) yield* this.#drain(first);
      }
    } finally {
      this.#stop.abort();
    }
  }

  async *#drain(piece: Piece): AsyncGenerator<Buffer> {
    for (;;) {
      const chunk = piece.chunks.shift();
      if (chunk !== undefined) yield chunk;
      else if (piece.error !== undefined) throw piece.error;
      else if (piece.isDone) return;
      else await piece.waitForChange();
    }
  }
}

/** `sources` is asked for each piece: who has a blob changes while it is fetched. */
export function blobPieces(
  sources: () => readonly BlobSource[],
  options: BlobStreamOptions,
): AsyncGenerator<Buffer> {
  return new BlobStream(sources, options).pieces();
}
