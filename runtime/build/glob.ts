/**
 * Patterns with `*` and `?`, matched by following all possibilities at once: time grows with pattern times text and no
 * faster, whatever somebody writes into a Dockerfile. (Regular expressions go back and try again, for ever if they are
 * made for it.) Pure.
 */
import { ClusterError } from "../../common/errors.ts";

/** One place of a pattern. `loops`: stays on such characters; `skips`: may be left out, with so many places after it. */
interface Place {
  readonly takes: (char: string) => boolean;
  readonly loops?: boolean;
  readonly skips?: number;
  /** For two stars and a slash: the next place comes after a slash only. */
  readonly endsAtSlash?: boolean;
}

const ANY = (): boolean => true;
const NO_SLASH = (char: string): boolean => char !== "/";

export class Glob {
  readonly #places: readonly Place[];

  constructor(places: readonly Place[]) {
    this.#places = places;
  }

  test(text: string): boolean {
    return this.ends(text).includes(text.length);
  }

  /** Lengths of all beginnings of `text.slice(from)` that match, shortest first. */
  ends(text: string, from = 0): readonly number[] {
    const ends: number[] = [];
    let active = this.#closed([0]);
    for (let at = from; active.length > 0; at++) {
      if (active.includes(this.#places.length)) ends.push(at - from);
      if (at >= text.length) break;
      const char = text.charAt(at);
      active = this.#closed(active.flatMap((index) => this.#after(index, char)));
    }
    return ends;
  }

  #after(index: number, char: string): readonly number[] {
    const place = this.#places[index];
    if (place === undefined || !place.takes(char)) return [];
    if (place.endsAtSlash === true) return char === "/" ? [index, index + 1] : [index];
    return [place.loops === true ? index : index + 1];
  }

  /** With the places that can be reached without a character, each once. */
  #closed(indexes: readonly number[]): readonly number[] {
    const reached = new Set(indexes);
    // The set grows while it is gone through.
    for (const index of reached) {
      const place = this.#places[index];
      if (place?.loops === true) reached.add(index + 1);
      if (place?.skips !== undefined) reached.add(index + place.skips).add(index + 1);
    }
    return [...reached];
  }

  /** The pattern of texts read from their end. Only for shell patterns. */
  reversed(): Glob {
    return new Glob(this.#places.toReversed());
  }
}

function literal(char: string): Place {
  return { takes: (other) => other === char };
}

/** A shell's pattern: `*` is any characters, `?` any one. */
export function shellGlob(pattern: string): Glob {
  return new Glob(
    pattern.split("").map((char) => {
      if (char === "*") return { takes: ANY, loops: true };
      return char === "?" ? { takes: ANY } : literal(char);
    }),
  );
}

function syntaxError(pattern: string): ClusterError {
  return new ClusterError("invalid_argument", `syntax error in pattern "${pattern}"`);
}

function characterClass(pattern: string, inner: string): Place {
  const source = `^[${inner.replace(/[\\\][]/g, "\\$&").replace(/^[!^]/, "^")}]$`;
  try {
    const expression = new RegExp(source, "s");
    return { takes: (char) => expression.test(char) };
  } catch {
    throw syntaxError(pattern);
  }
}

/** Go's filepath.Match with `**` for any number of folders. Throws invalid_argument for what is no pattern. */
export function pathGlob(pattern: string): Glob {
  const places: Place[] = [];
  for (let at = 0; at < pattern.length; at++) {
    const char = pattern.charAt(at);
    if (pattern.startsWith("**/", at)) {
      // Also stands for no folder at all.
      places.push({ takes: () => false, skips: 2 }, { takes: ANY, endsAtSlash: true });
      at += 2;
    } else if (pattern.startsWith("**", at)) {
      places.push({ takes: ANY, loops: true });
      at += 1;
    } else if (char === "*") places.push({ takes: NO_SLASH, loops: true });
    else if (char === "?") places.push({ takes: NO_SLASH });
    else if (char === "[") {
      const end = pattern.indexOf("]", at + 2);
      if (end < 0) throw syntaxError(pattern);
      places.push(characterClass(pattern, pattern.slice(at + 1, end)));
      at = end;
    } else if (char === "\\" && at + 1 < pattern.length) places.push(literal(pattern.charAt(++at)));
    else places.push(literal(char));
  }
  return new Glob(places);
}
