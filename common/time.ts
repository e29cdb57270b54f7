/** Times as the Docker API has them: RFC 3339, UTC, nine digits; zero time for never. */

export const ZERO_TIME = "0001-01-01T00:00:00Z";

const NANOSECONDS_PER_SECOND = 1_000_000_000n;

/** The second that was last asked for: most stamps are of the same one as the stamp before. */
const lastSecond = { seconds: Number.NaN, text: "" };

/** `seconds` since 1970 and `nanoseconds` of the next one as RFC 3339. */
export function rfc3339At(seconds: number, nanoseconds: number): string {
  if (seconds !== lastSecond.seconds) {
    lastSecond.text = new Date(seconds * 1000).toISOString().slice(0, -5);
    lastSecond.seconds = seconds;
  }
  return `${lastSecond.text}.${String(nanoseconds).padStart(9, "0")}Z`;
}

/** `micros` (whole microseconds) since 1970 as RFC 3339. */
export function rfc3339OfMicros(micros: number): string {
  const seconds = Math.floor(micros / 1_000_000);
  return rfc3339At(seconds, (micros - seconds * 1_000_000) * 1000);
}

/** `ms` since 1970 (fractions allowed, to the microsecond) as RFC 3339. */
export function rfc3339(ms: number): string {
  const wholeMs = Math.floor(ms);
  return rfc3339OfMicros(wholeMs * 1000 + Math.floor((ms - wholeMs) * 1000));
}

/** Nanoseconds since 1970 as RFC 3339; ZERO_TIME for 0. */
export function rfc3339OfNanoseconds(nanoseconds: bigint): string {
  if (nanoseconds === 0n) return ZERO_TIME;
  return rfc3339At(
    Number(nanoseconds / NANOSECONDS_PER_SECOND),
    Number(nanoseconds % NANOSECONDS_PER_SECOND),
  );
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

/**
 * Nanoseconds since 1970 of what rfc3339OfNanoseconds() printed, with up to nine digits; 0 for ZERO_TIME and what is no
 * such time.
 */
export function parseNanoseconds(text: string): bigint {
  const match = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z$/.exec(text);
  if (match === null || text.startsWith("0001-")) return 0n;
  const seconds = BigInt(Date.parse(`${match[1]}Z`) / 1000);
  return seconds * NANOSECONDS_PER_SECOND + BigInt((match[2] ?? "").padEnd(9, "0"));
}
