/**
 * Words and variables as Dockerfile instructions read them: quotes, escapes, $NAME and ${NAME…} with the modifiers
 * :- - :+ + :? ? # ## % %% / and //. Not a shell: nothing is run and no file is looked at. Pure.
 */
import { ClusterError } from "../../common/errors.ts";
import { type Glob, shellGlob } from "./glob.ts";

export type Variables = ReadonlyMap<string, string>;

const DEPTH_MAX = 20;

function wordError(why: string, text: string): ClusterError {
  return new ClusterError("invalid_argument", `failed to process ${JSON.stringify(text)}: ${why}`);
}

/** Each place of a longer text would be tried with all that follow. */
const REPLACED_LENGTH_MAX = 16_384;

/** Longest matches first from the left, none of them empty. */
function replaced(
  text: string,
  glob: Glob,
  options: { readonly by: string; readonly isAll: boolean },
): string {
  let result = "";
  for (let at = 0; at < text.length;) {
    const length = glob.ends(text, at).at(-1) ?? 0;
    if (length === 0) {
      result += text.charAt(at++);
      continue;
    }
    result += options.by;
    at += length;
    if (!options.isAll) return result + text.slice(at);
  }
  return result;
}

/** Length of the shortest or longest beginning of `text` that matches, 0 if none does. */
function matchedLength(text: string, glob: Glob, isShort: boolean): number {
  return glob.ends(text).at(isShort ? 0 : -1) ?? 0;
}

class Lexer {
  readonly #text: string;
  readonly #escape: string;
  readonly #variables: Variables;
  readonly #keepsQuotes: boolean;
  readonly #depth: number;
  #at = 0;

  constructor(
    text: string,
    options: {
      readonly escape: string;
      readonly variables: Variables;
      readonly keepsQuotes: boolean;
      readonly depth: number;
    },
  ) {
    if (options.depth > DEPTH_MAX) throw wordError("variables are nested too deep", text);
    this.#text = text;
    this.#escape = options.escape;
    this.#variables = options.variables;
    this.#keepsQuotes = options.keepsQuotes;
    this.#depth = options.depth;
  }

  /** Words split at blanks outside of quotes; blanks from variables split too, as Docker does it. */
  words(): readonly string[] {
    const words: string[] = [];
    let word = "";
    let isOpen = false;
    const close = (): void => {
      if (isOpen) words.push(word);
      word = "";
      isOpen = false;
    };
    while (this.#at < this.#text.length) {
      const char = this.#text.charAt(this.#at);
      if (/\s/.test(char)) {
        close();
        this.#at++;
        continue;
      }
      const isVariable = char === "$";
      const piece = this.#piece();
      if (!isVariable) {
        word += piece;
        isOpen = true;
        continue;
      }
      const parts = piece.split(/\s+/);
      for (const [index, part] of parts.entries()) {
        if (index > 0) close();
        word += part;
        if (part !== "") isOpen = true;
      }
    }
    close();
    return words;
  }

  /** The whole text with quotes taken off and variables put in. */
  all(): string {
    let result = "";
    while (this.#at < this.#text.length) result += this.#piece();
    return result;
  }

  #piece(): string {
    const char = this.#text.charAt(this.#at);
    if (char === "'") return this.#singleQuoted();
    if (char === '"') return this.#doubleQuoted();
    if (char === "$") return this.#variable();
    this.#at++;
    if (char !== this.#escape) return char;
    const next = this.#text.charAt(this.#at);
    this.#at++;
    if (this.#keepsQuotes && next !== "$") return char + next;
    return next;
  }

  #singleQuoted(): string {
    const end = this.#text.indexOf("'", this.#at + 1);
    if (end < 0)
      throw wordError("unexpected end of statement while looking for matching single-quote", this.#text);
    const inner = this.#text.slice(this.#at + 1, end);
    this.#at = end + 1;
    return this.#keepsQuotes ? `'${inner}'` : inner;
  }

  #doubleQuoted(): string {
    let inner = "";
    this.#at++;
    for (;;) {
      const char = this.#text.charAt(this.#at);
      if (char === "") {
        throw wordError("unexpected end of statement while looking for matching double-quote", this.#text);
      }
      if (char === '"') {
        this.#at++;
        return this.#keepsQuotes ? `"${inner}"` : inner;
      }
      if (char === "$") {
        inner += this.#variable();
        continue;
      }
      this.#at++;
      if (char !== this.#escape) {
        inner += char;
        continue;
      }
      const next = this.#text.charAt(this.#at);
      // Inside quotes only these can be escaped.
      if (next === '"' || next === "$" || next === this.#escape) {
        inner += this.#keepsQuotes && next !== "$" ? char + next : next;
        this.#at++;
      } else {
        inner += char;
      }
    }
  }

  #variable(): string {
    this.#at++;
    if (this.#text.charAt(this.#at) === "{") return this.#braced();
    const rest = this.#text.slice(this.#at);
    const name = /^(?:[A-Za-z_]\w*|\d|[@*#?$!-])/.exec(rest)?.[0];
    if (name === undefined) return "$";
    this.#at += name.length;
    return this.#variables.get(name) ?? "";
  }

  #braced(): string {
    const start = this.#at + 1;
    const name = /^[A-Za-z_]\w*/.exec(this.#text.slice(start))?.[0] ?? "";
    if (name === "") throw wordError("bad substitution", this.#text);
    const end = this.#closing(start + name.length);
    const modifier = this.#text.slice(start + name.length, end);
    this.#at = end + 1;
    return this.#modified(name, modifier);
  }

  /** Index of the brace that closes the one before `from`. */
  #closing(from: number): number {
    let depth = 1;
    for (let at = from; at < this.#text.length; at++) {
      const char = this.#text.charAt(at);
      if (char === this.#escape) at++;
      else if (char === "{" && this.#text.charAt(at - 1) === "$") depth++;
      else if (char === "}" && --depth === 0) return at;
    }
    throw wordError("syntax error: missing '}'", this.#text);
  }

  #expand(text: string): string {
    return new Lexer(text, {
      escape: this.#escape,
      variables: this.#variables,
      keepsQuotes: this.#keepsQuotes,
      depth: this.#depth + 1,
    }).all();
  }

  #modified(name: string, modifier: string): string {
    const value = this.#variables.get(name);
    if (modifier === "") return value ?? "";
    const [, colon = "", operator = "", word = ""] = /^(:?)([-+?])([^]*)$/.exec(modifier) ?? [];
    const isSet = colon === "" ? value !== undefined : value !== undefined && value !== "";
    switch (operator) {
      case "-":
        return isSet ? (value ?? "") : this.#expand(word);
      case "+":
        return isSet ? this.#expand(word) : "";
      case "?":
        if (isSet) return value ?? "";
        throw wordError(`${name}: ${word === "" ? "not set" : this.#expand(word)}`, this.#text);
      default:
        return this.#trimmed(value ?? "", modifier);
    }
  }

  #trimmed(value: string, modifier: string): string {
    const [, cut = "", pattern = ""] = /^(##?|%%?)([^]*)$/.exec(modifier) ?? [];
    if (cut !== "") {
      const glob = shellGlob(this.#expand(pattern));
      const isShort = cut.length === 1;
      if (cut.startsWith("#")) return value.slice(matchedLength(value, glob, isShort));
      const backwards = value.split("").reverse().join("");
      return value.slice(0, value.length - matchedLength(backwards, glob.reversed(), isShort));
    }
    const [, slashes = "", from = "", to = ""] =
      /^(\/\/?)((?:\\.|[^/\\])*)(?:\/([^]*))?$/.exec(modifier) ?? [];
    if (slashes === "")
      throw wordError(`unsupported modifier (${modifier.charAt(0)}) in substitution`, this.#text);
    if (value.length > REPLACED_LENGTH_MAX)
      throw wordError(
        `value must have at most ${REPLACED_LENGTH_MAX} characters for a replacement`,
        this.#text,
      );
    const glob = shellGlob(this.#expand(from.replace(/\\(.)/g, "$1")));
    return replaced(value, glob, { by: this.#expand(to), isAll: slashes === "//" });
  }
}

export interface WordOptions {
  /** The Dockerfile's escape character. */
  readonly escape: string;
  readonly variables: Variables;
}

/** One word: quotes off, variables in. */
export function expandWord(text: string, options: WordOptions): string {
  return new Lexer(text, { ...options, keepsQuotes: false, depth: 0 }).all();
}

/** Several words, split at blanks. */
export function expandWords(text: string, options: WordOptions): readonly string[] {
  return new Lexer(text, { ...options, keepsQuotes: false, depth: 0 }).words();
}

/** Variables in, quotes kept: for the bodies of heredocs. */
export function expandText(text: string, options: WordOptions): string {
  // Quotes have no meaning there, so each line of text is taken apart at variables only.
  let result = "";
  let rest = text;
  for (;;) {
    const at = rest.search(/[$\\]/);
    if (at < 0) return result + rest;
    result += rest.slice(0, at);
    rest = rest.slice(at);
    const match = /^(?:\\[$\\]|\$\{(?:[^{}]|\$\{[^{}]*\})*\}|\$[A-Za-z_]\w*)/.exec(rest)?.[0];
    if (match === undefined) {
      result += rest.charAt(0);
      rest = rest.slice(1);
      continue;
    }
    result += match.startsWith("\\") ? match.slice(1) : expandWord(match, options);
    rest = rest.slice(match.length);
  }
}

/** Words split at blanks outside of quotes, nothing taken off or put in. */
export function splitWords(text: string, escape: string): readonly string[] {
  const words: string[] = [];
  let word = "";
  let quote = "";
  for (let at = 0; at < text.length; at++) {
    const char = text.charAt(at);
    if (char === escape && quote !== "'" && at + 1 < text.length) {
      word += char + text.charAt(++at);
    } else if (quote !== "") {
      word += char;
      if (char === quote) quote = "";
    } else if (/\s/.test(char)) {
      if (word !== "") words.push(word);
      word = "";
    } else {
      if (char === '"' || char === "'") quote = char;
      word += char;
    }
  }
  if (word !== "") words.push(word);
  return words;
}
