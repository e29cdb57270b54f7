/** What images and the build cache take on the disk, for `system df`. Layers that several images share count once. */
import type { JsonObject } from "../../model/engine.ts";
import { createdMs, listImages } from "./image-queries.ts";
import { imageUsers, type ContainersOf } from "./image-remove.ts";
import type { ImageRecord } from "./image-records.ts";
import type { ImageStorage } from "./image-storage.ts";
import { treeBytes } from "./tree-bytes.ts";

export interface DiskUsageOptions {
  readonly images: boolean;
  readonly buildCache: boolean;
}

/** An entry of the build cache, as `system df` lists it. */
export type CacheEntry = JsonObject & {
  readonly ID: string;
  readonly Parents: readonly string[];
  readonly Type: string;
  readonly Description: string;
  readonly InUse: boolean;
  readonly Shared: boolean;
  readonly Size: number;
  readonly CreatedAt: string;
  readonly LastUsedAt: string;
};

/** Bytes that the image's own layers add to its parent's. */
function ownBytes(storage: ImageStorage, record: ImageRecord): number {
  const parent = storage.records.image(record.parentId);
  const below = new Set(parent?.layers.map((layer) => layer.chainId));
  return record.layers
    .filter((layer) => !below.has(layer.chainId))
    .reduce((sum, layer) => sum + (storage.snapshots.layer(layer.chainId)?.contentBytes ?? 0), 0);
}

/** Images that build steps left and that have no name. */
function buildCache(storage: ImageStorage): readonly CacheEntry[] {
  const { records } = storage;
  return [...records.images()]
    .filter((record) => record.buildKey !== undefined && records.tagsOf(record.id).length === 0)
    .map((record) => {
      const document = storage.document(record);
      const created = new Date(createdMs(document)).toISOString();
      return {
        ID: record.id.replace("sha256:", ""),
        Parents: record.parentId === "" ? [] : [record.parentId.replace("sha256:", "")],
        Type: "regular",
        Description: document.history.at(-1)?.created_by ?? "",
        InUse: records.childrenOf(record.id).length > 0,
        Shared: false,
        Size: ownBytes(storage, record),
        CreatedAt: created,
        LastUsedAt: created,
        UsageCount: 1,
      };
    });
}

function cacheMounts(storage: ImageStorage): Promise<readonly CacheEntry[]> {
  const described = storage.cacheMounts.list().map(async ({ name, id, folder, createdMs: made, isUsed }) => {
    const created = new Date(made).toISOString();
    return {
      ID: name,
      Parents: [],
      Type: "exec.cachemount",
      Description: `cached mount ${id}`,
      InUse: isUsed,
      Shared: false,
      Size: await treeBytes(folder),
      CreatedAt: created,
      LastUsedAt: created,
      UsageCount: 1,
    };
  });
  return Promise.all(described);
}

export async function buildCacheUsage(storage: ImageStorage): Promise<readonly CacheEntry[]> {
  return [...buildCache(storage), ...(await cacheMounts(storage))];
}

export async function imageDiskUsage(
  storage: ImageStorage,
  wanted: DiskUsageOptions,
  containers: ContainersOf,
): Promise<JsonObject> {
  const users = wanted.images ? await imageUsers(containers) : [];
  const images = wanted.images
    ? listImages(storage, { all: false, sharedSize: true, filters: new Map() })
    : [];
  let layersSize = 0;
  for (const layer of storage.snapshots.layers()) layersSize += layer.contentBytes;
  return {
    LayersSize: layersSize,
    Images: images.map((image) => ({
      ...image,
      Containers: users.filter((user) => user.imageId === image["Id"]).length,
    })),
    BuildCache: wanted.buildCache ? [...(await buildCacheUsage(storage))] : [],
  };
}
