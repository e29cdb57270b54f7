/**
 * Who in the cluster has what of one image, looked at again while it is being pulled: nodes that began at the same time come
 * to have layers that this one still lacks. Peers are asked in the background; a pull never waits for them.
 */
import type { BlobPeers, ImageDescription } from "../../model/engine.ts";
import type { BlobSource } from "./blob-stream.ts";

/** Between two looks. */
const LOOK_MS = 1_000;

interface Found {
  readonly peer: string;
  readonly image: ImageDescription;
}

export class NearbyPeers {
  readonly #peers: BlobPeers;
  readonly #canonical: string;
  readonly #stop = new AbortController();
  /** By peer and digest: who reads a blob counts the failures of each source. */
  readonly #sources = new Map<string, BlobSource>();
  #found: readonly Found[];

  /** `found`: what is known already. Looks until stop() is called. */
  constructor(peers: BlobPeers, canonical: string, found: readonly Found[] = []) {
    this.#peers = peers;
    this.#canonical = canonical;
    this.#found = found;
    void this.#look(found.length === 0 ? 0 : LOOK_MS);
  }

  async #look(waitMs: number): Promise<void> {
    const { signal } = this.#stop;
    for (let wait = waitMs; !signal.aborted; wait = LOOK_MS) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, wait);
        signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
      });
      // Peers that can't be asked now are no reason to forget what they said before.
      const found = await this.#peers.find(this.#canonical, signal).catch(() => []);
      if (found.length > 0) this.#found = found;
    }
  }

  stop(): void {
    this.#stop.abort();
  }

  /** Peers that have the blob, or some of it: those with the same image, and others that share the layer. */
  sourcesOf(digest: string): readonly BlobSource[] {
    const holders = this.#found.filter(
      ({ image }) => image.manifest.digest === digest || image.blobs.some((blob) => blob.digest === digest),
    );
    return holders.map(({ peer }) => this.#source(peer, digest));
  }

  #source(peer: string, digest: string): BlobSource {
    const key = `${peer} ${digest}`;
    const known = this.#sources.get(key);
    if (known !== undefined) return known;
    const source: BlobSource = {
      name: `node ${peer}`,
      open: (offset, length, signal) => this.#peers.fetch(peer, { digest, offset, length }, signal),
    };
    this.#sources.set(key, source);
    return source;
  }
}
