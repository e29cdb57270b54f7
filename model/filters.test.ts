import assert from "node:assert/strict";
import { test } from "node:test";
import { checkFilterKeys, filterFlag, hasLabel, labelsPass } from "./filters.ts";

test("checkFilterKeys() names the unknown key in Docker's words", () => {
  checkFilterKeys(new Map([["name", ["web"]]]), new Set(["name"]));
  assert.throws(() => checkFilterKeys(new Map([["nosuch", ["1"]]]), new Set(["name"])), {
    code: "invalid_argument",
    message: "invalid filter 'nosuch'",
  });
});

test("hasLabel() takes a key, or a key with its value", () => {
  const labels = { a: "", b: "2=3" };
  for (const wanted of ["a", "a=", "b", "b=2=3"]) assert.equal(hasLabel(labels, wanted), true, wanted);
  for (const wanted of ["c", "a=1", "b=2", ""]) assert.equal(hasLabel(labels, wanted), false, wanted);
});

test("hasLabel() finds no label that only objects of the language have", () => {
  for (const wanted of ["constructor", "toString", "__proto__"])
    assert.equal(hasLabel({}, wanted), false, wanted);
});

test("labelsPass() wants all of the labels and none of the unwanted", () => {
  const passes = (filters: Record<string, string[]>): boolean =>
    labelsPass(new Map(Object.entries(filters)), { a: "1", b: "2" });
  assert.equal(passes({}), true);
  assert.equal(passes({ label: ["a", "b=2"] }), true);
  assert.equal(passes({ label: ["a", "c"] }), false);
  assert.equal(passes({ "label!": ["c", "a=2"] }), true);
  assert.equal(passes({ "label!": ["c", "a"] }), false);
});

test("filterFlag() takes one truth and refuses two", () => {
  const flag = (...values: readonly string[]): boolean | undefined =>
    filterFlag(new Map([["dangling", values]]), "dangling");
  for (const word of ["1", "true", "True"]) assert.equal(flag(word), true, word);
  for (const word of ["0", "false", "FALSE"]) assert.equal(flag(word), false, word);
  assert.equal(flag(), undefined);
  assert.equal(filterFlag(new Map(), "dangling"), undefined);
  for (const bad of ["t", "yes", ""]) assert.throws(() => flag(bad), { code: "invalid_argument" }, bad);
  assert.throws(() => flag("x"), { code: "invalid_argument", message: "invalid filter 'dangling=[x]'" });
  assert.throws(() => flag("1", "0"), { message: "invalid filter 'dangling=[1 0]'" });
});
