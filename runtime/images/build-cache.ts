/** `builder prune`: images that build steps left, without a name and needed by none that has one, and folders of cache mounts. */
import { statfsSync } from "node:fs";
import { ClusterError } from "../../common/errors.ts";
import type { CachePruneOptions, Filters, JsonObject } from "../../model/engine.ts";
import { checkFilterKeys } from "../../model/filters.ts";
import { collectGarbage } from "./garbage.ts";
import { parseUntil } from "../until-filter.ts";
import { imageUsers, type ContainersOf } from "./image-remove.ts";
import type { ImageRecord } from "./image-records.ts";
import type { ImageStorage } from "./image-storage.ts";
import { buildCacheUsage, type CacheEntry } from "./image-usage.ts";

/** Fields of an entry that a filter may name, with what an entry must have of it. */
const FIELDS: Readonly<Record<string, (entry: CacheEntry, wanted: string) => boolean>> = {
  id: (entry, wanted) => new RegExp(wanted).test(entry.ID),
  parent: (entry, wanted) => entry.Parents.includes(wanted),
  type: (entry, wanted) => entry.Type === wanted,
  description: (entry, wanted) => entry.Description === wanted,
  inuse: (entry) => entry.InUse,
  shared: (entry) => entry.Shared,
  private: (entry) => !entry.Shared,
  mutable: (entry) => entry.Type === "exec.cachemount",
  immutable: (entry) => entry.Type !== "exec.cachemount",
};
const TIMES = ["until", "unused-for"];

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

/** Whether an entry of `system df` may go by the filters. Throws on those that can't be read. */
function entryMatcher(filters: Filters, nowMs: number): (entry: CacheEntry) => boolean {
  checkFilterKeys(filters, new Set([...Object.keys(FIELDS), ...TIMES]));
  for (const [key, values] of filters) {
    if (values.length <= 1) continue;
    throw new ClusterError(
      "invalid_argument",
      `filter '${key}' must have one value, got ${values.length}: ${values.join(", ")}`,
    );
  }
  if (TIMES.every((key) => filters.has(key)))
    throw new ClusterError("invalid_argument", `conflicting filters: "${TIMES.join('" and "')}"`);
  const moments = TIMES.flatMap((key) => filters.get(key) ?? []).map((text) => parseUntil(text, nowMs));
  const named = [...filters].filter(([key]) => !TIMES.includes(key));
  checkPattern(filters.get("id")?.[0]);
  return (entry) =>
    moments.every((moment) => Date.parse(entry.LastUsedAt) < moment) &&
    named.every(([key, [wanted = ""]]) => FIELDS[key]?.(entry, wanted) === true);
}

function checkPattern(text = ""): void {
  try {
    RegExp(text);
  } catch {
    throw new ClusterError("invalid_argument", `filter 'id' must be a regular expression, got "${text}"`);
  }
}

/** How large the cache may stay; 0: nothing is kept for its size. As BuildKit reckons it. */
export function keptBytes(totalBytes: number, freeBytes: number, options: CachePruneOptions): number {
  const { reservedBytes = 0, maxUsedBytes = 0, minFreeBytes = 0 } = options;
  if (reservedBytes === 0 && maxUsedBytes === 0 && minFreeBytes === 0) return 0;
  const missing = minFreeBytes - freeBytes;
  const afterwards = totalBytes - Math.max(0, missing);
  const most =
    missing <= 0 ? maxUsedBytes : maxUsedBytes === 0 ? afterwards : Math.min(maxUsedBytes, afterwards);
  return Math.max(most, reservedBytes);
}

function freeBytes(folder: string): number {
  const { bavail, bsize } = statfsSync(folder);
  return bavail * bsize;
}

/** One pass of removals. */
class CachePruning {
  readonly deleted: string[] = [];
  readonly #storage: ImageStorage;
  readonly #used: ReadonlySet<string>;
  #mountBytes = 0;

  constructor(storage: ImageStorage, used: ReadonlySet<string>) {
    this.#storage = storage;
    this.#used = used;
  }

  /** Of cache mounts; what images took is told by the garbage that they leave. */
  get mountBytes(): number {
    return this.#mountBytes;
  }

  isRemovable(entry: CacheEntry): boolean {
    if (entry.Type === "exec.cachemount") return !entry.InUse;
    const record = this.#record(entry);
    return record !== undefined && !this.#used.has(record.id) && isLeaf(this.#storage, record);
  }

  #record(entry: CacheEntry): ImageRecord | undefined {
    return this.#storage.records.image(`sha256:${entry.ID}`);
  }

  /** False if it came into use. */
  async remove(entry: CacheEntry): Promise<boolean> {
    const { ID: id } = entry;
    if (entry.Type === "exec.cachemount") {
      if (!this.#storage.cacheMounts.discard(id)) return false;
      this.#mountBytes += entry.Size;
      this.deleted.push(id);
      return true;
    }
    const record = this.#record(entry);
    if (record === undefined || !this.isRemovable(entry)) return false;
    await this.#storage.records.remove(record.id);
    this.deleted.push(record.id);
    return true;
  }
}

/** Oldest first; each that goes may make its parent the next. */
export async function pruneBuildCache(
  storage: ImageStorage,
  options: CachePruneOptions,
  containers: ContainersOf,
): Promise<JsonObject> {
  const matches = entryMatcher(options.filters, storage.env.clock.wallMs());
  const used = new Set((await imageUsers(containers)).map((user) => user.imageId));
  const pruning = new CachePruning(storage, used);
  const left = new Set(
    (await buildCacheUsage(storage)).toSorted((one, other) => createdAt(one) - createdAt(other)),
  );
  let totalBytes = [...left].reduce((sum, entry) => sum + entry.Size, 0);
  const kept = keptBytes(totalBytes, freeBytes(storage.root), options);
  while (kept === 0 || totalBytes >= kept) {
    const next = [...left].find((entry) => matches(entry) && pruning.isRemovable(entry));
    if (next === undefined) break;
    left.delete(next);
    if (await pruning.remove(next)) totalBytes -= next.Size;
  }
  const bytes = pruning.mountBytes + collectGarbage(storage).bytes;
  storage.events.emit({
    Type: "builder",
    Action: "prune",
    Actor: { ID: "", Attributes: { reclaimed: String(bytes) } },
  });
  const { deleted } = pruning;
  return { CachesDeleted: deleted.length === 0 ? null : deleted, SpaceReclaimed: bytes };
}

function createdAt(entry: CacheEntry): number {
  return Date.parse(entry.CreatedAt);
}
