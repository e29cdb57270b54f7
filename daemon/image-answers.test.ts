import assert from "node:assert/strict";
import { test } from "node:test";
import { parseDescription, parseResolved } from "./image-answers.ts";

const DIGEST = `sha256:${"a".repeat(64)}`;

function bytes(value: unknown): Uint8Array {
  return Buffer.from(typeof value === "string" ? value : JSON.stringify(value));
}

test("parseDescription() takes what has the right form and leaves the rest out", () => {
  const manifest = { digest: DIGEST, mediaType: "m", sizeBytes: 5 };
  const image = parseDescription(
    bytes({ manifest, blobs: [manifest, { digest: "x" }, null], repoDigests: 3 }),
  );
  assert.deepEqual(image?.manifest, manifest);
  assert.deepEqual(image?.blobs, [manifest]);
  assert.deepEqual(image?.repoDigests, []);
  assert.equal(image?.index, undefined);
  const many = parseDescription(bytes({ manifest, blobs: Array.from({ length: 5_000 }, () => manifest) }));
  assert.equal(many?.blobs.length, 2_000);
  for (const wrong of [
    "{",
    "null",
    "[]",
    { blobs: [] },
    { manifest, blobs: {} },
    { manifest: { ...manifest, digest: "sha256:../../etc" }, blobs: [] },
    { manifest: { ...manifest, sizeBytes: -1 }, blobs: [] },
    { manifest: { ...manifest, sizeBytes: 1e300 }, blobs: [] },
  ]) {
    assert.equal(parseDescription(bytes(wrong)), undefined, JSON.stringify(wrong));
  }
  assert.equal(parseDescription(undefined), undefined);
});

test("parseResolved() wants a digest", () => {
  assert.deepEqual(parseResolved(bytes({ digest: DIGEST, holders: ["a", 1], isKept: "yes" })), {
    digest: DIGEST,
    holders: ["a"],
    isKept: false,
    taggedAt: "",
  });
  for (const wrong of ["", "null", { digest: "latest" }, { holders: [] }]) {
    assert.equal(parseResolved(bytes(wrong)), undefined);
  }
});
