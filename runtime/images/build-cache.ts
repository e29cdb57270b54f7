/** `builder prune`: images that build steps left, without a name and needed by none that has one, and folders of cache mounts. */
import type { Filters, JsonObject } from "../../model/engine.ts";
import { treeBytes } from "./tree-bytes.ts";
import { collectGarbage } from "./garbage.ts";
import { checkFilters, createdMs, parseMoment } from "./image-queries.ts";
import { imageUsers, type ContainersOf } from "./image-remove.ts";
import type { ImageRecord } from "./image-records.ts";
import type { ImageStorage } from "./image-storage.ts";

const FILTERS: ReadonlySet<string> = new Set([
  "until",
  "unused-for",
  "id",
  "type",
  "inuse",
  "shared",
  "private",
]);

/** Nameless, made by a build, and no image is built on it. */
function isLeaf(storage: ImageStorage, record: ImageRecord): boolean {
  const { records, leases } = storage;
  return (
    record.buildKey !== undefined &&
    !leases.has(record.id) &&
    records.tagsOf(record.id).length === 0 &&
    records.digestsOf(record.id).length === 0 &&
    records.childrenOf(record.id).length === 0
  );
}

export async function pruneBuildCache(
  storage: ImageStorage,
  options: { readonly all: boolean; readonly filters: Filters },
  containers: ContainersOf,
): Promise<JsonObject> {
  checkFilters(options.filters, FILTERS);
  const nowMs = storage.env.clock.wallMs();
  const untils = [...(options.filters.get("until") ?? []), ...(options.filters.get("unused-for") ?? [])];
  const moments = untils.map((text) => parseMoment(text, nowMs));
  const used = new Set((await imageUsers(containers)).map((user) => user.imageId));
  const deleted: string[] = [];
  const isOut = (record: ImageRecord): boolean => {
    const created = createdMs(storage.document(record));
    return !used.has(record.id) && isLeaf(storage, record) && moments.every((moment) => created < moment);
  };
  // Each that goes may make its parent the next.
  for (let found = [...storage.records.images()].filter(isOut); found.length > 0;) {
    for (const record of found) {
      // Gone by now, or named, held or built on while others were removed.
      if (storage.records.image(record.id) === undefined || !isOut(record)) continue;
      await storage.records.remove(record.id);
      deleted.push(record.id);
    }
    found = [...storage.records.images()].filter(isOut);
  }
  let bytes = 0;
  for (const { name, folder, createdMs: made } of storage.cacheMounts.list()) {
    if (!moments.every((moment) => made < moment)) continue;
    const size = await treeBytes(folder);
    if (!storage.cacheMounts.discard(name)) continue;
    deleted.push(name);
    bytes += size;
  }
  bytes += collectGarbage(storage).bytes;
  storage.events.emit({
    Type: "builder",
    Action: "prune",
    Actor: { ID: "", Attributes: { reclaimed: String(bytes) } },
  });
  return { CachesDeleted: deleted.length === 0 ? null : deleted, SpaceReclaimed: bytes };
}
