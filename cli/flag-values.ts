/**
 * Reads flag values into API values: filters, numbers, durations, sizes, key=value pairs. Each refuses a bad value with
 * the flag's name, what was wanted and what was given.
 */
import { readFileSync } from "node:fs";
import { ClusterError } from "../common/errors.ts";
import type { HealthConfig } from "../model/specs.ts";
import { parseBytes, parseDuration, parseNanoCpus } from "../model/units.ts";
import type { FilterValues } from "./client/api-client.ts";
import type { Flags } from "./command.ts";

function refuse(flag: string, wanted: string, given: string): ClusterError {
  return new ClusterError(
    "invalid_argument",
    `Invalid value for --${flag}: expected ${wanted}, got "${given}"`,
  );
}

/** `--filter name=web --filter label=a=b`. */
export function parseFilters(values: readonly string[]): FilterValues {
  return collected(
    values.map((value): readonly [string, string] => {
      const cut = value.indexOf("=");
      if (cut <= 0) throw refuse("filter", "key=value", value);
      return [value.slice(0, cut).trim().toLowerCase(), value.slice(cut + 1).trim()];
    }),
  );
}

export function mergeFilters(...all: readonly FilterValues[]): FilterValues {
  return collected(
    all.flatMap((filters) =>
      Object.entries(filters).flatMap(([key, values]) => values.map((value) => [key, value] as const)),
    ),
  );
}

/** Values by key, whatever users call their keys: "constructor" is none that each object has. */
function collected(pairs: readonly (readonly [key: string, value: string])[]): FilterValues {
  const filters = new Map<string, string[]>();
  for (const [key, value] of pairs) filters.set(key, [...(filters.get(key) ?? []), value]);
  return Object.fromEntries(filters);
}

function tryParse<T>(flag: string, wanted: string, given: string, parse: (text: string) => T): T {
  try {
    return parse(given);
  } catch {
    throw refuse(flag, wanted, given);
  }
}

export function unsignedFlag(flags: Flags, name: string): number | undefined {
  const given = flags.string(name);
  if (given === undefined) return undefined;
  if (!/^\d+$/.test(given) || !Number.isSafeInteger(Number(given)))
    throw refuse(name, "a whole number, 0 or more", given);
  return Number(given);
}

export function integerFlag(flags: Flags, name: string): number | undefined {
  const given = flags.string(name);
  if (given === undefined) return undefined;
  if (!/^-?\d+$/.test(given)) throw refuse(name, "a whole number", given);
  return Number(given);
}

export function ratioFlag(flags: Flags, name: string): number | undefined {
  const given = flags.string(name);
  if (given === undefined) return undefined;
  const value = Number(given);
  if (given.trim() === "" || !(value >= 0 && value <= 1)) throw refuse(name, "a number from 0 to 1", given);
  return value;
}

export function durationFlag(flags: Flags, name: string): number | undefined {
  const given = flags.string(name);
  return given === undefined
    ? undefined
    : tryParse(name, 'a duration such as "10s" or "1m30s"', given, parseDuration);
}

export function bytesFlag(flags: Flags, name: string): number | undefined {
  const given = flags.string(name);
  return given === undefined ? undefined : tryParse(name, 'a size such as "64M" or "1G"', given, parseBytes);
}

export function cpusFlag(flags: Flags, name: string): number | undefined {
  const given = flags.string(name);
  return given === undefined ? undefined : tryParse(name, 'a decimal such as "0.5"', given, parseNanoCpus);
}

export function choiceFlag<const T extends string>(
  flags: Flags,
  name: string,
  choices: readonly T[],
): T | undefined {
  const given = flags.string(name);
  if (given === undefined) return undefined;
  const found = choices.find((choice) => choice === given);
  if (found === undefined) throw refuse(name, choices.map((choice) => `"${choice}"`).join(", "), given);
  return found;
}

/** `k=v` or `k` (then the value is ""). */
export function parsePairs(values: readonly string[]): Record<string, string> {
  const pairs = values.map((value) => {
    const cut = value.indexOf("=");
    return cut < 0 ? [value, ""] : [value.slice(0, cut), value.slice(cut + 1)];
  });
  return Object.fromEntries(pairs) as Record<string, string>;
}

/** `k=v` list that must have values: log options, sysctls. */
export function pairsFlag(flags: Flags, name: string): Record<string, string> | undefined {
  if (!flags.has(name)) return undefined;
  for (const value of flags.list(name)) if (value.indexOf("=") <= 0) throw refuse(name, "key=value", value);
  return parsePairs(flags.list(name));
}

/** One CSV record with double quotes: `type=bind,"source=/a,b"`. */
export function splitCsv(flag: string, value: string): string[] {
  const fields: string[] = [];
  let field = "";
  let isQuoted = false;
  for (let index = 0; index < value.length; index += 1) {
    const char = value[index] ?? "";
    if (isQuoted && char === '"' && value[index + 1] === '"') {
      field += '"';
      index += 1;
    } else if (char === '"') isQuoted = !isQuoted;
    else if (char === "," && !isQuoted) {
      fields.push(field);
      field = "";
    } else field += char;
  }
  if (isQuoted) throw refuse(flag, "closed quotes", value);
  return [...fields, field];
}

/** Lines of an --env-file: comments and blanks skipped; a bare name takes its value from the environment. */
export function readEnvFile(
  path: string,
  env: Readonly<Record<string, string | undefined>>,
  flag = "env-file",
): string[] {
  let content: string;
  try {
    content = readFileSync(path, "utf8");
  } catch (caught) {
    throw new ClusterError(
      "invalid_argument",
      `Cannot read --${flag} "${path}": ${(caught as Error).message}`,
      { cause: caught },
    );
  }
  const lines: string[] = [];
  for (const [index, raw] of content
    .replace(/^\uFEFF/, "")
    .split(/\r?\n/)
    .entries()) {
    const line = raw.trimStart();
    if (line === "" || line.startsWith("#")) continue;
    const name = line.split("=", 1)[0] ?? "";
    if (name === "" || /\s/.test(name)) {
      throw new ClusterError("invalid_argument", `${path}:${index + 1}: expected NAME=value, got "${line}"`);
    }
    if (line.includes("=")) lines.push(line);
    else if (env[name] !== undefined) lines.push(`${name}=${env[name]}`);
  }
  return lines;
}

/** `-e NAME` takes the value of the CLI's own environment and is dropped when unset. */
export function resolveEnv(
  values: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
): string[] {
  return values.flatMap((value) => {
    if (value.startsWith("=") || value === "") throw refuse("env", "NAME=value", value);
    if (value.includes("=")) return [value];
    return env[value] === undefined ? [] : [`${value}=${env[value]}`];
  });
}

/** Splits as a POSIX shell does, without expansions: quotes and backslashes. */
export function splitWords(flag: string, value: string): string[] {
  const words: string[] = [];
  let word: string | undefined;
  let quote = "";
  for (let index = 0; index < value.length; index += 1) {
    const char = value[index] ?? "";
    if (quote === "'" ? char !== "'" : quote === '"' && char !== '"' && char !== "\\")
      word = (word ?? "") + char;
    else if (char === "\\") {
      index += 1;
      if (index >= value.length) throw refuse(flag, "a character after the last backslash", value);
      const next = value[index] ?? "";
      word = (word ?? "") + (quote === '"' && !'"\\$`'.includes(next) ? `\\${next}` : next);
    } else if (char === quote) quote = "";
    else if (quote === "" && (char === "'" || char === '"')) {
      quote = char;
      word ??= "";
    } else if (/\s/.test(char)) {
      if (word !== undefined) words.push(word);
      word = undefined;
    } else word = (word ?? "") + char;
  }
  if (quote !== "") throw refuse(flag, "closed quotes", value);
  return word === undefined ? words : [...words, word];
}

/** Drops what is undefined, so that a field is there only if it was given. */
export function given<T extends object>(fields: T): { [Key in keyof T]?: Exclude<T[Key], undefined> } {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as {
    [Key in keyof T]?: Exclude<T[Key], undefined>;
  };
}

/** What the --health-* flags say. */
export function healthFields(flags: Flags): HealthConfig {
  const command = flags.string("health-cmd");
  return given({
    Test: command === undefined ? undefined : ["CMD-SHELL", command],
    Interval: durationFlag(flags, "health-interval"),
    Timeout: durationFlag(flags, "health-timeout"),
    StartPeriod: durationFlag(flags, "health-start-period"),
    StartInterval: durationFlag(flags, "health-start-interval"),
    Retries: unsignedFlag(flags, "health-retries"),
  });
}
