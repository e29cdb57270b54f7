import assert from "node:assert/strict";
import { test } from "node:test";
import { hasCode } from "../../common/errors.ts";
import { ignoreRules, isIgnored } from "./build.ts";

test("isIgnored() goes by the last pattern that names the path or a folder above", () => {
  const lines = [
    "# note",
    "*.log",
    "  d/ ",
    "",
    "!keep.log",
    "!d/in",
    "**/tmp",
    "/rooted",
    "x[0-9]",
    "y[!0-9]",
    "a\\*b",
  ];
  const rules = ignoreRules(lines.join("\n"));
  const names = ["a.log", "s/a.log", "keep.log", "d", "d/out", "d/in", "d/in/deep", "tmp", "s/t/tmp/x"];
  assert.deepEqual(
    names.filter((name) => isIgnored(rules, name)),
    ["a.log", "d", "d/out", "tmp", "s/t/tmp/x"],
  );
  const others = ["rooted", "s/rooted", "x5", "xa", "y5", "ya", "a*b", "axb", "d.log", "note"];
  assert.deepEqual(
    others.filter((name) => isIgnored(rules, name)),
    ["rooted", "x5", "ya", "a*b", "d.log"],
  );
});

test("ignoreRules() names the line that is no pattern", () => {
  for (const line of ["[z-a]", "x[0-9", "![a"]) {
    assert.throws(
      () => ignoreRules(`*.log\r\n\n${line}\n`),
      (error) =>
        hasCode(error, "invalid_argument") &&
        error.message === `Cannot read .dockerignore: line 3 must be a pattern of file names, got "${line}"`,
    );
  }
});
