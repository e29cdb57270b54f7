/**
 * Root filesystems for containers (RootfsSource of runtime/ports.ts): writable layers on images, what they changed, and
 * images made of them. Called by the container engine, on the way of every start, so prepare() does next to nothing when
 * the image's layers are in place.
 */
import { must } from "../../common/assert.ts";
import { ClusterError } from "../../common/errors.ts";
import { isTag, parseReference } from "../../model/image-reference.ts";
import {
  isDependentKey,
  type CommitOptions,
  type ImageConfig,
  type RootfsLayers,
  type RootfsSource,
} from "../ports.ts";
import { makeChildImage, placeLayer } from "./child-image.ts";
import { makeDurable, nameImage } from "./durable-images.ts";
import { collectGarbage } from "./garbage.ts";
import { imageEvent } from "./image-events.ts";
import { holdImage, type ImageStorage } from "./image-storage.ts";
import { noSuchImage, type ImageRecord } from "./image-records.ts";

export class ImageRootfsSource implements RootfsSource {
  readonly #storage: ImageStorage;

  constructor(storage: ImageStorage) {
    this.#storage = storage;
  }

  imageConfig(reference: string): Promise<ImageConfig> {
    return Promise.resolve().then(() => {
      const record = this.#storage.records.get(reference);
      const document = this.#storage.document(record);
      return {
        imageId: record.id,
        architecture: document.architecture,
        os: document.os,
        created: document.created,
        config: document.config,
        diffIds: document.diffIds,
      };
    });
  }

  #image(imageId: string): ImageRecord {
    const record = this.#storage.records.image(imageId);
    if (record === undefined) throw noSuchImage(imageId);
    return record;
  }

  async prepare(key: string, imageId: string): Promise<RootfsLayers> {
    const { snapshots, layers, leases } = this.#storage;
    const known = snapshots.writable(key);
    if (known !== undefined) return this.layers(key);
    const record = this.#image(imageId);
    const lease = leases.open();
    try {
      holdImage(record, lease);
      if (!record.layers.every((layer) => snapshots.has(layer.chainId))) await layers.ensure(record.layers);
      return snapshots.createWritable({ key, imageId, chainIds: record.layers.map((each) => each.chainId) });
    } finally {
      lease.release();
    }
  }

  async layers(key: string): Promise<RootfsLayers> {
    const { snapshots, records, layers } = this.#storage;
    const writable = snapshots.writable(key);
    const record = writable === undefined ? undefined : records.image(writable.imageId);
    // A loss of power may have taken layers that the container stands on.
    if (record !== undefined && !record.layers.every((layer) => snapshots.has(layer.chainId))) {
      await layers.ensure(record.layers);
    }
    return snapshots.layersOf(key);
  }

  synced(key: string): Promise<void> {
    return this.#storage.snapshots.syncWritable(key);
  }

  remove(key: string): Promise<void> {
    const { leases, records, removal, snapshots } = this.#storage;
    const gone = [...snapshots.writables()].filter(
      (each) => each.key === key || isDependentKey(each.key, key),
    );
    for (const each of gone) {
      const trash = snapshots.removeWritable(each.key);
      if (trash !== undefined) removal.add(trash);
    }
    // Of an image that was forced away, the last container may have held the layers. Running work sweeps when it ends.
    const isLastOfImage = gone.some(({ imageId }) => records.image(imageId) === undefined);
    if (isLastOfImage && leases.isEmpty) collectGarbage(this.#storage);
    return Promise.resolve();
  }

  async usage(key: string): Promise<{ readonly writable: number; readonly total: number }> {
    const { snapshots, pool } = this.#storage;
    const { upper } = snapshots.layersOf(key);
    const { bytes } = await pool.run({ kind: "usage", path: upper });
    const chainIds = snapshots.writable(key)?.chainIds ?? [];
    const below = chainIds.reduce((sum, each) => sum + (snapshots.layer(each)?.contentBytes ?? 0), 0);
    return { writable: bytes, total: bytes + below };
  }

  async changes(key: string): Promise<readonly { readonly Path: string; readonly Kind: 0 | 1 | 2 }[]> {
    const { lower, upper } = await this.layers(key);
    const { changes } = await this.#storage.pool.run({ kind: "changes", upper, lower });
    return changes;
  }

  async commit(key: string, options: CommitOptions): Promise<string> {
    const storage = this.#storage;
    const writable = must(storage.snapshots.writable(key), "a commit is of an existing writable layer");
    const parent = storage.records.image(writable.imageId);
    if (parent === undefined) {
      throw new ClusterError("not_found", `Cannot commit: the container's image ${writable.imageId} is gone`);
    }
    const lease = storage.leases.open();
    try {
      holdImage(parent, lease);
      const { upper } = await this.layers(key);
      const blobPath = storage.content.ingestPath();
      const staged = await storage.layers.stage((folder) =>
        storage.pool.run({ kind: "apply", input: { kind: "folder", path: upper }, blobPath, folder }),
      );
      const layer = await placeLayer(storage, parent, { ...staged, blobPath }, lease);
      const record = await makeChildImage(
        storage,
        {
          parent,
          layer,
          config: options.config,
          containerId: options.containerId,
          createdBy: options.createdBy,
          comment: options.comment,
          author: options.author,
          created: storage.now(),
        },
        lease,
      );
      await makeDurable(storage, record);
      return record.id;
    } finally {
      lease.release();
    }
  }

  async tagImage(imageId: string, repo: string, tag: string): Promise<void> {
    const reference = taggedReference(repo, tag);
    const record = this.#image(imageId);
    await nameImage(this.#storage, reference, record);
    imageEvent(this.#storage, "tag", record.id, `${repo}:${reference.tag ?? ""}`);
  }
}

/** `repo` (which may carry a tag itself) and `tag` as one reference with a tag. */
export function taggedReference(repo: string, tag: string): ReturnType<typeof parseReference> {
  const parsed = parseReference(repo);
  if (parsed.digest !== undefined) {
    throw new ClusterError("invalid_argument", "refusing to create a tag with a digest reference");
  }
  if (tag === "") return { ...parsed, tag: parsed.tag ?? "latest" };
  if (!isTag(tag)) throw new ClusterError("invalid_argument", "invalid tag format");
  return { ...parsed, tag };
}
