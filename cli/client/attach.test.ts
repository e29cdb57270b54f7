/** Detach keys: parsing and recognition across chunks. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { DetachFilter, parseDetachKeys } from "./attach.ts";

test("parseDetachKeys() reads control keys and letters", () => {
  assert.deepEqual([...parseDetachKeys()], [16, 17]);
  assert.deepEqual([...parseDetachKeys("ctrl-a,b")], [1, 98]);
  assert.throws(() => parseDetachKeys("ctrl-"), /Invalid detach keys/);
});

test("DetachFilter finds the keys across chunks and lets all else through", () => {
  const filter = new DetachFilter(parseDetachKeys());
  assert.deepEqual(filter.push(Buffer.from("ab")), { data: Buffer.from("ab"), isDetached: false });
  assert.deepEqual(filter.push(Buffer.from([16])), { data: Buffer.alloc(0), isDetached: false });
  assert.deepEqual(filter.push(Buffer.from("x")), { data: Buffer.from([16, 120]), isDetached: false });
  filter.push(Buffer.from([16]));
  assert.deepEqual(filter.push(Buffer.from([17, 99])), { data: Buffer.alloc(0), isDetached: true });
});
