import assert from "node:assert/strict";
import { test } from "node:test";
import { didYouMean, nearest } from "./suggestion.ts";

test("nearest() finds slips of a letter, swapped neighbours and beginnings, nearest first, and nothing far away", () => {
  const verbs = ["create", "update", "scale", "ls", "ps", "logs", "inspect", "rollback", "rm"];
  assert.deepEqual(nearest("creat", verbs), ["create"]);
  assert.deepEqual(nearest("updaet", verbs), ["update"]);
  assert.deepEqual(nearest("lst", verbs), ["ls"]);
  assert.deepEqual(nearest("ins", verbs), ["inspect"]);
  assert.deepEqual(nearest("deploy", verbs), []);
  assert.deepEqual(nearest("x", verbs), []);
});

test("didYouMean() is a line, or nothing", () => {
  assert.equal(didYouMean("frmat", ["filter", "format"], "--"), 'Did you mean "--format"?\n');
  assert.equal(didYouMean("zzz", ["filter"]), "");
});
