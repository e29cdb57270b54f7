/** Where the daemon is: options, environment, contexts, defaults. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { DEFAULT_HOST, resolveEndpoint } from "./endpoint.ts";

const folder = mkdtempSync(path.join(tmpdir(), "shoal-endpoint-"));
after(() => rmSync(folder, { recursive: true, force: true }));
const env = { SHOAL_CONFIG: folder };

test("resolveEndpoint() prefers the option, then SHOAL_HOST, then DOCKER_HOST, then the default", () => {
  const both = { ...env, SHOAL_HOST: "unix:///s", DOCKER_HOST: "unix:///d" };
  assert.equal(resolveEndpoint({ host: "unix:///o", env: both }).text, "unix:///o");
  assert.equal(resolveEndpoint({ env: both }).text, "unix:///s");
  assert.equal(resolveEndpoint({ env: { ...env, DOCKER_HOST: "unix:///d" } }).text, "unix:///d");
  assert.equal(resolveEndpoint({ env: { ...env, DOCKER_HOST: "" } }).text, DEFAULT_HOST);
});

test("resolveEndpoint() reads TCP addresses, with TLS's own port", () => {
  assert.deepEqual(resolveEndpoint({ host: "tcp://h:1234", env }), {
    kind: "tcp",
    host: "h",
    port: 1234,
    text: "tcp://h:1234",
  });
  assert.deepEqual(resolveEndpoint({ host: "tcp://[::1]", env }), {
    kind: "tcp",
    host: "::1",
    port: 2375,
    text: "tcp://[::1]",
  });
  const tls = resolveEndpoint({ host: "tcp://h", tlsVerify: true, env });
  assert.ok(tls.kind === "tcp" && tls.port === 2376 && tls.tls?.verify === true);
});

test("resolveEndpoint() refuses what is no address", () => {
  for (const host of ["ftp://h", "unix://", "tcp://h:99999", "tcp://h:x", "tcp://a b"]) {
    assert.throws(() => resolveEndpoint({ host, env }), /Invalid host/, host);
  }
});

test("resolveEndpoint() follows contexts and names the missing one", () => {
  writeFileSync(
    path.join(folder, "contexts.json"),
    JSON.stringify({
      current: "a",
      contexts: { a: { host: "unix:///ctx-a" }, b: { host: "unix:///ctx-b" } },
    }),
  );
  assert.equal(resolveEndpoint({ env }).text, "unix:///ctx-a");
  assert.equal(resolveEndpoint({ env, context: "b" }).text, "unix:///ctx-b");
  assert.equal(resolveEndpoint({ env: { ...env, SHOAL_HOST: "unix:///h" } }).text, "unix:///h");
  assert.throws(() => resolveEndpoint({ env, context: "nope" }), /Context "nope" not found/);
});

test("resolveEndpoint() takes a context's TLS, unless other files are named", () => {
  for (const name of ["ca", "cert", "key", "other"]) writeFileSync(path.join(folder, name), name);
  const [caCert, cert, key] = ["ca", "cert", "key"].map((name) => path.join(folder, name));
  const tls = { verify: true, caCert, cert, key };
  const contexts = { safe: { host: "tcp://h", tls }, bare: { host: "tcp://h" } };
  writeFileSync(path.join(folder, "contexts.json"), JSON.stringify({ contexts }));
  const kept = resolveEndpoint({ env, context: "safe" });
  assert.ok(kept.kind === "tcp" && kept.port === 2376 && kept.tls?.verify === true);
  assert.deepEqual([kept.tls.ca, kept.tls.cert, kept.tls.key].map(String), ["ca", "cert", "key"]);
  const other = resolveEndpoint({ env, context: "safe", tlsCaCert: path.join(folder, "other") });
  assert.ok(other.kind === "tcp" && String(other.tls?.ca) === "other" && String(other.tls?.key) === "key");
  const bare = resolveEndpoint({ env, context: "bare" });
  assert.ok(bare.kind === "tcp" && bare.tls === undefined && bare.port === 2375);
  const broken = { contexts: { safe: { host: "tcp://h", tls: { verify: "yes" } } } };
  writeFileSync(path.join(folder, "contexts.json"), JSON.stringify(broken));
  assert.throws(() => resolveEndpoint({ env, context: "safe" }), /must give context "safe" a "host"/);
});

test("resolveEndpoint() says what is wrong with the file of contexts", () => {
  for (const [text, why] of [
    ["{", /must be JSON$/],
    ["[]", /must hold an object$/],
    ['{"current":5}', /must name "current" by a string$/],
    ['{"contexts":["a"]}', /must hold "contexts" as an object$/],
    ['{"contexts":{"a":5}}', /must give context "a" a "host", got 5$/],
    ['{"contexts":{"a":{"host":7}}}', /must give context "a" a "host", got \{"host":7\}$/],
    ['{"contexts":{}}', /Context "constructor" not found/],
  ] as const) {
    writeFileSync(path.join(folder, "contexts.json"), text);
    assert.throws(() => resolveEndpoint({ env, context: "constructor" }), why, text);
  }
});
