/** Manifests and indexes that come from elsewhere. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { checkImageConfig, parseImageDocument, parseManifestOrIndex } from "./image-documents.ts";

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

const BAD_CONFIGS: readonly object[] = [
  { Labels: { a: 1 } },
  { Labels: ["a"] },
  { Env: "A=1" },
  { Cmd: [1] },
  { Volumes: "/data" },
  { WorkingDir: {} },
  { Healthcheck: { Test: ["CMD", "x"], Interval: "1s" } },
  { Healthcheck: [] },
];

function documentWith(config: object): ReturnType<typeof parseImageDocument> {
  return parseImageDocument(Buffer.from(JSON.stringify({ rootfs: {}, config })));
}

for (const config of BAD_CONFIGS) {
  test(`checkImageConfig() refuses ${JSON.stringify(config)}`, () => {
    assert.throws(() => checkImageConfig(documentWith(config)), /must be as Docker has it/);
  });
}

test("checkImageConfig() takes what Docker takes", () => {
  const nulls = {
    Cmd: null,
    Labels: null,
    Volumes: null,
    ExposedPorts: null,
    Healthcheck: null,
    OnBuild: null,
  };
  const full = {
    Cmd: "run",
    Entrypoint: ["/bin/sh"],
    Env: [],
    ExposedPorts: { "80/tcp": {} },
    Healthcheck: { Test: ["NONE"], Interval: 1_000_000_000, Retries: 3 },
    Labels: { a: "" },
    Volumes: { "/data": {} },
    ArgsEscaped: true,
  };
  for (const config of [{}, nulls, full]) checkImageConfig(documentWith(config));
});
