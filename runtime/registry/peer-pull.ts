/**
 * An image from other nodes of the cluster, its layers from all that have them at once, also from those that are still
 * getting them. Managers say what a name means; what nodes say is believed only as far as digests prove it. Nothing of a
 * registry is needed.
 */
import type { BlobPeers, ImageDescription, PeerImage, ProgressLine } from "../../model/engine.ts";
import { canonicalForm, familiarForm, type ImageReference } from "../../model/image-reference.ts";
import type { ImagePlatform } from "../../model/platforms.ts";
import { makeDurable, nameImage } from "../images/durable-images.ts";
import { imageEvent } from "../images/image-events.ts";
import {
  choosePlatform,
  parseManifestOrIndex,
  type Descriptor,
  type Manifest,
} from "../images/image-documents.ts";
import type { ImageRecord } from "../images/image-records.ts";
import { keepIndex, type ImageStorage } from "../images/image-storage.ts";
import type { Lease } from "../images/leases.ts";
import { fetchDocument, fetchImage, offeredImage, parseManifest } from "./image-fetch.ts";
import { NearbyPeers } from "./nearby-peers.ts";

export interface PeerPull {
  readonly reference: ImageReference;
  readonly platform: ImagePlatform;
  readonly peers: BlobPeers;
  readonly report: (line: ProgressLine) => void;
  readonly signal: AbortSignal;
  /** Only a name that the cluster itself keeps counts: for who asks for the image's newest form. */
  readonly isKeptOnly?: boolean;
  /** Called with what is being pulled as soon as it can be offered to others, and with undefined at the end. */
  readonly offer: (image: ImageDescription | undefined) => void;
}

/** undefined when no manager knows the name or no peer has the image. Throws when they have and could not give it. */
export async function pullFromPeers(storage: ImageStorage, pull: PeerPull): Promise<ImageRecord | undefined> {
  const { leases } = storage;
  const { peers, signal } = pull;
  const meaning = await peers.resolve(canonicalForm(pull.reference), signal);
  const digest = pull.reference.digest ?? meaning?.digest;
  if (digest === undefined || (pull.isKeptOnly === true && meaning?.isKept !== true)) return undefined;
  const reference = { ...pull.reference, digest };
  const wanted = { reference: canonicalForm(reference), likely: meaning?.holders ?? [] };
  const found = await peers.find(wanted.reference, wanted.likely, signal);
  if (!found.some(({ image }) => isImage(image, digest))) return undefined;
  pull.report({ status: "Pulling from the cluster", id: pull.reference.tag ?? digest });
  const nearby = new NearbyPeers(peers, wanted, found);
  const lease = leases.open();
  try {
    const before = storage.records.find(canonicalForm(pull.reference))?.id;
    const fetch = new PeerFetch({ storage, pull: { ...pull, reference }, nearby, lease });
    const record = await fetch.run(found);
    if (pull.reference.digest === undefined) {
      await nameImage(storage, pull.reference, record, meaning?.taggedAt);
    }
    pull.report({ status: `Digest: ${digest}` });
    const status = before === record.id ? "Image is up to date" : "Downloaded newer image";
    pull.report({ status: `Status: ${status} for ${familiarForm(pull.reference)}` });
    imageEvent(storage, "pull", record.id, canonicalForm(pull.reference));
    return record;
  } finally {
    nearby.stop();
    pull.offer(undefined);
    lease.release();
  }
}

function isImage(image: ImageDescription, digest: string): boolean {
  return image.manifest.digest === digest || image.index?.digest === digest;
}

interface ChosenManifest {
  readonly bytes: Buffer;
  readonly manifest: Manifest;
  /** Where the reference named an index. */
  readonly index?: { readonly bytes: Buffer; readonly mediaType: string };
}

class PeerFetch {
  readonly #storage: ImageStorage;
  readonly #pull: PeerPull & { readonly reference: ImageReference & { readonly digest: string } };
  readonly #nearby: NearbyPeers;
  readonly #lease: Lease;

  constructor(parts: {
    readonly storage: ImageStorage;
    readonly pull: PeerPull & { readonly reference: ImageReference & { readonly digest: string } };
    readonly nearby: NearbyPeers;
    readonly lease: Lease;
  }) {
    this.#storage = parts.storage;
    this.#pull = parts.pull;
    this.#nearby = parts.nearby;
    this.#lease = parts.lease;
  }

  async run(found: readonly PeerImage[]): Promise<ImageRecord> {
    const { reference, report, signal, offer } = this.#pull;
    const chosen = await this.#chooseManifest(found);
    const { bytes, manifest, index } = chosen;
    const indexDescriptor =
      index === undefined ? undefined : await keepIndex(this.#storage, index, this.#lease);
    const record = await fetchImage(this.#storage, {
      manifestBytes: bytes,
      manifest,
      lease: this.#lease,
      report,
      signal,
      sourcesOf: ({ digest }) => this.#nearby.sourcesOf(digest),
      onConfig: () => offer(offeredImage(this.#storage, reference, { ...chosen, index: indexDescriptor })),
    });
    const { records } = this.#storage;
    if (indexDescriptor !== undefined) await records.addIndex(record.id, indexDescriptor);
    await makeDurable(this.#storage, record);
    await records.addDigest(reference, reference.digest, record.id);
    return record;
  }

  /** The manifest that the digest means, from the first peer that has what it says. */
  async #chooseManifest(found: readonly PeerImage[]): Promise<ChosenManifest> {
    const { digest } = this.#pull.reference;
    let failure: unknown;
    for (const { peer, image } of found) {
      try {
        if (image.manifest.digest === digest) {
          const bytes = await this.#documentAt(peer, image.manifest);
          return { bytes, manifest: parseManifest(bytes, image.manifest.mediaType) };
        }
        if (image.index?.digest === digest) return await this.#fromIndex(peer, image.index);
      } catch (caught) {
        this.#pull.signal.throwIfAborted();
        failure = caught;
      }
    }
    throw failure;
  }

  async #fromIndex(
    peer: string,
    descriptor: NonNullable<ImageDescription["index"]>,
  ): Promise<ChosenManifest> {
    const indexBytes = await this.#documentAt(peer, descriptor);
    const parsed = parseManifestOrIndex(indexBytes, descriptor.mediaType);
    if (parsed.kind === "manifest") return { bytes: indexBytes, manifest: parsed.manifest };
    const platform = choosePlatform(parsed.manifests, this.#pull.platform);
    if (platform === undefined) throw new Error("the index has no manifest for this machine");
    const bytes = await this.#documentAt(peer, platform);
    return {
      bytes,
      manifest: parseManifest(bytes, platform.mediaType),
      index: { bytes: indexBytes, mediaType: descriptor.mediaType },
    };
  }

  #documentAt(peer: string, descriptor: Descriptor): Promise<Buffer> {
    const source = this.#nearby.sourceAt(peer, descriptor.digest);
    return fetchDocument(descriptor, () => [source], this.#pull.signal);
  }
}
