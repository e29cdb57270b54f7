import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { pathGlob, shellGlob } from "./glob.ts";

/** The same by regular expressions, which are fine for short texts. */
function pathExpression(pattern: string): RegExp {
  const source = pattern.replace(/\*\*\/|\*\*|\*|\?|[^]/g, (part) => {
    if (part === "**/") return "(?:[^]*/)?";
    if (part === "**") return "[^]*";
    if (part === "*") return "[^/]*";
    return part === "?" ? "[^/]" : part.replace(/[.\\]/g, "\\$&");
  });
  return new RegExp(`^${source}$`);
}

const shortText = (alphabet: string): fc.Arbitrary<string> =>
  fc.array(fc.constantFrom(...alphabet.split("")), { maxLength: 8 }).map((chars) => chars.join(""));

test("Glob.test() matches what a regular expression of the pattern matches", () => {
  fc.assert(
    fc.property(shortText("ab/*?."), shortText("ab/."), (pattern, text) => {
      assert.equal(pathGlob(pattern).test(text), pathExpression(pattern).test(text), `${pattern} ${text}`);
    }),
    { numRuns: 2000 },
  );
});

test("Glob.ends() names every beginning that matches", () => {
  fc.assert(
    fc.property(shortText("ab*?"), shortText("ab"), (pattern, text) => {
      const source = pattern.replace(/[*?]/g, (char) => (char === "*" ? "[^]*" : "[^]"));
      const expected = Array.from({ length: text.length + 1 }, (_, length) => length).filter((length) =>
        new RegExp(`^${source}$`).test(text.slice(0, length)),
      );
      assert.deepEqual(shellGlob(pattern).ends(text), expected);
    }),
  );
});

test("pathGlob() reads classes and escapes, and refuses what is no pattern", () => {
  assert.equal(pathGlob("x[0-9]").test("x5"), true);
  assert.equal(pathGlob("x[^0-9]").test("x5"), false);
  assert.equal(pathGlob("x[!a]").test("xb"), true);
  assert.equal(pathGlob("a\\*b").test("a*b"), true);
  assert.equal(pathGlob("a\\*b").test("axb"), false);
  assert.equal(pathGlob("[]a]").test("]"), true);
  for (const bad of ["a[", "[z-a]"]) assert.throws(() => pathGlob(bad), { code: "invalid_argument" });
});

test("patterns made to take for ever take no time", () => {
  const pattern = `${"*a".repeat(50)}b`;
  assert.equal(pathGlob(pattern).test("a".repeat(2000)), false);
  assert.deepEqual(shellGlob(pattern).ends("a".repeat(2000)), []);
});
