import assert from "node:assert/strict";
import { test } from "node:test";
import { IgnorePatterns, readIgnoreFile } from "./ignore-patterns.ts";

test("IgnorePatterns.ignores() goes by the last pattern that names the path or a folder above", () => {
  const patterns = new IgnorePatterns(
    readIgnoreFile("\uFEFF# note\n*.log\r\n  d/ \n\n!keep.log\n!d/in\n**/tmp\n/rooted\nx[0-9]\na\\*b\n"),
  );
  const names = ["a.log", "s/a.log", "keep.log", "d", "d/out", "d/in", "d/in/deep", "tmp", "s/t/tmp/x"];
  assert.deepEqual(
    names.filter((name) => patterns.ignores(name)),
    ["a.log", "d", "d/out", "tmp", "s/t/tmp/x"],
  );
  const others = ["rooted", "s/rooted", "x5", "xa", "a*b", "axb", "d.log", "note"];
  assert.deepEqual(
    others.filter((name) => patterns.ignores(name)),
    ["rooted", "x5", "a*b", "d.log"],
  );
  assert.throws(() => new IgnorePatterns(["a["]), { code: "invalid_argument" });
});
