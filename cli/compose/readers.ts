/**
 * Readers of values: each takes a node, checks its type and gives the value in canonical form, or notes a problem with its
 * place and gives undefined. schema.ts composes them into the Compose format.
 */
import { formatDuration, parseBytes, parseDuration } from "../../model/units.ts";
import { splitWords } from "../flag-values.ts";
import { type Position, type Problems, type Scalar, type SourceNode, UNUSABLE_KEY } from "./source.ts";

/** Values of the canonical form: plain YAML. */
export type Value = Scalar | readonly Value[] | { readonly [key: string]: Value };
export type ValueMap = { readonly [key: string]: Value };

export interface ReadContext {
  readonly problems: Problems;
  /** Where relative paths start. */
  readonly folder: string;
  /** For `environment: [NAME]`. */
  readonly variables: ReadonlyMap<string, string>;
  /** Dotted path of the value, for messages. */
  readonly path: string;
}

export type Reader = (node: SourceNode, context: ReadContext) => Value | undefined;

export interface Field {
  readonly read: Reader;
  /** Accepted, kept and named in a warning, because nothing here acts on it. */
  readonly ignored?: string;
  /** Refused, with what to use instead. */
  readonly refused?: string;
}

export type Fields = Readonly<Record<string, Field | Reader>>;

function kindName(node: SourceNode): string {
  if (node.kind !== "scalar") return node.kind === "map" ? "a mapping" : "a list";
  return node.value === null ? "nothing" : `${typeof node.value} "${String(node.value)}"`;
}

export function wrong(node: SourceNode, context: ReadContext, wanted: string): undefined {
  context.problems.error(node.at, `${context.path} must be ${wanted}, got ${kindName(node)}`);
  return undefined;
}

function inside(context: ReadContext, key: string): ReadContext {
  return { ...context, path: context.path === "" ? key : `${context.path}.${key}` };
}

/** A mapping with these keys; `x-` keys are kept as they are; others are errors that name a near key. */
export function fields(known: Fields, options: { readonly keepsExtensions?: boolean } = {}): Reader {
  return (node, context) => {
    if (node.kind !== "map") return wrong(node, context, "a mapping");
    const result: Record<string, Value> = {};
    for (const [key, { keyAt, value }] of node.entries) {
      if (key.startsWith("x-")) {
        if (options.keepsExtensions !== false) result[key] = plain(value);
        continue;
      }
      const found = Object.hasOwn(known, key) ? known[key] : undefined;
      if (found === undefined) {
        noteUnknown(keyAt, key, { context, known: Object.keys(known) });
        continue;
      }
      const field: Field = typeof found === "function" ? { read: found } : found;
      if (field.refused !== undefined) {
        context.problems.error(keyAt, `${inside(context, key).path} is not supported: ${field.refused}`);
        continue;
      }
      if (field.ignored !== undefined)
        context.problems.warn(keyAt, `${inside(context, key).path} is ignored: ${field.ignored}`);
      const read = field.read(value, inside(context, key));
      if (read !== undefined) result[key] = read;
    }
    return result;
  };
}

function noteUnknown(
  at: Position,
  key: string,
  options: { readonly context: ReadContext; readonly known: readonly string[] },
): void {
  const near = options.known.find((each) => distance(each, key) <= 2);
  const hint = near === undefined ? "" : `; did you mean "${near}"?`;
  const where = options.context.path === "" ? "" : ` in ${options.context.path}`;
  options.context.problems.error(at, `unknown key "${key}"${where}${hint}`);
}

/** Edits between two short words. */
function distance(left: string, right: string): number {
  let row = Array.from({ length: right.length + 1 }, (_, index) => index);
  for (let i = 1; i <= left.length; i += 1) {
    const next = [i];
    for (let j = 1; j <= right.length; j += 1) {
      const change = (row[j - 1] ?? 0) + (left[i - 1] === right[j - 1] ? 0 : 1);
      next.push(Math.min((row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1, change));
    }
    row = next;
  }
  return row[right.length] ?? 0;
}

/** Anything, as it is. */
export const raw: Reader = (node) => plain(node);

function plain(node: SourceNode): Value {
  switch (node.kind) {
    case "scalar":
      return node.value;
    case "list":
      return node.items.map(plain);
    case "map":
      return Object.fromEntries([...node.entries].map(([key, { value }]) => [key, plain(value)]));
  }
}

export const string: Reader = (node, context) =>
  node.kind === "scalar" && typeof node.value === "string" ? node.value : wrong(node, context, "a string");

/** A string, or a number that reads as one (versions, users, ports). */
export const text: Reader = (node, context) => {
  if (node.kind === "scalar" && typeof node.value === "string") return node.value;
  if (node.kind === "scalar" && typeof node.value === "number") return node.source;
  return wrong(node, context, "a string");
};

export const bool: Reader = (node, context) => {
  if (node.kind === "scalar") {
    if (typeof node.value === "boolean") return node.value;
    if (node.isInterpolated && typeof node.value === "string") {
      if (/^(true|yes|y|on|1)$/i.test(node.value)) return true;
      if (/^(false|no|n|off|0)$/i.test(node.value)) return false;
    }
  }
  return wrong(node, context, "true or false");
};

export function integer(
  min: number = Number.MIN_SAFE_INTEGER,
  max: number = Number.MAX_SAFE_INTEGER,
): Reader {
  return (node, context) => {
    const wanted =
      min === Number.MIN_SAFE_INTEGER
        ? "a whole number"
        : `a whole number from ${min}${max === Number.MAX_SAFE_INTEGER ? "" : ` to ${max}`}`;
    if (node.kind !== "scalar") return wrong(node, context, wanted);
    const value =
      node.isInterpolated && /^[+-]?\d+$/.test(node.source.trim()) ? Number(node.source) : node.value;
    if (typeof value !== "number" || !Number.isSafeInteger(value) || value < min || value > max)
      return wrong(node, context, wanted);
    return value;
  };
}

/** Permission bits. YAML 1.1 files write 0440, YAML 1.2 ones 0o440. */
export const fileMode: Reader = (node, context) => {
  if (node.kind !== "scalar") return wrong(node, context, "a mode such as 0440");
  if (/^0[0-7]{1,4}$/.test(node.source)) return Number.parseInt(node.source, 8);
  const value = node.isInterpolated ? Number(node.source) : node.value;
  return typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= 0o7777
    ? value
    : wrong(node, context, "a mode such as 0440");
};

export const ratio: Reader = (node, context) => {
  const value = node.kind === "scalar" ? (node.isInterpolated ? Number(node.source) : node.value) : undefined;
  return typeof value === "number" && value >= 0 && value <= 1
    ? value
    : wrong(node, context, "a number from 0 to 1");
};

/** CPUs: "0.5" or 0.5, kept as text. */
export const decimal: Reader = (node, context) => {
  const source =
    node.kind === "scalar" && (typeof node.value === "string" || typeof node.value === "number")
      ? node.source
      : "";
  return /^\d*\.?\d+$/.test(source) ? source : wrong(node, context, 'a decimal such as "0.5"');
};

export const duration: Reader = (node, context) => {
  if (node.kind !== "scalar" || typeof node.value !== "string")
    return wrong(node, context, 'a duration such as "10s"');
  try {
    return formatDuration(parseDuration(node.value));
  } catch {
    return wrong(node, context, 'a duration such as "10s" or "1m30s"');
  }
};

/** A size; canonical as a string of bytes (`isText`) or a number. */
export function bytes(isText: boolean): Reader {
  return (node, context) => {
    const source =
      node.kind === "scalar" && (typeof node.value === "string" || typeof node.value === "number")
        ? node.source
        : "";
    try {
      const value = parseBytes(source);
      return isText ? String(value) : value;
    } catch {
      return wrong(node, context, 'a size such as "64M"');
    }
  };
}

export function choice(...choices: readonly string[]): Reader {
  return (node, context) =>
    node.kind === "scalar" && typeof node.value === "string" && choices.includes(node.value)
      ? node.value
      : wrong(node, context, `one of ${choices.map((each) => `"${each}"`).join(", ")}`);
}

export function listOf(reader: Reader): Reader {
  return (node, context) => {
    if (node.kind !== "list") return wrong(node, context, "a list");
    return node.items.flatMap(
      (item, index) => reader(item, { ...context, path: `${context.path}[${index}]` }) ?? [],
    );
  };
}

/** A list whose items may each stand for several (port ranges). */
export function flatListOf(reader: Reader): Reader {
  return (node, context) => {
    const items = listOf(reader)(node, context);
    return Array.isArray(items) ? (items as readonly Value[]).flat() : undefined;
  };
}

/** "a" is ["a"]. */
export const stringOrList: Reader = (node, context) => {
  if (node.kind !== "scalar") return listOf(text)(node, context);
  const single = text(node, context);
  return single === undefined ? undefined : [single];
};

/** A command as a shell line or as words. */
export const command: Reader = (node, context) => {
  if (node.kind === "scalar" && typeof node.value === "string") {
    try {
      return splitWords(context.path, node.value);
    } catch {
      return wrong(node, context, "a command line with closed quotes");
    }
  }
  if (node.kind === "scalar" && node.value === null) return undefined;
  return listOf(text)(node, context);
};

export function mapOf(reader: Reader): Reader {
  return (node, context) => {
    if (node.kind === "scalar" && node.value === null) return {};
    if (node.kind !== "map") return wrong(node, context, "a mapping");
    const result: Record<string, Value> = {};
    for (const [key, { value }] of node.entries) {
      const read = reader(value, inside(context, key));
      if (read !== undefined) result[key] = read;
    }
    return result;
  };
}

function scalarText(node: SourceNode, context: ReadContext): string | null | undefined {
  if (node.kind !== "scalar") return wrong(node, context, "a string, number, boolean or nothing");
  if (node.value === null) return null;
  return typeof node.value === "string"
    ? node.value
    : typeof node.value === "number"
      ? node.source
      : String(node.value);
}

/** `{A: 1}` or `["A=1"]`; a name without a value goes to `absent`. */
export function mapping(absent: (name: string, context: ReadContext) => string | null): Reader {
  return (node, context) => {
    const result: Record<string, Value> = {};
    if (node.kind === "scalar" && node.value === null) return result;
    if (node.kind === "map") {
      for (const [key, { value }] of node.entries) {
        const read = scalarText(value, inside(context, key));
        if (read !== undefined) result[key] = read ?? absent(key, context);
      }
      return result;
    }
    if (node.kind !== "list") return wrong(node, context, "a mapping or a list of NAME=value");
    for (const [index, item] of node.items.entries()) {
      const line = scalarText(item, { ...context, path: `${context.path}[${index}]` });
      if (line === undefined || line === null || line === "" || line.startsWith("=")) {
        if (line !== undefined) wrong(item, { ...context, path: `${context.path}[${index}]` }, "NAME=value");
        continue;
      }
      const cut = line.indexOf("=");
      const name = cut < 0 ? line : line.slice(0, cut);
      if (name === UNUSABLE_KEY) context.problems.error(item.at, `"${UNUSABLE_KEY}" can't be a name`);
      result[name] = cut < 0 ? absent(name, context) : line.slice(cut + 1);
    }
    return result;
  };
}

/** Labels: a name without a value has the value "". */
export const labels: Reader = mapping(() => "");
/** Environment: a name without a value takes the caller's, else null. */
export const environment: Reader = mapping((name, context) => context.variables.get(name) ?? null);
