import assert from "node:assert/strict";
import { Readable } from "node:stream";
import { test } from "node:test";
import { ClusterError } from "../../common/errors.ts";
import { blobPieces, type BlobSource, SourceScores } from "./blob-stream.ts";
import { parseChallenge, parseRegistryAuth, parseToken, tokenRequest } from "./registry-auth.ts";
import { endpointsOf, isInsecure, withoutUser } from "./registry-config.ts";

test("blobPieces() puts pieces from several sources in order and leaves bad sources out", async () => {
  const bytes = Buffer.from(Array.from({ length: 1000 }, (_, index) => index % 251));
  const used: string[] = [];
  const source = (name: string, fails: boolean): BlobSource => ({
    name,
    open: (offset) => {
      used.push(name);
      if (fails) return Promise.reject(new Error("gone"));
      return Promise.resolve(Readable.from([bytes.subarray(offset)]));
    },
  });
  const options = {
    digest: "x",
    sizeBytes: 1000,
    signal: new AbortController().signal,
    pieceBytes: 64,
    retryMs: 1,
  };
  const pieces: Buffer[] = [];
  const all = [source("a", false), source("bad", true), source("b", false)];
  for await (const piece of blobPieces(() => all, options)) {
    pieces.push(piece);
  }
  assert.equal(Buffer.concat(pieces).equals(bytes), true);
  assert.equal(used.filter((name) => name === "bad").length <= 2, true);
  assert.equal(used.includes("a") && used.includes("b"), true);
  const bad = [source("bad", true)];
  await assert.rejects(async () => {
    for await (const piece of blobPieces(() => bad, options)) assert.ok(piece);
  }, /gone/);
});

const BYTES = Buffer.from(Array.from({ length: 200_000 }, (_, index) => index % 251));

async function readAll(sources: readonly BlobSource[], scores = new SourceScores()): Promise<Buffer> {
  const pieces: Buffer[] = [];
  const { signal } = new AbortController();
  const options = { digest: "x", sizeBytes: BYTES.length, signal, pieceBytes: 50_000, retryMs: 1, scores };
  for await (const piece of blobPieces(() => sources, options)) pieces.push(piece);
  return Buffer.concat(pieces);
}

function goodSource(opened: string[], name = "good"): BlobSource {
  return {
    name,
    open: (offset) => {
      opened.push(name);
      return Promise.resolve(Readable.from([BYTES.subarray(offset)]));
    },
  };
}

test("blobPieces() gives up a source that stalls, drips or never opens, and asks it no more than it must", async () => {
  const opened: string[] = [];
  const aborted: string[] = [];
  const slow = (name: string, open: (offset: number) => Promise<Readable>): BlobSource => ({
    name,
    stallMs: 20,
    open: (offset, _length, signal) => {
      opened.push(name);
      signal.addEventListener("abort", () => aborted.push(name), { once: true });
      return open(offset);
    },
  });
  const silent = slow("silent", () => Promise.resolve(new Readable({ read: () => {} })));
  const never = slow("never", () => new Promise(() => {}));
  const drip = slow("drip", (offset) =>
    Promise.resolve(
      Readable.from(
        (async function* (): AsyncGenerator<Buffer> {
          for (let at = offset; ; at += 1) {
            yield BYTES.subarray(at, at + 1);
            await new Promise((resolve) => setTimeout(resolve, 5));
          }
        })(),
        { objectMode: false },
      ),
    ),
  );
  for (const bad of [silent, never, drip]) {
    opened.length = 0;
    const scores = new SourceScores();
    assert.equal((await readAll([bad, goodSource(opened)], scores)).equals(BYTES), true);
    assert.ok(opened.includes("good"));
    assert.ok(
      opened.filter((name) => name === bad.name).length <= 2,
      `${bad.name} is asked last after it failed`,
    );
    opened.length = 0;
    await readAll([bad, goodSource(opened)], scores);
    assert.ok(!opened.includes(bad.name), "the next blob knows of it");
  }
  assert.deepEqual([...new Set(aborted)], ["silent", "never", "drip"]);
});

test("blobPieces() waits for a busy source without counting it as a failure", async () => {
  let refusalCount = 12;
  const opened: string[] = [];
  const scores = new SourceScores();
  const busy: BlobSource = {
    name: "busy",
    open: (offset) => {
      if (refusalCount-- > 0) return Promise.reject(new ClusterError("resource_exhausted", "busy"));
      return Promise.resolve(Readable.from([BYTES.subarray(offset)]));
    },
  };
  assert.equal((await readAll([busy, goodSource(opened)], scores)).equals(BYTES), true);
  assert.equal(scores.failureCount(busy), 0);
  refusalCount = 3;
  assert.equal((await readAll([busy], scores)).equals(BYTES), true, "the only one is waited for");
});

test("parseChallenge() and tokenRequest() follow the token protocol", () => {
  const challenge = parseChallenge(
    'Bearer realm="https://a.example/t?x=1",service="reg",scope="repository:a:pull,push"',
  );
  assert.deepEqual(challenge, {
    scheme: "bearer",
    realm: "https://a.example/t?x=1",
    service: "reg",
    scope: "repository:a:pull,push",
    error: "",
  });
  // A second challenge says nothing about the first.
  const two = parseChallenge('Bearer realm="https://a.example/t",service="reg", Basic realm="Registry"');
  assert.deepEqual([two?.scheme, two?.realm], ["bearer", "https://a.example/t"]);
  assert.equal(parseChallenge('Bearer service="reg"'), undefined);
  const request = tokenRequest(
    challenge,
    "repository:a:pull repository:b:pull",
    parseRegistryAuth(undefined),
  );
  assert.equal(
    request.url,
    "https://a.example/t?x=1&service=reg&scope=repository%3Aa%3Apull&scope=repository%3Ab%3Apull",
  );
  const refresh = Buffer.from(JSON.stringify({ identitytoken: "r" })).toString("base64url");
  assert.equal(tokenRequest(challenge, "s", parseRegistryAuth(refresh)).method, "POST");
  assert.equal(parseChallenge("Negotiate"), undefined);
  assert.deepEqual(parseToken('{"access_token":"t","refresh_token":"r"}'), {
    token: "t",
    lifeMs: 55_000,
    refreshToken: "r",
  });
  assert.throws(() => parseToken("{}"), { code: "unauthenticated" });
  assert.throws(() => parseRegistryAuth("!!"), { code: "invalid_argument" });
  const old = Buffer.from(JSON.stringify({ auth: Buffer.from("u:p:q").toString("base64") })).toString(
    "base64url",
  );
  assert.deepEqual([parseRegistryAuth(old).username, parseRegistryAuth(old).password], ["u", "p:q"]);
});

test("withoutUser() shows where a URL leads and not who asks", () => {
  assert.equal(withoutUser("https://me:secret@mirror.test:5000"), "https://xxxxx:xxxxx@mirror.test:5000");
  assert.equal(withoutUser("http://mirror.test/a@b"), "http://mirror.test/a@b");
  assert.equal(withoutUser("localhost,.test"), "localhost,.test");
});

test("endpointsOf() allows plain HTTP only where it may be", () => {
  const config = { insecure: ["10.0.0.0/8", "fd00::/16", "lab:5000"], mirrors: {}, certificateFolders: [] };
  assert.deepEqual(
    endpointsOf("docker.io", config).map((each) => each.url),
    ["https://registry-1.docker.io"],
  );
  assert.deepEqual(
    endpointsOf("localhost:5000", config).map((each) => each.url),
    ["https://localhost:5000", "http://localhost:5000"],
  );
  assert.equal(isInsecure("10.1.2.3:5000", config), true);
  assert.equal(isInsecure("lab:5000", config), true);
  assert.equal(isInsecure("lab:5001", config), false);
  assert.equal(isInsecure("11.1.2.3", config), false);
  assert.equal(isInsecure("[::1]:5000", config), true);
  assert.equal(isInsecure("[fd00::7]:5000", config), true);
  assert.equal(isInsecure("[fd01::7]:5000", config), false);
});
