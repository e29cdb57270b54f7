/**
 * Docker's `filters` query, in both encodings that clients send ({"name":{"web":true}} and {"name":["web"]}), and the
 * ways in which filters are matched: labels, prefixes, exact words. Pure; the routes say which keys they know.
 */
import { ClusterError } from "../common/errors.ts";
import { isObject } from "../common/json.ts";
import type { Filters } from "../model/engine.ts";
import { hasLabel } from "../model/filters.ts";
import { FILTER_VALUE_COUNT_MAX } from "./limits.ts";

const NO_FILTERS: Filters = new Map();

function invalid(why: string): ClusterError {
  return new ClusterError("invalid_argument", `invalid filter: ${why}`);
}

function valuesOf(key: string, value: unknown): readonly string[] {
  if (Array.isArray(value)) {
    return value.map((each: unknown) => {
      if (typeof each === "string") return each;
      // docker-py users pass booleans and numbers here; Docker itself takes strings only, but nothing is ambiguous.
      if (typeof each === "boolean" || typeof each === "number") return String(each);
      throw invalid(`"${key}" must hold strings`);
    });
  }
  if (typeof value === "object" && value !== null) {
    return Object.entries(value)
      .filter(([, isOn]) => isOn === true)
      .map(([each]) => each);
  }
  throw invalid(`"${key}" must be a list or a map of booleans`);
}

/** Parses the query's text. Empty or missing text means no filters. */
export function parseFilters(text: string): Filters {
  if (text === "" || text === "null") return NO_FILTERS;
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (error) {
    throw new ClusterError("invalid_argument", "invalid filter: it must be a JSON object of lists or maps", {
      cause: error,
    });
  }
  if (!isObject(parsed)) {
    throw invalid("it must be a JSON object of lists or maps");
  }
  const filters = new Map<string, readonly string[]>();
  let count = 0;
  for (const [key, value] of Object.entries(parsed)) {
    if (value === null) continue;
    const values = valuesOf(key, value);
    count += values.length;
    if (count > FILTER_VALUE_COUNT_MAX) throw invalid(`at most ${FILTER_VALUE_COUNT_MAX} values are taken`);
    filters.set(key, values);
  }
  return filters;
}

/** The values of a key, or undefined if it doesn't restrict anything. */
function restriction(filters: Filters, key: string): readonly string[] | undefined {
  const values = filters.get(key);
  return values === undefined || values.length === 0 ? undefined : values;
}

/** True if the key is absent or `matches` holds for one of its values. */
export function anyValue(filters: Filters, key: string, matches: (value: string) => boolean): boolean {
  const values = restriction(filters, key);
  return values === undefined || values.some(matches);
}

export function prefixMatches(filters: Filters, key: string, text: string): boolean {
  return anyValue(filters, key, (value) => text.startsWith(value));
}

export function exactMatches(filters: Filters, key: string, text: string): boolean {
  return anyValue(filters, key, (value) => value === text);
}

/** All of the key's values (`k` or `k=v`) must be among `labels`. */
export function labelsMatch(
  filters: Filters,
  key: string,
  labels: Readonly<Record<string, string>> | undefined,
): boolean {
  const values = restriction(filters, key);
  if (values === undefined) return true;
  return labels !== undefined && values.every((value) => hasLabel(labels, value));
}
