import assert from "node:assert/strict";
import { test } from "node:test";
import { IMAGE_REPORT_COUNT_MAX } from "../limits.ts";
import { imageReports } from "./image-reports.ts";

test("imageReports() says everything first, then differences, and nothing when there is none", () => {
  assert.deepEqual(imageReports(undefined, new Set(["a"])), [{ full: true, added: ["a"], removed: [] }]);
  assert.deepEqual(imageReports(undefined, new Set()), [{ full: true, added: [], removed: [] }]);
  assert.deepEqual(imageReports(new Set(["a", "b"]), new Set(["b", "c"])), [
    { full: false, added: ["c"], removed: ["a"] },
  ]);
  assert.deepEqual(imageReports(new Set(["a"]), new Set(["a"])), []);
});

test("imageReports() cuts a long list, and only the first piece is full", () => {
  const many = new Set(Array.from({ length: IMAGE_REPORT_COUNT_MAX + 1 }, (_each, index) => `i${index}`));
  const reports = imageReports(undefined, many);
  assert.deepEqual(
    reports.map((each) => [each.full, each.added?.length]),
    [
      [true, IMAGE_REPORT_COUNT_MAX],
      [false, 1],
    ],
  );
});
