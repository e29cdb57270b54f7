/**
 * What is left of images after a loss of power. The store lies on an ext4 of its own (a loop device) that is cut off in the
 * middle, as the kernel's file system tests do it: what was not yet on the disk is gone. Needs root and loop devices.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { Readable } from "node:stream";
import { after, before, describe, test } from "node:test";
import koffi from "koffi";
import { silentLogger } from "../../common/log.ts";
import { realEnv } from "../../common/real-env.ts";
import type { ContainerEngine, ProgressLine } from "../../model/engine.ts";
import { createImageEngine, type ImageEngineParts } from "../../runtime/images/image-engine.ts";
import {
  buildImage,
  dockerArchive,
  streamOf,
  tarOf,
  type TestImage,
} from "../../runtime/images/testing/archives.ts";

/** FS_IOC_SHUTDOWN, and not even the journal is written any more. */
const SHUTDOWN = 0x8004587d;
const NO_LOG_FLUSH = 2;

const ioctl = koffi.load(null).func("int ioctl(int fd, unsigned long request, const void *value)");

/** A disk that can lose its power. */
class Disk {
  readonly #image: string;
  readonly folder: string;

  constructor(root: string) {
    this.#image = path.join(root, "disk.img");
    this.folder = path.join(root, "disk");
    fs.mkdirSync(this.folder);
    fs.writeFileSync(this.#image, "");
    fs.truncateSync(this.#image, 400 * 1024 * 1024);
    execFileSync("mkfs.ext4", ["-q", this.#image]);
    this.mount();
  }

  mount(): void {
    execFileSync("mount", ["-o", "loop", this.#image, this.folder]);
  }

  unmount(): void {
    execFileSync("umount", [this.folder]);
  }

  powerOff(): void {
    const fd = fs.openSync(this.folder, "r");
    const how = Buffer.alloc(4);
    how.writeUInt32LE(NO_LOG_FLUSH);
    assert.equal(ioctl(fd, SHUTDOWN, how), 0);
    fs.closeSync(fd);
  }
}

const engines = new Set<ImageEngineParts>();

async function open(disk: Disk): Promise<ImageEngineParts> {
  const engine = await createImageEngine({
    env: realEnv,
    log: silentLogger,
    dataRoot: path.join(disk.folder, "data"),
    events: { emit: () => {} },
    containers: () => ({ list: () => Promise.resolve([]) }) as unknown as ContainerEngine,
  });
  engines.add(engine);
  return engine;
}

async function drain(lines: AsyncIterable<ProgressLine>): Promise<void> {
  for await (const line of lines) assert.ok(line);
}

const OTHER_BOOT = { bootId: "an-earlier-boot" };

/** The power comes back: the disk as it was, another boot. */
async function powerOn(disk: Disk, engine: ImageEngineParts): Promise<ImageEngineParts> {
  await engine.stop();
  disk.unmount();
  disk.mount();
  const images = path.join(disk.folder, "data/images");
  const chains = fs.readdirSync(path.join(images, "layers"));
  const files = chains.map((chain) => path.join(images, "layers", chain, "layer.json"));
  for (const file of [path.join(images, "synced.json"), ...files]) {
    const text = fs.existsSync(file) ? fs.readFileSync(file, "utf8") : "";
    if (text === "") continue;
    const known = JSON.parse(text) as { readonly bootId: string };
    // "" is a layer that was known to be durable.
    if (known.bootId !== "") fs.writeFileSync(file, JSON.stringify({ ...known, ...OTHER_BOOT }));
  }
  return open(disk);
}

async function contentOf(engine: ImageEngineParts, image: string, name: string): Promise<Buffer> {
  const id = engine.images.resolve(image);
  assert.ok(id !== undefined, `${image} is there`);
  const { lower } = await engine.rootfs.prepare(`look-${randomBytes(4).toString("hex")}`, id);
  const found = lower.map((layer) => path.join(layer, name)).find((file) => fs.existsSync(file));
  assert.ok(found !== undefined, `${name} of ${image} is there`);
  return fs.readFileSync(found);
}

function version(content: Buffer): TestImage {
  return { tags: ["app:1"], layers: [[{ name: "base", content: "base" }], [{ name: "app", content }]] };
}

const BIG = randomBytes(20_000_000);

describe("after a loss of power", () => {
  let root = "";
  let disk: Disk;
  before(() => {
    root = fs.mkdtempSync(path.join(tmpdir(), "shoal-power-"));
    disk = new Disk(root);
  });
  after(async () => {
    for (const engine of engines) await engine.stop();
    disk.unmount();
    fs.rmSync(root, { recursive: true, force: true });
  });

  test("what a load, an import or a build answered for is there, under the newest name", async () => {
    const first = await open(disk);
    await drain(first.images.load(streamOf(dockerArchive([version(Buffer.from("old"))])), { quiet: true }));
    await drain(first.images.load(streamOf(dockerArchive([version(BIG)]), 1_000_000), { quiet: true }));
    const tree = tarOf([{ name: "imported", content: BIG }]);
    await drain(first.images.import(streamOf(tree, 1_000_000), { repo: "tree", tag: "1", changes: [] }));
    const context = tarOf([
      { name: "Dockerfile", content: "FROM app:1\nCOPY f /f\nENV A=1\n" },
      { name: "f", content: "built" },
    ]);
    const request = { query: new URLSearchParams({ t: "built:1" }), context: streamOf(context) };
    await drain(first.images.build(request, AbortSignal.timeout(20_000)));
    disk.powerOff();

    const second = await powerOn(disk, first);
    assert.equal(second.images.resolve("app:1"), buildImage(version(BIG)).id);
    assert.ok(BIG.equals(await contentOf(second, "app:1", "app")));
    assert.ok(BIG.equals(await contentOf(second, "tree:1", "imported")));
    assert.equal(String(await contentOf(second, "built:1", "f")), "built");
    await second.stop();
  });

  test("a load that was interrupted leaves the image that had the name before", async () => {
    const first = await open(disk);
    await drain(first.images.load(streamOf(dockerArchive([version(Buffer.from("old"))])), { quiet: true }));
    const archive = dockerArchive([version(randomBytes(20_000_000))]);
    async function* cutOff(): AsyncGenerator<Buffer> {
      for await (const piece of streamOf(archive, 100_000)) {
        yield piece as Buffer;
        sent += (piece as Buffer).length;
        if (sent > archive.length / 2 && !isOff) {
          isOff = true;
          disk.powerOff();
        }
      }
    }
    let sent = 0;
    let isOff = false;
    const tar = Readable.from(cutOff(), { objectMode: false });
    await assert.rejects(drain(first.images.load(tar, { quiet: true })));

    const second = await powerOn(disk, first);
    assert.equal(second.images.resolve("app:1"), buildImage(version(Buffer.from("old"))).id);
    assert.equal(String(await contentOf(second, "app:1", "app")), "old");
    await second.stop();
  });
});
