import assert from "node:assert/strict";
import { test } from "node:test";
import { ClusterError } from "../common/errors.ts";
import { textPattern } from "./text-pattern.ts";

function refuse(cause: unknown): ClusterError {
  return new ClusterError("invalid_argument", "want a regular expression", { cause });
}

const MATCHES: readonly (readonly [pattern: string, text: string, isMatch: boolean])[] = [
  ["web", "/my-web-1", true],
  ["^/?web$", "/web", true],
  ["^(web|db)$", "dbs", false],
  ["^(web-)+[0-9]{1,3}$", "web-web-12", true],
  ["^(web-)+[0-9]{1,3}$", "web-web-", false],
  ["a+b+c+d+", "aabbccdd", true],
  ["^x{3}$", "x".repeat(1000), false],
];

for (const [pattern, text, isMatch] of MATCHES) {
  test(`textPattern() ${pattern} ${isMatch ? "matches" : "does not match"} ${text.slice(0, 20)}`, () => {
    assert.equal(textPattern(pattern, refuse)(text), isMatch);
  });
}

test("textPattern() gives up where a pattern would never end", () => {
  const long = "w".repeat(64);
  for (const pattern of [
    "(.+)+!",
    "(w|w|w)*!",
    ".*.*.*.*.*.*.*.*.*.*!",
    `${"w?".repeat(40)}${"w".repeat(40)}!`,
  ]) {
    assert.throws(() => textPattern(pattern, refuse)(long), /takes too long/, pattern);
  }
});

test("textPattern() refuses what is no pattern", () => {
  assert.throws(() => textPattern("(", refuse), /want a regular expression/);
});
