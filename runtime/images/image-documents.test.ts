/** Manifests and indexes that come from elsewhere. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { parseManifestOrIndex } from "./image-documents.ts";

const OCI_INDEX = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json";

test("parseManifestOrIndex() refuses what one reader takes for an index and another for a manifest", () => {
  const entry = { mediaType: OCI_MANIFEST, digest: `sha256:${"a".repeat(64)}`, size: 1 };
  const index = { manifests: [entry] };
  const manifest = { config: entry, layers: [entry] };
  const parse = (body: object, mediaType?: string): string =>
    parseManifestOrIndex(Buffer.from(JSON.stringify({ schemaVersion: 2, ...body })), mediaType).kind;
  assert.equal(parse({ ...index, mediaType: OCI_INDEX }, OCI_INDEX), "index");
  assert.equal(parse(manifest, OCI_MANIFEST), "manifest");
  assert.throws(() => parse({ ...index, ...manifest }), /either an index or a manifest, not both/);
  assert.throws(() => parse({ ...index, config: entry }), /not both/);
  assert.throws(() => parse({ ...index, mediaType: OCI_MANIFEST }), /that of its content/);
  assert.throws(() => parse(manifest, OCI_INDEX), /that of its content/);
  assert.throws(() => parse({ ...manifest, mediaType: OCI_MANIFEST }, OCI_INDEX), /mediaType/);
});
