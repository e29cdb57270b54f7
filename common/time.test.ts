/** Times as text: every unit gives the same nine digits, and what is printed is read back. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { parseRfc3339, rfc3339, rfc3339At, rfc3339OfMicros, rfc3339OfNanoseconds } from "./time.ts";

test("all units print one moment alike", () => {
  const text = "2026-11-21T15:04:05.678901000Z";
  const micros = Date.UTC(2026, 10, 21, 15, 4, 5) * 1000 + 678_901;
  assert.equal(rfc3339OfMicros(micros), text);
  assert.equal(rfc3339OfNanoseconds(BigInt(micros) * 1000n), text);
  assert.equal(rfc3339At(Math.floor(micros / 1e6), 678_901_000), text);
  assert.equal(rfc3339(Math.floor(micros / 1000)), "2026-11-21T15:04:05.678000000Z");
  assert.equal(rfc3339(Math.floor(micros / 1000) + 0.5), "2026-11-21T15:04:05.678500000Z");
  assert.equal(rfc3339(0), "1970-01-01T00:00:00.000000000Z");
});

test("rfc3339() is read back by parseRfc3339()", () => {
  for (const ms of [0, 999, 1000, Date.UTC(2026, 10, 21, 23, 59, 59, 999)]) {
    assert.equal(parseRfc3339(rfc3339(ms)), ms);
  }
});
