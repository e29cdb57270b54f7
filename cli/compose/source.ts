/**
 * YAML files as trees that know where each value stands, so that every complaint names file:line:column. Resolves anchors,
 * aliases and merge keys, and puts variables in. Knows nothing of Compose.
 */
import type { Alias, Document, Node, Pair } from "yaml";
import { isAlias, isMap, isScalar, isSeq, LineCounter, parseAllDocuments, visit } from "yaml";
import { interpolate } from "./interpolate.ts";

export interface Position {
  readonly file: string;
  readonly line: number;
  readonly column: number;
}

export type Scalar = string | number | boolean | null;

export interface ScalarNode {
  readonly kind: "scalar";
  readonly value: Scalar;
  /** Variables were put in, so that "3" may stand for a number. */
  readonly isInterpolated: boolean;
  /** As written, for numbers such as 0440. */
  readonly source: string;
  readonly at: Position;
}

export interface MapNode {
  readonly kind: "map";
  readonly entries: ReadonlyMap<string, { readonly keyAt: Position; readonly value: SourceNode }>;
  readonly at: Position;
}

export interface ListNode {
  readonly kind: "list";
  readonly items: readonly SourceNode[];
  readonly at: Position;
}

export type SourceNode = ScalarNode | MapNode | ListNode;

/** Collects what is wrong; all of it is told at once. */
export class Problems {
  readonly errors: string[] = [];
  readonly warnings: string[] = [];

  error(at: Position, message: string): void {
    this.errors.push(`${at.file}:${at.line}:${at.column}: ${message}`);
  }

  warn(at: Position, message: string): void {
    this.warnings.push(`${at.file}:${at.line}:${at.column}: ${message}`);
  }
}

/** Alias expansion may not blow a small file up (a "billion laughs"). */
const NODES_MAX = 100_000;
/** Mappings and lists within each other, aliases resolved. The format itself needs ten. */
const DEPTH_MAX = 100;
const TOO_DEEP = `mappings and lists are more than ${DEPTH_MAX} deep in each other`;
/** A key that JavaScript's objects take for something else: what it stands for would be lost without a word. */
export const UNUSABLE_KEY = "__proto__";

/** What each alias stands for: the last anchor of its name before it. One walk, where the library walks once an alias. */
function aliasTargets(document: Document): ReadonlyMap<Alias, Node> {
  const anchors = new Map<string, Node>();
  const targets = new Map<Alias, Node>();
  visit(document, {
    Alias: (_, alias) => {
      const target = anchors.get(alias.source);
      if (target !== undefined) targets.set(alias, target);
    },
    Value: (_, node) => {
      if (node.anchor !== undefined) anchors.set(node.anchor, node);
    },
  });
  return targets;
}

class Converter {
  readonly #file: string;
  readonly #lines: LineCounter;
  readonly #targets: ReadonlyMap<Alias, Node>;
  readonly #problems: Problems;
  readonly #variables: ReadonlyMap<string, string> | undefined;
  #count = 0;
  /** What is being converted, outermost first. */
  readonly #within: unknown[] = [];

  constructor(
    file: string,
    lines: LineCounter,
    document: Document,
    options: { problems: Problems; variables: ReadonlyMap<string, string> | undefined },
  ) {
    this.#file = file;
    this.#lines = lines;
    this.#targets = aliasTargets(document);
    this.#problems = options.problems;
    this.#variables = options.variables;
  }

  convert(node: unknown, fallback: Position): SourceNode {
    const at = this.#position(node, fallback);
    this.#count += 1;
    if (this.#count > NODES_MAX) {
      if (this.#count === NODES_MAX + 1)
        this.#problems.error(at, `the file has more than ${NODES_MAX} values after its aliases are resolved`);
      return nothing(at);
    }
    if (this.#within.length === DEPTH_MAX) {
      this.#problems.error(at, TOO_DEEP);
      return nothing(at);
    }
    this.#within.push(node);
    const converted = this.#convertWithin(node, at);
    this.#within.pop();
    return converted;
  }

  #convertWithin(node: unknown, at: Position): SourceNode {
    if (isAlias(node)) {
      const target = this.#targets.get(node);
      if (target === undefined) this.#problems.error(at, `there is no anchor "${node.source}"`);
      else if (this.#within.includes(target))
        this.#problems.error(at, `"*${node.source}" is a part of what it stands for`);
      else return this.convert(target, at);
    }
    if (isMap(node)) return { kind: "map", entries: this.#entries(node.items as readonly Pair[], at), at };
    if (isSeq(node)) return { kind: "list", items: node.items.map((item) => this.convert(item, at)), at };
    return this.#scalar(node, at);
  }

  #position(node: unknown, fallback: Position): Position {
    const offset = (node as Node | null | undefined)?.range?.[0];
    if (offset === undefined) return fallback;
    const { line, col } = this.#lines.linePos(offset);
    return { file: this.#file, line, column: col };
  }

  #scalar(node: unknown, at: Position): ScalarNode {
    if (!isScalar(node)) return nothing(at);
    const value = node.value as Scalar | Date | bigint;
    const source = node.source ?? String(value);
    if (typeof value === "string") {
      if (this.#variables === undefined || !value.includes("$"))
        return { kind: "scalar", value, isInterpolated: false, source, at };
      try {
        const text = interpolate(value, this.#variables);
        return { kind: "scalar", value: text, isInterpolated: text !== value, source: text, at };
      } catch (caught) {
        this.#problems.error(at, (caught as Error).message);
        return { kind: "scalar", value, isInterpolated: false, source, at };
      }
    }
    const plain = typeof value === "bigint" ? Number(value) : value instanceof Date ? source : value;
    return { kind: "scalar", value: plain, isInterpolated: false, source, at };
  }

  #entries(pairs: readonly Pair[], at: Position): Map<string, { keyAt: Position; value: SourceNode }> {
    const entries = new Map<string, { keyAt: Position; value: SourceNode }>();
    const merged: MapNode[] = [];
    for (const pair of pairs) {
      const keyAt = this.#position(pair.key, at);
      const key = isScalar(pair.key) ? String(pair.key.value) : "";
      if (key === "<<") {
        const value = this.convert(pair.value, keyAt);
        for (const each of value.kind === "list" ? value.items : [value]) {
          if (each.kind === "map") merged.push(each);
          else this.#problems.error(each.at, "a merge key needs a mapping");
        }
        continue;
      }
      if (key === UNUSABLE_KEY) this.#problems.error(keyAt, `"${UNUSABLE_KEY}" can't be a key`);
      entries.set(key, { keyAt, value: this.convert(pair.value, keyAt) });
    }
    for (const map of merged) {
      for (const [key, entry] of map.entries) if (!entries.has(key)) entries.set(key, entry);
    }
    return entries;
  }
}

function nothing(at: Position): ScalarNode {
  return { kind: "scalar", value: null, isInterpolated: false, source: "", at };
}

/** Reads one file's text. `variables` absent: they are left as they are. Undefined if the YAML is broken or empty. */
export function parseSource(
  file: string,
  content: string,
  options: { readonly problems: Problems; readonly variables: ReadonlyMap<string, string> | undefined },
): MapNode | undefined {
  const { problems } = options;
  const lines = new LineCounter();
  const start: Position = { file, line: 1, column: 1 };
  const documents = parseAllDocuments(content, {
    lineCounter: lines,
    version: "1.2",
    uniqueKeys: true,
    prettyErrors: false,
    logLevel: "silent",
  });
  const list = Array.isArray(documents) ? documents : [];
  for (const document of list) {
    for (const each of document.errors) {
      const { line, col } = lines.linePos(each.pos[0]);
      // Out of stack: the library's own bound lies at some thousands.
      problems.error(
        { file, line, column: col },
        each.code === "RESOURCE_EXHAUSTION" ? TOO_DEEP : each.message,
      );
    }
  }
  if (list.length > 1) problems.error(start, "the file must hold one YAML document");
  const document = list[0];
  if (document === undefined || document.contents === null) {
    problems.error(start, "the file is empty");
    return undefined;
  }
  if (problems.errors.length > 0) return undefined;
  const root = new Converter(file, lines, document, options).convert(document.contents, start);
  if (root.kind === "map") return root;
  problems.error(root.at, "the top of the file must be a mapping");
  return undefined;
}
