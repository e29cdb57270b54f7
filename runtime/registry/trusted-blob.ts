/**
 * A blob from several sources of which some may lie. Pieces of one that was put together from many don't say who spoiled it,
 * so it is fetched once more from each of them alone: whoever gives other bytes than the digest says is asked nothing more
 * in this pull. What has only a part can't be tried alone, and is left out at once.
 */
import { hasCode } from "../../common/errors.ts";
import type { BlobSource } from "./blob-stream.ts";

export interface BlobTrust {
  readonly sources: () => readonly BlobSource[];
  /** The blob's bytes from these sources; `onUse` is called with each that gave some. */
  readonly pieces: (
    sources: () => readonly BlobSource[],
    onUse: (source: BlobSource) => void,
  ) => AsyncGenerator<Buffer>;
  /** Names of sources that lied; added to. */
  readonly distrusted: Set<string>;
  readonly signal: AbortSignal;
}

/** Whole blobs fetched again to find a liar, for each blob. */
const TRY_COUNT_MAX = 8;

/** What `take` makes of the bytes; it must throw for bytes that are not the blob's. */
export async function takeBlob<T>(
  trust: BlobTrust,
  take: (pieces: AsyncGenerator<Buffer>) => Promise<T>,
): Promise<T> {
  const trusted = (): readonly BlobSource[] =>
    trust.sources().filter((source) => !trust.distrusted.has(source.name));
  let suspects: BlobSource[] = [];
  for (let tryCount = 1; ; tryCount++) {
    const alone = suspects.pop();
    const attempt = new Attempt(trust, alone === undefined ? trusted : () => [alone]);
    try {
      return await take(attempt.pieces());
    } catch (caught) {
      const used = [...attempt.used];
      if (trust.signal.aborted || tryCount >= TRY_COUNT_MAX) throw caught;
      if (!attempt.isContentAtFault(caught)) {
        if (alone === undefined) throw caught;
        // What a suspect could not give says nothing about the others.
        continue;
      }
      const parts = used.filter(({ isPartial }) => isPartial === true);
      for (const { name } of parts) trust.distrusted.add(name);
      const [only] = used;
      if (parts.length > 0) continue;
      if (used.length > 1) suspects = used;
      else if (only !== undefined) trust.distrusted.add(only.name);
      if (suspects.length === 0 && trusted().length === 0) throw caught;
    }
  }
}

/** One go at the blob, with the sources that took part in it. */
class Attempt {
  readonly used = new Set<BlobSource>();
  readonly #trust: BlobTrust;
  readonly #sources: () => readonly BlobSource[];
  #hasBrokenOff = false;

  constructor(trust: BlobTrust, sources: () => readonly BlobSource[]) {
    this.#trust = trust;
    this.#sources = sources;
  }

  async *pieces(): AsyncGenerator<Buffer> {
    try {
      yield* this.#trust.pieces(this.#sources, (source) => this.used.add(source));
    } catch (caught) {
      this.#hasBrokenOff = true;
      throw caught;
    }
  }

  /** Bytes came, and they were not the blob's; rather than that they did not come, or that this machine failed. */
  isContentAtFault(caught: unknown): boolean {
    const isOurs = hasCode(caught, "resource_exhausted", "cancelled");
    return this.used.size > 0 && !this.#hasBrokenOff && !isOurs;
  }
}
