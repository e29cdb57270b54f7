import assert from "node:assert/strict";
import { test } from "node:test";
import {
  addressBytes6,
  bytesToAddress6,
  contains6,
  formatBlock6,
  overlaps6,
  parseAddress6,
  parseBlock6,
  tryParseAddress6,
} from "./addresses6.ts";

test("addressBytes6() is undone by bytesToAddress6()", () => {
  for (const text of ["::", "::1", "fd00::", "2001:db8:0:1:1:1:1:1"])
    assert.equal(bytesToAddress6(addressBytes6(text)), text);
});

for (const text of ["", "1.2.3.4", "::ffff:1.2.3.4", "fe80::1%eth0", "1:2", "g::", "::1::"]) {
  test(`tryParseAddress6() refuses "${text}"`, () => assert.equal(tryParseAddress6(text), undefined));
}

test("parseBlock6() drops host bits and knows what it contains", () => {
  const block = parseBlock6("fd00:1::7/64");
  assert.equal(formatBlock6(block), "fd00:1::/64");
  assert.ok(contains6(block, parseAddress6("fd00:1::ffff:1")));
  assert.ok(!contains6(block, parseAddress6("fd00:1:0:1::1")));
  assert.ok(overlaps6(block, parseBlock6("fd00::/16")));
  assert.ok(!overlaps6(block, parseBlock6("fd00:2::/64")));
  assert.ok(overlaps6(parseBlock6("::/0"), block));
  for (const bad of ["fd00::", "fd00::/129", "fd00::/x", "10.0.0.0/8", "fd00::/64/1"])
    assert.throws(() => parseBlock6(bad), { code: "invalid_argument" }, bad);
});
