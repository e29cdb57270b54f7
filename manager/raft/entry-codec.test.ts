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

test("EntryEncoder.own() copies what is a small part of a buffer, and leaves what fills one", () => {
  const encoder = new EntryEncoder();
  const large = Buffer.alloc(1_000_000, "large");
  const parts = [1, 700, 40_000, 700, 40_000].map((bytes, at) => large.subarray(at, at + bytes));
  const own = parts.map((part) => encoder.own(part));
  for (const [at, part] of parts.entries())
    assert.ok(part.equals(own[at] ?? large), `${part.byteLength} bytes`);
  const held = new Set(own.map((each) => each.buffer));
  const sizes = [...held].map((each) => each.byteLength).toSorted((a, b) => a - b);
  assert.deepEqual(sizes, [40_000, 40_000, 65_536]);
  assert.equal(encoder.own(large).buffer, large.buffer);
});
