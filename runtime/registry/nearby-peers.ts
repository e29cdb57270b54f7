/**
 * Who in the cluster has what of one image, looked at again while it is being pulled: nodes that began at the same time come
 * to have layers that this one still lacks. Peers are asked in the background; a pull never waits for them.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { BlobPeers, PeerImage } from "../../model/engine.ts";
import type { BlobSource } from "./blob-stream.ts";

/** Between two looks. */
const LOOK_MS = 1_000;
/** A node of the same cluster is near: it answers soon or not at all, and there are others. */
const PEER_STALL_MS = 5_000;

export interface WantedImage {
  /** Canonical, with digest and, if there is one, tag: nodes that have another image by the tag may share layers. */
  readonly reference: string;
  /** Nodes that are said to have it. */
  readonly likely: readonly string[];
}

export class NearbyPeers {
  readonly #peers: BlobPeers;
  readonly #wanted: WantedImage;
  readonly #stop = new AbortController();
  readonly #sources = new Map<string, BlobSource>();
  #found: readonly PeerImage[];

  /** `found`: what is known already. Looks until stop() is called. */
  constructor(peers: BlobPeers, wanted: WantedImage, found: readonly PeerImage[] = []) {
    this.#peers = peers;
    this.#wanted = wanted;
    this.#found = found;
    void this.#look(found.length === 0 ? 0 : LOOK_MS);
  }

  async #look(waitMs: number): Promise<void> {
    const { signal } = this.#stop;
    const { reference, likely } = this.#wanted;
    for (let wait = waitMs; !signal.aborted; wait = LOOK_MS) {
      await sleep(wait, undefined, { signal }).catch(() => {});
      if (signal.aborted) return;
      // Peers that can't be asked now are no reason to forget what they said before.
      const found = await this.#peers.find(reference, likely, signal).catch(() => []);
      const again = new Set(found.map((each) => each.peer));
      this.#found = [...found, ...this.#found.filter((each) => !again.has(each.peer))];
    }
  }

  stop(): void {
    this.#stop.abort();
  }

  /** Peers that have the blob, or some of it: those with the same image, and others that share the layer. */
  sourcesOf(digest: string): readonly BlobSource[] {
    const holders = this.#found.filter(
      ({ image }) =>
        image.manifest.digest === digest ||
        image.index?.digest === digest ||
        image.blobs.some((blob) => blob.digest === digest),
    );
    return holders.map(({ peer }) => this.sourceAt(peer, digest));
  }

  sourceAt(peer: string, digest: string): BlobSource {
    const key = `${peer} ${digest}`;
    const known = this.#sources.get(key);
    if (known !== undefined) return known;
    const source: BlobSource = {
      name: `node ${peer}`,
      stallMs: PEER_STALL_MS,
      open: (offset, length, signal) => this.#peers.fetch(peer, { digest, offset, length }, signal),
    };
    this.#sources.set(key, source);
    return source;
  }
}
