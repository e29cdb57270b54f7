/** Checks that stay on in production: a broken invariant ends the process rather than spreading. */

class AssertionError extends Error {
  override readonly name = "AssertionError";
}

/** Throws unless `condition` holds. `claim` says what must be true: `assert(index > last, "index never moves back")`. */
export function assert(condition: unknown, claim: string): asserts condition {
  if (condition !== true && !condition) throw new AssertionError(`Broken invariant: ${claim}`);
}

/** For the end of an exhaustive switch: fails to compile when a case is missing, throws if reached. */
export function unreachable(value: never): never {
  throw new AssertionError(`Broken invariant: no such case: ${JSON.stringify(value)}`);
}

/** The value, which must be there. */
export function must<T>(value: T | null | undefined, claim: string): T {
  if (value === null || value === undefined) throw new AssertionError(`Broken invariant: ${claim}`);
  return value;
}
