/**
 * Which images there are and what they are called. One small file for each image and one for all names, each replaced as a
 * whole, so a crash shows the old or the new. Reads come from memory. An image is its config's digest.
 */
import { readdirSync } from "node:fs";
import * as fsp from "node:fs/promises";
import path from "node:path";
import type { Disk } from "../../common/env.ts";
import { ClusterError } from "../../common/errors.ts";
import {
  canonicalName,
  DEFAULT_TAG,
  parseReference,
  tryParseReference,
  type ImageReference,
} from "../../model/image-reference.ts";

export interface LayerRecord {
  readonly digest: string;
  readonly mediaType: string;
  readonly sizeBytes: number;
  readonly diffId: string;
  readonly chainId: string;
}

export interface ImageRecord {
  /** Digest of the config document. */
  readonly id: string;
  readonly configSizeBytes: number;
  readonly configMediaType: string;
  readonly manifest: { readonly digest: string; readonly mediaType: string; readonly sizeBytes: number };
  /** Indexes from which the manifest was chosen, as registries gave them; newest last. They name it for peers. */
  readonly indexes?: readonly {
    readonly digest: string;
    readonly mediaType: string;
    readonly sizeBytes: number;
  }[];
  /** Lowest first. */
  readonly layers: readonly LayerRecord[];
  /** Bytes of the files of all layers. */
  readonly contentBytes: number;
  /** The image this one was built on here; "" if it came from elsewhere. */
  readonly parentId: string;
  /** RFC 3339 with nanoseconds. */
  readonly lastTaggedAt: string;
  /** What the build step that made it is found by; absent for images that no build made. */
  readonly buildKey?: string;
}

export interface TagRecord {
  readonly imageId: string;
  /** RFC 3339 with nanoseconds. */
  readonly taggedAt: string;
}

interface NamesFile {
  readonly tags: Readonly<Record<string, TagRecord>>;
  readonly digests: Readonly<Record<string, string>>;
  /** When images were given a tag last that have none now. Absent in files of older versions. */
  readonly untagged?: Readonly<Record<string, string>>;
}

/** Digests of all blobs that the image is made of. */
export function blobsOf({ id, manifest, indexes = [], layers }: ImageRecord): readonly string[] {
  return [id, ...[manifest, ...indexes, ...layers].map(({ digest }) => digest)];
}

const IMAGE_ID = /^sha256:[0-9a-f]{64}$/;
/** Shortest id prefix that is taken for one. */
const ID_PREFIX = /^(?:sha256:)?([0-9a-f]{1,64})$/;

/** Indexes remembered for an image: registries make new ones around the same manifest now and then. */
const INDEX_COUNT_MAX = 4;

export function noSuchImage(reference: string): ClusterError {
  const parsed = tryParseReference(reference);
  const needsTag = parsed !== undefined && parsed.tag === undefined && parsed.digest === undefined;
  return new ClusterError("not_found", `No such image: ${reference}${needsTag ? `:${DEFAULT_TAG}` : ""}`, {
    details: { reference },
  });
}

/** undefined if a loss of power left something else than a record. */
async function readRecord(disk: Disk, file: string): Promise<ImageRecord | undefined> {
  try {
    return JSON.parse(Buffer.from(await disk.readFile(file)).toString("utf8")) as ImageRecord;
  } catch {
    return undefined;
  }
}

export class ImageRecords {
  readonly #root: string;
  readonly #disk: Disk;
  readonly #images = new Map<string, ImageRecord>();
  /** Canonical name with tag to image. */
  readonly #tags = new Map<string, TagRecord>();
  /** Canonical name with digest to image id. */
  readonly #digests = new Map<string, string>();
  /** Build key to image id. */
  readonly #built = new Map<string, string>();
  readonly #listeners = new Set<() => void>();
  /** Writes go one after the other, so that the file never shows an older state than memory had. */
  #writing: Promise<void> = Promise.resolve();

  private constructor(root: string, disk: Disk) {
    this.#root = root;
    this.#disk = disk;
  }

  /** `isWhole`: whether all that the image is made of is there; records of others are dropped. */
  static async open(
    root: string,
    disk: Disk,
    isWhole: (record: ImageRecord) => boolean,
  ): Promise<ImageRecords> {
    const records = new ImageRecords(root, disk);
    const folder = path.join(root, "records");
    await disk.makeFolder(folder);
    for (const name of readdirSync(folder)) {
      if (!/^[0-9a-f]{64}\.json$/.test(name)) {
        await disk.remove(path.join(folder, name));
        continue;
      }
      const record = await readRecord(disk, path.join(folder, name));
      if (record === undefined || !isWhole(record)) {
        await disk.remove(path.join(folder, name));
        continue;
      }
      records.#images.set(record.id, record);
      if (record.buildKey !== undefined) records.#built.set(record.buildKey, record.id);
    }
    const namesFile = path.join(root, "names.json");
    if (await disk.exists(namesFile)) {
      const names = JSON.parse(Buffer.from(await disk.readFile(namesFile)).toString()) as NamesFile;
      for (const [name, tag] of Object.entries(names.tags)) {
        if (records.#images.has(tag.imageId)) records.#tags.set(name, tag);
        records.#taggedAt(tag.imageId, tag.taggedAt);
      }
      for (const [id, taggedAt] of Object.entries(names.untagged ?? {})) records.#taggedAt(id, taggedAt);
      for (const [name, id] of Object.entries(names.digests)) {
        if (records.#images.has(id)) records.#digests.set(name, id);
      }
    }
    return records;
  }

  /** An image's own file is older than its tags. */
  #taggedAt(id: string, time: string): void {
    const record = this.#images.get(id);
    if (record !== undefined && record.lastTaggedAt < time)
      this.#images.set(id, { ...record, lastTaggedAt: time });
  }

  fileOf(id: string): string {
    return path.join(this.#root, "records", `${id.slice("sha256:".length)}.json`);
  }

  /** `listener` is called after each change of images or names, in the same turn. Returns what ends that. */
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #changed(): void {
    for (const listener of this.#listeners) listener();
  }

  #serially(write: () => Promise<void>): Promise<void> {
    const next = this.#writing.then(write);
    // The next write goes on after a failed one; who asked for this one hears of it.
    this.#writing = next.catch(() => {});
    return next;
  }

  #writeNames(): Promise<void> {
    this.#changed();
    return this.#serially(() => {
      const tagged = new Set([...this.#tags.values()].map(({ imageId }) => imageId));
      const untagged = [...this.#images.values()].filter(
        ({ id, lastTaggedAt }) => lastTaggedAt !== "" && !tagged.has(id),
      );
      const names: NamesFile = {
        tags: Object.fromEntries(this.#tags),
        digests: Object.fromEntries(this.#digests),
        untagged: Object.fromEntries(untagged.map(({ id, lastTaggedAt }) => [id, lastTaggedAt])),
      };
      return this.#disk.writeFileAtomic(
        path.join(this.#root, "names.json"),
        Buffer.from(JSON.stringify(names)),
      );
    });
  }

  images(): IterableIterator<ImageRecord> {
    return this.#images.values();
  }

  image(id: string): ImageRecord | undefined {
    return this.#images.get(id);
  }

  get count(): number {
    return this.#images.size;
  }

  /** Keeps an earlier record's parent when the new one has none. */
  async add(record: ImageRecord): Promise<void> {
    const known = this.#images.get(record.id);
    const merged: ImageRecord =
      known === undefined
        ? record
        : { ...known, ...record, parentId: record.parentId === "" ? known.parentId : record.parentId };
    if (merged.buildKey !== undefined) this.#built.set(merged.buildKey, merged.id);
    this.#images.set(record.id, merged);
    this.#changed();
    // Not synced: a record is worth as much as its blobs, which are made durable together with it (durable-images.ts).
    await this.#serially(async () => {
      const file = this.fileOf(record.id);
      await fsp.writeFile(`${file}.tmp`, JSON.stringify(merged), { mode: 0o600 });
      await this.#disk.rename(`${file}.tmp`, file);
    });
  }

  /** Remembers an index that the image was chosen from; its blob is there. */
  async addIndex(id: string, index: NonNullable<ImageRecord["indexes"]>[number]): Promise<void> {
    const record = this.#images.get(id);
    if (record === undefined || record.indexes?.some((each) => each.digest === index.digest) === true) return;
    await this.add({ ...record, indexes: [...(record.indexes ?? []), index].slice(-INDEX_COUNT_MAX) });
  }

  /** The image that a build step with this key made. */
  built(buildKey: string): ImageRecord | undefined {
    return this.#images.get(this.#built.get(buildKey) ?? "");
  }

  /** Its names must be gone already. */
  async remove(id: string): Promise<void> {
    const buildKey = this.#images.get(id)?.buildKey;
    if (!this.#images.delete(id)) return;
    this.#changed();
    if (buildKey !== undefined) this.#built.delete(buildKey);
    await this.#serially(() => this.#disk.remove(this.fileOf(id)));
  }

  /**
   * Gives `reference` (with tag) to an image; returns what had it before. A name that stays where it is takes the new time in
   * memory and on the disk with the next change: a cached build need not wait for the disk.
   */
  async tag(reference: ImageReference, imageId: string, now: string): Promise<string | undefined> {
    const name = `${canonicalName(reference)}:${reference.tag ?? DEFAULT_TAG}`;
    const before = this.#tags.get(name)?.imageId;
    this.#tags.set(name, { imageId, taggedAt: now });
    this.#taggedAt(imageId, now);
    if (before !== imageId) await this.#writeNames();
    return before;
  }

  async addDigest(reference: ImageReference, digest: string, imageId: string): Promise<void> {
    const name = `${canonicalName(reference)}@${digest}`;
    if (this.#digests.get(name) === imageId) return;
    this.#digests.set(name, imageId);
    await this.#writeNames();
  }

  async removeNames(names: readonly string[]): Promise<void> {
    for (const name of names) {
      this.#tags.delete(name);
      this.#digests.delete(name);
    }
    await this.#writeNames();
  }

  tagRecord(canonical: string): TagRecord | undefined {
    return this.#tags.get(canonical);
  }

  /** Canonical names with tag, sorted. */
  tagsOf(id: string): readonly string[] {
    return [...this.#tags]
      .filter(([, tag]) => tag.imageId === id)
      .map(([name]) => name)
      .sort();
  }

  /** Canonical names with digest, sorted. */
  digestsOf(id: string): readonly string[] {
    return [...this.#digests]
      .filter(([, imageId]) => imageId === id)
      .map(([name]) => name)
      .sort();
  }

  /** Names of all images at once: one pass, for lists. */
  allNames(): ReadonlyMap<string, { readonly tags: string[]; readonly digests: string[] }> {
    const names = new Map<string, { readonly tags: string[]; readonly digests: string[] }>();
    const of = (id: string): { readonly tags: string[]; readonly digests: string[] } => {
      const known = names.get(id);
      if (known !== undefined) return known;
      const fresh = { tags: [], digests: [] };
      names.set(id, fresh);
      return fresh;
    };
    for (const [name, tag] of this.#tags) of(tag.imageId).tags.push(name);
    for (const [name, id] of this.#digests) of(id).digests.push(name);
    for (const each of names.values()) {
      each.tags.sort();
      each.digests.sort();
    }
    return names;
  }

  childrenOf(id: string): readonly ImageRecord[] {
    return [...this.#images.values()].filter((record) => record.parentId === id);
  }

  /** The image that a name, digest, id or unambiguous prefix of an id means; undefined if none. */
  find(reference: string): ImageRecord | undefined {
    if (IMAGE_ID.test(reference)) {
      const byId = this.#images.get(reference);
      if (byId !== undefined) return byId;
    }
    const parsed = tryParseReference(reference);
    if (parsed !== undefined) {
      const byName = this.#findByName(parsed);
      if (byName !== undefined) return byName;
    }
    return this.#findByPrefix(reference);
  }

  #findByName(parsed: ImageReference): ImageRecord | undefined {
    const name = canonicalName(parsed);
    const id =
      parsed.digest === undefined
        ? this.#tags.get(`${name}:${parsed.tag ?? DEFAULT_TAG}`)?.imageId
        : this.#byDigest(name, parsed.digest);
    return id === undefined ? undefined : this.#images.get(id);
  }

  /** A digest names a manifest or index as its repository has it, or content that is here: that is the same by any name. */
  #byDigest(name: string, digest: string): string | undefined {
    const known = this.#digests.get(`${name}@${digest}`);
    if (known !== undefined || this.#images.has(digest)) return known ?? digest;
    for (const record of this.#images.values()) if (record.manifest.digest === digest) return record.id;
    return undefined;
  }

  #findByPrefix(reference: string): ImageRecord | undefined {
    const prefix = ID_PREFIX.exec(reference)?.[1];
    if (prefix === undefined) return undefined;
    const wanted = `sha256:${prefix}`;
    let found: ImageRecord | undefined;
    for (const record of this.#images.values()) {
      if (!record.id.startsWith(wanted)) continue;
      // Ambiguous: means none, as the name may still be pulled.
      if (found !== undefined) return undefined;
      found = record;
    }
    return found;
  }

  get(reference: string): ImageRecord {
    const record = this.find(reference);
    if (record !== undefined) return record;
    if (tryParseReference(reference) === undefined && !ID_PREFIX.test(reference)) parseReference(reference);
    throw noSuchImage(reference);
  }

  /** Whether `reference` was written as an id, not as a name. */
  isById(reference: string, record: ImageRecord): boolean {
    const prefix = ID_PREFIX.exec(reference)?.[1];
    if (prefix === undefined || !record.id.startsWith(`sha256:${prefix}`)) return false;
    const parsed = tryParseReference(reference);
    return parsed === undefined || this.#findByName(parsed) === undefined;
  }
}
