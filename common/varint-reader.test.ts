import assert from "node:assert/strict";
import { test } from "node:test";
import { VarintReader } from "./varint-reader.ts";

test("VarintReader reads numbers of one to ten bytes, byte strings behind their length, and skips", () => {
  const reader = new VarintReader(
    Buffer.from([0x7f, 0xac, 0x02, 2, 0x68, 0x69, 9, ...Array.from({ length: 9 }, () => 0xff), 0x01]),
  );
  assert.equal(reader.varint(), 127);
  assert.equal(reader.varint(), 300);
  assert.equal(reader.byteString().toString(), "hi");
  reader.skip(1);
  assert.equal(reader.isAtEnd, false);
  assert.equal(reader.bigVarint(), 2n ** 64n - 1n);
  assert.equal(reader.isAtEnd, true);
});

test("VarintReader throws a RangeError where the bytes end within a number", () => {
  assert.throws(() => new VarintReader(Buffer.from([0x80])).varint(), RangeError);
  assert.throws(() => new VarintReader(Buffer.from([0x80])).bigVarint(), RangeError);
});
