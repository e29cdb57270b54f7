import assert from "node:assert/strict";
import { test } from "node:test";
import { ipv4Number, ipv6Number, ipv6Text, isInBlock, withoutMask } from "./addresses.ts";

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

test("ipv4Number() takes four decimal octets and nothing else", () => {
  assert.equal(ipv4Number("192.168.0.1"), 0xc0a80001);
  for (const bad of ["", "1.2.3", "1.2.3.4.5", "256.1.1.1", "01.2.3.4", "1.2.3.4 ", "a.b.c.d", "::1"])
    assert.equal(ipv4Number(bad), undefined, bad);
});

for (const [text, shown] of [
  ["::", "::"],
  ["::1", "::1"],
  ["fd00::", "fd00::"],
  ["FD00:0:0:1:0:0:0:2", "fd00:0:0:1::2"],
  ["2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"],
  ["1:0:0:2:0:0:0:3", "1:0:0:2::3"],
  ["::ffff:192.0.2.1", "::ffff:c000:201"],
  ["64:ff9b::255.0.0.1", "64:ff9b::ff00:1"],
  ["1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:0"],
] as const) {
  test(`ipv6Text() shows ${text} as ${shown}`, () => {
    const value = ipv6Number(text);
    assert.ok(value !== undefined);
    assert.equal(ipv6Text(value), shown);
  });
}

test("ipv6Number() refuses what is no address, and one with a zone", () => {
  for (const bad of ["", "1.2.3.4", "fe80::1%eth0", "1:2", "g::", "::1::", "::ffff:1.2.3.256"])
    assert.equal(ipv6Number(bad), undefined, bad);
});
