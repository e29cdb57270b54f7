/**
 * Reads Go's text/template language into a tree: actions, pipelines, variables, if/with/range/else, comments and trim
 * markers. go-template.ts runs the tree. Pure. A syntax error is an invalid_argument that names the place.
 */
import { ClusterError } from "./errors.ts";

export type Expression =
  | { readonly kind: "literal"; readonly value: unknown }
  | { readonly kind: "dot" }
  | { readonly kind: "variable"; readonly name: string }
  /** `base` absent: field of dot. */
  | { readonly kind: "field"; readonly names: readonly string[]; readonly base?: Expression }
  | { readonly kind: "function"; readonly name: string }
  | { readonly kind: "pipeline"; readonly pipeline: Pipeline };

export interface Command {
  readonly words: readonly Expression[];
}

export interface Pipeline {
  /** `$x := …` or `$i, $v := …`. */
  readonly declares: readonly string[];
  readonly isAssignment: boolean;
  readonly commands: readonly Command[];
}

export type TemplateNode =
  | { readonly kind: "text"; readonly text: string }
  | { readonly kind: "action"; readonly pipeline: Pipeline }
  | {
      readonly kind: "if" | "with" | "range";
      readonly pipeline: Pipeline;
      readonly body: readonly TemplateNode[];
      readonly otherwise: readonly TemplateNode[];
    }
  | { readonly kind: "break" }
  | { readonly kind: "continue" };

interface Token {
  readonly kind: "word" | "field" | "variable" | "string" | "number" | "symbol";
  readonly text: string;
  readonly value?: unknown;
  /** No white space before it, so that `)` or `$x` and `.Field` belong together. */
  readonly isGlued: boolean;
}

function refuse(message: string): ClusterError {
  return new ClusterError("invalid_argument", `Invalid template: ${message}`);
}

const ESCAPES: Readonly<Record<string, string>> = {
  n: "\n",
  t: "\t",
  r: "\r",
  a: "\x07",
  b: "\b",
  f: "\f",
  v: "\v",
};

function unquote(body: string): string {
  return body.replace(/\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|.)/gs, (_, escape: string) => {
    if (/^[xu]./.test(escape)) return String.fromCharCode(Number.parseInt(escape.slice(1), 16));
    return ESCAPES[escape] ?? escape;
  });
}

const TOKEN =
  /(\s+)|("(?:[^"\\]|\\.)*")|(`[^`]*`)|('(?:[^'\\]|\\.)+')|([+-]?(?:0x[0-9a-fA-F]+|\d+(?:\.\d+)?(?:e[+-]?\d+)?))|(\$\w*)|(\.[A-Za-z_]\w*)|([A-Za-z_]\w*)|(:=|[.|(),=])/sy;

function tokenize(text: string): Token[] {
  const tokens: Token[] = [];
  let isGlued = false;
  TOKEN.lastIndex = 0;
  while (TOKEN.lastIndex < text.length) {
    const at = TOKEN.lastIndex;
    const match = TOKEN.exec(text);
    if (match === null) throw refuse(`unexpected "${text.slice(at, at + 10)}" in action "${text.trim()}"`);
    const [whole, space, quoted, rawText, char, number, variable, field, word, symbol] = match;
    if (space !== undefined) {
      isGlued = false;
      continue;
    }
    const add = (kind: Token["kind"], value?: unknown): void => {
      tokens.push({ kind, text: whole, isGlued, ...(value === undefined ? {} : { value }) });
    };
    if (quoted !== undefined) add("string", unquote(quoted.slice(1, -1)));
    else if (rawText !== undefined) add("string", rawText.slice(1, -1));
    else if (char !== undefined) add("number", unquote(char.slice(1, -1)).codePointAt(0));
    else if (number !== undefined) add("number", Number(number));
    else if (variable !== undefined) add("variable");
    else if (field !== undefined) add("field");
    else if (word !== undefined) add("word");
    else if (symbol !== undefined) add("symbol");
    isGlued = true;
  }
  return tokens;
}

/** Recursive descent over the tokens of one action. */
class ActionParser {
  readonly #tokens: readonly Token[];
  readonly #source: string;
  #index = 0;

  constructor(source: string, tokens: readonly Token[]) {
    this.#source = source.trim();
    this.#tokens = tokens;
  }

  /** A whole pipeline up to the end of the action. */
  parseAll(): Pipeline {
    const pipeline = this.#pipeline();
    const rest = this.#peek();
    if (rest !== undefined) throw refuse(`unexpected "${rest.text}" in action "${this.#source}"`);
    return pipeline;
  }

  #peek(ahead = 0): Token | undefined {
    return this.#tokens[this.#index + ahead];
  }

  #isSymbol(text: string, ahead = 0): boolean {
    const token = this.#peek(ahead);
    return token?.kind === "symbol" && token.text === text;
  }

  #pipeline(): Pipeline {
    const { declares, isAssignment } = this.#declaration();
    const commands: Command[] = [this.#command()];
    while (this.#isSymbol("|")) {
      this.#index += 1;
      commands.push(this.#command());
    }
    return { declares, isAssignment, commands };
  }

  #declaration(): { declares: readonly string[]; isAssignment: boolean } {
    const first = this.#peek();
    if (first?.kind !== "variable") return { declares: [], isAssignment: false };
    if (this.#isSymbol(":=", 1) || this.#isSymbol("=", 1)) {
      const isAssignment = this.#isSymbol("=", 1);
      this.#index += 2;
      return { declares: [first.text], isAssignment };
    }
    const second = this.#peek(2);
    if (this.#isSymbol(",", 1) && second?.kind === "variable" && this.#isSymbol(":=", 3)) {
      this.#index += 4;
      return { declares: [first.text, second.text], isAssignment: false };
    }
    return { declares: [], isAssignment: false };
  }

  #command(): Command {
    const words: Expression[] = [];
    for (let token = this.#peek(); token !== undefined; token = this.#peek()) {
      if (token.kind === "symbol" && ["|", ")"].includes(token.text)) break;
      words.push(this.#operand(token));
    }
    if (words.length === 0) throw refuse(`missing value in action "${this.#source}"`);
    return { words };
  }

  #operand(token: Token): Expression {
    this.#index += 1;
    const base = this.#plainOperand(token);
    const names: string[] = [];
    for (let next = this.#peek(); next?.kind === "field" && next.isGlued; next = this.#peek()) {
      names.push(next.text.slice(1));
      this.#index += 1;
    }
    if (names.length === 0) return base;
    if (base.kind === "field" && base.base === undefined)
      return { kind: "field", names: [...base.names, ...names] };
    return { kind: "field", names, base };
  }

  #plainOperand(token: Token): Expression {
    switch (token.kind) {
      case "string":
      case "number":
        return { kind: "literal", value: token.value };
      case "variable":
        return { kind: "variable", name: token.text };
      case "field":
        return { kind: "field", names: [token.text.slice(1)] };
      case "word":
        if (token.text === "true" || token.text === "false")
          return { kind: "literal", value: token.text === "true" };
        if (token.text === "nil") return { kind: "literal", value: null };
        return { kind: "function", name: token.text };
      case "symbol": {
        if (token.text === ".") return { kind: "dot" };
        if (token.text !== "(") throw refuse(`unexpected "${token.text}" in action "${this.#source}"`);
        const pipeline = this.#pipeline();
        if (!this.#isSymbol(")")) throw refuse(`unclosed "(" in action "${this.#source}"`);
        this.#index += 1;
        return { kind: "pipeline", pipeline };
      }
    }
  }
}

type Piece =
  | { readonly kind: "text"; readonly text: string }
  | { readonly kind: "action"; readonly text: string };

/** Where the action that starts at `start` ends; quotes may contain the closing braces. */
function actionEnd(source: string, start: number): number {
  if (/^-?\s*\/\*/.test(source.slice(start))) {
    const close = source.indexOf("*/", start);
    const end = close < 0 ? -1 : source.indexOf("}}", close);
    if (end < 0) throw refuse("unclosed comment");
    return end;
  }
  let quote = "";
  for (let index = start; index < source.length; index += 1) {
    const char = source[index] ?? "";
    if (quote !== "") {
      if (char === "\\" && quote !== "`") index += 1;
      else if (char === quote) quote = "";
    } else if (`"'\``.includes(char)) quote = char;
    else if (source.startsWith("}}", index)) return index;
  }
  throw refuse("unclosed action");
}

function split(source: string): Piece[] {
  const pieces: Piece[] = [];
  let at = 0;
  let trimsNext = false;
  while (at <= source.length) {
    const open = source.indexOf("{{", at);
    let text = source.slice(at, open < 0 ? undefined : open);
    if (trimsNext) text = text.trimStart();
    if (open < 0) {
      pieces.push({ kind: "text", text });
      return pieces;
    }
    const end = actionEnd(source, open + 2);
    let action = source.slice(open + 2, end);
    if (/^-\s/.test(action)) {
      text = text.trimEnd();
      action = action.slice(1);
    }
    trimsNext = /\s-$/.test(action);
    if (trimsNext) action = action.slice(0, -1);
    pieces.push({ kind: "text", text }, { kind: "action", text: action });
    at = end + 2;
  }
  return pieces;
}

const BLOCK_WORDS = new Set(["if", "with", "range"]);

/** Builds the tree from pieces; `if`, `with` and `range` nest. */
class TreeParser {
  readonly #pieces: readonly Piece[];
  #index = 0;

  constructor(pieces: readonly Piece[]) {
    this.#pieces = pieces;
  }

  parse(): readonly TemplateNode[] {
    const { nodes, stop } = this.#nodes();
    if (stop !== undefined) throw refuse(`unexpected {{${stop}}}`);
    return nodes;
  }

  #nodes(): { nodes: TemplateNode[]; stop: string | undefined } {
    const nodes: TemplateNode[] = [];
    while (this.#index < this.#pieces.length) {
      const piece = this.#pieces[this.#index] ?? { kind: "text", text: "" };
      this.#index += 1;
      if (piece.kind === "text") {
        if (piece.text !== "") nodes.push({ kind: "text", text: piece.text });
        continue;
      }
      const text = piece.text.trim();
      if (text.startsWith("/*") && text.endsWith("*/")) continue;
      const tokens = tokenize(text);
      const first = tokens[0];
      if (first === undefined) throw refuse("missing value in an empty action");
      if (first.kind !== "word")
        nodes.push({ kind: "action", pipeline: new ActionParser(text, tokens).parseAll() });
      else if (first.text === "end" || first.text === "else") return { nodes, stop: text };
      else nodes.push(this.#keyword(first.text, text, tokens));
    }
    return { nodes, stop: undefined };
  }

  #keyword(word: string, text: string, tokens: readonly Token[]): TemplateNode {
    if (BLOCK_WORDS.has(word)) return this.#block(word as "if" | "with" | "range", text, tokens);
    if (word === "break" || word === "continue") return { kind: word };
    if (["define", "template", "block"].includes(word)) throw refuse(`{{${word}}} is not supported`);
    return { kind: "action", pipeline: new ActionParser(text, tokens).parseAll() };
  }

  #block(kind: "if" | "with" | "range", text: string, tokens: readonly Token[]): TemplateNode {
    const pipeline = new ActionParser(text, tokens.slice(1)).parseAll();
    const { nodes: body, stop } = this.#nodes();
    if (stop === undefined) throw refuse(`{{${text}}} has no {{end}}`);
    if (stop === "end") return { kind, pipeline, body, otherwise: [] };
    const chained = /^else\s+(if|with)\b/.exec(stop);
    if (chained !== null) {
      const inner = stop.slice("else".length).trim();
      return {
        kind,
        pipeline,
        body,
        otherwise: [this.#block(chained[1] as "if" | "with", inner, tokenize(inner))],
      };
    }
    const { nodes: otherwise, stop: last } = this.#nodes();
    if (last !== "end") throw refuse(`{{else}} of {{${text}}} has no {{end}}`);
    return { kind, pipeline, body, otherwise };
  }
}

/** Throws invalid_argument on bad syntax. */
export function parseTemplate(source: string): readonly TemplateNode[] {
  return new TreeParser(split(source)).parse();
}
