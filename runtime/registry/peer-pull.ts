/**
 * An image from other nodes of the cluster: the newest that any of them calls by the name, its layers from all that have
 * them at once, also from those that are still getting them. Nothing of a registry is needed.
 */
import type { BlobPeers, ImageDescription, ProgressLine } from "../../model/engine.ts";
import { canonicalForm, parseReference, type ImageReference } from "../../model/image-reference.ts";
import { makeDurable, nameImage } from "../images/durable-images.ts";
import { imageEvent } from "../images/image-events.ts";
import type { Descriptor } from "../images/image-documents.ts";
import type { ImageRecord } from "../images/image-records.ts";
import type { ImageStorage } from "../images/image-storage.ts";
import type { BlobSource } from "./blob-stream.ts";
import { NearbyPeers } from "./nearby-peers.ts";
import { fetchDocument, fetchImage, parseManifest } from "./image-fetch.ts";

export interface PeerPull {
  readonly reference: ImageReference;
  readonly peers: BlobPeers;
  readonly report: (line: ProgressLine) => void;
  readonly signal: AbortSignal;
  /** Called with what is being pulled as soon as it can be offered to others, and with undefined at the end. */
  readonly offer: (image: ImageDescription | undefined) => void;
}

/** undefined when no peer has it. Throws when they have and could not give it. */
export async function pullFromPeers(storage: ImageStorage, pull: PeerPull): Promise<ImageRecord | undefined> {
  const { records, leases } = storage;
  const found = await pull.peers.find(canonicalForm(pull.reference), pull.signal);
  const newest = found[0];
  if (newest === undefined) return undefined;
  const { image } = newest;
  pull.report({ status: `Pulling from ${newest.peer}`, id: pull.reference.tag ?? image.manifest.digest });
  const nearby = new NearbyPeers(pull.peers, canonicalForm(pull.reference), found);
  const sourcesOf = (descriptor: Pick<Descriptor, "digest">): readonly BlobSource[] =>
    nearby.sourcesOf(descriptor.digest);
  const lease = leases.open();
  try {
    const manifestBytes = await fetchDocument(image.manifest, () => sourcesOf(image.manifest), pull.signal);
    const record = await fetchImage(storage, {
      manifestBytes,
      manifest: parseManifest(manifestBytes, image.manifest.mediaType),
      lease,
      report: pull.report,
      signal: pull.signal,
      sourcesOf,
      onConfig: () => pull.offer(image),
    });
    await makeDurable(storage, record);
    for (const name of image.repoDigests) {
      const parsed = parseReference(name);
      if (parsed.digest !== undefined) await records.addDigest(parsed, parsed.digest, record.id);
    }
    // The peer's time: the newest of a name stays the newest wherever it is copied to.
    if (pull.reference.digest === undefined) await nameImage(storage, pull.reference, record, image.taggedAt);
    imageEvent(storage, "pull", record.id, canonicalForm(pull.reference));
    return record;
  } finally {
    nearby.stop();
    pull.offer(undefined);
    lease.release();
  }
}
