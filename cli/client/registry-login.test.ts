import assert from "node:assert/strict";
import { chmodSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test, type TestContext } from "node:test";
import { registryAuthHeader } from "./registry-auth.ts";
import { eraseCredentials, registryKey, storeCredentials } from "./registry-login.ts";

function makeFolder(context: TestContext): { folder: string; env: { DOCKER_CONFIG: string }; file: string } {
  const folder = mkdtempSync(path.join(tmpdir(), "shoal-registry-login-"));
  context.after(() => rmSync(folder, { recursive: true, force: true }));
  return {
    folder,
    env: { DOCKER_CONFIG: path.join(folder, "docker") },
    file: path.join(folder, "docker/config.json"),
  };
}

function headerOf(env: { DOCKER_CONFIG: string }, image: string): unknown {
  const text = registryAuthHeader(env, image, true)["X-Registry-Auth"];
  return text === undefined ? undefined : JSON.parse(Buffer.from(text, "base64url").toString());
}

test("registryKey() names registries as config.json does, however they are typed", () => {
  for (const typed of ["", "docker.io", "https://index.docker.io/v1/"])
    assert.equal(registryKey(typed), "https://index.docker.io/v1/");
  assert.equal(registryKey("https://lab:5000/v2/"), "lab:5000");
  assert.equal(registryKey("registry.example.com"), "registry.example.com");
});

test("storeCredentials() makes a file for this user alone, which pull finds them in; what else is in it stays", (context) => {
  const { env, file } = makeFolder(context);
  assert.equal(storeCredentials(env, "lab:5000", { username: "me", password: "a:b" }), file);
  assert.equal(statSync(file).mode & 0o777, 0o600);
  const kept = { ...(JSON.parse(readFileSync(file, "utf8")) as object), proxies: { default: {} } };
  writeFileSync(file, JSON.stringify(kept));
  storeCredentials(env, "other", { username: "me", password: "x", identityToken: "token" });
  assert.deepEqual(headerOf(env, "lab:5000/app"), {
    username: "me",
    password: "a:b",
    serveraddress: "lab:5000",
    identitytoken: "",
  });
  assert.equal(readFileSync(file, "utf8").includes('"proxies"'), true);
  assert.equal(eraseCredentials(env, "lab:5000"), true);
  assert.equal(eraseCredentials(env, "lab:5000"), false);
  assert.equal(headerOf(env, "lab:5000/app"), undefined);
  assert.equal(readFileSync(file, "utf8").includes("token"), true);
});

test("storeCredentials() hands them to the helper that the file names, and writes them nowhere", (context) => {
  const { folder, env, file } = makeFolder(context);
  storeCredentials(env, "first", { username: "x", password: "x" });
  writeFileSync(file, JSON.stringify({ credsStore: "test" }));
  const program = path.join(folder, "docker-credential-test");
  writeFileSync(program, `#!/bin/sh\necho "$1" >>"${folder}/said"; cat >>"${folder}/said"\n`);
  chmodSync(program, 0o755);
  const before = process.env["PATH"];
  process.env["PATH"] = `${folder}:${before ?? ""}`;
  context.after(() => {
    process.env["PATH"] = before;
  });
  assert.equal(storeCredentials(env, "lab", { username: "me", password: "secret" }), undefined);
  eraseCredentials(env, "lab");
  const said = readFileSync(path.join(folder, "said"), "utf8");
  assert.match(said, /^store\n\{"ServerURL":"lab","Username":"me","Secret":"secret"\}erase\nlab/);
  assert.equal(readFileSync(file, "utf8").includes("secret"), false);
});
