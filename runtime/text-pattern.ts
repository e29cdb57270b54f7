/**
 * Regular expressions that clients give as filters. Docker's take a time that grows with the text; here a bad one, like
 * "(.+)+x", could keep the process busy for years, so what may be slow is run under a limit of time.
 */
import { createContext, Script, type Context } from "node:vm";
import { ClusterError } from "../common/errors.ts";

/** Of one text against one pattern. */
const TIME_MAX_MS = 100;
/** Of one pattern against all texts of a list. */
const ALL_TIME_MAX_MS = 3_000;
/** Patterns with no more loops, on texts that are no longer, end soon whatever they are. */
const LOOP_COUNT_MAX = 2;
const BRANCH_COUNT_MAX = 8;
const TEXT_LENGTH_MAX = 256;

export type TextPattern = (text: string) => boolean;

function countOf(pattern: string, sign: RegExp): number {
  return pattern.match(sign)?.length ?? 0;
}

/** Few loops, none around a group. Signs inside of character classes count too, which costs only time. */
function isSoonOver(pattern: string): boolean {
  return (
    !/\)[*+{]/.test(pattern) &&
    countOf(pattern, /[*+{]/g) <= LOOP_COUNT_MAX &&
    countOf(pattern, /[?|]/g) <= BRANCH_COUNT_MAX
  );
}

const MATCH = new Script("pattern.test(text)");

/**
 * The test for `source`. Throws what `refuse` makes of it if it is no pattern; the test itself throws invalid_argument
 * for a text on which it takes too long.
 */
export function textPattern(source: string, refuse: (cause: unknown) => ClusterError): TextPattern {
  let pattern: RegExp;
  try {
    pattern = new RegExp(source);
  } catch (caught) {
    throw refuse(caught);
  }
  const isSoon = isSoonOver(source);
  let context: Context | undefined;
  let spentMs = 0;
  return (text) => {
    if (isSoon && text.length <= TEXT_LENGTH_MAX) return pattern.test(text);
    context ??= createContext({ pattern });
    context["text"] = text;
    const startedMs = performance.now();
    try {
      const timeout = Math.max(1, Math.min(TIME_MAX_MS, Math.floor(ALL_TIME_MAX_MS - spentMs)));
      const isMatch = MATCH.runInContext(context, { timeout }) === true;
      spentMs += performance.now() - startedMs;
      return isMatch;
    } catch (caught) {
      // Also what V8 has no memory for.
      throw new ClusterError(
        "invalid_argument",
        `Cannot match the pattern ${JSON.stringify(source)}: it takes too long`,
        { cause: caught },
      );
    }
  };
}
