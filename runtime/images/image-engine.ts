/**
 * The machine's images: ImageEngine for the API and the worker, RootfsSource for containers, on one store in the data
 * root. Puts the parts of this folder, the registry client and the builder together; the work is done in those.
 */
import { ClusterError } from "../../common/errors.ts";
import type {
  BlobPeers,
  BuildOptions,
  ContainerEngine,
  Filters,
  ImageDescription,
  ImageEngine,
  JsonObject,
  ProgressLine,
  PullOptions,
} from "../../model/engine.ts";
import { canonicalName, familiarName, parseReference, withDefaultTag } from "../../model/image-reference.ts";
import type { Readable } from "node:stream";
import type { RootfsSource } from "../ports.ts";
import { collectGarbage } from "./garbage.ts";
import { imageEvent } from "./image-events.ts";
import { loadImages } from "./image-load.ts";
import { imageHistory, inspectImage, listImages } from "./image-queries.ts";
import { pruneImages, removeImage, type ContainersOf } from "./image-remove.ts";
import { saveImages } from "./image-save.ts";
import { openImageStorage, type ImageStorage, type ImageStorageOptions } from "./image-storage.ts";
import { ImageRootfsSource, taggedReference } from "./rootfs-source.ts";

/** A quiet spell after new layers, then they are made durable in one go. */
const SYNC_DELAY_MS = 10_000;

export interface ImageEngineOptions extends ImageStorageOptions {
  /** Asked when an image is removed and by RUN steps; undefined while there is none yet. */
  readonly containers: () => ContainerEngine | undefined;
}

export interface ImageEngineParts {
  readonly images: ImageEngine;
  readonly rootfs: RootfsSource;
  /** Ends the worker threads; running work fails. */
  readonly stop: () => Promise<void>;
}

class LocalImageEngine implements ImageEngine {
  readonly #storage: ImageStorage;
  readonly #containers: ContainersOf;

  constructor(storage: ImageStorage, options: ImageEngineOptions) {
    this.#storage = storage;
    this.#containers = options.containers;
  }

  list(options: {
    readonly all: boolean;
    readonly sharedSize: boolean;
    readonly filters: Filters;
  }): Promise<readonly JsonObject[]> {
    return Promise.resolve().then(() => listImages(this.#storage, options));
  }

  inspect(reference: string): Promise<JsonObject> {
    return Promise.resolve().then(() => inspectImage(this.#storage, reference));
  }

  history(reference: string): Promise<readonly JsonObject[]> {
    return Promise.resolve().then(() => imageHistory(this.#storage, reference));
  }

  async tag(reference: string, repo: string, tag: string): Promise<void> {
    const record = this.#storage.records.get(reference);
    const name = taggedReference(repo, tag);
    await this.#storage.records.tag(name, record.id, this.#storage.now());
    imageEvent(this.#storage, "tag", record.id, `${familiarName(name)}:${name.tag ?? ""}`);
  }

  remove(
    reference: string,
    options: { readonly force: boolean; readonly noPrune: boolean },
  ): Promise<readonly JsonObject[]> {
    return removeImage(this.#storage, reference, { ...options, containers: this.#containers });
  }

  prune(
    filters: Filters,
  ): Promise<{ readonly ImagesDeleted: readonly JsonObject[] | null; readonly SpaceReclaimed: number }> {
    return pruneImages(this.#storage, filters, this.#containers);
  }

  pull(_options: PullOptions, _signal: AbortSignal): AsyncIterable<ProgressLine> {
    throw new ClusterError("unimplemented", "Pulling images is not possible yet");
  }

  push(): AsyncIterable<ProgressLine> {
    throw new ClusterError("unimplemented", "Pushing images is not possible yet");
  }

  load(tar: Readable, options: { readonly quiet: boolean }): AsyncIterable<ProgressLine> {
    return loadImages(this.#storage, tar, options);
  }

  import(): AsyncIterable<ProgressLine> {
    throw new ClusterError("unimplemented", "Importing images is not possible yet");
  }

  save(references: readonly string[]): Promise<Readable> {
    return Promise.resolve().then(() => saveImages(this.#storage, references));
  }

  build(_options: BuildOptions, _signal: AbortSignal): AsyncIterable<ProgressLine> {
    throw new ClusterError("unimplemented", "Building images is not possible yet");
  }

  pruneBuildCache(): Promise<JsonObject> {
    return Promise.resolve({ CachesDeleted: null, SpaceReclaimed: 0 });
  }

  distribution(reference: string): Promise<JsonObject> {
    const { domain } = parseReference(reference);
    return Promise.reject(new ClusterError("unavailable", `Cannot ask registry "${domain}"`));
  }

  search(): Promise<readonly JsonObject[]> {
    return Promise.reject(new ClusterError("unavailable", "Cannot search: no registry with a search index"));
  }

  login(): Promise<JsonObject> {
    return Promise.reject(new ClusterError("unavailable", "Cannot log in: registry can't be reached"));
  }

  resolve(reference: string): string | undefined {
    return this.#storage.records.find(reference)?.id;
  }

  ensure(reference: string): Promise<string> {
    return Promise.resolve().then(() => this.#storage.records.get(reference).id);
  }

  setPeers(peers: BlobPeers | undefined): void {
    this.#storage.log.debug("peers changed", { hasPeers: peers !== undefined });
  }

  describe(reference: string): ImageDescription | undefined {
    const { records } = this.#storage;
    const record = records.find(reference);
    if (record === undefined) return undefined;
    const parsed = withDefaultTag(parseReference(reference));
    const full = `${canonicalName(parsed)}${parsed.digest === undefined ? `:${parsed.tag ?? ""}` : `@${parsed.digest}`}`;
    return {
      reference: full,
      imageId: record.id,
      manifest: record.manifest,
      blobs: [
        { digest: record.id, mediaType: record.configMediaType, sizeBytes: record.configSizeBytes },
        ...record.layers.map(({ digest, mediaType, sizeBytes }) => ({ digest, mediaType, sizeBytes })),
      ],
      repoDigests: records.digestsOf(record.id),
      taggedAt: records.tagRecord(full)?.taggedAt ?? record.lastTaggedAt,
    };
  }

  openBlob(
    digest: string,
    offset: number,
  ): Promise<{ readonly sizeBytes: number; readonly content: Readable }> {
    return Promise.resolve().then(() => this.#storage.content.open(digest, offset));
  }

  hasBlob(digest: string): boolean {
    return this.#storage.content.has(digest);
  }
}

/** Looks now and then whether layers wait to be made durable. Returns what stops it. */
function keepDurable(storage: ImageStorage): () => void {
  return storage.env.timers.every(SYNC_DELAY_MS, () => {
    const pending = storage.snapshots.undurable();
    if (pending.length === 0) return;
    storage.pool
      .run({ kind: "sync", path: storage.root })
      .then(() => storage.snapshots.markDurable(pending))
      .catch((caught: unknown) => storage.log.warn("layers are made durable later", { error: caught }));
  });
}

export async function createImageEngine(options: ImageEngineOptions): Promise<ImageEngineParts> {
  const storage = await openImageStorage(options);
  const cancelSync = keepDurable(storage);
  // What a crash left behind.
  collectGarbage(storage);
  return {
    images: new LocalImageEngine(storage, options),
    rootfs: new ImageRootfsSource(storage),
    stop: async () => {
      cancelSync();
      await storage.pool.stop();
    },
  };
}
