/**
 * The stores and helpers that every image operation works on, opened together from one folder of the data root. Holds no
 * policy: loading, pulling, removing and building each live in a file of their own and are given this.
 */
import path from "node:path";
import { availableParallelism } from "node:os";
import type { Env } from "../../common/env.ts";
import type { Logger } from "../../common/log.ts";
import { rfc3339 } from "../../common/time.ts";
import { LaterRemoval, type RemoveTrees } from "../later-removal.ts";
import type { EventSink } from "../ports.ts";
import { SnapshotStore } from "../snapshots/snapshot-store.ts";
import { CacheMounts } from "./cache-mounts.ts";
import { ContentStore, sha256 } from "./content-store.ts";
import { chainIdsOf, parseImageDocument, type ImageDocument, type Manifest } from "./image-documents.ts";
import { blobsOf, ImageRecords, type ImageRecord } from "./image-records.ts";
import { LayerStore } from "./layer-store.ts";
import { Leases, type Lease } from "./leases.ts";
import { PartialBlobs } from "./partial-blobs.ts";
import { Durability } from "./durability.ts";
import { UnfinishedBlobs } from "./unfinished-blobs.ts";
import { WorkerPool } from "./worker-pool.ts";

/** Enough for a few layers at once; more would only fight over the disk. */
const THREADS_MAX = 4;
const DOCUMENTS_CACHED_MAX = 256;

export interface ImageStorage {
  readonly env: Env;
  readonly log: Logger;
  readonly events: EventSink;
  readonly root: string;
  readonly trash: string;
  readonly pool: WorkerPool;
  readonly content: ContentStore;
  readonly snapshots: SnapshotStore;
  readonly records: ImageRecords;
  readonly layers: LayerStore;
  readonly leases: Leases;
  readonly partial: PartialBlobs;
  readonly durability: Durability;
  /** Images that are kept for the cluster, by the digest of their manifest or index. */
  kept: ReadonlySet<string>;
  readonly cacheMounts: CacheMounts;
  /** For trees in the trash. */
  readonly removal: LaterRemoval;
  readonly unfinished: UnfinishedBlobs;
  /** The image's config document. */
  document(record: Pick<ImageRecord, "id">): ImageDocument;
  /** RFC 3339 with nine digits, for stamps. */
  now(): string;
}

export interface ImageStorageOptions {
  readonly env: Env;
  readonly log: Logger;
  readonly events: EventSink;
  /** The data root of the daemon; images get a folder in it. */
  readonly dataRoot: string;
  /** Default: in a thread of the pool. */
  readonly removeTrees?: RemoveTrees;
}

export async function openImageStorage(options: ImageStorageOptions): Promise<ImageStorage> {
  const { env, log, events } = options;
  const { disk, random } = env;
  const root = path.join(options.dataRoot, "images");
  const trash = path.join(root, "trash");
  // Containers' processes may not look around in here, but must get through to their root.
  await disk.makeFolder(root, 0o711);
  await disk.makeFolder(trash);
  const durability = Durability.open(root, env);
  const { suspectSinceMs, unsyncedSinceMs } = durability;
  const content = await ContentStore.open({ root, trash, disk, random, suspectSinceMs, unsyncedSinceMs });
  const snapshots = await SnapshotStore.open({ root, trash, disk, random });
  const records = await ImageRecords.open(
    root,
    disk,
    (record) =>
      content.has(record.id) &&
      content.has(record.manifest.digest) &&
      record.layers.every((layer) => content.has(layer.digest)),
  );
  const threadCount = Math.max(3, Math.min(THREADS_MAX, availableParallelism()));
  const pool = new WorkerPool(env.timers, threadCount);
  const documents = new Map<string, ImageDocument>();
  const document = (record: Pick<ImageRecord, "id">): ImageDocument => {
    const known = documents.get(record.id);
    if (known !== undefined) return known;
    const parsed = parseImageDocument(content.readDocument(record.id));
    if (documents.size >= DOCUMENTS_CACHED_MAX) documents.clear();
    documents.set(record.id, parsed);
    return parsed;
  };
  const layers = new LayerStore({ pool, content, snapshots });
  const leases = new Leases();
  const partial = new PartialBlobs();
  const cacheMounts = new CacheMounts(root, trash, random);
  const removal = new LaterRemoval({
    timers: env.timers,
    log,
    remove:
      options.removeTrees ??
      ((folders) => Promise.all(folders.map((folder) => pool.run({ kind: "remove", path: folder })))),
  });
  const unfinished = new UnfinishedBlobs(root, { random, clock: env.clock });
  const now = (): string => rfc3339(env.clock.wallMs());
  return {
    env,
    log,
    events,
    root,
    trash,
    pool,
    content,
    snapshots,
    records,
    layers,
    leases,
    partial,
    durability,
    kept: new Set(),
    cacheMounts,
    removal,
    unfinished,
    document,
    now,
  };
}

export interface NewImage {
  /** Bytes of manifest and config as they came. */
  readonly manifestBytes: Uint8Array;
  readonly manifest: Manifest;
  readonly configBytes: Uint8Array;
  readonly parentId?: string;
  readonly buildKey?: string;
}

/** Records an image whose layers are all in place; returns its record. */
export async function recordImage(
  storage: ImageStorage,
  image: NewImage,
  lease: Lease,
): Promise<ImageRecord> {
  const { content, records, snapshots } = storage;
  const document = parseImageDocument(image.configBytes);
  const chainIds = chainIdsOf(document.diffIds);
  const { manifest } = image;
  lease.hold(manifest.config.digest);
  const id = await content.put(image.configBytes);
  const manifestDigest = await content.put(image.manifestBytes);
  lease.hold(id, manifestDigest);
  const layers = manifest.layers.map((layer, index) => ({
    digest: layer.digest,
    mediaType: layer.mediaType,
    sizeBytes: layer.sizeBytes,
    diffId: document.diffIds[index] ?? "",
    chainId: chainIds[index] ?? "",
  }));
  const record: ImageRecord = {
    id,
    configSizeBytes: image.configBytes.byteLength,
    configMediaType: manifest.config.mediaType,
    manifest: {
      digest: manifestDigest,
      mediaType: manifest.mediaType,
      sizeBytes: image.manifestBytes.byteLength,
    },
    layers,
    contentBytes: chainIds.reduce((sum, each) => sum + (snapshots.layer(each)?.contentBytes ?? 0), 0),
    parentId: image.parentId ?? "",
    lastTaggedAt: records.image(id)?.lastTaggedAt ?? "",
    ...(image.buildKey === undefined ? {} : { buildKey: image.buildKey }),
  };
  await records.add(record);
  return record;
}

/**
 * Puts an index from which a manifest was chosen among the blobs, held by `lease`; peers that know its digest only ask
 * for it.
 */
export async function keepIndex(
  storage: ImageStorage,
  index: { readonly bytes: Uint8Array; readonly mediaType: string },
  lease: Lease,
): Promise<NonNullable<ImageRecord["indexes"]>[number]> {
  lease.hold(sha256(index.bytes));
  const digest = await storage.content.put(index.bytes);
  return { digest, mediaType: index.mediaType, sizeBytes: index.bytes.byteLength };
}

/** Whether the image is kept for the cluster. */
export function isKept(storage: Pick<ImageStorage, "kept">, record: ImageRecord): boolean {
  const { kept } = storage;
  return kept.has(record.manifest.digest) || (record.indexes ?? []).some((index) => kept.has(index.digest));
}

/** Layers of a record with what else is needed to unpack them again, held by `lease`. */
export function holdImage(record: ImageRecord, lease: Lease): void {
  lease.hold(...blobsOf(record), ...record.layers.map(({ chainId }) => chainId));
}
