/**
 * A blob's bytes in order from several sources at once: it is cut into pieces that are fetched ahead from different sources,
 * a few at a time. A source that fails or stalls is asked after the others and its piece goes on elsewhere where it stopped;
 * one that is busy is asked again later. Nothing is believed: whoever reads checks the digest.
 */
import type { Readable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { ClusterError, hasCode } from "../../common/errors.ts";

export interface BlobSource {
  /** The same for the same machine, whatever blob is asked of it. */
  readonly name: string;
  /** Asked only when the others have failed. */
  readonly isReserve?: boolean;
  /** Has the blob's beginning only: alone it gives no blob. */
  readonly isPartial?: boolean;
  /** Next to nothing came for so long: the source is given up for the piece. Default 30 s. */
  readonly stallMs?: number;
  /** Bytes from `offset`, at least `length` of them (the rest is not read). Rejects with resource_exhausted when busy. */
  open(offset: number, length: number, signal: AbortSignal): Promise<Readable>;
}

/** How sources have done so far, shared by all blobs of a pull so that each need not find out anew. */
export class SourceScores {
  readonly #failures = new Map<string, number>();
  readonly #busyUntilMs = new Map<string, number>();
  /** Not all that pull the same image begin with the same source. */
  #turn = Math.floor(Math.random() * 1024);

  failed(source: BlobSource): void {
    this.#failures.set(source.name, this.failureCount(source) + 1);
  }

  failureCount(source: BlobSource): number {
    return this.#failures.get(source.name) ?? 0;
  }

  /** Grows by one with each call: small blobs come from different sources too. */
  nextTurn(): number {
    this.#turn += 1;
    return this.#turn;
  }

  busy(source: BlobSource): void {
    this.#busyUntilMs.set(source.name, performance.now() + BUSY_MS);
  }

  isBusy(source: BlobSource): boolean {
    return (this.#busyUntilMs.get(source.name) ?? 0) > performance.now();
  }
}

export interface BlobStreamOptions {
  readonly digest: string;
  readonly sizeBytes: number;
  /** So many bytes from its start are not wanted. Default 0. */
  readonly fromBytes?: number;
  readonly signal: AbortSignal;
  readonly scores?: SourceScores;
  /** Called with each source that gave bytes. */
  readonly onUse?: (source: BlobSource) => void;
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
/** Fewer bytes than this in the time of a stall are next to nothing: a source must not hold a piece by dripping. */
const PROGRESS_BYTES_MIN = 16 * 1024;
/** A source that failed so often stands behind those in reserve. */
const RESERVE_FAILURES = 2;
/** A busy source is left alone for about this long. */
const BUSY_MS = 300;
/** Sources that are all busy for so long are as good as none. */
const BUSY_WAIT_MS_MAX = 120_000;

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
  readonly #scores: SourceScores;
  readonly #stop = new AbortController();

  constructor(sources: () => readonly BlobSource[], options: BlobStreamOptions) {
    this.#sources = sources;
    this.#options = options;
    this.#scores = options.scores ?? new SourceScores();
  }

  /** One of the best in turn: not busy before busy, then the fewest failures. */
  #pick(): BlobSource {
    const sources = this.#sources();
    const regular = sources.filter(
      (each) => each.isReserve !== true && this.#scores.failureCount(each) < RESERVE_FAILURES,
    );
    const usable = regular.length > 0 ? regular : sources;
    const free = usable.filter((each) => !this.#scores.isBusy(each));
    const candidates = free.length > 0 ? free : usable;
    const fewest = Math.min(...candidates.map((each) => this.#scores.failureCount(each)));
    const best = candidates.filter((each) => this.#scores.failureCount(each) === fewest);
    const source = best[this.#scores.nextTurn() % best.length];
    if (source === undefined)
      throw new ClusterError("not_found", `No source has blob ${this.#options.digest}`);
    return source;
  }

  async #fill(piece: Piece, offset: number, length: number): Promise<void> {
    const signal = AbortSignal.any([this.#options.signal, this.#stop.signal]);
    let busySinceMs: number | undefined;
    for (let attempt = 1; piece.bytes < length; attempt++) {
      const source = this.#pick();
      const before = piece.bytes;
      try {
        await this.#read(source, piece, { offset: offset + piece.bytes, length, signal });
      } catch (caught) {
        if (signal.aborted) throw caught;
        if (piece.bytes > before) busySinceMs = undefined;
        if (hasCode(caught, "resource_exhausted")) {
          busySinceMs ??= performance.now();
          if (performance.now() - busySinceMs > BUSY_WAIT_MS_MAX) throw caught;
          attempt--;
          await this.#waitWhileBusy(source, signal);
          continue;
        }
        this.#scores.failed(source);
        // Progress counts: a source that breaks off now and then still gets there.
        if (piece.bytes > before) attempt = 1;
        if (attempt >= ATTEMPTS_MAX) throw caught;
        // A better source is asked at once.
        const failures = this.#scores.failureCount(source);
        if (this.#sources().some((each) => this.#scores.failureCount(each) < failures)) continue;
        await sleep((this.#options.retryMs ?? RETRY_MS) * attempt, undefined, { signal });
      }
    }
    piece.isDone = true;
    piece.changed();
  }

  /** Another source that is not busy is asked at once. */
  async #waitWhileBusy(source: BlobSource, signal: AbortSignal): Promise<void> {
    this.#scores.busy(source);
    if (this.#sources().some((each) => !this.#scores.isBusy(each))) return;
    // Not all that wait at the same moment.
    await sleep(BUSY_MS * (0.5 + Math.random()), undefined, { signal });
  }

  async #read(
    source: BlobSource,
    piece: Piece,
    wanted: { readonly offset: number; readonly length: number; readonly signal: AbortSignal },
  ): Promise<void> {
    const stall = new AbortController();
    let sinceCheck = 0;
    const timer = setInterval(() => {
      if (sinceCheck < PROGRESS_BYTES_MIN) stall.abort(new Error(`${source.name} stalled`));
      sinceCheck = 0;
    }, source.stallMs ?? STALL_MS);
    const signal = AbortSignal.any([wanted.signal, stall.signal]);
    let stream: Readable | undefined;
    try {
      stream = await abortable(source.open(wanted.offset, wanted.length - piece.bytes, signal), signal);
      signal.addEventListener("abort", () => stream?.destroy(), { once: true });
      for await (const chunk of stream) {
        if (signal.aborted) break;
        const taken = (chunk as Buffer).subarray(0, wanted.length - piece.bytes);
        if (taken.length > 0) this.#options.onUse?.(source);
        sinceCheck += taken.length;
        piece.chunks.push(taken);
        piece.bytes += taken.length;
        piece.changed();
        if (piece.bytes >= wanted.length) return;
      }
      throw new ClusterError("unavailable", `unexpected EOF from ${source.name}`, { retryable: true });
    } finally {
      clearInterval(timer);
      stream?.destroy();
    }
  }

  async *pieces(): AsyncGenerator<Buffer> {
    const { sizeBytes, pieceBytes = PIECE_BYTES, parallelCount = PARALLEL_COUNT } = this.#options;
    const ahead: Piece[] = [];
    let next = this.#options.fromBytes ?? 0;
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

/** As `opening`; a stream that opens after `signal` was aborted is closed. */
async function abortable(opening: Promise<Readable>, signal: AbortSignal): Promise<Readable> {
  const aborted = Promise.withResolvers<never>();
  const onAbort = (): void => aborted.reject(signal.reason as Error);
  signal.addEventListener("abort", onAbort, { once: true });
  if (signal.aborted) onAbort();
  try {
    return await Promise.race([opening, aborted.promise]);
  } catch (caught) {
    opening.then(
      (late) => late.destroy(),
      () => {},
    );
    throw caught;
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}

/** `sources` is asked for each piece: who has a blob changes while it is fetched. */
export function blobPieces(
  sources: () => readonly BlobSource[],
  options: BlobStreamOptions,
): AsyncGenerator<Buffer> {
  return new BlobStream(sources, options).pieces();
}
