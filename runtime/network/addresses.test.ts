/** Unit tests of addresses.ts. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ipv4Text } from "../../common/addresses.ts";
import { contains, formatBlock, macOf, overlaps, parseAddress, parseBlock } from "./addresses.ts";

test("parseBlock() clears the host bits and formatBlock() prints them back", () => {
  assert.equal(formatBlock(parseBlock("10.0.1.7/24")), "10.0.1.0/24");
  assert.equal(formatBlock(parseBlock("255.255.255.255/32")), "255.255.255.255/32");
  assert.equal(formatBlock(parseBlock("1.2.3.4/0")), "0.0.0.0/0");
});

test("parseAddress() round-trips the top half of the number range", () => {
  assert.equal(ipv4Text(parseAddress("240.1.2.3")), "240.1.2.3");
  assert.ok(parseAddress("240.1.2.3") > 0);
});

test("overlaps() is true for blocks inside one another, either way round", () => {
  assert.ok(overlaps(parseBlock("10.0.0.0/8"), parseBlock("10.1.2.0/24")));
  assert.ok(overlaps(parseBlock("10.1.2.0/24"), parseBlock("10.0.0.0/8")));
  assert.ok(!overlaps(parseBlock("10.0.0.0/24"), parseBlock("10.0.1.0/24")));
  assert.ok(overlaps(parseBlock("0.0.0.0/0"), parseBlock("200.0.1.0/24")));
});

test("contains() knows the edges of a block", () => {
  const block = parseBlock("192.168.4.0/22");
  assert.ok(contains(block, parseAddress("192.168.7.255")));
  assert.ok(!contains(block, parseAddress("192.168.8.0")));
});

test("macOf() follows from the address", () => {
  assert.equal(macOf("10.255.0.1"), "02:42:0a:ff:00:01");
});

test("parseBlock() names what it got", () => {
  for (const bad of ["10.0.0.0", "10.0.0.0/33", "10.0.0/24", "10.0.0.0/24/1", "10.0.0.0/-1"])
    assert.throws(() => parseBlock(bad), new RegExp(bad.replaceAll(".", "\\.")));
});
