import assert from "node:assert/strict";
import { test } from "node:test";
import { DetachScanner, parseDetachKeys } from "./detach-keys.ts";

test("parseDetachKeys() reads control keys and letters", () => {
  assert.deepEqual([...parseDetachKeys()], [16, 17]);
  assert.deepEqual([...parseDetachKeys("")], [16, 17]);
  assert.deepEqual([...parseDetachKeys("ctrl-a,b,ctrl-@,CTRL-_")], [1, 98, 0, 31]);
  assert.throws(() => parseDetachKeys("ctrl-"), /Invalid detach keys/);
  assert.throws(
    () => parseDetachKeys("ctrl-p,nonsense"),
    /Invalid detach keys \(ctrl-p,nonsense\) provided.*"nonsense"/,
  );
});

test("DetachScanner.scan() finds the keys across writes and passes on what only began like them", () => {
  const scanner = new DetachScanner(parseDetachKeys("ctrl-p,ctrl-q"));
  assert.deepEqual(scanner.scan(Buffer.from([1, 16])), { pass: Uint8Array.from([1]), isDetached: false });
  assert.deepEqual(scanner.scan(Buffer.from([2])), { pass: Uint8Array.from([16, 2]), isDetached: false });
  assert.equal(scanner.scan(Buffer.from([16])).isDetached, false);
  assert.equal(scanner.scan(Buffer.from([17])).isDetached, true);
});

test("DetachScanner.scan() passes on all before the keys and nothing after them", () => {
  const scanner = new DetachScanner(parseDetachKeys());
  assert.deepEqual(scanner.scan(Buffer.from("ab")), { pass: Uint8Array.from([97, 98]), isDetached: false });
  assert.deepEqual(scanner.scan(Buffer.from([16])), { pass: new Uint8Array(), isDetached: false });
  assert.deepEqual(scanner.scan(Buffer.from("x")), { pass: Uint8Array.from([16, 120]), isDetached: false });
  scanner.scan(Buffer.from([16]));
  assert.deepEqual(scanner.scan(Buffer.from([17, 99])), { pass: new Uint8Array(), isDetached: true });
});
