import assert from "node:assert/strict";
import { test } from "node:test";
import type { Client } from "@grpc/grpc-js";
import type { ResolvedImage } from "../model/dispatch.ts";
import { ClusterBlobPeers, type PeerAddress } from "./blob-peers.ts";

const DIGEST = `sha256:${"a".repeat(64)}`;
const OTHER = `sha256:${"b".repeat(64)}`;
const { signal } = new AbortController();

function resolved(more: Partial<ResolvedImage>): ResolvedImage {
  return { digest: DIGEST, holders: [], isKept: false, taggedAt: "", ...more };
}

function description(digest: string): unknown {
  return { manifest: { digest, mediaType: "", sizeBytes: 1 }, blobs: [] };
}

interface Answers {
  /** By address; absent ones can't be reached. A string is sent as it is, but for "silence". */
  readonly resolve?: Readonly<Record<string, unknown>>;
  readonly describe?: (address: string) => unknown;
}

class Fixture {
  readonly asked: string[] = [];
  readonly peers: ClusterBlobPeers;

  constructor(
    answers: Answers,
    more: {
      readonly own?: ResolvedImage;
      readonly managers?: readonly string[];
      readonly peers?: readonly PeerAddress[];
    } = {},
  ) {
    this.peers = new ClusterBlobPeers({
      peers: () => more.peers ?? [],
      managers: () => more.managers ?? [],
      resolveHere: () => Promise.resolve(more.own),
      dial: (address, { manager = false }) => this.#client(address, manager, answers),
    });
  }

  #client(address: string, isManager: boolean, answers: Answers): Client {
    const answer = (path: string): unknown =>
      path.endsWith("/ResolveImage") ? answers.resolve?.[address] : answers.describe?.(address);
    const model = {
      makeUnaryRequest: (path: string, ...rest: readonly unknown[]): { readonly cancel: () => void } => {
        this.asked.push(`${address}${isManager ? " as manager" : ""}`);
        const done = rest.at(-1) as (error: unknown, response?: unknown) => void;
        const value = answer(path);
        queueMicrotask(() => {
          if (value === "silence") return;
          if (value === undefined) done(Object.assign(new Error("unreachable"), { code: 14, details: "" }));
          else
            done(null, { imageJson: Buffer.from(typeof value === "string" ? value : JSON.stringify(value)) });
        });
        return { cancel: () => {} };
      },
      close: () => {},
    };
    return model as unknown as Client;
  }
}

test("resolve() takes what this manager keeps without asking, and asks only managers otherwise", async () => {
  const kept = new Fixture({}, { own: resolved({ isKept: true }), managers: ["m2"] });
  assert.equal((await kept.peers.resolve("web:1", signal))?.isKept, true);
  assert.deepEqual(kept.asked, []);
  const worker = new Fixture(
    {
      resolve: { m1: resolved({ taggedAt: "2026-02" }), m2: "not json", m3: resolved({ digest: "latest" }) },
    },
    { managers: ["m1", "m2", "m3", "m4"] },
  );
  assert.equal((await worker.peers.resolve("web:1", signal))?.digest, DIGEST);
  assert.deepEqual(
    worker.asked,
    ["m1", "m2", "m3", "m4"].map((each) => `${each} as manager`),
  );
});

test("resolve() prefers what the cluster keeps to any manager's own, and of those the newest", async () => {
  const own = resolved({ taggedAt: "2026-03" });
  const managers = ["m1", "m2"];
  const newest = resolved({ digest: OTHER, taggedAt: "2026-04" });
  const among = new Fixture(
    { resolve: { m1: newest, m2: resolved({ taggedAt: "2026-01" }) } },
    { own, managers },
  );
  assert.equal((await among.peers.resolve("web:1", signal))?.digest, OTHER);
  const isKept = resolved({ isKept: true, taggedAt: "2025-01" });
  const withKept = new Fixture({ resolve: { m1: newest, m2: isKept } }, { own, managers });
  assert.equal((await withKept.peers.resolve("web:1", signal))?.isKept, true);
  const nobody = new Fixture({}, { managers });
  assert.equal(await nobody.peers.resolve("web:1", signal), undefined);
});

test("resolve() of what the cluster keeps does not wait for a manager that is silent", async () => {
  const { peers } = new Fixture(
    { resolve: { m1: "silence", m2: resolved({ isKept: true }) } },
    { managers: ["m1", "m2"] },
  );
  assert.equal((await peers.resolve("web:1", signal))?.isKept, true);
});

test("resolve() of a digest is content with one answer", async () => {
  const fixture = new Fixture(
    { resolve: { m2: resolved({ holders: ["n1"] }), m3: resolved({}) } },
    { managers: ["m1", "m2", "m3"] },
  );
  assert.deepEqual((await fixture.peers.resolve(`web@${DIGEST}`, signal))?.holders, ["n1"]);
  assert.deepEqual(fixture.asked, ["m1 as manager", "m2 as manager"]);
});

test("find() asks likely nodes first, ends with the wave that has the image, and asks a sample at most", async () => {
  const peers = Array.from({ length: 200 }, (_each, index) => ({
    nodeId: `n${index}`,
    rpcAddress: index === 7 ? "" : `a${index}`,
  }));
  const reference = `docker.io/library/web:1@${DIGEST}`;
  const likely = new Fixture(
    { describe: (address) => (address === "a150" ? description(DIGEST) : undefined) },
    { peers },
  );
  const found = await likely.peers.find(reference, ["n150", "n7", "gone"], signal);
  assert.deepEqual(
    found.map(({ peer }) => peer),
    ["a150"],
  );
  assert.equal(likely.asked.length, 16);
  assert.equal(likely.asked[0], "a150");
  const nobody = new Fixture({ describe: () => description(OTHER) }, { peers });
  const others = await nobody.peers.find(reference, [], signal);
  assert.equal(nobody.asked.length, 64, "another image may share layers and does not end the search");
  assert.equal(others.length, 64);
  assert.equal(new Set(nobody.asked).size, 64);
  const garbage = new Fixture({ describe: () => "<html>" }, { peers: peers.slice(0, 3) });
  assert.deepEqual(await garbage.peers.find(reference, [], signal), []);
});

test("describeAt() says what is wrong with a node that can't be asked", async () => {
  const fixture = new Fixture({ describe: () => "{}" }, { peers: [{ nodeId: "n1", rpcAddress: "a1" }] });
  await assert.rejects(fixture.peers.describeAt("n2", "web:1", signal), {
    code: "unavailable",
    message: /n2/,
  });
  await assert.rejects(fixture.peers.describeAt("n1", "web:1", signal), { code: "internal" });
});
