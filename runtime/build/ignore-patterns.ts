/**
 * .dockerignore: patterns by Go's path rules with "**", the last one that matches wins, "!" takes back. A path is out too
 * when a folder above it is. Pure.
 */
import path from "node:path";
import { ClusterError } from "../../common/errors.ts";
import { type Glob, pathGlob } from "./glob.ts";

interface Pattern {
  readonly glob: Glob;
  readonly isNegated: boolean;
}

export const IGNORE_FILE = ".dockerignore";
const PATTERNS_MAX = 10_000;

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
  return { glob: pathGlob(clean), isNegated };
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
    for (const { glob, isNegated } of this.#patterns) {
      if (isIgnored === isNegated && names.some((each) => glob.test(each))) isIgnored = !isNegated;
    }
    return isIgnored;
  }
}
