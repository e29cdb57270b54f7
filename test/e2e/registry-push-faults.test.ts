/**
 * Pushes to registries that lose track: every upload ends whole, is begun anew where it must be, and sent once where it
 * can.
 */
import assert from "node:assert/strict";
import type { IncomingMessage } from "node:http";
import { after, describe, test } from "node:test";
import { silentLogger } from "../../common/log.ts";
import { realEnv } from "../../common/real-env.ts";
import type { ProgressLine } from "../../model/engine.ts";
import { parseReference } from "../../model/image-reference.ts";
import { loadImages } from "../../runtime/images/image-load.ts";
import { openImageStorage, type ImageStorage } from "../../runtime/images/image-storage.ts";
import { dockerArchive, streamOf, type TestImage } from "../../runtime/images/testing/archives.ts";
import { HttpCaller } from "../../runtime/registry/http-call.ts";
import { ANONYMOUS } from "../../runtime/registry/registry-auth.ts";
import { DEFAULT_REGISTRY_CONFIG } from "../../runtime/registry/registry-config.ts";
import { pushToRegistry } from "../../runtime/registry/registry-push.ts";
import { FakeRegistry, lastPart, noise, type Spoil } from "./support/fake-registry.ts";
import { ImageLab, linesOf } from "./support/image-lab.ts";
import { WAIT_MS } from "./support/wait.ts";

const skip = process.getuid?.() === 0 ? false : "needs root";
const LAYER_BYTES = 1_000_000;
const CHUNK_BYTES = 256 * 1024;

/** Layers that come compressed go as they are. */
const IMAGE: TestImage = {
  tags: ["app:1"],
  layers: [[{ name: "large", content: noise(LAYER_BYTES) }]],
  compression: "gzip",
};

describe("pushes to registries with faults", { skip }, () => {
  const lab = new ImageLab();
  const registries: FakeRegistry[] = [];
  const caller = new HttpCaller();
  let storage: ImageStorage | undefined;

  after(async () => {
    caller.close();
    await storage?.pool.stop();
    await lab.close();
    for (const registry of registries) registry.stop();
  });

  async function opened(): Promise<ImageStorage> {
    if (storage !== undefined) return storage;
    storage = await openImageStorage({
      env: realEnv,
      log: silentLogger,
      events: { emit: () => {} },
      dataRoot: lab.newFolder(),
    });
    await linesOf(loadImages(storage, streamOf(dockerArchive([IMAGE])), { quiet: true }));
    return storage;
  }

  async function started(): Promise<FakeRegistry> {
    const registry = new FakeRegistry();
    registries.push(registry);
    return registry.start();
  }

  async function push(
    registry: FakeRegistry,
    chunkBytes: number,
    repository = "app",
  ): Promise<readonly ProgressLine[]> {
    const images = await opened();
    const lines: ProgressLine[] = [];
    await pushToRegistry(images, {
      reference: parseReference(`${registry.host}/${repository}:1`),
      record: images.records.get("app:1"),
      access: { config: DEFAULT_REGISTRY_CONFIG, caller, credentials: ANONYMOUS },
      report: (line) => lines.push(line),
      signal: AbortSignal.timeout(WAIT_MS),
      chunkBytes,
    });
    return lines;
  }

  async function assertThere(registry: FakeRegistry): Promise<void> {
    const record = (await opened()).records.get("app:1");
    for (const digest of [record.id, ...record.layers.map((layer) => layer.digest)]) {
      assert.equal(registry.blobs.has(digest), true, digest);
    }
    assert.equal(registry.manifests.has("1"), true);
    assert.equal(registry.uploads.size, 0, "an upload was left open");
  }

  function methodIs(method: string): (request: IncomingMessage) => boolean {
    return (request) => request.method === method && (request.url ?? "").includes("/blobs/uploads/");
  }

  /** Spoils the `number`th request that `isMeant` picks, counted from 1. */
  function nth(number: number, isMeant: (request: IncomingMessage) => boolean, spoil: Spoil): Spoil {
    let count = 0;
    return (request, response) => isMeant(request) && ++count === number && spoil(request, response);
  }

  test("large layers go in chunks, each once, and are whole", async () => {
    const registry = await started();
    await push(registry, CHUNK_BYTES);
    await assertThere(registry);
    const chunks = registry.requests.filter((request) => request.startsWith("PATCH")).length;
    const record = (await opened()).records.get("app:1");
    assert.equal(chunks, Math.ceil((record.layers[0]?.sizeBytes ?? 0) / CHUNK_BYTES));
  });

  /** What the registry has read of a body when it breaks the connection off. */
  function cutAfter(registry: FakeRegistry, bytes: number): Spoil {
    return (request, response) => {
      const id = lastPart(request);
      let taken = Buffer.alloc(0);
      request.on("data", (piece: Buffer) => {
        taken = Buffer.concat([taken, piece]).subarray(0, bytes);
        if (taken.length < bytes) return;
        registry.uploads.set(id, Buffer.concat([registry.uploads.get(id) ?? Buffer.alloc(0), taken]));
        request.removeAllListeners("data");
        response.destroy();
      });
      if (bytes === 0) response.destroy();
      return true;
    };
  }

  const CHUNK_FAULTS: readonly (readonly [string, (registry: FakeRegistry) => Spoil])[] = [
    [
      "the first chunk breaks off before its first byte",
      (each) => nth(1, methodIs("PATCH"), cutAfter(each, 0)),
    ],
    [
      "the first chunk breaks off in the middle",
      (each) => nth(1, methodIs("PATCH"), cutAfter(each, 100_000)),
    ],
    ["a later chunk breaks off in the middle", (each) => nth(2, methodIs("PATCH"), cutAfter(each, 100_000))],
    [
      "a chunk arrives and its answer does not",
      (each) => nth(2, methodIs("PATCH"), cutAfter(each, CHUNK_BYTES)),
    ],
    [
      "a chunk is answered with 416",
      (each) =>
        nth(2, methodIs("PATCH"), (request, response) => {
          request.resume();
          // Some of it was lost there.
          const kept = (each.uploads.get(lastPart(request)) ?? Buffer.alloc(0)).subarray(0, 1000);
          each.uploads.set(lastPart(request), kept);
          response.writeHead(416, { Range: `0-${kept.length - 1}` }).end();
          return true;
        }),
    ],
    [
      "a chunk is answered with 503",
      () =>
        nth(2, methodIs("PATCH"), (request, response) => {
          request.resume();
          response.writeHead(503).end();
          return true;
        }),
    ],
    [
      "the upload is forgotten half-way",
      (each) =>
        nth(3, methodIs("PATCH"), (request) => {
          each.uploads.delete(lastPart(request));
          return false;
        }),
    ],
    [
      "the last answer is lost after all was stored",
      (each) =>
        nth(1, methodIs("PUT"), (request, response) => {
          const all = each.uploads.get(lastPart(request)) ?? Buffer.alloc(0);
          each.uploads.delete(lastPart(request));
          const wanted = new URL(request.url ?? "", "http://x").searchParams.get("digest") ?? "";
          each.blobs.set(wanted, all);
          request.resume();
          response.destroy();
          return true;
        }),
    ],
  ];

  for (const [what, spoilOf] of CHUNK_FAULTS) {
    test(`a push in chunks gets there when ${what}`, async () => {
      const registry = await started();
      registry.spoil = spoilOf(registry);
      const lines = await push(registry, CHUNK_BYTES);
      await assertThere(registry);
      for (const { progressDetail } of lines) {
        const { current = 0, total = 0 } = (progressDetail ?? {}) as { current?: number; total?: number };
        assert.equal(current <= total, true, "progress beyond the end");
      }
    });
  }

  const WHOLE_FAULTS: readonly (readonly [string, (registry: FakeRegistry) => Spoil])[] = [
    ["its body breaks off", (each) => nth(1, methodIs("PUT"), cutAfter(each, 100_000))],
    [
      "it is answered with 500",
      () =>
        nth(1, methodIs("PUT"), (request, response) => {
          request.resume();
          response.writeHead(500).end();
          return true;
        }),
    ],
    ["beginning it fails", () => nth(1, methodIs("POST"), (_, response) => (response.destroy(), true))],
    [
      "looking for the layer fails",
      () =>
        nth(
          1,
          (request) => request.method === "HEAD",
          (_, response) => (response.writeHead(502).end(), true),
        ),
    ],
  ];

  for (const [what, spoilOf] of WHOLE_FAULTS) {
    test(`a push in one piece gets there when ${what}`, async () => {
      const registry = await started();
      registry.spoil = spoilOf(registry);
      await push(registry, 64 * 1024 * 1024);
      const record = (await opened()).records.get("app:1");
      assert.equal(registry.blobs.has(record.layers[0]?.digest ?? ""), true);
      assert.equal(registry.manifests.has("1"), true);
    });
  }

  test("what a registry refuses is told and tried once", async () => {
    const registry = await started();
    registry.spoil = nth(1, methodIs("POST"), (_, response) => {
      registry.refuse(response, 403, "DENIED", "requested access to the resource is denied");
      return true;
    });
    await assert.rejects(push(registry, CHUNK_BYTES), {
      code: "permission_denied",
      message: "denied: requested access to the resource is denied",
    });
    assert.equal(registry.requests.filter((request) => request.startsWith("POST")).length, 1);
  });

  for (const status of [202, 401, 404, 405, 500]) {
    test(`a registry that answers ${status} to a mount gets the layer sent`, async () => {
      const registry = await started();
      await push(registry, CHUNK_BYTES, "first");
      const record = (await opened()).records.get("app:1");
      registry.blobs.clear();
      registry.spoil = (request, response) => {
        if (!(request.url ?? "").includes("mount=") || status === 202) return false;
        response.writeHead(status).end();
        return true;
      };
      await push(registry, CHUNK_BYTES, "second");
      await assertThere(registry);
      const mounts = registry.requests.filter((request) => request.includes("mount="));
      assert.equal(mounts.length, 1, mounts.join("\n"));
      assert.match(
        mounts[0] ?? "",
        new RegExp(`mount=sha256%3A${record.layers[0]?.digest.slice(7)}&from=first$`),
      );
    });
  }
});
