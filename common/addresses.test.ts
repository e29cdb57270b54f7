import assert from "node:assert/strict";
import { test } from "node:test";
import { isInBlock, withoutMask } from "./addresses.ts";

test("withoutMask cuts the prefix length off, of both families", () => {
  assert.equal(withoutMask("10.0.1.7/24"), "10.0.1.7");
  assert.equal(withoutMask("fd00::7/64"), "fd00::7");
});

test("withoutMask leaves an address without one, and none at all, as they are", () => {
  assert.equal(withoutMask("10.0.1.7"), "10.0.1.7");
  assert.equal(withoutMask(""), "");
});

test("isInBlock knows the addresses of a block, and nothing that is none", () => {
  for (const [address, block] of [
    ["10.0.1.7", "10.0.1.0/24"],
    ["10.0.1.7", "0.0.0.0/0"],
    ["fd00::7", "fd00::/64"],
  ] as const)
    assert.equal(isInBlock(address, block), true, `${address} in ${block}`);
  for (const [address, block] of [
    ["10.0.2.7", "10.0.1.0/24"],
    ["10.0.1.7 }; flush ruleset", "10.0.1.0/24"],
    ["10.0.1.7", "10.0.1.0"],
    ["10.0.1.7", "10.0.1.0/33"],
    ["10.0.1.7", "10.0.1.0/-1"],
    ["10.0.1.7", "fd00::/64"],
    ["", "10.0.1.0/24"],
    ["10.0.1.7", ""],
  ] as const)
    assert.equal(isInBlock(address, block), false, `${address} in ${block}`);
});
