/**
 * Makes an image durable before it is named or answered for: whoever was told "Loaded image" has it after a loss of power.
 * Its blobs and documents are enough, because unpacked layers can be made from them again. A name that moves from an older
 * image to a new one would otherwise be lost for both.
 */
import path from "node:path";
import type { ImageReference } from "../../model/image-reference.ts";
import { blobsOf, type ImageRecord } from "./image-records.ts";
import type { ImageStorage } from "./image-storage.ts";

/** The caller holds a lease on all that the image is made of. */
export async function makeDurable(storage: ImageStorage, record: ImageRecord): Promise<void> {
  const { content, records, pool } = storage;
  const waiting = content.unsynced(blobsOf(record));
  if (waiting.length === 0) return;
  const files = [...waiting.map((digest) => content.pathOf(digest)), records.fileOf(record.id)];
  // A file's new name is its folder's content.
  const folders = new Set(files.map((file) => path.dirname(file)));
  await pool.run({ kind: "syncFiles", paths: [...files, ...folders] });
  content.markSynced(waiting);
}

/** Gives `reference` (with tag) to a durable image. */
export async function nameImage(
  storage: ImageStorage,
  reference: ImageReference,
  record: ImageRecord,
  taggedAt: string = storage.now(),
): Promise<void> {
  await makeDurable(storage, record);
  await storage.records.tag(reference, record.id, taggedAt);
}
