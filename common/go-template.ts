/**
 * Runs Go templates over JSON values, with the functions that docker's --format offers (json, split, join, title, lower,
 * upper, pad, truncate) and Go's own. Pure. Field names are those of the API; a field that an object lacks is
 * "<no value>", or an error where the caller says which fields exist.
 */
import { isObject } from "./json.ts";
import { ClusterError } from "./errors.ts";
import type { Command, Expression, Pipeline, TemplateNode } from "./go-template-parser.ts";
import { parseTemplate } from "./go-template-parser.ts";

export interface TemplateOptions {
  /** Where unknown fields are errors instead of "<no value>": of the top object (tables), or of every one. Default: nowhere. */
  readonly strict?: "top" | "everywhere";
  /** Functions beside the built-in ones. */
  readonly functions?: Readonly<Record<string, TemplateFunction>>;
  /** Characters of output after which the run is given up. Default: no bound. */
  readonly outputCharsMax?: number;
}

/** Throwing a ClusterError ends the run with it. */
export type TemplateFunction = (...args: unknown[]) => unknown;

/** A compiled template; run it any number of times. */
export type Template = (value: unknown) => string;

/** `range` over a larger number would be a mistake or an attack. */
const RANGE_COUNT_MAX = 100_000;

const BLANK_COUNT_MAX = 10_000;

/** What a missing field evaluates to. */
const NO_VALUE = Symbol("no value");

class LoopSignal {
  readonly kind: "break" | "continue";

  constructor(kind: "break" | "continue") {
    this.kind = kind;
  }
}

function refuse(message: string): ClusterError {
  return new ClusterError("invalid_argument", `Cannot run template: ${message}`);
}

function isTrue(value: unknown): boolean {
  if (value === NO_VALUE || value === null || value === undefined) return false;
  if (Array.isArray(value)) return value.length > 0;
  if (isObject(value)) return Object.keys(value).length > 0;
  return value !== false && value !== 0 && value !== "";
}

/** Go's %v. */
export function goString(value: unknown, isTop = false): string {
  if (value === NO_VALUE) return "<no value>";
  if (value === null || value === undefined) return isTop ? "<no value>" : "<nil>";
  if (typeof value === "string") return value;
  if (Array.isArray(value)) return `[${value.map((each) => goString(each)).join(" ")}]`;
  if (isObject(value)) {
    const keys = Object.keys(value).sort();
    return `map[${keys.map((key) => `${key}:${goString(value[key])}`).join(" ")}]`;
  }
  if (typeof value === "number" && (Math.abs(value) >= 1e21 || !Number.isFinite(value))) return String(value);
  return String(value as number | boolean | bigint);
}

function quote(text: string): string {
  return JSON.stringify(text);
}

/** Go's fmt.Sprintf for the verbs that templates use. */
function sprintf(format: string, args: readonly unknown[]): string {
  let next = 0;
  const text = format.replace(
    /%([-+# 0]*)(\d+)?(?:\.(\d+))?([a-zA-Z%])/g,
    (_, flags: string, width, precision, verb: string) => {
      if (verb === "%") return "%";
      if (next >= args.length) return `%!${verb}(MISSING)`;
      const body = formatVerb(
        verb,
        args[next],
        precision === undefined ? undefined : Number(precision),
        flags,
      );
      next += 1;
      const size = Number(width ?? 0);
      if (flags.includes("-")) return body.padEnd(size);
      return flags.includes("0") && verb !== "s" ? body.padStart(size, "0") : body.padStart(size);
    },
  );
  const extra = args.slice(next).map((each) => goString(each));
  return extra.length === 0 ? text : `${text}%!(EXTRA ${extra.join(", ")})`;
}

function formatVerb(verb: string, value: unknown, precision: number | undefined, flags: string): string {
  switch (verb) {
    case "d":
      return typeof value === "number" ? String(Math.trunc(value)) : `%!d(${goString(value)})`;
    case "f":
      return typeof value === "number" ? value.toFixed(precision ?? 6) : `%!f(${goString(value)})`;
    case "q":
      return quote(goString(value));
    case "x":
    case "X": {
      const hex =
        typeof value === "number" ? value.toString(16) : Buffer.from(goString(value)).toString("hex");
      return (flags.includes("#") ? "0x" : "") + (verb === "X" ? hex.toUpperCase() : hex);
    }
    case "t":
      return String(value === true);
    case "s":
    case "v": {
      const text = goString(value);
      return precision === undefined ? text : text.slice(0, precision);
    }
    default:
      return `%!${verb}(${goString(value)})`;
  }
}

function asList(name: string, value: unknown): readonly unknown[] {
  if (Array.isArray(value)) return value as readonly unknown[];
  if (value === NO_VALUE || value === null || value === undefined) return [];
  throw refuse(`${name} needs a list, got ${quote(goString(value))}`);
}

function compare(name: string, left: unknown, right: unknown): number {
  if (typeof left === "number" && typeof right === "number") return left - right;
  if (typeof left === "string" && typeof right === "string") return left < right ? -1 : left > right ? 1 : 0;
  throw refuse(
    `${name} needs two numbers or two strings, got ${quote(goString(left))} and ${quote(goString(right))}`,
  );
}

function isEqual(left: unknown, right: unknown): boolean {
  return (
    left === right || (isObject(left) && isObject(right) && JSON.stringify(left) === JSON.stringify(right))
  );
}

function index(base: unknown, keys: readonly unknown[]): unknown {
  let value = base;
  for (const key of keys) {
    if (Array.isArray(value)) {
      if (typeof key !== "number" || key < 0 || key >= value.length) {
        throw refuse(`index out of range: ${goString(key)} of ${value.length}`);
      }
      value = value[key] as unknown;
    } else if (isObject(value)) value = Object.hasOwn(value, String(key)) ? value[String(key)] : NO_VALUE;
    else if (value === null || value === undefined || value === NO_VALUE) return NO_VALUE;
    else throw refuse(`cannot index ${quote(goString(value))}`);
  }
  return value;
}

/** As encoding/json writes it: keys of maps sorted, nothing undefined. */
function toJson(value: unknown): string {
  return JSON.stringify(value === NO_VALUE ? null : value, (_, each: unknown) =>
    typeof each === "bigint" ? Number(each) : each,
  );
}

const text = (value: unknown): string => goString(value);

function blanks(count: unknown): string {
  return " ".repeat(Math.min(Math.max(0, Math.trunc(Number(count)) || 0), BLANK_COUNT_MAX));
}

const FUNCTIONS: Readonly<Record<string, TemplateFunction>> = {
  json: toJson,
  join: (list, separator) =>
    asList("join", list)
      .map((each) => goString(each))
      .join(text(separator)),
  split: (value, separator) => text(value).split(text(separator)),
  lower: (value) => text(value).toLowerCase(),
  upper: (value) => text(value).toUpperCase(),
  title: (value) =>
    text(value).replace(/(^|\s)(\S)/g, (_, space: string, char: string) => space + char.toUpperCase()),
  pad: (value, before, after) => blanks(before) + text(value) + blanks(after),
  truncate: (value, length) => text(value).slice(0, Number(length)),
  println: (...values) => `${values.map(text).join(" ")}\n`,
  print: (...values) => values.map(text).join(values.some((each) => typeof each === "string") ? "" : " "),
  printf: (format, ...values) => sprintf(text(format), values),
  len: (value) => {
    if (typeof value === "string") return Buffer.byteLength(value);
    return isObject(value) ? Object.keys(value).length : asList("len", value).length;
  },
  index: (base, ...keys) => index(base, keys),
  slice: (value, from, to) => {
    const end = to === undefined ? undefined : Number(to);
    return typeof value === "string"
      ? value.slice(Number(from ?? 0), end)
      : asList("slice", value).slice(Number(from ?? 0), end);
  },
  not: (value) => !isTrue(value),
  eq: (left, ...rights) => rights.some((right) => isEqual(left, right)),
  ne: (left, right) => !isEqual(left, right),
  lt: (left, right) => compare("lt", left, right) < 0,
  le: (left, right) => compare("le", left, right) <= 0,
  gt: (left, right) => compare("gt", left, right) > 0,
  ge: (left, right) => compare("ge", left, right) >= 0,
  urlquery: (value) => encodeURIComponent(text(value)),
  html: (value) => text(value).replace(/[&<>"']/g, (char) => `&#${char.charCodeAt(0)};`),
  js: (value) => quote(text(value)).slice(1, -1),
};

class Run {
  readonly #options: TemplateOptions;
  readonly #top: unknown;
  /** Innermost last. */
  readonly #scopes: Map<string, unknown>[] = [];
  #output = "";

  constructor(top: unknown, options: TemplateOptions) {
    this.#top = top;
    this.#options = options;
  }

  execute(nodes: readonly TemplateNode[]): string {
    this.#nodes(nodes, this.#top, new Map([["$", this.#top]]));
    return this.#output;
  }

  #nodes(nodes: readonly TemplateNode[], dot: unknown, scope: Map<string, unknown>): void {
    this.#scopes.push(scope);
    try {
      for (const node of nodes) this.#node(node, dot);
    } finally {
      this.#scopes.pop();
    }
  }

  #node(node: TemplateNode, dot: unknown): void {
    switch (node.kind) {
      case "text":
        this.#write(node.text);
        return;
      case "action": {
        const value = this.#declare(node.pipeline, this.#pipeline(node.pipeline, dot));
        if (node.pipeline.declares.length === 0) this.#write(goString(value, true));
        return;
      }
      case "if":
      case "with": {
        const value = this.#pipeline(node.pipeline, dot);
        const scope = new Map(node.pipeline.declares.map((name) => [name, value]));
        const isTaken = isTrue(value);
        const inner = node.kind === "with" && isTaken ? value : dot;
        this.#nodes(isTaken ? node.body : node.otherwise, inner, scope);
        return;
      }
      case "range":
        this.#range(node, dot);
        return;
      case "break":
      case "continue":
        throw new LoopSignal(node.kind);
    }
  }

  #write(text: string): void {
    this.#output += text;
    const { outputCharsMax = Infinity } = this.#options;
    if (this.#output.length > outputCharsMax)
      throw refuse(`output is longer than ${outputCharsMax} characters`);
  }

  #range(node: Extract<TemplateNode, { pipeline: Pipeline; body: unknown }>, dot: unknown): void {
    const value = this.#pipeline(node.pipeline, dot);
    const entries = this.#entries(value);
    if (entries.length === 0) {
      this.#nodes(node.otherwise, dot, new Map());
      return;
    }
    const [first, second] = node.pipeline.declares;
    for (const [key, item] of entries) {
      const scope = new Map<string, unknown>();
      if (first !== undefined && second !== undefined) scope.set(first, key).set(second, item);
      else if (first !== undefined) scope.set(first, item);
      try {
        this.#nodes(node.body, item, scope);
      } catch (caught) {
        if (!(caught instanceof LoopSignal)) throw caught;
        if (caught.kind === "break") return;
      }
    }
  }

  #entries(value: unknown): readonly (readonly [unknown, unknown])[] {
    if (Array.isArray(value)) return value.map((item: unknown, position) => [position, item]);
    if (isObject(value)) {
      return Object.keys(value)
        .sort()
        .map((key) => [key, value[key]]);
    }
    if (typeof value === "number" && value > RANGE_COUNT_MAX)
      throw refuse(`range over more than ${RANGE_COUNT_MAX}`);
    if (typeof value === "number")
      return Array.from({ length: value }, (_, position) => [position, position]);
    if (value === null || value === undefined || value === NO_VALUE) return [];
    throw refuse(`range can't iterate over ${quote(goString(value))}`);
  }

  #declare(pipeline: Pipeline, value: unknown): unknown {
    const [name] = pipeline.declares;
    if (name === undefined) return value;
    const holder = pipeline.isAssignment
      ? this.#scopes.findLast((scope) => scope.has(name))
      : this.#scopes.at(-1);
    if (holder === undefined) throw refuse(`undefined variable "${name}"`);
    holder.set(name, value);
    return value;
  }

  #pipeline(pipeline: Pipeline, dot: unknown): unknown {
    let value: unknown;
    for (const [position, command] of pipeline.commands.entries()) {
      value = this.#command(command, dot, position === 0 ? [] : [value]);
    }
    return value;
  }

  #command(command: Command, dot: unknown, piped: readonly unknown[]): unknown {
    const [head, ...rest] = command.words;
    if (head === undefined) throw refuse("empty command");
    if (head.kind === "function") return this.#call(head.name, rest, dot, piped);
    const target = this.#expression(head, dot);
    if (typeof target === "function") {
      const args = [...rest.map((each) => this.#expression(each, dot)), ...piped];
      return (target as TemplateFunction)(...args);
    }
    if (rest.length > 0 || piped.length > 0)
      throw refuse(`can't give argument to ${quote(goString(target))}`);
    return target;
  }

  #call(name: string, words: readonly Expression[], dot: unknown, piped: readonly unknown[]): unknown {
    if (name === "and" || name === "or") {
      let value: unknown;
      for (const word of words) {
        value = this.#expression(word, dot);
        if (isTrue(value) === (name === "or")) return value;
      }
      return piped.length > 0 ? piped[0] : value;
    }
    const { functions = {} } = this.#options;
    const holder = Object.hasOwn(functions, name) ? functions : FUNCTIONS;
    const found = Object.hasOwn(holder, name) ? holder[name] : undefined;
    if (found === undefined) throw refuse(`function "${name}" not defined`);
    return found(...words.map((word) => this.#expression(word, dot)), ...piped);
  }

  #expression(expression: Expression, dot: unknown): unknown {
    switch (expression.kind) {
      case "literal":
        return expression.value;
      case "dot":
        return dot;
      case "variable": {
        const scope = this.#scopes.findLast((each) => each.has(expression.name));
        if (scope === undefined) throw refuse(`undefined variable "${expression.name}"`);
        return scope.get(expression.name);
      }
      case "field":
        return this.#field(
          expression.base === undefined ? dot : this.#expression(expression.base, dot),
          expression.names,
        );
      case "function":
        return this.#call(expression.name, [], dot, []);
      case "pipeline":
        return this.#pipeline(expression.pipeline, dot);
    }
  }

  #isStrictAt(value: unknown): boolean {
    const { strict } = this.#options;
    return strict === "everywhere" || (strict === "top" && value === this.#top);
  }

  #field(base: unknown, names: readonly string[]): unknown {
    let value = base;
    for (const name of names) {
      if (typeof value === "function") value = (value as TemplateFunction)();
      if (value === null || value === undefined || value === NO_VALUE) return NO_VALUE;
      if (!isObject(value)) throw refuse(`can't evaluate field ${name} of ${quote(goString(value))}`);
      if (Object.hasOwn(value, name)) value = value[name];
      else if (this.#isStrictAt(value)) {
        throw refuse(`there is no field "${name}"; fields: ${Object.keys(value).sort().join(", ")}`);
      } else value = NO_VALUE;
    }
    return value;
  }
}

/** Throws invalid_argument on bad syntax now, and on bad use when run. */
export function compileTemplate(source: string, options: TemplateOptions = {}): Template {
  const nodes = parseTemplate(source);
  return (value) => {
    try {
      return new Run(value, options).execute(nodes);
    } catch (caught) {
      if (caught instanceof LoopSignal) throw refuse(`{{${caught.kind}}} outside {{range}}`);
      throw caught;
    }
  };
}
