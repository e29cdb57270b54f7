import assert from "node:assert/strict";
import { Readable } from "node:stream";
import { test } from "node:test";
import { blobPieces, type BlobSource } from "./blob-stream.ts";
import { parseChallenge, parseRegistryAuth, parseToken, tokenRequest } from "./registry-auth.ts";
import { endpointsOf, isInsecure } from "./registry-config.ts";

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

test("parseChallenge() and tokenRequest() follow the token protocol", () => {
  const challenge = parseChallenge(
    'Bearer realm="https://a.example/t?x=1",service="reg",scope="repository:a:pull,push"',
  );
  assert.deepEqual(challenge, {
    scheme: "bearer",
    realm: "https://a.example/t?x=1",
    service: "reg",
    scope: "repository:a:pull,push",
  });
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
  assert.deepEqual(parseToken('{"access_token":"t"}'), { token: "t", lifeMs: 55_000 });
  assert.throws(() => parseToken("{}"), { code: "unauthenticated" });
  assert.throws(() => parseRegistryAuth("!!"), { code: "invalid_argument" });
  const old = Buffer.from(JSON.stringify({ auth: Buffer.from("u:p:q").toString("base64") })).toString(
    "base64url",
  );
  assert.deepEqual([parseRegistryAuth(old).username, parseRegistryAuth(old).password], ["u", "p:q"]);
});

test("endpointsOf() allows plain HTTP only where it may be", () => {
  const config = { insecure: ["10.0.0.0/8", "lab:5000"], mirrors: {}, certificateFolders: [] };
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
});
