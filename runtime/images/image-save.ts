/**
 * `docker save`: one archive that is an OCI layout and has Docker's manifest.json and repositories beside it, as current
 * Docker writes it, so that old and new tools read it. Blobs go out as they came in, each once. Same images, same bytes.
 */
import { Readable } from "node:stream";
import { canonicalName, familiarForm, familiarName, parseReference } from "../../model/image-reference.ts";
import { imageEvent } from "./image-events.ts";
import type { ImageRecord } from "./image-records.ts";
import { holdImage, type ImageStorage } from "./image-storage.ts";
import { encodeHeader, END_OF_ARCHIVE, paddingOf } from "./tar/tar-entry.ts";

interface SavedImage {
  readonly record: ImageRecord;
  /** Canonical, with tags. */
  readonly tags: string[];
}

function blobName(digest: string): string {
  return `blobs/${digest.replace(":", "/")}`;
}

function header(name: string, size: number): Buffer {
  const isFolder = name.endsWith("/");
  return encodeHeader({
    name,
    type: isFolder ? "folder" : "file",
    mode: isFolder ? 0o755 : 0o644,
    uid: 0,
    gid: 0,
    size,
    mtime: 0,
    linkName: "",
    devMajor: 0,
    devMinor: 0,
    xattrs: new Map(),
  });
}

function* document(name: string, value: unknown): Generator<Buffer> {
  const bytes = Buffer.from(JSON.stringify(value));
  yield header(name, bytes.length);
  yield bytes;
  yield paddingOf(bytes.length);
}

/** Which images the names mean: an id saves without names, a repository without tag saves all its tags. */
function savedImages(storage: ImageStorage, references: readonly string[]): readonly SavedImage[] {
  const { records } = storage;
  const saved = new Map<string, SavedImage>();
  const add = (record: ImageRecord, tags: readonly string[]): void => {
    const known = saved.get(record.id) ?? { record, tags: [] };
    saved.set(record.id, known);
    for (const tag of tags) if (!known.tags.includes(tag)) known.tags.push(tag);
  };
  for (const reference of references) {
    const record = records.find(reference);
    if (record !== undefined && records.isById(reference, record)) {
      add(record, []);
      continue;
    }
    const parsed = parseReference(reference);
    if (parsed.tag !== undefined || parsed.digest !== undefined) {
      const found = records.get(reference);
      add(found, parsed.tag === undefined ? [] : [`${canonicalName(parsed)}:${parsed.tag}`]);
      continue;
    }
    let count = 0;
    for (const image of records.images()) {
      const tags = records
        .tagsOf(image.id)
        .filter((tag) => canonicalName(parseReference(tag)) === canonicalName(parsed));
      if (tags.length > 0) add(image, tags);
      count += tags.length;
    }
    // Says "No such image".
    if (count === 0) records.get(reference);
  }
  return [...saved.values()];
}

function indexOf(images: readonly SavedImage[]): object {
  const manifests = images.flatMap(({ record, tags }) => {
    const descriptor = {
      mediaType: record.manifest.mediaType,
      digest: record.manifest.digest,
      size: record.manifest.sizeBytes,
    };
    if (tags.length === 0) return [descriptor];
    return tags.map((tag) => ({
      ...descriptor,
      annotations: {
        "io.containerd.image.name": tag,
        "org.opencontainers.image.ref.name": parseReference(tag).tag ?? "",
      },
    }));
  });
  return { schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json", manifests };
}

function manifestJson(images: readonly SavedImage[]): object {
  return images.map(({ record, tags }) => ({
    Config: blobName(record.id),
    RepoTags: tags.length === 0 ? null : tags.map((tag) => familiarForm(parseReference(tag))),
    Layers: record.layers.map((layer) => blobName(layer.digest)),
  }));
}

/** By repository, then by tag. Names like "constructor" are names as others: no object is asked for them. */
function repositories(images: readonly SavedImage[]): ReadonlyMap<string, ReadonlyMap<string, string>> {
  const names = new Map<string, Map<string, string>>();
  for (const { record, tags } of images) {
    for (const tag of tags) {
      const parsed = parseReference(tag);
      const top = record.layers.at(-1)?.digest.split(":")[1] ?? "";
      const name = familiarName(parsed);
      const tagsOfName = names.get(name) ?? new Map<string, string>();
      names.set(name, tagsOfName.set(parsed.tag ?? "", top));
    }
  }
  return names;
}

async function* archive(storage: ImageStorage, images: readonly SavedImage[]): AsyncGenerator<Buffer> {
  const lease = storage.leases.open();
  try {
    for (const { record } of images) holdImage(record, lease);
    const digests = new Set<string>();
    for (const { record } of images) {
      digests.add(record.manifest.digest).add(record.id);
      for (const layer of record.layers) digests.add(layer.digest);
    }
    yield header("blobs/", 0);
    yield header("blobs/sha256/", 0);
    for (const digest of [...digests].sort()) {
      const { sizeBytes, content } = storage.content.open(digest, 0);
      try {
        yield header(blobName(digest), sizeBytes);
        for await (const piece of content) yield piece as Buffer;
      } finally {
        // A client that goes away at the header ends this before the loop, which would close the file.
        content.destroy();
      }
      yield paddingOf(sizeBytes);
    }
    yield* document("index.json", indexOf(images));
    yield* document("manifest.json", manifestJson(images));
    yield* document("oci-layout", { imageLayoutVersion: "1.0.0" });
    const names = repositories(images);
    if (names.size > 0) {
      const entries = [...names].map(([name, each]) => [name, Object.fromEntries(each)] as const);
      yield* document("repositories", Object.fromEntries(entries));
    }
    yield END_OF_ARCHIVE;
  } finally {
    lease.release();
  }
}

export function saveImages(storage: ImageStorage, references: readonly string[]): Readable {
  const images = savedImages(storage, references);
  for (const { record } of images) imageEvent(storage, "save", record.id, record.id);
  return Readable.from(archive(storage, images), { objectMode: false });
}
