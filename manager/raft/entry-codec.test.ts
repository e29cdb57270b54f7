/** Entries as bytes: encoded once, and read back as they were. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { type Entry, EntryKind } from "./core/messages.ts";
import { decodeEntries, encodeEntries, EntryEncoder } from "./entry-codec.ts";

function run(first: number, count: number): readonly Entry[] {
  return Array.from({ length: count }, (_, at) => ({
    index: first + at,
    term: 2 ** 40,
    kind: EntryKind.normal,
    payload: Buffer.alloc(at, first),
  }));
}

test("EntryEncoder gives the bytes that entries were read from, and encodes other runs of them anew", () => {
  const bytes = encodeEntries(run(7, 4));
  const read = decodeEntries(bytes);
  const encoder = new EntryEncoder();
  encoder.remember(read, bytes);
  assert.equal(encoder.encode([...read]), bytes);
  const tail = read.slice(1);
  assert.deepEqual(decodeEntries(encoder.encode(tail)), tail);
  const joined = [...read, ...run(11, 1)];
  assert.deepEqual(decodeEntries(encoder.encode(joined)), joined);
});

test("EntryEncoder encodes a run once for the disk and all peers", () => {
  const encoder = new EntryEncoder();
  const entries = run(1, 3);
  assert.equal(encoder.encode(entries), encoder.encode(entries.slice()));
});
