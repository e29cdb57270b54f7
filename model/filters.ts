/**
 * Filters of Docker's lists and prunes: what the API takes and whoever answers below it goes by. Pure. Refusals are
 * invalid_argument, in Docker's words.
 */
import { ClusterError } from "../common/errors.ts";
import type { Filters } from "./engine.ts";

export const CONTAINER_LIST_FILTERS: ReadonlySet<string> = new Set([
  "ancestor",
  "before",
  "exited",
  "expose",
  "health",
  "id",
  "is-task",
  "isolation",
  "label",
  "name",
  "network",
  "publish",
  "since",
  "status",
  "volume",
]);
export const CONTAINER_PRUNE_FILTERS: ReadonlySet<string> = new Set(["label", "label!", "until"]);
export const IMAGE_LIST_FILTERS: ReadonlySet<string> = new Set([
  "before",
  "dangling",
  "label",
  "label!",
  "reference",
  "since",
  "until",
]);
export const IMAGE_PRUNE_FILTERS: ReadonlySet<string> = new Set(["dangling", "label", "label!", "until"]);

/** Throws for a key that is not among `known`. */
export function checkFilterKeys(filters: Filters, known: ReadonlySet<string>): void {
  for (const key of filters.keys()) {
    if (!known.has(key)) throw new ClusterError("invalid_argument", `invalid filter '${key}'`);
  }
}

/** `wanted`: "key", or "key=value". */
export function hasLabel(labels: Readonly<Record<string, string>>, wanted: string): boolean {
  const equals = wanted.indexOf("=");
  const key = equals < 0 ? wanted : wanted.slice(0, equals);
  // An object has names of its own that nobody gave it as labels, like "constructor".
  if (!Object.hasOwn(labels, key)) return false;
  return equals < 0 || labels[key] === wanted.slice(equals + 1);
}

/** Whether `label` and `label!` let it pass: all of the labels that are wanted are there, and none of the unwanted. */
export function labelsPass(filters: Filters, labels: Readonly<Record<string, string>>): boolean {
  return (
    (filters.get("label") ?? []).every((wanted) => hasLabel(labels, wanted)) &&
    !(filters.get("label!") ?? []).some((unwanted) => hasLabel(labels, unwanted))
  );
}

/** A filter of one boolean, like dangling; undefined if it is absent. Throws for any other word, and for both at once. */
export function filterFlag(filters: Filters, key: string): boolean | undefined {
  const values = filters.get(key) ?? [];
  if (values.length === 0) return undefined;
  const isTrue = values.some((value) => /^(?:1|true)$/i.test(value));
  const isFalse = values.some((value) => /^(?:0|false)$/i.test(value));
  if (isTrue === isFalse) {
    throw new ClusterError("invalid_argument", `invalid filter '${key}=[${values.join(" ")}]'`);
  }
  return isTrue;
}
