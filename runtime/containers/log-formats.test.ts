import assert from "node:assert/strict";
import { test } from "node:test";
import { LOCAL_FORMAT } from "./log-formats.ts";

/** A record of the `local` driver: its length, the message, its length again. */
function record(message: Buffer): Buffer {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(message.length);
  return Buffer.concat([length, message, length]);
}

function message(time: readonly number[], line: string): Buffer {
  return Buffer.concat([
    Buffer.from([0x0a, 6]),
    Buffer.from("stdout"),
    Buffer.from([0x10, ...time]),
    Buffer.from([0x1a, line.length]),
    Buffer.from(line),
  ]);
}

/** Varint of 1_700_000_000_000_000_001. */
const NANOSECONDS = [0x81, 0x80, 0xa8, 0xb1, 0xe3, 0x9f, 0xe7, 0xcb, 0x17];

test("LOCAL_FORMAT.take() reads lines to the nanosecond, and passes over a record that is damaged inside", () => {
  const whole = record(message(NANOSECONDS, "hello\n"));
  // The last number has no last byte.
  const damaged = record(Buffer.from([0x10, 0x81]));
  const { lines, used } = LOCAL_FORMAT.take(Buffer.concat([damaged, whole, whole.subarray(0, 9)]));
  assert.equal(used, damaged.length + whole.length);
  assert.deepEqual(lines, [
    { stream: "stdout", timestamp: "2023-11-14T22:13:20.000000001Z", data: Buffer.from("hello\n") },
  ]);
});
