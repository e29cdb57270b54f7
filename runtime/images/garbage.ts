/**
 * Removes blobs and unpacked layers that no image, container, build cache or running work needs. Marking and taking out of
 * the stores happen in one turn of the event loop, so that nothing can come to need what is just being removed; the bytes
 * go later, from a trash folder, in a worker thread.
 */
import { readdirSync } from "node:fs";
import path from "node:path";
import { blobsOf } from "./image-records.ts";
import type { ImageStorage } from "./image-storage.ts";

export interface Swept {
  /** Chain ids of removed layers. */
  readonly layers: readonly string[];
  readonly bytes: number;
}

export function collectGarbage(storage: ImageStorage): Swept {
  const { content, snapshots, records, leases } = storage;
  const needed = new Set<string>(leases.keys());
  for (const record of records.images()) {
    for (const digest of blobsOf(record)) needed.add(digest);
    for (const layer of record.layers) needed.add(layer.chainId);
  }
  for (const writable of snapshots.writables()) for (const chainId of writable.chainIds) needed.add(chainId);
  let bytes = 0;
  for (const digest of content.digests()) {
    if (needed.has(digest)) continue;
    content.discard(digest);
  }
  const layers: string[] = [];
  for (const layer of snapshots.layers()) {
    if (needed.has(layer.chainId)) continue;
    bytes += layer.contentBytes;
    layers.push(layer.chainId);
    snapshots.discardLayer(layer.chainId);
  }
  void emptyTrash(storage);
  return { layers, bytes };
}

const emptying = new WeakSet<object>();

/** Removes what is in the trash, one thing after the other. What fails is tried again next time. */
async function emptyTrash(storage: ImageStorage): Promise<void> {
  // One at a time for each store; what arrives meanwhile is seen by the next look into the folder.
  if (emptying.has(storage)) return;
  emptying.add(storage);
  try {
    for (let names = readdirSync(storage.trash); names.length > 0; names = readdirSync(storage.trash)) {
      for (const name of names) {
        await storage.pool.run({ kind: "remove", path: path.join(storage.trash, name) });
      }
    }
  } catch (caught) {
    storage.log.debug("trash is emptied later", { error: caught });
  } finally {
    emptying.delete(storage);
  }
}
