import assert from "node:assert/strict";
import { test } from "node:test";
import { isObject } from "./json.ts";

test("isObject is true of maps, and of nothing else that JSON has", () => {
  for (const each of [{}, { key: 1 }, Object.create(null)]) assert.ok(isObject(each));
  for (const each of [null, undefined, [], [{}], "text", 0, true]) assert.ok(!isObject(each));
});
