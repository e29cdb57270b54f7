/** The image store through its interfaces: load, save, restart, removal, root filesystems. Needs root for unpacking. */
import assert from "node:assert/strict";
import { once } from "node:events";
import * as fs from "node:fs";
import path from "node:path";
import { after, before, test } from "node:test";
import type { JsonObject } from "../../model/engine.ts";
import type { ImageEngineParts } from "../../runtime/images/image-engine.ts";
import {
  buildImage,
  dockerArchive,
  layoutArchive,
  streamOf,
  type TestImage,
} from "../../runtime/images/testing/archives.ts";
import { ImageLab, linesOf } from "./support/image-lab.ts";
import { until, WAIT_MS } from "./support/wait.ts";

const lab = new ImageLab();

async function open(dataRoot: string): Promise<ImageEngineParts & { readonly events: JsonObject[] }> {
  const events: JsonObject[] = [];
  const emit = (event: object): void => void events.push(event as JsonObject);
  return { ...(await lab.open({ dataRoot, events: { emit } })), events };
}

after(() => lab.close());

const WHOAMI: TestImage = {
  tags: ["whoami:1"],
  layers: [
    [
      { name: "bin/", mode: 0o755 },
      { name: "bin/app", content: "old", mode: 0o755 },
      { name: "etc/", mode: 0o750, uid: 7, gid: 8 },
      { name: "etc/gone", content: "x" },
    ],
    [{ name: "bin/app", content: "new", mode: 0o4755 }, { name: "etc/.wh.gone" }],
  ],
  config: { Cmd: ["/bin/app"], Labels: { team: "a" }, Env: ["A=1"] },
};

let shared: Awaited<ReturnType<typeof open>>;
before(async () => {
  shared = await open(lab.newFolder());
  await linesOf(shared.images.load(streamOf(dockerArchive([WHOAMI])), { quiet: true }));
});

for (const compression of ["none", "gzip", "zstd"] as const) {
  test(`ImageEngine.load() takes ${compression} layers and prepare() stacks them`, async () => {
    const engine = await open(lab.newFolder());
    const lines = await linesOf(
      engine.images.load(streamOf(dockerArchive([{ ...WHOAMI, compression }])), { quiet: false }),
    );
    assert.deepEqual(lines.at(-1), { stream: "Loaded image: whoami:1\n" });
    const { imageId } = await engine.rootfs.imageConfig("docker.io/library/whoami:1");
    const layers = await engine.rootfs.prepare("c1", imageId);
    assert.equal(layers.lower.length, 3);
    const newest = layers.lower[1] ?? "";
    assert.equal(fs.readFileSync(path.join(newest, "bin/app"), "utf8"), "new");
    assert.equal(fs.statSync(path.join(newest, "bin/app")).mode & 0o7777, 0o4755);
    assert.equal(fs.lstatSync(path.join(newest, "etc/gone")).isCharacterDevice(), true);
    // The folder was implied: it must look like the one below.
    const etc = fs.statSync(path.join(newest, "etc"));
    assert.deepEqual([etc.mode & 0o7777, etc.uid, etc.gid], [0o750, 7, 8]);
    assert.deepEqual(fs.readdirSync(layers.upper), []);
  });
}

test("ImageEngine.load() with a platform takes the images for it alone", async () => {
  const layers = [[{ name: "a" }]];
  const plain: TestImage = { tags: ["plain:1"], layers, platform: { architecture: "arm64" } };
  const amd: TestImage = { tags: ["amd:1"], layers };
  const engine = await open(lab.newFolder());
  const load = (archive: Buffer, platform: string): Promise<readonly JsonObject[]> =>
    linesOf(engine.images.load(streamOf(archive), { quiet: true, platform }));
  assert.deepEqual(await load(dockerArchive([plain, amd]), "linux/arm64/v8"), [
    { stream: "Loaded image: plain:1\n" },
  ]);
  assert.equal(engine.images.resolve("amd:1"), undefined);
  await assert.rejects(load(dockerArchive([plain, amd]), "linux/s390x"), {
    code: "not_found",
    message:
      "Cannot load image: the archive must have one for the platform linux/s390x, it has linux/arm64, linux/amd64",
  });

  const both = layoutArchive("docker.io/library/both:1", [plain, amd]);
  await load(both, "linux/arm64");
  assert.equal((await engine.images.inspect("both:1"))["Architecture"], "arm64");
  await load(both, "amd64");
  assert.equal((await engine.images.inspect("both:1"))["Architecture"], "amd64");
});

test("RootfsSource.prepare() keeps the owner and mode that a lower layer gave to the root", async () => {
  const engine = await open(lab.newFolder());
  const image: TestImage = {
    tags: ["rooted:1"],
    layers: [[{ name: "./", mode: 0o751, uid: 3, gid: 4 }], [{ name: "a" }], [{ name: "b" }]],
  };
  await linesOf(engine.images.load(streamOf(dockerArchive([image])), { quiet: true }));
  const layers = await engine.rootfs.prepare("c1", engine.images.resolve("rooted:1") ?? "");
  for (const folder of [...layers.lower, layers.upper]) {
    const { mode, uid, gid } = fs.statSync(folder);
    assert.deepEqual([mode & 0o7777, uid, gid], [0o751, 3, 4], folder);
  }
});

test("ImageEngine.resolve() takes familiar and canonical names, ids and prefixes", () => {
  const { id } = buildImage(WHOAMI);
  for (const name of ["whoami:1", "docker.io/library/whoami:1", id, id.slice(7, 19), id.slice(7)]) {
    assert.equal(shared.images.resolve(name), id, name);
  }
  assert.equal(shared.images.resolve("whoami"), undefined);
  assert.equal(shared.images.resolve("UPPER"), undefined);
});

test("ImageEngine.inspect() has the fields old clients need", async () => {
  const image = await shared.images.inspect("whoami:1");
  assert.deepEqual(image["RepoTags"], ["whoami:1"]);
  assert.equal((image["Config"] as JsonObject)["Hostname"], "");
  assert.deepEqual((image["Config"] as JsonObject)["Cmd"], ["/bin/app"]);
  assert.ok("ContainerConfig" in image);
  await assert.rejects(shared.images.inspect("nothing"), {
    code: "not_found",
    message: "No such image: nothing:latest",
  });
});

test("ImageEngine.save() leaves no blob open, whenever its reader goes away", async () => {
  const folder = path.join("images", "blobs");
  const openBlobs = (): string[] =>
    fs
      .readdirSync("/proc/self/fd")
      .map((fd) => {
        try {
          return fs.readlinkSync(`/proc/self/fd/${fd}`);
        } catch {
          // That of this listing.
          return "";
        }
      })
      .filter((file) => file.includes(folder));
  // Other tests of this process may have left theirs.
  const before = new Set(openBlobs());
  for (let pieces = 1; pieces < 20; pieces++) {
    const archive = await shared.images.save(["whoami:1"]);
    let seen = 0;
    archive.on("data", () => {
      seen += 1;
      if (seen === pieces) archive.destroy();
    });
    await once(archive, "close");
  }
  await until("no blob is open", WAIT_MS, () => openBlobs().every((file) => before.has(file)));
});

test("ImageEngine.load() refuses an image whose labels would spoil the list for others, and keeps nothing of it", async () => {
  const engine = await open(lab.newFolder());
  const image: TestImage = { ...WHOAMI, config: { Cmd: ["/bin/app"], Labels: { team: 1 } } };
  await assert.rejects(
    linesOf(engine.images.load(streamOf(dockerArchive([image])), { quiet: true })),
    /config's Labels must be as Docker has it/,
  );
  assert.equal(engine.images.resolve("whoami:1"), undefined);
});

test("ImageEngine.save() takes repositories and tags that are names of what every object has", async () => {
  const engine = await open(lab.newFolder());
  const tags = ["constructor:isFrozen", "constructor:prototype", "valueof:toString"];
  const image: TestImage = { ...WHOAMI, tags };
  await linesOf(engine.images.load(streamOf(dockerArchive([image])), { quiet: true }));
  const before = Object.isFrozen;
  const archive = await engine.images.save(tags);
  const other = await open(lab.newFolder());
  try {
    await linesOf(other.images.load(archive, { quiet: true }));
    assert.equal(Object.isFrozen, before);
  } finally {
    Object.isFrozen = before;
  }
  for (const tag of tags) assert.equal(other.images.resolve(tag), engine.images.resolve(tag));
});

test("ImageEngine.save() gives an archive that loads to the same image", async () => {
  const archive = await shared.images.save(["whoami:1"]);
  const engine = await open(lab.newFolder());
  const lines = await linesOf(engine.images.load(archive, { quiet: true }));
  assert.deepEqual(lines, [{ stream: "Loaded image: whoami:1\n" }]);
  assert.equal(engine.images.resolve("whoami:1"), shared.images.resolve("whoami:1"));
});

test("ImageEngine.inspect() tells over a restart when an image was tagged last, also without its tag", async () => {
  const dataRoot = lab.newFolder();
  const first = await open(dataRoot);
  const bare: TestImage = { tags: ["bare:1"], layers: [], config: { Cmd: ["/bare"] } };
  await linesOf(first.images.load(streamOf(dockerArchive([WHOAMI, bare])), { quiet: true }));
  const id = first.images.resolve("bare:1") ?? "";
  await first.images.tag("whoami:1", "bare", "1");
  const lastTagTime = async (engine: typeof first, name: string): Promise<unknown> =>
    ((await engine.images.inspect(name))["Metadata"] as JsonObject)["LastTagTime"];
  const before = [await lastTagTime(first, "bare:1"), await lastTagTime(first, id)];
  assert.match(String(before[1]), /^2/);
  await first.stop();
  const second = await open(dataRoot);
  assert.deepEqual([await lastTagTime(second, "bare:1"), await lastTagTime(second, id)], before);
});

test("ImageEngine keeps images over a restart and drops what was on its way", async () => {
  const dataRoot = lab.newFolder();
  const first = await open(dataRoot);
  await linesOf(first.images.load(streamOf(dockerArchive([WHOAMI])), { quiet: true }));
  const id = first.images.resolve("whoami:1") ?? "";
  const layers = await first.rootfs.prepare("c1", id);
  fs.writeFileSync(path.join(layers.upper, "kept"), "x");
  await first.stop();
  const images = path.join(dataRoot, "images");
  fs.writeFileSync(path.join(images, "ingest", "half"), "half");
  fs.mkdirSync(path.join(images, "staging", "half", "fs"), { recursive: true });
  fs.mkdirSync(path.join(images, "layers", "ab".repeat(32)));
  fs.writeFileSync(path.join(images, "blobs", "sha256", "cd".repeat(32)), "orphan");

  const second = await open(dataRoot);
  assert.equal(second.images.resolve("whoami:1"), id);
  assert.deepEqual(await second.rootfs.layers("c1"), layers);
  assert.equal(fs.readFileSync(path.join(layers.upper, "kept"), "utf8"), "x");
  assert.deepEqual(fs.readdirSync(path.join(images, "ingest")), []);
  assert.deepEqual(fs.readdirSync(path.join(images, "staging")), []);
  assert.equal(fs.readdirSync(path.join(images, "layers")).length, 2);
  assert.equal(second.images.hasBlob(`sha256:${"cd".repeat(32)}`), false);
});

test("RootfsSource.prepare() unpacks again what a loss of power took", async () => {
  const dataRoot = lab.newFolder();
  const first = await open(dataRoot);
  await linesOf(first.images.load(streamOf(dockerArchive([WHOAMI])), { quiet: true }));
  await first.stop();
  const folder = path.join(dataRoot, "images", "layers");
  for (const name of fs.readdirSync(folder)) {
    const file = path.join(folder, name, "layer.json");
    const record = JSON.parse(fs.readFileSync(file, "utf8")) as object;
    fs.writeFileSync(file, JSON.stringify({ ...record, bootId: "an-earlier-boot" }));
  }
  const second = await open(dataRoot);
  assert.equal(fs.readdirSync(folder).length, 0);
  const layers = await second.rootfs.prepare("c1", second.images.resolve("whoami:1") ?? "");
  assert.equal(fs.readFileSync(path.join(layers.lower[1] ?? "", "bin/app"), "utf8"), "new");
});

test("ImageEngine drops images whose blobs a loss of power damaged, and keeps the rest", async () => {
  const dataRoot = lab.newFolder();
  const other: TestImage = { tags: ["other:1"], layers: [[{ name: "x", content: "x" }]] };
  const first = await open(dataRoot);
  await linesOf(first.images.load(streamOf(dockerArchive([WHOAMI, other])), { quiet: true }));
  await first.stop();
  const images = path.join(dataRoot, "images");
  const synced = path.join(images, "synced.json");
  const known = JSON.parse(fs.readFileSync(synced, "utf8")) as object;
  const blob = buildImage(WHOAMI).diffIds[0] ?? "";
  const file = path.join(images, "blobs", blob.replace(":", "/"));
  fs.truncateSync(file, 10);

  const sameBoot = await open(dataRoot);
  assert.notEqual(sameBoot.images.resolve("whoami:1"), undefined);
  await sameBoot.stop();
  fs.writeFileSync(synced, JSON.stringify({ ...known, bootId: "an-earlier-boot" }));
  const second = await open(dataRoot);
  assert.equal(second.images.resolve("whoami:1"), undefined);
  assert.equal(second.images.resolve("other:1"), buildImage(other).id);
  assert.equal(fs.existsSync(file), false);
});

test("RootfsSource.changes() and commit() see what the container wrote", async () => {
  const engine = await open(lab.newFolder());
  await linesOf(engine.images.load(streamOf(dockerArchive([WHOAMI])), { quiet: true }));
  const { imageId, config } = await engine.rootfs.imageConfig("whoami:1");
  const layers = await engine.rootfs.prepare("c1", imageId);
  fs.mkdirSync(path.join(layers.upper, "new"));
  fs.writeFileSync(path.join(layers.upper, "new/file"), "hello");
  assert.deepEqual(await engine.rootfs.changes("c1"), [
    { Path: "/new", Kind: 1 },
    { Path: "/new/file", Kind: 1 },
  ]);
  const options = { config, comment: "c", author: "me", containerId: "c1", createdBy: "sh" };
  const committed = await engine.rootfs.commit("c1", options);
  await engine.rootfs.tagImage(committed, "mine", "2");
  assert.equal(engine.images.resolve("mine:2"), committed);
  const again = await engine.rootfs.prepare("c2", committed);
  assert.equal(fs.readFileSync(path.join(again.lower[1] ?? "", "new/file"), "utf8"), "hello");
  const history = await engine.images.history("mine:2");
  assert.deepEqual(
    history.map((row) => row["CreatedBy"]),
    ["sh", "step 1", "step 0"],
  );
});

test("ImageEngine.remove() goes by Docker's rules", async () => {
  const engine = await open(lab.newFolder());
  const { images } = engine;
  await linesOf(images.load(streamOf(dockerArchive([WHOAMI])), { quiet: true }));
  const { id } = buildImage(WHOAMI);
  await images.tag("whoami:1", "other", "2");
  await assert.rejects(images.remove(id, { force: false, noPrune: false }), {
    code: "conflict",
    message: `conflict: unable to delete ${id.slice(7, 19)} (must be forced) - image is referenced in multiple repositories`,
  });
  assert.deepEqual(await images.remove("other:2", { force: false, noPrune: false }), [
    { Untagged: "other:2" },
  ]);
  const answers = await images.remove("whoami:1", { force: false, noPrune: false });
  assert.deepEqual(answers.slice(0, 2), [{ Untagged: "whoami:1" }, { Deleted: id }]);
  assert.equal(answers.length, 4);
  assert.deepEqual(
    await images.list({ all: true, digests: false, sharedSize: false, manifests: false, filters: new Map() }),
    [],
  );
  assert.equal(images.hasBlob(id), false);
});

test("a writable layer keeps its image's layers when the image is forced away", async () => {
  const engine = await open(lab.newFolder());
  await linesOf(engine.images.load(streamOf(dockerArchive([WHOAMI])), { quiet: true }));
  const layers = await engine.rootfs.prepare("c1", engine.images.resolve("whoami:1") ?? "");
  await engine.images.remove("whoami:1", { force: true, noPrune: false });
  assert.equal(fs.readFileSync(path.join(layers.lower[1] ?? "", "bin/app"), "utf8"), "new");
  await engine.rootfs.remove("c1");
  for (const lower of layers.lower) assert.equal(fs.existsSync(lower), false, "nobody needs it any more");
});

test("ImageEngine.remove() tells of the layers that went with its image, not of what others left", async () => {
  const engine = await open(lab.newFolder());
  const other: TestImage = { ...WHOAMI, tags: ["a:1", "b:1"], layers: [[{ name: "f", content: "x" }]] };
  await linesOf(engine.images.load(streamOf(dockerArchive([WHOAMI, other])), { quiet: true }));
  await engine.rootfs.prepare("c1", engine.images.resolve("whoami:1") ?? "");
  await engine.images.remove("whoami:1", { force: true, noPrune: false });
  // While work runs, what a container leaves is not swept.
  const saving = await engine.images.save(["b:1"]);
  await once(saving, "readable");
  await engine.rootfs.remove("c1");
  saving.destroy();
  await once(saving, "close");
  assert.deepEqual(await engine.images.remove("a:1", { force: false, noPrune: false }), [
    { Untagged: "a:1" },
  ]);
});

test("ImageEngine.load() refuses a layer that is not what the config says and keeps nothing", async () => {
  const engine = await open(lab.newFolder());
  const good = dockerArchive([WHOAMI]);
  const bad = Buffer.from(good);
  // Inside the first layer's file content.
  bad.write("0ld", bad.indexOf("old"));
  await assert.rejects(linesOf(engine.images.load(streamOf(bad), { quiet: true })), /diff id/);
  assert.equal(engine.images.resolve("whoami:1"), undefined);
  await assert.rejects(linesOf(engine.images.load(streamOf(good.subarray(0, 5000)), { quiet: true })), /EOF/);
  await assert.rejects(linesOf(engine.images.load(streamOf(Buffer.from("hello")), { quiet: true })), {
    code: "invalid_argument",
  });
});

test("ImageEngine.describe() and openBlob() serve peers", async () => {
  const description = shared.images.describe("whoami:1");
  assert.equal(description?.reference, "docker.io/library/whoami:1");
  assert.equal(description.blobs.length, 3);
  for (const blob of description.blobs) {
    const { sizeBytes, content } = await shared.images.openBlob(blob.digest, 1);
    let bytes = 0;
    for await (const piece of content) bytes += (piece as Buffer).length;
    assert.equal(bytes, sizeBytes - 1);
  }
});
