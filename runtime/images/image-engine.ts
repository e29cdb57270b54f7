/**
 * The machine's images: ImageEngine for the API and the worker, RootfsSource for containers, on one store in the data
 * root. Puts the parts of this folder, the registry client and the builder together; the work is done in those.
 */
import type { Readable } from "node:stream";
import { ClusterError } from "../../common/errors.ts";
import type { SolvedBuild, SolveOptions } from "../../model/build.ts";
import type {
  BlobPeers,
  BuildOptions,
  ContainerEngine,
  CachePruneOptions,
  Filters,
  ImageDescription,
  ImageEngine,
  JsonObject,
  ProgressLine,
  PullOptions,
} from "../../model/engine.ts";
import { familiarName, parseReference, withDefaultTag } from "../../model/image-reference.ts";
import { parseRegistryAuth } from "../registry/registry-auth.ts";
import { RegistryQuestions } from "../registry/registry-access.ts";
import { DEFAULT_REGISTRY_CONFIG, type RegistryConfig } from "../registry/registry-config.ts";
import type { RootfsSource } from "../ports.ts";
import { buildImage } from "../build/builder.ts";
import { solveBuild } from "../build/solve.ts";
import type { BuilderParts } from "../build/stage-runs.ts";
import { pruneBuildCache } from "./build-cache.ts";
import { nameImage } from "./durable-images.ts";
import { collectGarbage } from "./garbage.ts";
import { imageDiskUsage, type DiskUsageOptions } from "./image-usage.ts";
import { imageEvent } from "./image-events.ts";
import { importImage, type ImportOptions } from "./image-import.ts";
import { describeImage, imageInventory } from "./image-description.ts";
import { type LoadOptions, loadImages } from "./image-load.ts";
import { imageHistory, inspectImage, listImages } from "./image-queries.ts";
import { pruneImages, removeImage, type ContainersOf } from "./image-remove.ts";
import { saveImages } from "./image-save.ts";
import { ImageTransfers } from "./image-transfers.ts";
import { openImageStorage, type ImageStorage, type ImageStorageOptions } from "./image-storage.ts";
import { ImageRootfsSource, taggedReference } from "./rootfs-source.ts";

/** A quiet spell after new layers, then they are made durable in one go. */
const SYNC_DELAY_MS = 10_000;

export interface ImageEngineOptions extends ImageStorageOptions {
  /** Asked when an image is removed and by RUN steps; undefined while there is none yet. */
  readonly containers: () => ContainerEngine | undefined;
  /** Mirrors, insecure registries, certificates; by default loopback may be plain and nothing else. */
  readonly registry?: RegistryConfig;
}

export interface ImageEngineParts {
  readonly images: ImageEngine;
  readonly rootfs: RootfsSource;
  /** The images' and the build cache's part of `system df`. */
  readonly diskUsage: (wanted: DiskUsageOptions) => Promise<JsonObject>;
  /** Ends the worker threads; running work fails. */
  readonly stop: () => Promise<void>;
}

class LocalImageEngine implements ImageEngine {
  readonly #storage: ImageStorage;
  readonly #containers: ContainersOf;
  readonly #allContainers: () => ContainerEngine | undefined;
  readonly #transfers: ImageTransfers;
  readonly #questions: RegistryQuestions;

  constructor(storage: ImageStorage, transfers: ImageTransfers, options: ImageEngineOptions) {
    this.#storage = storage;
    this.#containers = options.containers;
    this.#allContainers = options.containers;
    this.#transfers = transfers;
    this.#questions = new RegistryQuestions(options.registry ?? DEFAULT_REGISTRY_CONFIG, transfers.caller);
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
    await nameImage(this.#storage, name, record);
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

  pull(options: PullOptions, signal: AbortSignal): AsyncIterable<ProgressLine> {
    return this.#transfers.pull(options, signal);
  }

  push(
    options: { readonly reference: string; readonly tag?: string; readonly registryAuth?: string },
    signal: AbortSignal,
  ): AsyncIterable<ProgressLine> {
    return this.#transfers.push(options, signal);
  }

  load(tar: Readable, options: LoadOptions): AsyncIterable<ProgressLine> {
    return loadImages(this.#storage, tar, options);
  }

  import(tar: Readable, options: ImportOptions): AsyncIterable<ProgressLine> {
    return importImage(this.#storage, tar, options);
  }

  save(references: readonly string[]): Promise<Readable> {
    return Promise.resolve().then(() => saveImages(this.#storage, references));
  }

  get #builderParts(): BuilderParts {
    return {
      storage: this.#storage,
      containers: this.#allContainers,
      ensure: this.#transfers.ensure.bind(this.#transfers),
      pull: this.#transfers.refresh.bind(this.#transfers),
    };
  }

  build(options: BuildOptions, signal: AbortSignal): AsyncIterable<ProgressLine> {
    return buildImage(this.#builderParts, options, signal);
  }

  solve(options: SolveOptions, signal: AbortSignal): Promise<SolvedBuild> {
    return solveBuild(this.#builderParts, options, signal);
  }

  pruneBuildCache(options: CachePruneOptions): Promise<JsonObject> {
    return pruneBuildCache(this.#storage, options, this.#containers);
  }

  distribution(reference: string, registryAuth?: string): Promise<JsonObject> {
    return Promise.resolve().then(() => {
      const parsed = withDefaultTag(parseReference(reference));
      return this.#questions.distribution(parsed, parseRegistryAuth(registryAuth));
    });
  }

  search(term: string): Promise<readonly JsonObject[]> {
    return Promise.reject(
      new ClusterError(
        "unavailable",
        `Cannot search for "${term}": no registry with a search index is configured`,
      ),
    );
  }

  login(auth: JsonObject): Promise<JsonObject> {
    return this.#questions.login(auth);
  }

  resolve(reference: string): string | undefined {
    return this.#storage.records.find(reference)?.id;
  }

  ensure(
    reference: string,
    options: { readonly registryAuth?: string; readonly platform?: string; readonly peersOnly?: boolean },
    signal: AbortSignal,
  ): Promise<string> {
    return this.#transfers.ensure(reference, options, signal);
  }

  setPeers(peers: BlobPeers | undefined): void {
    this.#transfers.setPeers(peers);
  }

  describe(reference: string): ImageDescription | undefined {
    return describeImage(this.#storage, reference, (digest) => this.#transfers.offered(digest));
  }

  inventory(countMax: number): ReadonlySet<string> {
    return imageInventory(this.#storage, countMax);
  }

  onChange(listener: () => void): () => void {
    return this.#storage.records.onChange(listener);
  }

  setKept(digests: ReadonlySet<string>): void {
    this.#storage.kept = digests;
  }

  openBlob(
    digest: string,
    offset: number,
  ): Promise<{ readonly sizeBytes: number; readonly content: Readable }> {
    const { content, partial } = this.#storage;
    return partial.open(digest, offset).then((arriving) => arriving ?? content.open(digest, offset));
  }

  hasBlob(digest: string): boolean {
    return this.#storage.content.has(digest) || this.#storage.partial.has(digest);
  }
}

/** Looks now and then whether blobs or layers wait to be made durable. Returns what stops it. */
function keepDurable(storage: ImageStorage): () => void {
  const { content, snapshots, pool, env, durability, log } = storage;
  return env.timers.every(SYNC_DELAY_MS, () => {
    const pending = snapshots.undurable();
    const blobs = content.unsynced();
    if (blobs.length === 0 && pending.length === 0) return;
    const startMs = env.clock.wallMs();
    pool
      .run({ kind: "sync", path: storage.root })
      .then(() => content.markSynced(blobs))
      .then(() => snapshots.markDurable(pending))
      .then(() => durability.synced(startMs))
      .catch((caught: unknown) => {
        log.warn("images are made durable later", { error: caught });
      });
  });
}

export async function createImageEngine(options: ImageEngineOptions): Promise<ImageEngineParts> {
  const storage = await openImageStorage(options);
  await storage.durability.checked();
  const cancelSync = keepDurable(storage);
  const transfers = new ImageTransfers(storage, options.registry ?? DEFAULT_REGISTRY_CONFIG);
  // What a crash left behind.
  collectGarbage(storage);
  return {
    images: new LocalImageEngine(storage, transfers, options),
    rootfs: new ImageRootfsSource(storage),
    diskUsage: (wanted) => imageDiskUsage(storage, wanted, options.containers),
    stop: async () => {
      cancelSync();
      await storage.removal.close();
      transfers.stop();
      await storage.pool.stop();
    },
  };
}
