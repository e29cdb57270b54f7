/** Images from peers of which some lie, break off or are busy: what arrives is what the digest says, or nothing. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { Readable } from "node:stream";
import { after, test } from "node:test";
import { ClusterError } from "../../common/errors.ts";
import type { ResolvedImage } from "../../model/dispatch.ts";
import type { BlobPeers, ImageDescription, PeerImage } from "../../model/engine.ts";
import {
  buildImage,
  dockerArchive,
  streamOf,
  type TestImage,
} from "../../runtime/images/testing/archives.ts";
import { ImageLab, type LabEngine, linesOf } from "./support/image-lab.ts";
import { WAIT_MS } from "./support/wait.ts";

const lab = new ImageLab();

after(() => lab.close());

/** Two layers, the second of many pieces. */
function bigImage(tag: string): TestImage {
  return {
    tags: [tag],
    layers: [
      [{ name: "one", content: randomBytes(100_000) }],
      [{ name: "two", content: randomBytes(9_000_000) }],
    ],
  };
}

async function engineWith(image: TestImage): Promise<LabEngine> {
  const engine = await lab.open();
  await linesOf(engine.images.load(streamOf(dockerArchive([image])), { quiet: true }));
  return engine;
}

interface ModelPeer {
  readonly engine: LabEngine;
  /** What it says instead of the truth. */
  readonly describe?: (reference: string) => ImageDescription | undefined;
  /** What it sends instead of a blob's bytes. */
  readonly send?: (content: Readable, digest: string) => Readable | Promise<Readable>;
}

/** Peers by name; `manager` says what names mean. Counts what is asked of each. */
class ModelPeers implements BlobPeers {
  readonly fetchedFrom: string[] = [];
  isKept = true;
  readonly #peers: ReadonlyMap<string, ModelPeer>;
  readonly #manager: LabEngine | undefined;

  constructor(peers: Readonly<Record<string, ModelPeer>>, manager?: LabEngine) {
    this.#peers = new Map(Object.entries(peers));
    this.#manager = manager;
  }

  resolve(reference: string): Promise<ResolvedImage | undefined> {
    const image = this.#manager?.images.describe(reference);
    if (image === undefined) return Promise.resolve(undefined);
    const { taggedAt, manifest } = image;
    return Promise.resolve({ digest: manifest.digest, holders: [], isKept: this.isKept, taggedAt });
  }

  find(reference: string): Promise<readonly PeerImage[]> {
    return Promise.resolve(
      [...this.#peers].flatMap(([peer, { engine, describe }]) => {
        const image = (describe ?? ((name) => engine.images.describe(name)))(reference);
        return image === undefined ? [] : [{ peer, image }];
      }),
    );
  }

  async fetch(peer: string, part: { readonly digest: string; readonly offset: number }): Promise<Readable> {
    this.fetchedFrom.push(peer);
    const model = this.#peers.get(peer);
    assert.ok(model);
    const { content } = await model.engine.images.openBlob(part.digest, part.offset);
    return (await model.send?.(content, part.digest)) ?? content;
  }
}

function ensure(engine: LabEngine, reference: string): Promise<string> {
  return engine.images.ensure(reference, { peersOnly: true }, AbortSignal.timeout(WAIT_MS));
}

function described(engine: LabEngine, reference: string): ImageDescription {
  const image = engine.images.describe(reference);
  assert.ok(image);
  return image;
}

/** The same number of other bytes. */
function spoiled(content: Readable): Readable {
  return Readable.from(
    (async function* (): AsyncGenerator<Buffer> {
      for await (const chunk of content) yield Buffer.from(chunk as Buffer).fill(0x78);
    })(),
    { objectMode: false },
  );
}

test("a name that only a peer claims is nothing: managers say what names mean", async () => {
  const hostile = await engineWith(bigImage("app:1"));
  const engine = await lab.open();
  engine.images.setPeers(new ModelPeers({ hostile: { engine: hostile } }));
  await assert.rejects(ensure(engine, "app:1"), { code: "not_found" });
  const manager = await engineWith(bigImage("app:1"));
  const peers = new ModelPeers({ hostile: { engine: hostile }, manager: { engine: manager } }, manager);
  engine.images.setPeers(peers);
  assert.equal(await ensure(engine, "app:1"), manager.images.resolve("app:1"));
  assert.ok(!peers.fetchedFrom.includes("hostile"), "what it calls so is another image");
});

test("a pull takes what the cluster keeps under the name, and a manager's own image only where a task wants it", async () => {
  // A registry that is not there.
  const name = "127.0.0.1:1/app:1";
  const manager = await engineWith(bigImage(name));
  const [engine, other] = [await lab.open(), await lab.open()];
  const peers = new ModelPeers({ manager: { engine: manager } }, manager);
  engine.images.setPeers(peers);
  const pull = (puller: LabEngine): Promise<readonly unknown[]> =>
    linesOf(puller.images.pull({ reference: name }, AbortSignal.timeout(WAIT_MS)));
  assert.deepEqual((await pull(engine)).slice(-2), [
    { status: `Digest: ${described(manager, name).manifest.digest}` },
    { status: `Status: Downloaded newer image for ${name}` },
  ]);
  assert.deepEqual((await pull(engine)).at(-1), { status: `Status: Image is up to date for ${name}` });
  peers.isKept = false;
  other.images.setPeers(peers);
  await assert.rejects(pull(other), /connection refused/);
  assert.equal(await ensure(other, name), manager.images.resolve(name));
});

test("a disk that is too full for what a peer has is told with its folder, not that there is no such image", async (context) => {
  const name = "127.0.0.1:1/app:1";
  const manager = await engineWith(bigImage(name));
  const disk = lab.newFolder();
  execFileSync("mount", ["-t", "tmpfs", "-o", "size=2m", "tmpfs", disk]);
  context.after(() => execFileSync("umount", ["--lazy", disk]));
  const engine = await lab.open({ dataRoot: disk });
  engine.images.setPeers(new ModelPeers({ manager: { engine: manager } }, manager));
  const full = { code: "resource_exhausted", message: new RegExp(`no space left on device: ${disk}/`) };
  for (const peersOnly of [true, false])
    await assert.rejects(engine.images.ensure(name, { peersOnly }, AbortSignal.timeout(WAIT_MS)), full);
});

test("another image under the digest that was asked for is refused, and no name that a peer claims is kept", async () => {
  const [good, evil] = [await engineWith(bigImage("app:1")), await engineWith(bigImage("app:1"))];
  const { digest } = described(good, "app:1").manifest;
  const claim = { ...described(evil, "app:1"), repoDigests: [`docker.io/library/app@${digest}`] };
  const engine = await lab.open();
  engine.images.setPeers(new ModelPeers({ evil: { engine: evil, describe: () => claim } }));
  await assert.rejects(ensure(engine, `app@${digest}`), { code: "not_found" });
  // It says that its manifest has the digest, and sends its own.
  const manifest = { ...claim.manifest, digest };
  const evilPeer = {
    engine: evil,
    describe: () => ({ ...claim, manifest }),
    send: async (_content: Readable, asked: string) =>
      (await evil.images.openBlob(asked === digest ? claim.manifest.digest : asked, 0)).content,
  };
  const peers = new ModelPeers({ evil: { ...evilPeer, engine: good } });
  engine.images.setPeers(peers);
  await assert.rejects(ensure(engine, `app@${digest}`), { code: "not_found" });
  assert.equal(engine.images.resolve(`app@${digest}`), undefined);
  engine.images.setPeers(new ModelPeers({ evil: { ...evilPeer, engine: good }, good: { engine: good } }));
  assert.equal(await ensure(engine, `app@${digest}`), good.images.resolve("app:1"));
  assert.deepEqual(described(engine, `app@${digest}`).repoDigests, [`docker.io/library/app@${digest}`]);
});

test("a peer that sends other bytes is found out and left; with liars only nothing arrives", async () => {
  const image = bigImage("app:1");
  const [honest, liar] = [await engineWith(image), await engineWith(image)];
  const { digest } = described(honest, "app:1").manifest;
  // Documents are sent truly, so that it takes part in the layers.
  const isLayer = (blob: string): boolean =>
    described(honest, "app:1")
      .blobs.slice(1)
      .some((each) => each.digest === blob);
  const lying = {
    engine: liar,
    send: (content: Readable, blob: string) => (isLayer(blob) ? spoiled(content) : content),
  };
  const engine = await lab.open();
  engine.images.setPeers(new ModelPeers({ liar: lying }));
  await assert.rejects(ensure(engine, `app@${digest}`), { code: "not_found" });
  const [, ...layers] = described(honest, "app:1").blobs;
  for (const layer of layers) assert.equal(engine.images.hasBlob(layer.digest), false);
  engine.images.setPeers(new ModelPeers({ liar: lying, honest: { engine: honest }, other: lying }));
  assert.equal(await ensure(engine, `app@${digest}`), buildImage(image).id);
});

test("sources that break off in the middle or are busy are gone around", async () => {
  const image = bigImage("app:1");
  const [first, second] = [await engineWith(image), await engineWith(image)];
  const { digest } = described(first, "app:1").manifest;
  let busyCount = 5;
  const broken = {
    engine: first,
    send: (content: Readable) =>
      Readable.from(
        (async function* (): AsyncGenerator<Buffer> {
          for await (const chunk of content) {
            yield (chunk as Buffer).subarray(0, 1000);
            throw new ClusterError("unavailable", "connection reset", { retryable: true });
          }
        })(),
        { objectMode: false },
      ),
  };
  const busy = {
    engine: second,
    send: (content: Readable) => {
      busyCount -= 1;
      if (busyCount < 0) return content;
      content.destroy();
      return Promise.reject(new ClusterError("resource_exhausted", "busy", { retryable: true }));
    },
  };
  const engine = await lab.open();
  engine.images.setPeers(new ModelPeers({ broken, busy }));
  assert.equal(await ensure(engine, `app@${digest}`), buildImage(image).id);
  assert.ok(busyCount < 0);
});

test("what is kept for the cluster is spared by prune and rmi -f, and first in the inventory", async () => {
  const engine = await engineWith(bigImage("app:1"));
  const { manifest, imageId } = described(engine, "app:1");
  await linesOf(engine.images.load(streamOf(dockerArchive([bigImage("other:1")])), { quiet: true }));
  engine.images.setKept(new Set([manifest.digest]));
  await engine.images.prune(new Map([["dangling", ["false"]]]));
  assert.equal(engine.images.resolve("other:1"), undefined);
  assert.equal(engine.images.resolve("app:1"), imageId);
  await assert.rejects(
    engine.images.remove(imageId, { force: true, noPrune: false }),
    /kept for the cluster/,
  );
  // A name is its user's; the image stays without it.
  await engine.images.remove("app:1", { force: false, noPrune: false });
  assert.equal(engine.images.resolve(`app@${manifest.digest}`), imageId);
  await linesOf(engine.images.load(streamOf(dockerArchive([bigImage("other:2")])), { quiet: true }));
  assert.deepEqual([...engine.images.inventory(1)], [manifest.digest]);
  assert.equal(engine.images.inventory(100).has("docker.io/library/other:2"), true);
  engine.images.setKept(new Set());
  await engine.images.prune(new Map());
  assert.equal(engine.images.resolve(imageId), undefined, "a prune takes what is no longer kept");
});
