/** Unit tests of netlink-wire.ts: what is built can be taken apart, and torn bytes do no harm. */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  attribute,
  decodeAttributes,
  decodeReplies,
  encodeRequest,
  nested,
  numberOf,
  text,
  textOf,
  u32,
} from "./netlink-wire.ts";

test("attribute() pads to four bytes and decodeAttributes() finds each", () => {
  const bytes = Buffer.concat([text(3, "eth0"), u32(4, 1450), attribute(5, Buffer.from([1, 2, 3]))]);
  assert.equal(bytes.length % 4, 0);
  const attributes = decodeAttributes(bytes);
  assert.equal(textOf(attributes.get(3)), "eth0");
  assert.equal(numberOf(attributes.get(4)), 1450);
  assert.deepEqual([...(attributes.get(5) ?? [])], [1, 2, 3]);
});

test("nested() sets the flag that decodeAttributes() takes off", () => {
  const attributes = decodeAttributes(nested(18, u32(1, 7)));
  assert.equal(numberOf(decodeAttributes(attributes.get(18) ?? Buffer.alloc(0)).get(1)), 7);
});

test("decodeReplies() takes several messages of one datagram and stops at a torn one", () => {
  const request = { type: 16, flags: 0, body: u32(1, 42), action: "test" };
  const datagram = Buffer.concat([encodeRequest(request, 1, 0), encodeRequest(request, 2, 0)]);
  assert.deepEqual(
    decodeReplies(datagram).map((reply) => reply.sequence),
    [1, 2],
  );
  assert.equal(decodeReplies(datagram.subarray(0, datagram.length - 1)).length, 1);
  assert.equal(decodeReplies(Buffer.alloc(3)).length, 0);
});

test("decodeAttributes() ends at an attribute that claims more than there is", () => {
  const bytes = u32(1, 1);
  bytes.writeUInt16LE(400, 0);
  assert.equal(decodeAttributes(bytes).size, 0);
});
