/** What this machine says to others of its images: one by reference, for peers that want it; all of them, for managers. */
import type { ImageDescription } from "../../model/engine.ts";
import {
  canonicalForm,
  canonicalName,
  tryParseReference,
  withDefaultTag,
  type ImageReference,
} from "../../model/image-reference.ts";
import type { ImageRecord } from "./image-records.ts";
import { isKept, type ImageStorage } from "./image-storage.ts";

/**
 * The image that `reference` names by its digest, also one that is `arriving`, else by its tag: an image of another digest
 * may share layers with the one that is wanted.
 */
export function describeImage(
  storage: ImageStorage,
  reference: string,
  arriving: (digest: string) => ImageDescription | undefined,
): ImageDescription | undefined {
  const { records } = storage;
  const parsed = tryParseReference(reference);
  const record = records.find(reference);
  if (record !== undefined) return described(storage, record, parsed);
  if (parsed?.digest === undefined) return undefined;
  const { digest, ...named } = parsed;
  const offered = arriving(digest);
  if (offered !== undefined || named.tag === undefined) return offered;
  const tagged = records.find(canonicalForm(named));
  return tagged === undefined ? undefined : described(storage, tagged, named);
}

function described(
  storage: ImageStorage,
  record: ImageRecord,
  parsed: ImageReference | undefined,
): ImageDescription {
  const { records, content } = storage;
  const document = storage.document(record);
  const name = parsed === undefined ? record.id : fullName(withDefaultTag(parsed));
  const index = record.indexes?.find((each) => each.digest === parsed?.digest && content.has(each.digest));
  return {
    reference: name,
    imageId: record.id,
    manifest: record.manifest,
    ...(index === undefined ? {} : { index }),
    blobs: [
      { digest: record.id, mediaType: record.configMediaType, sizeBytes: record.configSizeBytes },
      ...record.layers.map(({ digest, mediaType, sizeBytes }) => ({ digest, mediaType, sizeBytes })),
    ],
    platform: { os: document.os, architecture: document.architecture },
    repoDigests: records.digestsOf(record.id),
    taggedAt: records.tagRecord(name)?.taggedAt ?? record.lastTaggedAt,
  };
}

function fullName(parsed: ImageReference): string {
  const name = canonicalName(parsed);
  return parsed.digest === undefined ? `${name}:${parsed.tag ?? ""}` : `${name}@${parsed.digest}`;
}

/** See ImageEngine.inventory(). */
export function imageInventory(storage: ImageStorage, countMax: number): ReadonlySet<string> {
  const { records } = storage;
  const names = records.allNames();
  const sorted = [...records.images()]
    .map((record) => ({ record, isKept: isKept(storage, record) }))
    // Steps of builds and other images without a name are of no use to anybody else, but for those that are kept.
    .filter((each) => each.isKept || names.has(each.record.id))
    .sort((left, right) => {
      if (left.isKept !== right.isKept) return left.isKept ? -1 : 1;
      return left.record.lastTaggedAt < right.record.lastTaggedAt ? 1 : -1;
    });
  const inventory = new Set<string>();
  for (const { record } of sorted) {
    const { tags = [], digests = [] } = names.get(record.id) ?? {};
    const ofDigests = digests.map((name) => name.slice(name.indexOf("@") + 1));
    for (const text of [record.manifest.digest, ...ofDigests, ...tags]) {
      if (inventory.size >= countMax) return inventory;
      inventory.add(text);
    }
  }
  return inventory;
}
