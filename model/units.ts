/**
 * Durations and sizes as Docker's tools write and read them: Go durations ("1m30s", "250ms"), binary byte sizes ("64M",
 * "1.5GiB"), decimal CPU counts, and the human forms of tables ("3 minutes ago", "4.26MB"). Pure; used by the CLI, the
 * Compose loader and the API. Parsers throw a ClusterError that names the value.
 */
import { ClusterError } from "../common/errors.ts";

const NANOSECONDS: Readonly<Record<string, number>> = {
  ns: 1,
  us: 1e3,
  µs: 1e3,
  μs: 1e3,
  ms: 1e6,
  s: 1e9,
  m: 60e9,
  h: 3600e9,
};

const DURATION_MAX_NS = 2 ** 63;
/** Of a duration as text. Digits without an end are looked through anew from each of them, and Go's print is 25 at most. */
const DURATION_CHARS_MAX = 256;

/** Go's time.ParseDuration in nanoseconds: "1h15m", "1.5s", "0". Throws invalid_argument. */
export function parseDuration(text: string): number {
  if (text.length > DURATION_CHARS_MAX) {
    throw new ClusterError(
      "invalid_argument",
      `Invalid duration "${text.slice(0, 80)}…": expected at most ${DURATION_CHARS_MAX} characters, got ${text.length}`,
    );
  }
  const refuse = (): ClusterError =>
    new ClusterError(
      "invalid_argument",
      `Invalid duration "${text}": expected a number with a unit of ns, us, ms, s, m or h, as in "1m30s"`,
    );
  const [, sign = "", body = ""] = /^([+-]?)(.*)$/s.exec(text) ?? [];
  if (body === "0") return 0;
  const part = /(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)/y;
  let total = 0;
  while (part.lastIndex < body.length) {
    const match = part.exec(body);
    if (match === null) throw refuse();
    total += Number(match[1]) * (NANOSECONDS[match[2] ?? ""] ?? Number.NaN);
  }
  if (body === "" || !(total < DURATION_MAX_NS)) throw refuse();
  const rounded = Math.round(total);
  return sign === "-" ? -rounded : rounded;
}

function trimFraction(value: number, digits: number): string {
  const text = value.toFixed(digits);
  return text.includes(".") ? text.replace(/0+$/, "").replace(/\.$/, "") : text;
}

/** Go's Duration.String(): 90e9 is "1m30s", 0 is "0s", 1500e6 is "1.5s". */
export function formatDuration(nanoseconds: number): string {
  if (nanoseconds === 0) return "0s";
  if (nanoseconds < 0) return `-${formatDuration(-nanoseconds)}`;
  if (nanoseconds < 1e3) return `${nanoseconds}ns`;
  if (nanoseconds < 1e6) return `${trimFraction(nanoseconds / 1e3, 3)}µs`;
  if (nanoseconds < 1e9) return `${trimFraction(nanoseconds / 1e6, 6)}ms`;
  const hours = Math.floor(nanoseconds / 3600e9);
  const minutes = Math.floor((nanoseconds % 3600e9) / 60e9);
  const seconds = `${trimFraction((nanoseconds % 60e9) / 1e9, 9)}s`;
  if (hours > 0) return `${hours}h${minutes}m${seconds}`;
  return minutes > 0 ? `${minutes}m${seconds}` : seconds;
}

const BINARY_EXPONENTS: Readonly<Record<string, number>> = { "": 0, k: 1, m: 2, g: 3, t: 4, p: 5 };

/**
 * A size with binary multiples, as docker reads memory: "64m", "1.5GiB", "512", "10kb". Bytes, no more than are counted
 * exactly.
 */
export function parseBytes(text: string): number {
  const match = /^(\d+(?:\.\d+)?) ?([kmgtp]?)i?b?$/i.exec(text.trim());
  const exponent = BINARY_EXPONENTS[(match?.[2] ?? "").toLowerCase()] ?? 0;
  const bytes = Math.trunc(Number(match?.[1]) * 1024 ** exponent);
  if (!Number.isSafeInteger(bytes)) {
    throw new ClusterError(
      "invalid_argument",
      `Invalid size "${text}": expected bytes below 8 PiB as in "64M" or "1.5GiB"`,
    );
  }
  return bytes;
}

/** "0.5" CPUs to 1e-9 cores. */
export function parseNanoCpus(text: string): number {
  if (!/^\d*\.?\d{0,9}$/.test(text) || text === "" || text === ".") {
    throw new ClusterError(
      "invalid_argument",
      `Invalid number of CPUs "${text}": expected a decimal with at most 9 places, as in "0.5"`,
    );
  }
  return Math.round(Number(text) * 1e9);
}

/** C's %.{precision}g for sizes: at most `precision` significant digits, no trailing zeros. */
function significant(value: number, precision: number): string {
  const text = value.toPrecision(precision);
  return text.includes("e") ? String(Number(text)) : trimFraction(Number(text), Math.max(0, precision));
}

function scaled(bytes: number, base: number, units: readonly string[], precision: number): string {
  let value = bytes;
  let index = 0;
  while (value >= base && index < units.length - 1) {
    value /= base;
    index += 1;
  }
  return `${significant(value, precision)}${units[index] ?? ""}`;
}

/** Decimal size of image and disk tables: 4261550 is "4.26MB" at precision 3. */
export function humanSize(bytes: number, precision = 4): string {
  return scaled(bytes, 1000, ["B", "kB", "MB", "GB", "TB", "PB"], precision);
}

/** Binary size of memory tables: 1536 is "1.5KiB". */
export function binarySize(bytes: number): string {
  return scaled(bytes, 1024, ["B", "KiB", "MiB", "GiB", "TiB", "PiB"], 4);
}

/** Length of a span in words: "3 seconds", "About a minute", "5 days". */
export function humanDuration(milliseconds: number): string {
  const seconds = Math.floor(milliseconds / 1000);
  if (seconds < 1) return "Less than a second";
  if (seconds === 1) return "1 second";
  if (seconds < 60) return `${seconds} seconds`;
  const minutes = Math.floor(seconds / 60);
  if (minutes === 1) return "About a minute";
  if (minutes < 60) return `${minutes} minutes`;
  const hours = Math.round(seconds / 3600);
  if (hours === 1) return "About an hour";
  if (hours < 48) return `${hours} hours`;
  if (hours < 24 * 7 * 2) return `${Math.floor(hours / 24)} days`;
  if (hours < 24 * 30 * 2) return `${Math.floor(hours / 24 / 7)} weeks`;
  if (hours < 24 * 365 * 2) return `${Math.floor(hours / 24 / 30)} months`;
  return `${Math.floor(hours / 24 / 365)} years`;
}
