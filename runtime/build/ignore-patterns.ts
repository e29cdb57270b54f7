/**
 * .dockerignore: patterns by Go's path rules with "**", the last one that matches wins, "!" takes back. A path is out too
 * when a folder above it is. Pure.
 */
import path from "node:path";
import { ClusterError } from "../../common/errors.ts";

interface Pattern {
  readonly expression: RegExp;
  readonly isNegated: boolean;
}

const PATTERNS_MAX = 10_000;

/** One pattern of Go's filepath.Match, with "**" for any number of folders, as a regular expression's source. */
export function globSource(glob: string): string {
  let source = "";
  for (let at = 0; at < glob.length; at++) {
    const char = glob.charAt(at);
    if (char === "*") {
      if (glob.charAt(at + 1) !== "*") {
        source += "[^/]*";
        continue;
      }
      at++;
      // "**/" also stands for no folder at all.
      if (glob.charAt(at + 1) === "/") {
        source += "(?:.*/)?";
        at++;
      } else source += ".*";
    } else if (char === "?") source += "[^/]";
    else if (char === "[") {
      const end = glob.indexOf("]", at + 2);
      if (end < 0) throw new ClusterError("invalid_argument", `syntax error in pattern "${glob}"`);
      const inner = glob.slice(at + 1, end);
      source += `[${inner.replace(/\\/g, "\\\\").replace(/^[!^]/, "^")}]`;
      at = end;
    } else if (char === "\\" && at + 1 < glob.length) source += escaped(glob.charAt(++at));
    else source += escaped(char);
  }
  return source;
}

function escaped(char: string): string {
  return /[.+^${}()|[\]\\*?]/.test(char) ? `\\${char}` : char;
}

export function globExpression(glob: string): RegExp {
  try {
    return new RegExp(`^${globSource(glob)}$`, "s");
  } catch (caught) {
    if (caught instanceof ClusterError) throw caught;
    throw new ClusterError("invalid_argument", `syntax error in pattern "${glob}"`, { cause: caught });
  }
}

/** Lines of the file as patterns; comments and empty lines left out. */
export function readIgnoreFile(text: string): readonly string[] {
  const lines = text.replace(/^\uFEFF/, "").split(/\r?\n/);
  if (lines.length > PATTERNS_MAX) {
    throw new ClusterError("invalid_argument", `.dockerignore must have at most ${PATTERNS_MAX} lines`);
  }
  return lines.map((line) => line.trim()).filter((line) => line !== "" && !line.startsWith("#"));
}

function compile(line: string): Pattern | undefined {
  const isNegated = line.startsWith("!");
  const text = (isNegated ? line.slice(1) : line).trim();
  const clean = path.posix.normalize(text).replace(/^\/+/, "").replace(/\/+$/, "");
  if (clean === "" || clean === ".") return undefined;
  return { expression: globExpression(clean), isNegated };
}

export class IgnorePatterns {
  readonly #patterns: readonly Pattern[];

  constructor(lines: readonly string[]) {
    this.#patterns = lines.map(compile).filter((each) => each !== undefined);
  }

  get isEmpty(): boolean {
    return this.#patterns.length === 0;
  }

  /** `name`: relative, without a slash in front. */
  ignores(name: string): boolean {
    const parts = name.split("/");
    const names = parts.map((_, index) => parts.slice(0, index + 1).join("/"));
    let isIgnored = false;
    for (const { expression, isNegated } of this.#patterns) {
      if (isIgnored === isNegated && names.some((each) => expression.test(each))) isIgnored = !isNegated;
    }
    return isIgnored;
  }
}
