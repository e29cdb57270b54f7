/** What is left of images after a loss of power. Needs root and loop devices. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { Readable } from "node:stream";
import { after, before, describe, test } from "node:test";
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
import { forgetBoot, PowerDisk } from "./support/power-disk.ts";
import { WAIT_MS } from "./support/wait.ts";

const engines = new Set<ImageEngineParts>();

async function open(disk: PowerDisk): Promise<ImageEngineParts> {
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

/** The power comes back: the disk as it was, another boot. */
async function powerOn(disk: PowerDisk, engine: ImageEngineParts): Promise<ImageEngineParts> {
  await engine.stop();
  disk.unmount();
  disk.mount();
  forgetBoot(path.join(disk.folder, "data/images"));
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
  let disk: PowerDisk;
  before(() => {
    root = fs.mkdtempSync(path.join(tmpdir(), "shoal-power-"));
    disk = new PowerDisk(root);
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
    await drain(first.images.build(request, AbortSignal.timeout(WAIT_MS)));
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
