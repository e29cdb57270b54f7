import assert from "node:assert/strict";
import { test } from "node:test";
import { withoutMask } from "./addresses.ts";

test("withoutMask cuts the prefix length off, of both families", () => {
  assert.equal(withoutMask("10.0.1.7/24"), "10.0.1.7");
  assert.equal(withoutMask("fd00::7/64"), "fd00::7");
});

test("withoutMask leaves an address without one, and none at all, as they are", () => {
  assert.equal(withoutMask("10.0.1.7"), "10.0.1.7");
  assert.equal(withoutMask(""), "");
});
