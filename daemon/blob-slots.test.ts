import assert from "node:assert/strict";
import { test } from "node:test";
import { hasCode } from "../common/errors.ts";
import { BlobSlots, SERVED_COUNT_MAX, SERVED_TO_ONE_COUNT_MAX } from "./blob-slots.ts";

function isBusy(error: unknown): boolean {
  return hasCode(error, "resource_exhausted");
}

test("BlobSlots bounds what is served in all and to one node, and gives each slot back once", () => {
  const slots = new BlobSlots();
  const own = Array.from({ length: SERVED_TO_ONE_COUNT_MAX }, () => slots.take("a"));
  assert.throws(() => slots.take("a"), isBusy);
  own[0]?.();
  own[0]?.();
  own[0] = slots.take("a");
  assert.throws(() => slots.take("a"), isBusy, "giving back twice gives one");
  const others = Array.from({ length: SERVED_COUNT_MAX - own.length }, (_each, index) =>
    slots.take(`n${index}`),
  );
  assert.throws(() => slots.take("b"), isBusy);
  for (const release of [...own, ...others]) release();
  assert.equal(
    Array.from({ length: SERVED_COUNT_MAX }, (_each, index) => slots.take(`m${index}`)).length,
    32,
  );
});
