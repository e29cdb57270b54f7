import assert from "node:assert/strict";
import { test } from "node:test";
import { acceptKey, encodeFrame, FrameDecoder } from "./websocket.ts";

function masked(opcode: number, text: string): Buffer {
  const payload = Buffer.from(text, "utf8");
  const mask = Buffer.from([1, 2, 3, 4]);
  const head = Buffer.from([0x80 | opcode, 0x80 | payload.byteLength]);
  return Buffer.concat([head, mask, payload.map((byte, index) => byte ^ (mask[index % 4] ?? 0))]);
}

test("acceptKey() gives the answer of RFC 6455's example", () => {
  assert.equal(acceptKey("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
});

test("FrameDecoder puts messages together from any pieces", () => {
  const decoder = new FrameDecoder();
  const bytes = Buffer.concat([masked(1, "hello"), masked(9, "")]);
  const messages = [...bytes].flatMap((byte) => decoder.push(Buffer.from([byte])));
  assert.deepEqual(
    messages.map(({ opcode, payload }) => [opcode, payload.toString()]),
    [
      [1, "hello"],
      [9, ""],
    ],
  );
});

test("FrameDecoder refuses unmasked and oversized frames", () => {
  assert.throws(() => new FrameDecoder().push(encodeFrame(1, Buffer.from("x"))), { status: 1002 });
  const huge = Buffer.from([0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
  assert.throws(() => new FrameDecoder().push(huge), { status: 1009 });
});

test("encodeFrame() chooses the three forms of length", () => {
  assert.equal(encodeFrame(2, Buffer.alloc(125)).byteLength, 127);
  assert.equal(encodeFrame(2, Buffer.alloc(126)).byteLength, 130);
  assert.equal(encodeFrame(2, Buffer.alloc(65_536)).byteLength, 65_546);
});
