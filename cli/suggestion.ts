/** What somebody who mistyped a command or a flag may have meant. Pure; loaded only when something was mistyped. */

/** Edits (insert, drop, replace, swap of neighbours) from one word to the other. */
function distance(from: string, to: string): number {
  let before: number[] = [];
  let row = Array.from({ length: to.length + 1 }, (_, column) => column);
  for (let line = 1; line <= from.length; line += 1) {
    const next = [line];
    for (let column = 1; column <= to.length; column += 1) {
      const isSame = from[line - 1] === to[column - 1];
      const isSwap =
        line > 1 && column > 1 && from[line - 1] === to[column - 2] && from[line - 2] === to[column - 1];
      next[column] = Math.min(
        (row[column] ?? 0) + 1,
        (next[column - 1] ?? 0) + 1,
        (row[column - 1] ?? 0) + (isSame ? 0 : 1),
        isSwap ? (before[column - 2] ?? 0) + 1 : Infinity,
      );
    }
    [before, row] = [row, next];
  }
  return row[to.length] ?? 0;
}

/** The known words nearest to `given`, at most three: a third of its letters may be wrong, or it is the beginning of one. */
export function nearest(given: string, known: readonly string[]): readonly string[] {
  const allowed = Math.max(1, Math.floor(given.length / 3));
  return known
    .map((word, at) => ({
      word,
      at,
      far: word.startsWith(given) && given.length > 1 ? 0 : distance(given, word),
    }))
    .filter(({ far }) => far <= allowed)
    .sort((one, other) => one.far - other.far || one.at - other.at)
    .slice(0, 3)
    .map(({ word }) => word);
}

/** A line to put behind an error, or "": `prefix` stands before each word. */
export function didYouMean(given: string, known: readonly string[], prefix = ""): string {
  const words = nearest(given, known).map((word) => `"${prefix}${word}"`);
  return words.length === 0 ? "" : `Did you mean ${words.join(" or ")}?\n`;
}
