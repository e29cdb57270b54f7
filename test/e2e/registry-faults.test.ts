/** Registries that fail in every way: pulls and pushes get there, or say why not, and leave nothing half done. Needs root. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import type { IncomingMessage, ServerResponse } from "node:http";
import * as fs from "node:fs";
import path from "node:path";
import { after, describe, test } from "node:test";
import { freePort } from "../../common/testing/free-port.ts";
import { buildImage, type TestImage } from "../../runtime/images/testing/archives.ts";
import type { RegistryConfig } from "../../runtime/registry/registry-config.ts";
import { FakeRegistry, isBlob, lastPart, noise, type Spoil } from "./support/fake-registry.ts";
import { ImageLab, type LabEngine, linesOf } from "./support/image-lab.ts";
import { WAIT_MS } from "./support/wait.ts";

const skip = process.getuid?.() === 0 ? false : "needs root";

const LARGE_BYTES = 3_000_000;
const IMAGE: TestImage = {
  tags: ["app:1"],
  layers: [[{ name: "large", content: noise(LARGE_BYTES) }], [{ name: "small", content: "s" }]],
};
const ID = buildImage(IMAGE).id;

describe("registries with faults", { skip }, () => {
  const lab = new ImageLab();
  const registries: FakeRegistry[] = [];

  after(async () => {
    await lab.close();
    for (const registry of registries) registry.stop();
  });

  async function started(image: TestImage = IMAGE): Promise<FakeRegistry> {
    const registry = new FakeRegistry(image);
    registries.push(registry);
    return registry.start();
  }

  function open(config: Partial<RegistryConfig> = {}): Promise<LabEngine> {
    return lab.open({ registry: { insecure: [], mirrors: {}, certificateFolders: [], ...config } });
  }

  function header(auth: Readonly<Record<string, string>>): string {
    return Buffer.from(JSON.stringify(auth)).toString("base64url");
  }

  async function pull(
    engine: LabEngine,
    reference: string,
    options: { readonly registryAuth?: string; readonly signal?: AbortSignal } = {},
  ): Promise<void> {
    const { signal = AbortSignal.timeout(WAIT_MS), ...rest } = options;
    await linesOf(engine.images.pull({ reference, ...rest }, signal));
  }

  function filesIn(engine: LabEngine, folder: string): readonly string[] {
    return fs.readdirSync(path.join(engine.dataRoot, "images", folder));
  }

  /** Nothing of a pull that failed can be seen, and only what the next one goes on with is on the disk. */
  async function assertNothing(engine: LabEngine, unfinishedCount = 0): Promise<void> {
    assert.deepEqual(
      await engine.images.list({
        all: true,
        digests: false,
        sharedSize: false,
        manifests: false,
        filters: new Map(),
      }),
      [],
    );
    for (const folder of ["ingest", "staging", "layers", "records"]) {
      assert.deepEqual(filesIn(engine, folder), [], folder);
    }
    assert.equal(filesIn(engine, "unfinished").length, unfinishedCount);
  }

  /** Spoils the first `count` requests that `isMeant` picks. */
  function first(count: number, isMeant: (request: IncomingMessage) => boolean, spoil: Spoil): Spoil {
    let left = count;
    return (request, response) => isMeant(request) && left-- > 0 && spoil(request, response);
  }

  const PARTS: readonly (readonly [
    string,
    (registry: FakeRegistry) => (request: IncomingMessage) => boolean,
  ])[] = [
    ["the manifest", () => (request) => (request.url ?? "").includes("/manifests/")],
    ["the config", () => (request) => lastPart(request) === ID],
    ["a layer", (registry) => (request) => lastPart(request) === registry.largeBlob(100_000).digest],
  ];

  const CUTS: readonly (readonly [string, (bytes: Buffer, response: ServerResponse) => void])[] = [
    ["before its answer", (_, response) => response.destroy()],
    [
      "after its headers",
      (bytes, response) => {
        response.writeHead(200, { "Content-Length": bytes.length });
        response.flushHeaders();
        setImmediate(() => response.destroy());
      },
    ],
    [
      "before its last byte",
      (bytes, response) => {
        response.writeHead(200, { "Content-Length": bytes.length });
        response.write(bytes.subarray(0, -1), () => response.destroy());
      },
    ],
    [
      "without a length, as if it were whole",
      (bytes, response) => {
        response.writeHead(200, { "Transfer-Encoding": "chunked" });
        response.end(bytes.subarray(0, bytes.length >> 1));
      },
    ],
    ["with 500", (_, response) => void response.writeHead(500).end()],
    ["with 503 in HTML", (_, response) => void response.writeHead(503).end("<html>")],
    ["with 429", (_, response) => void response.writeHead(429, { "Retry-After": "0" }).end()],
  ];

  for (const [part, isMeantBy] of PARTS) {
    for (const [how, cut] of CUTS) {
      // A manifest has no length but its own: half of one is no document.
      if (part === "the manifest" && how.startsWith("without")) continue;
      test(`a pull gets there when ${part} breaks off ${how}`, async () => {
        const registry = await started();
        const bytesOf = (request: IncomingMessage): Buffer =>
          registry.blobs.get(lastPart(request)) ?? registry.manifests.get("1") ?? Buffer.alloc(0);
        registry.spoil = first(2, isMeantBy(registry), (request, response) => {
          cut(bytesOf(request), response);
          return true;
        });
        const engine = await open();
        await pull(engine, `${registry.host}/app:1`);
        assert.equal(engine.images.resolve(`${registry.host}/app:1`), ID);
        assert.deepEqual(filesIn(engine, "unfinished"), []);
      });
    }
  }

  const LIES: readonly (readonly [string, (blob: Buffer, from: number, response: ServerResponse) => void])[] =
    [
      ["all with 200", (blob, _, response) => void response.writeHead(200).end(blob)],
      [
        "another range",
        (blob, from, response) => {
          response.writeHead(206, { "Content-Range": `bytes ${from + 5}-${blob.length - 1}/${blob.length}` });
          response.end(blob.subarray(from + 5));
        },
      ],
      [
        "206 without a range",
        (blob, from, response) => void response.writeHead(206).end(blob.subarray(from)),
      ],
      [
        "less than the range",
        (blob, from, response) => {
          response.writeHead(206, { "Content-Range": `bytes ${from}-${blob.length - 1}/${blob.length}` });
          response.end(blob.subarray(from, from + 1000));
        },
      ],
      [
        "more than the range",
        (blob, from, response) => {
          response.writeHead(206, { "Content-Range": `bytes ${from}-${blob.length - 1}/${blob.length}` });
          response.end(Buffer.concat([blob.subarray(from), Buffer.alloc(1000)]));
        },
      ],
    ];

  for (const [what, lie] of LIES) {
    test(`a pull gets there when a registry twice gives ${what}`, async () => {
      const registry = await started();
      const { digest, bytes } = registry.largeBlob(100_000);
      let isBroken = false;
      registry.spoil = first(
        3,
        (request) => lastPart(request) === digest,
        (request, response) => {
          const from = Number(/bytes=(\d+)-/.exec(request.headers.range ?? "")?.[1]);
          if (isBroken) {
            lie(bytes, from, response);
            return true;
          }
          // So that what follows asks for a range.
          isBroken = true;
          response.writeHead(200, { "Content-Length": bytes.length });
          response.write(bytes.subarray(0, 500_000), () => response.destroy());
          return true;
        },
      );
      const engine = await open();
      await pull(engine, `${registry.host}/app:1`);
      assert.equal(engine.images.resolve(`${registry.host}/app:1`), ID);
    });
  }

  test("a limit is told in the registry's words, at once if it is long", async () => {
    const registry = await started();
    const said = "You have reached your pull rate limit. You may increase the limit by authenticating";
    registry.spoil = (_, response) => {
      response.setHeader("Retry-After", "3600");
      registry.refuse(response, 429, "TOOMANYREQUESTS", said);
      return true;
    };
    await assert.rejects(pull(await open(), `${registry.host}/app:1`), {
      code: "resource_exhausted",
      message: `toomanyrequests: ${said}`,
    });
    // Over TLS and plain.
    assert.equal(registry.requests.length, 1);
  });

  /** A registry behind tokens; `give` answers who asks for one. */
  async function guarded(give: Spoil, isValid: (token: string) => boolean): Promise<FakeRegistry> {
    const registry = await started();
    registry.spoil = (request, response) => {
      if ((request.url ?? "").startsWith("/token")) return give(request, response);
      if (isValid(request.headers.authorization ?? "")) return false;
      const challenge = `Bearer realm="http://${registry.host}/token",service="fake",scope="repository:app:pull"`;
      response.setHeader("WWW-Authenticate", challenge);
      registry.refuse(response, 401, "UNAUTHORIZED", "authentication required");
      return true;
    };
    return registry;
  }

  test("a token that ends in the middle of a pull is renewed, once for all that wait", async () => {
    let current = 0;
    let uses = 0;
    const registry = await guarded(
      (_, response) => {
        uses = 0;
        response.end(JSON.stringify({ token: `t${++current}`, expires_in: 300 }));
        return true;
      },
      (token) => token === `Bearer t${current}` && ++uses <= 2,
    );
    const engine = await open();
    await pull(engine, `${registry.host}/app:1`);
    assert.equal(engine.images.resolve(`${registry.host}/app:1`), ID);
    const asked = registry.requests.filter((request) => request.startsWith("GET /token"));
    // Manifest, config and two layers, two with each token.
    assert.equal(asked.length >= 2 && asked.length <= 3, true, String(asked.length));
  });

  test("an authority that is busy is asked again, and what it refuses is told", async () => {
    let count = 0;
    const busy = await guarded(
      (_, response) => {
        count += 1;
        if (count > 2) response.end(JSON.stringify({ token: "t" }));
        else response.writeHead(count === 1 ? 503 : 429, { "Retry-After": "0" }).end();
        return true;
      },
      (token) => token === "Bearer t",
    );
    await pull(await open(), `${busy.host}/app:1`);
    const registryAuth = header({ username: "me", password: "wrong" });
    const strict = await guarded(
      (_, response) => {
        response.writeHead(401).end(JSON.stringify({ details: "incorrect username or password" }));
        return true;
      },
      () => false,
    );
    await assert.rejects(pull(await open(), `${strict.host}/app:1`, { registryAuth }), {
      code: "unauthenticated",
      message: "unauthorized: incorrect username or password",
    });
  });

  test("a token that is too weak is a denied pull", async () => {
    const registry = await started();
    registry.spoil = (request, response) => {
      if ((request.url ?? "").startsWith("/token")) {
        response.end(JSON.stringify({ token: "weak" }));
        return true;
      }
      const challenge = `Bearer realm="http://${registry.host}/token",service="fake",error="insufficient_scope"`;
      response.setHeader("WWW-Authenticate", challenge);
      registry.refuse(response, 401, "UNAUTHORIZED", "authentication required");
      return true;
    };
    await assert.rejects(pull(await open(), `${registry.host}/app:1`), {
      code: "not_found",
      message: `pull access denied for ${registry.host}/app, repository does not exist or may require 'docker login': denied: requested access to the resource is denied`,
    });
  });

  test("a login asks for a token to keep, which a pull then gives for others", async () => {
    const bodies: string[] = [];
    const registry = await guarded(
      (request, response) => {
        if (request.method === "GET") {
          assert.match(request.url ?? "", /offline_token=true/);
          response.end(JSON.stringify({ token: "t", refresh_token: "keep" }));
          return true;
        }
        request.on("data", (piece: Buffer) => bodies.push(String(piece)));
        request.on("end", () => response.end(JSON.stringify({ access_token: "t" })));
        return true;
      },
      (token) => token === "Bearer t",
    );
    const engine = await open();
    const answer = await engine.images.login({
      username: "me",
      password: "pw",
      serveraddress: registry.host,
    });
    assert.deepEqual(answer, { Status: "Login Succeeded", IdentityToken: "keep" });
    const registryAuth = header({ username: "me", identitytoken: "keep" });
    await pull(engine, `${registry.host}/app:1`, { registryAuth });
    assert.match(bodies.join(""), /grant_type=refresh_token.*&refresh_token=keep/);
  });

  test("mirrors are asked in order, know whom they stand for, and never see the user's credentials", async () => {
    const [origin, empty, broken, mirror] = [
      await started(),
      await started(),
      await started(),
      await started(),
    ];
    empty.spoil = (_, response) => (empty.refuse(response, 404, "MANIFEST_UNKNOWN"), true);
    broken.spoil = (_, response) => (response.writeHead(500).end(), true);
    const seen: (string | undefined)[] = [];
    for (const each of [empty, broken, mirror]) {
      const { spoil } = each;
      each.spoil = (request, response) => {
        seen.push(request.headers.authorization);
        return spoil(request, response);
      };
    }
    const mirrors = [
      `http://${empty.host}`,
      "http://127.0.0.1:1",
      `http://${broken.host}`,
      `http://${mirror.host}/`,
    ];
    const engine = await open({ mirrors: { [origin.host]: mirrors } });
    const registryAuth = header({ username: "me", password: "pw" });
    await pull(engine, `${origin.host}/app:1`, { registryAuth });
    assert.equal(engine.images.resolve(`${origin.host}/app:1`), ID);
    assert.deepEqual(origin.requests, []);
    assert.deepEqual(new Set(seen), new Set([undefined]));
    assert.deepEqual(empty.requests, [`GET /v2/app/manifests/1?ns=${encodeURIComponent(origin.host)}`]);
    const own = await open({ mirrors: { [origin.host]: [`http://us:er%40@${mirror.host}`] } });
    mirror.spoil = (request, response) => {
      if (request.headers.authorization === `Basic ${Buffer.from("us:er@").toString("base64")}`) return false;
      response.writeHead(401, { "WWW-Authenticate": 'Basic realm="mirror"' }).end();
      return true;
    };
    await pull(own, `${origin.host}/app:1`, { registryAuth });
    assert.deepEqual(origin.requests, []);
  });

  const BAD_MIRRORS: readonly (readonly [string, (blob: Buffer, response: ServerResponse) => void])[] = [
    ["lacks the blobs", (_, response) => void response.writeHead(404).end()],
    ["fails", (_, response) => void response.writeHead(502, { "Retry-After": "0" }).end()],
    ["gives other bytes", (blob, response) => void response.writeHead(200).end(Buffer.alloc(blob.length))],
    ["breaks off", (blob, response) => void response.write(blob.subarray(0, 10), () => response.destroy())],
  ];

  for (const [what, answer] of BAD_MIRRORS) {
    test(`the registry gives what a mirror has named that ${what}`, async () => {
      const [origin, mirror] = [await started(), await started()];
      mirror.spoil = (request, response) => {
        if (!isBlob(request)) return false;
        answer(mirror.blobs.get(lastPart(request)) ?? Buffer.alloc(0), response);
        return true;
      };
      const engine = await open({ mirrors: { [origin.host]: [`http://${mirror.host}`] } });
      await pull(engine, `${origin.host}/app:1`);
      assert.equal(engine.images.resolve(`${origin.host}/app:1`), ID);
      assert.equal(
        origin.requests.some((request) => request.includes("/blobs/")),
        true,
      );
    });
  }

  test("a mirror's URL must be one without a path, and its password is not told", async () => {
    for (const mirror of ["http://me:secret@m/path", "ftp://m", "m"]) {
      const engine = await open({ mirrors: { "docker.io": [mirror] } });
      await assert.rejects(pull(engine, "app:1"), (caught: Error) => {
        assert.match(caught.message, /want an http or https URL without a path, got /);
        assert.doesNotMatch(caught.message, /secret/);
        return true;
      });
    }
  });

  /** Holds the large layer back after `bytes` until the gate opens. */
  function gated(
    registry: FakeRegistry,
    bytes: number,
  ): { readonly reached: Promise<void>; readonly open: () => void } {
    const { digest, bytes: blob } = registry.largeBlob(100_000);
    const [reached, gate] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    registry.spoil = first(
      1,
      (request) => lastPart(request) === digest,
      (_, response) => {
        response.writeHead(200, { "Content-Length": blob.length });
        response.write(blob.subarray(0, bytes), () => reached.resolve());
        void gate.promise.then(() => response.end(blob.subarray(bytes)));
        return true;
      },
    );
    return { reached: reached.promise, open: () => gate.resolve() };
  }

  /** Until the client has written about that much. */
  async function arrived(engine: LabEngine, bytes: number): Promise<void> {
    for (;;) {
      const folder = path.join(engine.dataRoot, "images", "unfinished");
      const sizes = fs.readdirSync(folder).map((name) => fs.statSync(path.join(folder, name)).size);
      if (sizes.some((size) => size >= bytes)) return;
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  async function leavePull(engine: LabEngine, registry: FakeRegistry): Promise<void> {
    const gate = gated(registry, 2_000_000);
    const leaving = new AbortController();
    const pulling = pull(engine, `${registry.host}/app:1`, { signal: leaving.signal });
    await gate.reached;
    await arrived(engine, 1_500_000);
    leaving.abort();
    await assert.rejects(pulling, { code: "cancelled" });
    while (filesIn(engine, "staging").length + filesIn(engine, "ingest").length > 0)
      await new Promise((resolve) => setImmediate(resolve));
  }

  function rangesOf(registry: FakeRegistry): readonly number[] {
    const ranges: number[] = [];
    registry.spoil = (request) => {
      const range = /bytes=(\d+)-/.exec(request.headers.range ?? "")?.[1];
      if (lastPart(request) === registry.largeBlob(100_000).digest) ranges.push(Number(range));
      return false;
    };
    return ranges;
  }

  test("a pull that was left is gone on with where it stopped, and leaves nothing else meanwhile", async () => {
    const registry = await started();
    const engine = await open();
    await leavePull(engine, registry);
    await assertNothing(engine, 1);
    const ranges = rangesOf(registry);
    await pull(engine, `${registry.host}/app:1`);
    assert.equal(ranges.length, 1);
    assert.equal((ranges[0] ?? 0) >= 1_500_000, true, String(ranges));
    assert.equal(engine.images.resolve(`${registry.host}/app:1`), ID);
    assert.deepEqual(filesIn(engine, "unfinished"), []);
  });

  test("what a pull left is thrown away when it is damaged, and by a prune", async () => {
    const registry = await started();
    const engine = await open();
    await leavePull(engine, registry);
    const [name = ""] = filesIn(engine, "unfinished");
    const file = path.join(engine.dataRoot, "images", "unfinished", name);
    fs.writeFileSync(file, Buffer.alloc(fs.statSync(file).size, "x"));
    const ranges = rangesOf(registry);
    await pull(engine, `${registry.host}/app:1`);
    assert.equal(engine.images.resolve(`${registry.host}/app:1`), ID);
    assert.equal(ranges.includes(0), true);
    const other = await open();
    await leavePull(other, registry);
    const { SpaceReclaimed } = await other.images.prune(new Map());
    assert.equal(SpaceReclaimed >= 1_500_000, true);
    await assertNothing(other);
  });

  test("a pull without a tag gets all tags, however many pages they are", async () => {
    const registry = await started();
    const tags = Array.from({ length: 250 }, (_, number) => `v${number}`);
    registry.add(IMAGE, tags);
    const engine = await open();
    await pull(engine, `${registry.host}/app`);
    const [image] = await engine.images.list({
      all: false,
      digests: false,
      sharedSize: false,
      manifests: false,
      filters: new Map(),
    });
    const tagged = (image ?? {})["RepoTags"] as readonly string[];
    assert.equal(tagged.length, 251);
    assert.equal(registry.requests.filter((request) => request.includes("/tags/list")).length, 3);
    assert.equal(registry.requests.filter((request) => request.includes("/blobs/")).length, 3);
  });

  test("a list of tags that goes on without any ends", async () => {
    const registry = await started();
    let count = 0;
    registry.spoil = (request, response) => {
      if (request.url?.includes("/tags/list") !== true) return false;
      count += 1;
      response.writeHead(200, { Link: `<${request.url}>; rel="next"` });
      response.end(JSON.stringify({ name: "app", tags: [] }));
      return true;
    };
    const engine = await open();
    await pull(engine, `${registry.host}/app`);
    assert.equal(count, 1);
  });

  test("a list of names that are no tags ends", async () => {
    const registry = await started();
    const names = Array.from({ length: 60_000 }, () => "/");
    let count = 0;
    registry.spoil = (request, response) => {
      if (request.url?.includes("/tags/list") !== true) return false;
      count += 1;
      // Without a bound of its own the client would ask for ever.
      const isOver = count > 10;
      response.writeHead(200, isOver ? {} : { Link: `<${request.url}>; rel="next"` });
      response.end(JSON.stringify({ name: "app", tags: names }));
      return true;
    };
    const engine = await open();
    await pull(engine, `${registry.host}/app`);
    assert.equal(count, 2);
  });

  test("what is named by another algorithm than SHA-256 is checked by it", async () => {
    const registry = await started();
    const sha512 = (bytes: Buffer): string => `sha512:${createHash("sha512").update(bytes).digest("hex")}`;
    const manifest = registry.manifests.get(registry.manifestDigest) ?? Buffer.alloc(0);
    const [right, wrong] = [sha512(manifest), sha512(Buffer.from("another manifest"))];
    for (const digest of [right, wrong]) registry.manifests.set(digest, manifest);
    const engine = await open();
    await assert.rejects(pull(engine, `${registry.host}/app@${wrong}`), /manifest verification failed/);
    await assertNothing(engine);
    await pull(engine, `${registry.host}/app@${right}`);
    assert.equal(engine.images.resolve(ID), ID);

    const value = JSON.parse(manifest.toString("utf8")) as { readonly config: { digest: string } };
    const config = registry.blobs.get(value.config.digest) ?? Buffer.alloc(0);
    value.config.digest = wrong;
    registry.blobs.set(wrong, config);
    registry.manifests.set("2", Buffer.from(JSON.stringify(value)));
    const other = await open();
    await assert.rejects(pull(other, `${registry.host}/app:2`), /must have the digest sha512:/);
    await assertNothing(other);
  });

  test("an image's platform is not taken from a config that is not its own", async () => {
    const registry = await started();
    const reference = `${registry.host}/app:1`;
    const engine = await open();
    const before = await engine.images.distribution(reference);
    registry.spoil = (request, response) => {
      if (!isBlob(request)) return false;
      response.end(JSON.stringify({ architecture: "s390x", os: "linux", rootfs: {} }));
      return true;
    };
    await assert.rejects(engine.images.distribution(reference), /must have the digest/);
    registry.spoil = () => false;
    assert.deepEqual(await engine.images.distribution(reference), before);
  });

  test("ten clients that pull the same image at once get each blob once", async () => {
    const registry = await started();
    const engine = await open();
    const gate = gated(registry, 1_000_000);
    const pulls = Array.from({ length: 10 }, () => pull(engine, `${registry.host}/app:1`));
    await gate.reached;
    gate.open();
    await Promise.all(pulls);
    const blobs = registry.requests.filter((request) => request.includes("/blobs/"));
    assert.equal(blobs.length, 3, blobs.join("\n"));
  });

  test("who leaves a pull does not end another that waits for the same layer", async () => {
    const registry = await started();
    const other: TestImage = { tags: [], layers: [...IMAGE.layers, [{ name: "more", content: "m" }]] };
    registry.add(other, ["2"]);
    const engine = await open();
    const gate = gated(registry, 1_000_000);
    const leaving = new AbortController();
    const left = pull(engine, `${registry.host}/app:1`, { signal: leaving.signal });
    await gate.reached;
    const kept = pull(engine, `${registry.host}/app:2`);
    // Its own layer is asked for once it waits for the others.
    const own = buildImage(other).diffIds[2] ?? "";
    const isAsked = (): boolean => registry.requests.some((request) => request.includes(own));
    while (!isAsked()) await new Promise((resolve) => setImmediate(resolve));
    leaving.abort();
    await assert.rejects(left, { code: "cancelled" });
    await kept;
    assert.equal(engine.images.resolve(`${registry.host}/app:2`), buildImage(other).id);
  });

  test("a disk that fills up in the middle of a pull is named, and nothing half can be seen", async (context) => {
    const registry = await started();
    const disk = lab.newFolder();
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=2m", "tmpfs", disk]);
    context.after(() => execFileSync("umount", ["--lazy", disk]));
    const engine = await lab.open({ dataRoot: disk });
    await assert.rejects(pull(engine, `${registry.host}/app:1`), {
      code: "resource_exhausted",
      message: new RegExp(`no space left on device: ${disk}/`),
    });
    await assertNothing(engine);
    execFileSync("mount", ["-o", "remount,size=64m", disk]);
    await pull(engine, `${registry.host}/app:1`);
    assert.equal(engine.images.resolve(`${registry.host}/app:1`), ID);
  });

  test("a registry that refused connections is asked again as soon as it does not", async () => {
    const port = await freePort();
    const name = `127.0.0.1:${port}/app:1`;
    const engine = await open();
    await assert.rejects(engine.images.distribution(name), /connection refused/);
    const registry = new FakeRegistry(IMAGE);
    registries.push(registry);
    await registry.start(port);
    const { Descriptor } = (await engine.images.distribution(name)) as { readonly Descriptor: object };
    assert.equal((Descriptor as { readonly digest: string }).digest.slice(0, 7), "sha256:");
  });
});
