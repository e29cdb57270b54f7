import assert from "node:assert/strict";
import { test } from "node:test";
import { parseUntil, untilOf } from "./until-filter.ts";

test("parseUntil() reads durations, dates and unix seconds", () => {
  assert.equal(parseUntil("1h30m", 10_000_000), 10_000_000 - 5_400_000);
  assert.equal(parseUntil("1.5h", 10_000_000), 10_000_000 - 5_400_000);
  assert.equal(parseUntil("250ms", 1000), 750);
  assert.equal(parseUntil("1700000000", 0), 1_700_000_000_000);
  assert.equal(parseUntil("2026-01-01T00:00:00Z", 0), Date.parse("2026-01-01T00:00:00Z"));
  assert.equal(parseUntil("2026-01-01", 0), new Date(2026, 0, 1).getTime());
  assert.throws(() => parseUntil("soon", 0), /invalid filter 'until=\[soon\]': want a duration/);
});

test("untilOf() takes one moment", () => {
  assert.equal(untilOf(new Map(), 0), Number.POSITIVE_INFINITY);
  assert.equal(untilOf(new Map([["until", ["1s"]]]), 3000), 2000);
  assert.throws(() => untilOf(new Map([["until", ["1s", "2s"]]]), 0), /more than one until filter specified/);
});
