/**
 * Loads, builds, imports, tags, removals and prunes of images that share layers, all at once: whatever was answered for is whole
 * when a container is made of it, nothing that is in use goes, and at the end nothing is left. Needs root for unpacking.
 */
import assert from "node:assert/strict";
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { ClusterError } from "../../common/errors.ts";
import { silentLogger } from "../../common/log.ts";
import { realEnv } from "../../common/real-env.ts";
import { SeededRandom } from "../../common/testing/seeded-random.ts";
import type { ContainerEngine, ProgressLine } from "../../model/engine.ts";
import { createImageEngine, type ImageEngineParts } from "../../runtime/images/image-engine.ts";
import { dockerArchive, streamOf, tarOf } from "../../runtime/images/testing/archives.ts";
import { WAIT_MS } from "./support/wait.ts";

const WORKERS = 6;
const STEPS = 25;
const SEED = 20_261_121;

const root = fs.mkdtempSync(path.join(tmpdir(), "shoal-stress-"));
let engine: ImageEngineParts | undefined;
after(async () => {
  await engine?.stop();
  fs.rmSync(root, { recursive: true, force: true });
});

async function drain(lines: AsyncIterable<ProgressLine>): Promise<void> {
  for await (const line of lines) assert.ok(line);
}

/** The lower layers are the same for all: everybody needs what somebody else may just remove. */
function archive(index: number): Buffer {
  return dockerArchive([
    {
      tags: [`app:${index}`],
      layers: [
        [{ name: "base", content: "base" }],
        [{ name: "shared", content: "s".repeat(50_000) }],
        [{ name: "own", content: `own ${index}` }],
      ],
    },
  ]);
}

function context(index: number): Buffer {
  const dockerfile = `FROM app:${index}\nCOPY f /copied\nENV A=${index}\nCOPY f /again\n`;
  return tarOf([
    { name: "Dockerfile", content: dockerfile },
    { name: "f", content: `built ${index}` },
  ]);
}

/** Somebody else may have removed it first, or may need it: that is no fault. Anything else is. */
async function mayBeRefused(work: Promise<unknown>): Promise<boolean> {
  try {
    await work;
    return true;
  } catch (caught) {
    assert.ok(caught instanceof ClusterError, String(caught));
    const isRefusal =
      ["not_found", "conflict", "failed_precondition"].includes(caught.code) ||
      /dial tcp|No such image|lookup/.test(caught.message);
    assert.ok(isRefusal, `${caught.code}: ${caught.message}`);
    return false;
  }
}

test("images that come and go at once are whole while they are there, and leave nothing", async () => {
  const made = await createImageEngine({
    env: realEnv,
    log: silentLogger,
    dataRoot: root,
    events: { emit: () => {} },
    containers: () => ({ list: () => Promise.resolve([]) }) as unknown as ContainerEngine,
    // Whatever is not here is nowhere: a removed base image must not be asked for at a registry.
    registry: { insecure: [], mirrors: { "docker.io": ["http://127.0.0.1:1"] }, certificateFolders: [] },
  });
  engine = made;
  const { images, rootfs } = made;
  const random = new SeededRandom(SEED);
  const pick = (count: number): number => random.below(count);
  let checkedCount = 0;

  /** A container of it sees every file, also while others remove and prune. */
  const look = async (name: string, key: string, files: Readonly<Record<string, string>>): Promise<void> => {
    const id = images.resolve(name);
    if (id === undefined) return;
    const isThere = await mayBeRefused(rootfs.prepare(key, id));
    if (!isThere) return;
    await images.prune(new Map([["dangling", ["false"]]]));
    const { lower } = await rootfs.layers(key);
    for (const [file, content] of Object.entries(files)) {
      const found = lower.map((layer) => path.join(layer, file)).find((each) => fs.existsSync(each));
      assert.ok(found !== undefined, `${file} of ${name} is there`);
      assert.equal(fs.readFileSync(found, "utf8"), content);
    }
    checkedCount++;
    await rootfs.remove(key);
  };

  const step = async (worker: number, count: number): Promise<void> => {
    const index = pick(3);
    const key = `c-${worker}-${count}`;
    switch (pick(6)) {
      case 0:
      case 1:
        await drain(images.load(streamOf(archive(index)), { quiet: true }));
        return look(`app:${index}`, key, { base: "base", own: `own ${index}` });
      case 2: {
        const query = new URLSearchParams({ t: `built:${index}` });
        const building = drain(
          images.build({ query, context: streamOf(context(index)) }, AbortSignal.timeout(WAIT_MS)),
        );
        if (!(await mayBeRefused(building))) return;
        return look(`built:${index}`, key, {
          base: "base",
          copied: `built ${index}`,
          again: `built ${index}`,
        });
      }
      case 3:
        await mayBeRefused(images.remove(`app:${index}`, { force: true, noPrune: false }));
        return;
      case 4:
        await mayBeRefused(images.remove(`built:${index}`, { force: true, noPrune: false }));
        return;
      default:
        await images.prune(new Map());
        await images.pruneBuildCache({ filters: new Map() });
    }
  };
  await Promise.all(
    Array.from({ length: WORKERS }, async (_, worker) => {
      for (let count = 0; count < STEPS; count++) await step(worker, count);
    }),
  );
  assert.ok(checkedCount > 10, `enough was looked at: ${checkedCount}`);

  await images.prune(new Map([["dangling", ["false"]]]));
  await images.pruneBuildCache({ filters: new Map() });
  assert.deepEqual(
    await images.list({ all: true, digests: false, manifests: false, sharedSize: false, filters: new Map() }),
    [],
  );
  const usage = await made.diskUsage({ images: true, buildCache: true });
  assert.deepEqual(usage, { LayersSize: 0, Images: [], BuildCache: [] });
  for (const folder of ["blobs/sha256", "layers", "l", "records", "ingest", "staging", "writable"]) {
    assert.deepEqual(fs.readdirSync(path.join(root, "images", folder)), [], folder);
  }
});
