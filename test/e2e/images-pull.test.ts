/** Pulls from registries that misbehave and from peers. Needs root for unpacking. */
import assert from "node:assert/strict";
import { createHook } from "node:async_hooks";
import * as fs from "node:fs";
import path from "node:path";
import { Readable } from "node:stream";
import { after, test } from "node:test";
import type { ResolvedImage } from "../../model/dispatch.ts";
import type { BlobPeers, JsonObject } from "../../model/engine.ts";
import type { ImageEngineParts } from "../../runtime/images/image-engine.ts";
import { PartialBlobs } from "../../runtime/images/partial-blobs.ts";
import {
  buildImage,
  dockerArchive,
  sha256Of,
  streamOf,
  type TestImage,
} from "../../runtime/images/testing/archives.ts";
import { FakeRegistry, isBlob, lastPart } from "./support/fake-registry.ts";
import { ImageLab, linesOf } from "./support/image-lab.ts";
import { WAIT_MS } from "./support/wait.ts";

const lab = new ImageLab();
const registries: FakeRegistry[] = [];

after(async () => {
  await lab.close();
  for (const registry of registries) registry.stop();
});

async function open(registry?: {
  readonly mirrors: Readonly<Record<string, readonly string[]>>;
}): Promise<ImageEngineParts> {
  return lab.open(
    registry === undefined ? {} : { registry: { insecure: [], certificateFolders: [], ...registry } },
  );
}

const IMAGE: TestImage = {
  tags: ["app:1"],
  layers: [[{ name: "one", content: "1".repeat(100_000) }], [{ name: "two", content: "2" }]],
};

/** What a manager with that engine says of a name. */
function resolvedBy(engine: ImageEngineParts, reference: string): ResolvedImage | undefined {
  const image = engine.images.describe(reference);
  if (image === undefined) return undefined;
  return { digest: image.manifest.digest, holders: [], isKept: false, taggedAt: image.taggedAt };
}

async function pull(
  engine: ImageEngineParts,
  reference: string,
  registryAuth?: string,
): Promise<JsonObject[]> {
  const options = registryAuth === undefined ? { reference } : { reference, registryAuth };
  return linesOf(engine.images.pull(options, AbortSignal.timeout(WAIT_MS)));
}

async function started(image: TestImage = IMAGE): Promise<FakeRegistry> {
  const registry = new FakeRegistry(image);
  registries.push(registry);
  return registry.start();
}

test("ImageEngine.pull() brings an image and tells it as Docker does", async () => {
  const registry = await started();
  const engine = await open();
  const name = `${registry.host}/team/app:1`;
  const lines = await pull(engine, name);
  assert.deepEqual(lines[0], { status: "Pulling from team/app", id: "1" });
  assert.deepEqual(lines.slice(-2), [
    { status: `Digest: ${registry.manifestDigest}` },
    { status: `Status: Downloaded newer image for ${name}` },
  ]);
  const { id } = buildImage(IMAGE);
  assert.equal(engine.images.resolve(name), id);
  assert.equal(engine.images.resolve(`${registry.host}/team/app@${registry.manifestDigest}`), id);
  assert.deepEqual((await engine.images.inspect(id))["RepoDigests"], [
    `${registry.host}/team/app@${registry.manifestDigest}`,
  ]);
  const again = await pull(engine, name);
  assert.deepEqual(again.at(-1), { status: `Status: Image is up to date for ${name}` });
});

test("ImageEngine.pull() goes on where a connection broke off", async () => {
  const registry = await started();
  const broken = new Set<string>();
  registry.spoil = (request, response) => {
    if (!isBlob(request) || broken.has(lastPart(request))) return false;
    broken.add(lastPart(request));
    const blob = registry.blobs.get(lastPart(request)) ?? Buffer.alloc(0);
    response.writeHead(206, { "Content-Range": `bytes 0-${blob.length - 1}/${blob.length}` });
    response.write(blob.subarray(0, blob.length / 2), () => response.destroy());
    return true;
  };
  const engine = await open();
  await pull(engine, `${registry.host}/app:1`);
  assert.equal(engine.images.resolve(`${registry.host}/app:1`), buildImage(IMAGE).id);
  assert.equal(broken.size, 3);
});

test("ImageEngine.pull() refuses content with another digest and keeps nothing", async () => {
  const registry = await started();
  registry.spoil = (request, response) => {
    const blob = registry.blobs.get(lastPart(request));
    if (blob === undefined || blob.length < 50_000) return false;
    response.writeHead(200).end(Buffer.alloc(blob.length));
    return true;
  };
  const engine = await open();
  await assert.rejects(pull(engine, `${registry.host}/app:1`), {
    code: "failed_precondition",
    message: /digest/,
  });
  assert.equal(engine.images.resolve(`${registry.host}/app:1`), undefined);
  assert.equal(engine.images.hasBlob([...registry.blobs.keys()].at(-2) ?? ""), false);
});

test("ImageEngine.pull() refuses a manifest that is not the one asked for", async () => {
  const registry = await started();
  const engine = await open();
  const other = `sha256:${"12".repeat(32)}`;
  registry.manifests.set(other, registry.manifests.get("1") ?? Buffer.alloc(0));
  await assert.rejects(pull(engine, `${registry.host}/app@${other}`), /manifest verification failed/);
});

test("ImageEngine.pull() understands registries without ranges and ones that lie about them", async () => {
  for (const isLie of [false, true]) {
    const registry = await started();
    let count = 0;
    registry.spoil = (request, response) => {
      const blob = registry.blobs.get(lastPart(request));
      if (blob === undefined) return false;
      // The first answer of each kind breaks off, so that a range is asked for; that is then answered in full or wrongly.
      const isFirst = count++ === 0;
      if (isFirst) response.writeHead(200).write(blob.subarray(0, 100), () => response.destroy());
      else if (isLie && count === 2) response.writeHead(206, { "Content-Range": "bytes 7-9/10" }).end("abc");
      else response.writeHead(200).end(blob);
      return true;
    };
    const engine = await open();
    await pull(engine, `${registry.host}/app:1`);
    assert.equal(engine.images.resolve(`${registry.host}/app:1`), buildImage(IMAGE).id);
  }
});

test("ImageEngine.pull() tries again after 503 and waits for Retry-After", async () => {
  const registry = await started();
  let count = 0;
  registry.spoil = (_request, response) => {
    if (++count > 2) return false;
    response.writeHead(count === 1 ? 503 : 429, { "Retry-After": "0" }).end();
    return true;
  };
  const engine = await open();
  await pull(engine, `${registry.host}/app:1`);
  assert.equal(count > 2, true);
});

test("ImageEngine.pull() gets a token and never sends it to another host", async () => {
  const registry = await started();
  const storage = await started();
  const authorizations: string[] = [];
  const foreign: unknown[] = [];
  storage.spoil = (request) => {
    foreign.push(request.headers.authorization);
    return false;
  };
  registry.spoil = (request, response) => {
    const url = request.url ?? "";
    if (url.startsWith("/token")) {
      authorizations.push(request.headers.authorization ?? "none");
      assert.match(url, /service=fake/);
      assert.match(url, /scope=repository%3Aapp%3Apull/);
      response.end(JSON.stringify({ token: "secret", expires_in: 300 }));
      return true;
    }
    if (request.headers.authorization !== "Bearer secret") {
      const challenge = `Bearer realm="http://${registry.host}/token",service="fake",scope="repository:app:pull"`;
      response.writeHead(401, { "WWW-Authenticate": challenge }).end();
      return true;
    }
    if (!isBlob(request)) return false;
    response.writeHead(307, { Location: `http://${storage.host}${url}` }).end();
    return true;
  };
  const engine = await open();
  const auth = Buffer.from(JSON.stringify({ username: "me", password: "pw" })).toString("base64url");
  await pull(engine, `${registry.host}/app:1`, auth);
  assert.deepEqual(authorizations, [`Basic ${Buffer.from("me:pw").toString("base64")}`]);
  assert.equal(foreign.length >= 3, true);
  assert.deepEqual(new Set(foreign), new Set([undefined]));
});

test("ImageEngine.pull() asks mirrors first and falls back", async () => {
  const registry = await started();
  const empty = await started();
  empty.spoil = (_request, response) => {
    response.writeHead(404).end();
    return true;
  };
  const engine = await open({
    mirrors: { "docker.io": [`http://${empty.host}`, `http://${registry.host}`] },
  });
  await pull(engine, "app:1");
  assert.equal(engine.images.resolve("app:1"), buildImage(IMAGE).id);
  assert.deepEqual(empty.requests, ["GET /v2/library/app/manifests/1?ns=docker.io"]);
});

const ERRORS: readonly (readonly [number, string, RegExp, string])[] = [
  [
    404,
    "MANIFEST_UNKNOWN",
    /^manifest for .*\/app:1 not found: manifest unknown: no such thing$/,
    "not_found",
  ],
  [
    404,
    "NAME_UNKNOWN",
    /^pull access denied for .*\/app, repository does not exist or may require 'docker login'/,
    "not_found",
  ],
  [403, "DENIED", /^pull access denied for /, "not_found"],
  [429, "TOOMANYREQUESTS", /^toomanyrequests: no such thing$/, "resource_exhausted"],
];

for (const [status, code, message, kind] of ERRORS) {
  test(`ImageEngine.pull() says ${code} in Docker's words`, async () => {
    const registry = await started();
    registry.spoil = (_request, response) => {
      response.writeHead(status, { "Retry-After": "0" });
      response.end(JSON.stringify({ errors: [{ code, message: "no such thing" }] }));
      return true;
    };
    await assert.rejects(pull(await open(), `${registry.host}/app:1`), { code: kind, message });
  });
}

test("ImageEngine.pull() and distribution() of a dead registry say who refused, and ask it no more", async () => {
  const engine = await open();
  await assert.rejects(pull(engine, "127.0.0.1:1/app:1"), {
    code: "internal",
    message:
      /^Get "http:\/\/127\.0\.0\.1:1\/v2\/app\/manifests\/1": dial tcp 127\.0\.0\.1:1: connect: connection refused$/,
  });
  let connectionCount = 0;
  const hook = createHook({ init: (_id, type) => void (type === "TCPCONNECTWRAP" && connectionCount++) });
  hook.enable();
  await assert.rejects(engine.images.distribution("127.0.0.1:1/app:1"), /connection refused/);
  hook.disable();
  // Over TLS and plain.
  assert.equal(connectionCount, 2);
});

test("ImageEngine.distribution() gives digest and platforms", async () => {
  const registry = await started();
  const answer = await (await open()).images.distribution(`${registry.host}/app:1`);
  assert.equal((answer["Descriptor"] as JsonObject)["digest"], registry.manifestDigest);
  assert.deepEqual(answer["Platforms"], [{ architecture: "amd64", os: "linux" }]);
});

test("ImageEngine.ensure() is here, then from several peers at once, then from the registry", async () => {
  const first = await open();
  const second = await open();
  const third = await open();
  for (const engine of [first, second])
    await linesOf(engine.images.load(streamOf(dockerArchive([IMAGE])), { quiet: true }));
  const nodes = new Map([
    ["n1", first],
    ["n2", second],
  ]);
  const fetched: string[] = [];
  let isFlaky = true;
  const peers: BlobPeers = {
    resolve: (reference) => Promise.resolve(resolvedBy(first, reference)),
    find: (reference) =>
      Promise.resolve(
        [...nodes].flatMap(([peer, engine]) => {
          const image = engine.images.describe(reference);
          return image === undefined ? [] : [{ peer, image }];
        }),
      ),
    fetch: async (peer, { digest, offset }) => {
      fetched.push(peer);
      const node = nodes.get(peer);
      assert.ok(node !== undefined);
      const { content } = await node.images.openBlob(digest, offset);
      if (!isFlaky) return content;
      isFlaky = false;
      return Readable.from([Buffer.from("{")]);
    },
  };
  await assert.rejects(third.images.ensure("app:2", {}, AbortSignal.timeout(WAIT_MS)));
  third.images.setPeers(peers);
  const id = await third.images.ensure("app:1", {}, AbortSignal.timeout(WAIT_MS));
  assert.equal(id, buildImage(IMAGE).id);
  assert.deepEqual([...new Set(fetched)].sort(), ["n1", "n2"]);
  assert.equal(third.images.describe("app:1")?.taggedAt, first.images.describe("app:1")?.taggedAt);
  const count = fetched.length;
  await third.images.ensure("app:1", {}, AbortSignal.timeout(WAIT_MS));
  assert.equal(fetched.length, count);
});

test("an image that is pinned to the digest of its index comes from peers without its registry", async () => {
  const registry = await started();
  const { manifestDigest: digest } = registry;
  const platform = { os: "linux", architecture: "amd64" };
  const mediaType = "application/vnd.oci.image.manifest.v1+json";
  const index = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: "application/vnd.oci.image.index.v1+json",
      manifests: [{ mediaType, digest, size: registry.manifestBytes, platform }],
    }),
  );
  registry.spoil = (request, response) => {
    if (!(request.url ?? "").endsWith("/manifests/1")) return false;
    response.writeHead(200, { "Content-Type": "application/vnd.oci.image.index.v1+json" }).end(index);
    return true;
  };
  const [first, second] = [await open(), await open()];
  const name = `${registry.host}/app`;
  await pull(first, `${name}:1`);
  const pinned = `${name}@sha256:${sha256Of(index)}`;
  assert.equal(first.images.describe(pinned)?.index?.digest, `sha256:${sha256Of(index)}`);
  second.images.setPeers({
    resolve: () => Promise.resolve(undefined),
    find: (reference) => {
      const image = first.images.describe(reference);
      return Promise.resolve(image === undefined ? [] : [{ peer: "n1", image }]);
    },
    fetch: async (_peer, part) => (await first.images.openBlob(part.digest, part.offset)).content,
  });
  const requestCount = registry.requests.length;
  const id = await second.images.ensure(pinned, { peersOnly: true }, AbortSignal.timeout(WAIT_MS));
  assert.equal(id, buildImage(IMAGE).id);
  assert.equal(registry.requests.length, requestCount);
  assert.equal(
    second.images.describe(pinned)?.index?.digest,
    `sha256:${sha256Of(index)}`,
    "and on from there",
  );
  await first.images.prune(new Map());
  assert.equal(first.images.describe(pinned)?.index?.digest, `sha256:${sha256Of(index)}`, "no garbage");
});

test("openBlob() serves a blob that is still arriving", async () => {
  const registry = await started();
  const gate = Promise.withResolvers<void>();
  const layer = [...registry.blobs].find(([, bytes]) => bytes.length > 50_000);
  assert.ok(layer !== undefined);
  const [digest, bytes] = layer;
  registry.spoil = (request, response) => {
    if (!(request.url ?? "").endsWith(digest)) return false;
    response.writeHead(200).write(bytes.subarray(0, 60_000));
    void gate.promise.then(() => response.end(bytes.subarray(60_000)));
    return true;
  };
  const engine = await open();
  const pulling = pull(engine, `${registry.host}/app:1`);
  while (!engine.images.hasBlob(digest)) await new Promise((resolve) => setImmediate(resolve));
  let opened = await engine.images.openBlob(digest, 10).catch(() => undefined);
  while (opened === undefined) opened = await engine.images.openBlob(digest, 10).catch(() => undefined);
  gate.resolve();
  const pieces: Buffer[] = [];
  for await (const piece of opened.content) pieces.push(piece as Buffer);
  assert.equal(Buffer.concat(pieces).equals(bytes.subarray(10)), true);
  await pulling;
});

test("a blob that no longer goes on sends its readers to other sources", async () => {
  const folder = lab.newFolder();
  const file = path.join(folder, "arriving");
  fs.writeFileSync(file, "half");
  const partial = new PartialBlobs(10);
  partial.start("sha256:aa", file, 8).progress(4);
  const opened = await partial.open("sha256:aa", 1);
  assert.ok(opened !== undefined);
  const pieces: string[] = [];
  await assert.rejects(async () => {
    for await (const piece of opened.content) pieces.push(String(piece));
  }, /does not go on/);
  assert.deepEqual(pieces, ["alf"]);
});

test("a pull from the registry takes what another node is just getting from there", async () => {
  const image: TestImage = { tags: ["app:1"], layers: [[{ name: "big", content: "1".repeat(3_000_000) }]] };
  const registry = await started(image);
  const gate = Promise.withResolvers<void>();
  const big = [...registry.blobs].find(([, bytes]) => bytes.length > 1_000_000);
  assert.ok(big !== undefined);
  const [digest, bytes] = big;
  let isFirst = true;
  registry.spoil = (request, response) => {
    if (!(request.url ?? "").endsWith(digest)) return false;
    // The first node gets it slowly, the second never.
    if (isFirst) {
      response.writeHead(200).write(bytes.subarray(0, 2_000_000));
      void gate.promise.then(() => response.end(bytes.subarray(2_000_000)));
      isFirst = false;
    } else response.writeHead(404).end();
    return true;
  };
  const first = await open();
  const second = await open();
  second.images.setPeers({
    resolve: () => Promise.resolve(undefined),
    find: (reference) => {
      const found = first.images.describe(reference);
      return Promise.resolve(found === undefined ? [] : [{ peer: "n1", image: found }]);
    },
    fetch: async (_peer, { digest: wanted, offset }) => {
      const { content } = await first.images.openBlob(wanted, offset);
      if (wanted === digest) gate.resolve();
      return content;
    },
  });
  const name = `${registry.host}/app:1`;
  const pulling = pull(first, name);
  while (!first.images.hasBlob(digest)) await new Promise((resolve) => setImmediate(resolve));
  await pull(second, name);
  await pulling;
  assert.equal(second.images.resolve(name), buildImage(image).id);
});

test("pulls of the same image share one download, and leaving one does not end the other", async () => {
  const registry = await started();
  const gate = Promise.withResolvers<void>();
  registry.spoil = (request, response) => {
    if (!(request.url ?? "").includes("/manifests/")) return false;
    void gate.promise.then(() => {
      registry.spoil = () => false;
      response.writeHead(307, { Location: request.url ?? "" }).end();
    });
    return true;
  };
  const engine = await open();
  const leaving = new AbortController();
  const name = `${registry.host}/app:1`;
  const first = engine.images.ensure(name, {}, leaving.signal);
  const second = engine.images.ensure(name, {}, AbortSignal.timeout(WAIT_MS));
  leaving.abort();
  await assert.rejects(first, { code: "cancelled" });
  gate.resolve();
  assert.equal(await second, buildImage(IMAGE).id);
});
