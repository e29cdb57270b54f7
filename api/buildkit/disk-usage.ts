/** The build cache as BuildKit's records, and what a prune of it means here. Pure. */
import type { CachePruneOptions, Filters, JsonObject } from "../../model/engine.ts";
import type { buildkit } from "../../proto/buildkit-messages.ts";
import { timestamp } from "./status-feed.ts";

function time(value: unknown): buildkit.ITimestamp | null {
  const ms = typeof value === "string" ? Date.parse(value) : Number.NaN;
  return Number.isNaN(ms) ? null : timestamp(ms);
}

function text(value: unknown): string {
  return typeof value === "string" ? value : "";
}

function integer(value: unknown): number {
  return typeof value === "number" ? value : 0;
}

export function usageRecord(record: JsonObject): buildkit.IUsageRecord {
  const parents = record["Parents"];
  const lastUsedAt = time(record["LastUsedAt"]);
  return {
    id: text(record["ID"]),
    // Who lists it counts what is shared and in no use; nothing of it is written to by anyone.
    mutable: record["Type"] === "exec.cachemount",
    inUse: record["InUse"] === true,
    size: integer(record["Size"]),
    createdAt: time(record["CreatedAt"]) ?? timestamp(0),
    ...(lastUsedAt === null ? {} : { lastUsedAt }),
    usageCount: integer(record["UsageCount"]),
    description: text(record["Description"]),
    recordType: text(record["Type"]),
    shared: record["Shared"] === true,
    parents: Array.isArray(parents) ? parents.map(text) : [],
  };
}

const NANOSECONDS = 1e9;

/** "key==value" and "key=value"; other conditions name nothing that this cache has. */
export function pruneOptions(request: buildkit.PruneRequest): CachePruneOptions {
  const filters = new Map<string, readonly string[]>();
  for (const each of request.filter.flatMap((line) => line.split(","))) {
    const [, key = "", value = ""] = /^([\w-]+)(?:==?)(.*)$/.exec(each) ?? [];
    if (key !== "") filters.set(key, [...(filters.get(key) ?? []), value]);
  }
  if (request.keepDuration > 0) filters.set("until", [`${Math.floor(request.keepDuration / NANOSECONDS)}s`]);
  const known: Filters = filters;
  return {
    filters: known,
    reservedBytes: request.reservedSpace,
    maxUsedBytes: request.maxUsedSpace,
    minFreeBytes: request.minFreeSpace,
  };
}
