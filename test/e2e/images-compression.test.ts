/** Archives in every form that people have them in: imported, loaded, added by builds. Needs root, xz and bzip2. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import * as fs from "node:fs";
import path from "node:path";
import { after, test } from "node:test";
import { buffer } from "node:stream/consumers";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { must } from "../../common/assert.ts";
import type { ContainerEngine, ProgressLine } from "../../model/engine.ts";
import type { ImageEngineParts } from "../../runtime/images/image-engine.ts";
import { decompressed, peek } from "../../runtime/images/decompression.ts";
import {
  buildImage,
  sha256Of,
  streamOf,
  tarOf,
  type TestImage,
} from "../../runtime/images/testing/archives.ts";
import { ImageLab, type LabEngine } from "./support/image-lab.ts";
import { until, WAIT_MS } from "./support/wait.ts";

const lab = new ImageLab();
after(() => lab.close());

function open(): Promise<LabEngine> {
  return lab.open({ containers: () => ({ list: () => Promise.resolve([]) }) as unknown as ContainerEngine });
}

function filter(program: string, bytes: Buffer): Buffer {
  const done = spawnSync(program, ["-z", "-c"], { input: bytes, maxBuffer: 64 * 1024 * 1024 });
  assert.equal(done.status, 0, `${program} must be installed: ${String(done.error)}`);
  return done.stdout;
}

const FORMS: Readonly<Record<string, (bytes: Buffer) => Buffer>> = {
  plain: (bytes) => bytes,
  gzip: (bytes) => gzipSync(bytes),
  zstd: (bytes) => zstdCompressSync(bytes),
  xz: (bytes) => filter("xz", bytes),
  bzip2: (bytes) => filter("bzip2", bytes),
};

async function drain(lines: AsyncIterable<ProgressLine>): Promise<void> {
  for await (const line of lines) assert.ok(line);
}

/** More than one block of any of the compressors. */
const BIG = randomBytes(1_200_000);
const TREE = tarOf([{ name: "etc/" }, { name: "etc/motd", content: "hello" }, { name: "big", content: BIG }]);

async function fileOf(engine: ImageEngineParts, image: string, name: string): Promise<Buffer | undefined> {
  const id = must(engine.images.resolve(image), `${image} is there`);
  const layers = await engine.rootfs.prepare(`look-${sha256Of(Buffer.from(image + name)).slice(0, 8)}`, id);
  const found = layers.lower.map((layer) => path.join(layer, name)).find((file) => fs.existsSync(file));
  return found === undefined ? undefined : fs.readFileSync(found);
}

interface Layout {
  readonly layers: readonly { readonly mediaType: string; readonly digest: string }[];
}

function manifestOf(engine: ImageEngineParts & { readonly dataRoot: string }, image: string): Layout {
  const { manifest } = must(engine.images.describe(image), "described");
  const file = path.join(engine.dataRoot, "images/blobs", manifest.digest.replace(":", "/"));
  return JSON.parse(fs.readFileSync(file, "utf8")) as Layout;
}

const OCI_LAYER = "application/vnd.oci.image.layer.v1.tar";

for (const [form, pack] of Object.entries(FORMS)) {
  test(`import takes a ${form} tar, and keeps what registries know`, async () => {
    const engine = await open();
    await drain(engine.images.import(streamOf(pack(TREE)), { repo: "tree", tag: "1", changes: [] }));
    assert.equal(String(await fileOf(engine, "tree:1", "etc/motd")), "hello");
    assert.ok(BIG.equals(must(await fileOf(engine, "tree:1", "big"), "the big file is there")));
    const [layer] = manifestOf(engine, "tree:1").layers;
    const suffix = form === "gzip" || form === "zstd" ? `+${form}` : "";
    assert.equal(layer?.mediaType, OCI_LAYER + suffix);
    if (suffix === "") assert.equal(layer?.digest, `sha256:${sha256Of(TREE)}`);
  });

  test(`load takes a whole archive in ${form}, and one with ${form} layers`, async () => {
    const image: TestImage = {
      tags: ["app:1"],
      layers: [[{ name: "one", content: "1" }], [{ name: "two" }]],
    };
    const { configBytes, blobs } = buildImage(image);
    const packed = blobs.map(pack);
    const archive = tarOf([
      { name: "config.json", content: configBytes },
      ...packed.map((content, index) => ({ name: `${index}/layer.tar`, content })),
      {
        name: "manifest.json",
        content: JSON.stringify([
          { Config: "config.json", RepoTags: ["app:1"], Layers: ["0/layer.tar", "1/layer.tar"] },
        ]),
      },
    ]);
    const engine = await open();
    await drain(engine.images.load(streamOf(pack(archive)), { quiet: true }));
    assert.equal(engine.images.resolve("app:1"), `sha256:${sha256Of(configBytes)}`);
    assert.equal(String(await fileOf(engine, "app:1", "one")), "1");
    const known = form === "xz" || form === "bzip2" ? blobs : packed;
    assert.deepEqual(
      manifestOf(engine, "app:1").layers.map((layer) => layer.digest),
      known.map((blob) => `sha256:${sha256Of(blob)}`),
    );
    // What was saved loads elsewhere to the same image.
    const other = await open();
    await drain(other.images.load(await engine.images.save(["app:1"]), { quiet: true }));
    assert.equal(other.images.resolve("app:1"), engine.images.resolve("app:1"));
  });

  test(`a build takes a ${form} context and ADD takes a ${form} archive apart`, async () => {
    const engine = await open();
    const context = tarOf([
      { name: "Dockerfile", content: "FROM scratch\nADD t.archive /there/\nCOPY t.archive /copied\n" },
      { name: "t.archive", content: pack(TREE) },
    ]);
    const options = { query: new URLSearchParams({ t: "built:1" }), context: streamOf(pack(context)) };
    await drain(engine.images.build(options, AbortSignal.timeout(WAIT_MS)));
    assert.equal(String(await fileOf(engine, "built:1", "there/etc/motd")), "hello");
    assert.ok(pack(TREE).equals(must(await fileOf(engine, "built:1", "copied"), "copied as it is")));
  });
}

test("ADD copies compressed files that hold no archive, and damaged ones, as they are", async () => {
  const engine = await open();
  const files = Object.entries(FORMS).map(([form, pack]) => ({
    name: `data.${form}`,
    content: pack(Buffer.from("only data, and less than a block")),
  }));
  files.push({ name: "broken", content: gzipSync(TREE).fill(0xff, 30, 60) });
  const context = tarOf([
    { name: "Dockerfile", content: `FROM scratch\nADD ${files.map(({ name }) => name).join(" ")} /\n` },
    ...files,
  ]);
  const options = { query: new URLSearchParams({ t: "data:1" }), context: streamOf(context) };
  await drain(engine.images.build(options, AbortSignal.timeout(WAIT_MS)));
  for (const { name, content } of files) {
    assert.ok(content.equals(must(await fileOf(engine, "data:1", name), name)), name);
  }
});

for (const form of ["gzip", "zstd", "xz", "bzip2"]) {
  test(`import refuses a ${form} tar that is cut off and keeps nothing`, async () => {
    const engine = await open();
    const whole = must(FORMS[form], "known")(TREE);
    const cut = whole.subarray(0, Math.floor(whole.length * 0.6));
    await assert.rejects(drain(engine.images.import(streamOf(cut), { repo: "cut", changes: [] })), {
      code: "invalid_argument",
    });
    assert.equal(engine.images.resolve("cut:latest"), undefined);
    assert.deepEqual(fs.readdirSync(path.join(engine.dataRoot, "images/ingest")), []);
    assert.deepEqual(fs.readdirSync(path.join(engine.dataRoot, "images/staging")), []);
  });
}

test("decompressed() names the missing program and its package", async () => {
  const packed = filter("xz", TREE);
  const before = process.env["PATH"];
  process.env["PATH"] = "/nonexistent";
  try {
    await assert.rejects(async () => buffer(decompressed(await peek([packed]))), {
      code: "failed_precondition",
      message:
        'Cannot decompress archive: it is compressed with xz, and the program "xz" is not installed here (Debian package xz-utils)',
    });
  } finally {
    process.env["PATH"] = before;
  }
});

test("decompressed() ends the program when nobody reads on", async () => {
  const packed = filter("xz", Buffer.alloc(50_000_000));
  const running = (): readonly string[] =>
    fs
      .readdirSync(`/proc/${process.pid}/task/${process.pid}`)
      .filter((name) => name === "children")
      .flatMap((name) =>
        fs.readFileSync(`/proc/${process.pid}/task/${process.pid}/${name}`, "utf8").trim().split(" "),
      );
  // Other tests of this process may have left theirs, which end meanwhile.
  const before = new Set(["", ...running()]);
  for await (const chunk of decompressed(await peek(streamOf(packed)))) {
    assert.ok(chunk.length > 0);
    break;
  }
  await until("the program has ended", WAIT_MS, () => running().every((pid) => before.has(pid)));
});
