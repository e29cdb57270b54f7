import assert from "node:assert/strict";
import { test } from "node:test";
import { MESSAGE_BYTES_MAX } from "./limits.ts";
import { frameMessage, MessageReader } from "./session-rpc.ts";

test("MessageReader.push() takes messages out of pieces of any size", () => {
  const sent = ["", "one", "x".repeat(300), ""];
  const bytes = Buffer.concat(sent.map((each) => frameMessage(Buffer.from(each))));
  for (const pieceBytes of [1, 4, 7, bytes.byteLength]) {
    const reader = new MessageReader();
    const got: string[] = [];
    for (let at = 0; at < bytes.byteLength; at += pieceBytes)
      got.push(...reader.push(bytes.subarray(at, at + pieceBytes)).map(String));
    reader.end();
    assert.deepEqual(got, sent);
  }
});

test("MessageReader.push() refuses what is too large or compressed, before it has come", () => {
  const head = (flag: number, length: number): Buffer => {
    const bytes = Buffer.alloc(5);
    bytes.writeUInt8(flag, 0);
    bytes.writeUInt32BE(length, 1);
    return bytes;
  };
  assert.throws(() => new MessageReader().push(head(0, MESSAGE_BYTES_MAX + 1)), {
    code: "invalid_argument",
    message: /want at most \d+ bytes, got \d+$/,
  });
  assert.throws(() => new MessageReader().push(head(1, 1)), { code: "unimplemented" });
});

test("MessageReader.end() throws within a message", () => {
  const reader = new MessageReader();
  reader.push(frameMessage(Buffer.from("cut")).subarray(0, 6));
  assert.throws(() => reader.end(), { code: "unavailable" });
});
