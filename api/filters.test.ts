import assert from "node:assert/strict";
import { test } from "node:test";
import { exactMatches, labelsMatch, parseFilters, prefixMatches } from "./filters.ts";

test("parseFilters() reads maps of Go clients and lists of others alike", () => {
  const fromMap = parseFilters('{"name":{"web":true,"off":false},"label":{"a=b":true}}');
  const fromList = parseFilters('{"name":["web"],"label":["a=b"]}');
  assert.deepEqual([...fromMap], [...fromList]);
  assert.equal(parseFilters("").size, 0);
});

test("parseFilters() refuses what is neither", () => {
  for (const text of ["{", "[]", '{"name":"web"}', '{"name":[{}]}', "7"]) {
    assert.throws(() => parseFilters(text), { code: "invalid_argument", message: /^invalid filter/ });
  }
});

test("values of a key are or-ed, labels are and-ed", () => {
  const filters = parseFilters('{"name":["web","da"],"label":["a","b=2"]}');
  assert.ok(prefixMatches(filters, "name", "database"));
  assert.ok(!exactMatches(filters, "name", "database"));
  assert.ok(exactMatches(filters, "id", "anything"));
  assert.ok(labelsMatch(filters, "label", { a: "", b: "2" }));
  assert.ok(!labelsMatch(filters, "label", { a: "", b: "3" }));
  assert.ok(!labelsMatch(filters, "label", { a: "" }));
  assert.ok(!labelsMatch(parseFilters('{"label":["toString"]}'), "label", {}));
});
