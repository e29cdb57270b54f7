/**
 * Types of a spec's known fields. Specs come as JSON from any client: what the manager reads must have the type that it
 * expects, what it does not know is kept as it is. Null means absent, as in Go. Pure.
 */
import { ClusterError } from "../../../common/errors.ts";
import { isObject } from "../../../common/json.ts";

/** A type: a word, a list of one type, a map of one type, or an object with known keys. */
export type Shape =
  | "string"
  | "boolean"
  | "integer"
  | "number"
  | "object"
  | "anything"
  | { readonly list: Shape }
  | { readonly map: Shape }
  | { readonly fields: Readonly<Record<string, Shape>> };

/** Deepest nesting that is read; a real spec has about eight. */
const DEPTH_MAX = 32;

/** The value without nulls in objects, so that absent and null are the same from here on. */
export function withoutNulls(value: unknown, depth = 0): unknown {
  if (depth > DEPTH_MAX) {
    throw new ClusterError(
      "invalid_argument",
      `Spec must be nested at most ${DEPTH_MAX} levels deep, got more`,
    );
  }
  if (Array.isArray(value)) return value.map((item) => withoutNulls(item, depth + 1));
  if (!isObject(value)) return value;
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, item]) => item !== null)
      .map(([key, item]) => [key, withoutNulls(item, depth + 1)]),
  );
}

/** Throws invalid_argument naming the first field of a wrong type. `path` is what the value is called. */
export function checkShape(value: unknown, shape: Shape, path: string): void {
  if (value === undefined || shape === "anything") return;
  if (typeof shape === "string") checkWord(value, shape, path);
  else if ("list" in shape) {
    if (!Array.isArray(value)) throw wrong(path, "a list", value);
    for (const [index, item] of value.entries()) {
      if (item === null || item === undefined) throw wrong(`${path}[${index}]`, "a value", item);
      checkShape(item, shape.list, `${path}[${index}]`);
    }
  } else if ("map" in shape) {
    if (!isObject(value)) throw wrong(path, "an object", value);
    for (const [key, item] of Object.entries(value)) checkShape(item, shape.map, `${path}.${key}`);
  } else {
    if (!isObject(value)) throw wrong(path, "an object", value);
    for (const [key, inner] of Object.entries(shape.fields)) checkShape(value[key], inner, `${path}.${key}`);
  }
}

function checkWord(value: unknown, wanted: string, path: string): void {
  switch (wanted) {
    case "integer":
      if (!Number.isSafeInteger(value)) throw wrong(path, "an integer", value);
      break;
    case "number":
      if (typeof value !== "number" || !Number.isFinite(value)) throw wrong(path, "a number", value);
      break;
    case "object":
      if (!isObject(value)) throw wrong(path, "an object", value);
      break;
    default:
      if (typeof value !== wanted) throw wrong(path, `a ${wanted}`, value);
  }
}

function wrong(path: string, wanted: string, got: unknown): ClusterError {
  const text = JSON.stringify(got) ?? "nothing";
  return new ClusterError(
    "invalid_argument",
    `invalid spec: ${path} must be ${wanted}, got ${text.length > 80 ? `${text.slice(0, 80)}…` : text}`,
    { details: { field: path } },
  );
}
