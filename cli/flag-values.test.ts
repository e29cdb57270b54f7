import assert from "node:assert/strict";
import { test } from "node:test";
import { mergeFilters, parseFilters } from "./flag-values.ts";

test("parseFilters() and mergeFilters() collect the values of each key, whatever it is called", () => {
  const given = parseFilters(["Name=web", "label=a=b", "label=c", "constructor=x"]);
  assert.deepEqual(given, { name: ["web"], label: ["a=b", "c"], constructor: ["x"] });
  const proto = parseFilters(["__proto__=y"]);
  assert.deepEqual(Object.entries(proto), [["__proto__", ["y"]]]);
  assert.deepEqual(mergeFilters(given, { label: ["d"], toString: ["z"] }), {
    name: ["web"],
    label: ["a=b", "c", "d"],
    constructor: ["x"],
    toString: ["z"],
  });
  assert.throws(() => parseFilters(["=x"]), /--filter: expected key=value, got "=x"/);
});
