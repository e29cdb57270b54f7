import assert from "node:assert/strict";
import { test } from "node:test";
import { keptBytes } from "./build-cache.ts";

test("keptBytes() keeps what is reserved, and beyond it no more than the disk and the bound allow", () => {
  const filters = new Map();
  assert.equal(keptBytes(100, 50, { filters }), 0);
  assert.equal(keptBytes(100, 50, { filters, reservedBytes: 30 }), 30);
  assert.equal(keptBytes(100, 50, { filters, maxUsedBytes: 80 }), 80);
  // 20 are missing on the disk.
  assert.equal(keptBytes(100, 50, { filters, minFreeBytes: 70 }), 80);
  assert.equal(keptBytes(100, 50, { filters, minFreeBytes: 70, maxUsedBytes: 60 }), 60);
  assert.equal(keptBytes(100, 50, { filters, minFreeBytes: 140, reservedBytes: 40 }), 40);
});
