/** The `until` filter of prunes and lists, as Docker reads it everywhere. Pure. */
import { ClusterError } from "../common/errors.ts";
import type { Filters } from "../model/engine.ts";
import { parseDuration } from "../model/units.ts";

const NS_PER_MS = 1e6;

/** A Go duration back from now ("24h"), a date in this machine's zone unless it names one, or unix seconds; as milliseconds since 1970. */
export function parseUntil(text: string, nowMs: number): number {
  if (/^\d{1,12}(?:\.\d{1,9})?$/.test(text)) return Number(text) * 1000;
  // A date alone would be taken for one in UTC.
  const time = Date.parse(/^\d{4}-\d\d-\d\d$/.test(text) ? `${text}T00:00:00` : text);
  if (/^\d{4}-\d\d/.test(text) && !Number.isNaN(time)) return time;
  try {
    return nowMs - parseDuration(text) / NS_PER_MS;
  } catch {
    throw new ClusterError(
      "invalid_argument",
      `invalid filter 'until=[${text}]': want a duration such as 24h, a date or unix seconds`,
    );
  }
}

/** What was made before this moment is meant; Infinity if the filter was not given. */
export function untilOf(filters: Filters, nowMs: number): number {
  const [text, ...others] = filters.get("until") ?? [];
  if (others.length > 0) throw new ClusterError("invalid_argument", "more than one until filter specified");
  return text === undefined ? Number.POSITIVE_INFINITY : parseUntil(text, nowMs);
}
