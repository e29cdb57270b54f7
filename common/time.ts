/** Times as the Docker API has them: RFC 3339, UTC, nine digits; zero time for never. */

export const ZERO_TIME = "0001-01-01T00:00:00Z";

/** `ms` since 1970 (fractions allowed, to the microsecond) as RFC 3339 with nanoseconds. */
export function rfc3339(ms: number): string {
  const wholeMs = Math.floor(ms);
  const micros = Math.floor((ms - wholeMs) * 1000);
  const iso = new Date(wholeMs).toISOString();
  return `${iso.slice(0, -1)}${String(micros).padStart(3, "0")}000Z`;
}

/** Milliseconds since 1970 of an RFC 3339 time with up to nine digits; NaN if it is none. */
export function parseRfc3339(text: string): number {
  const match = /^(\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)$/.exec(text);
  if (match === null) return Number.NaN;
  const [, seconds = "", fraction = "", zone = "Z"] = match;
  return (
    Date.parse(`${seconds.replace(" ", "T")}${zone.toUpperCase()}`) + Number(`0.${fraction || "0"}`) * 1000
  );
}
