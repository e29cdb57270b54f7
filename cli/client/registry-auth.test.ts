import assert from "node:assert/strict";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { registryAuthHeader, registryOf } from "./registry-auth.ts";

const folder = mkdtempSync(path.join(tmpdir(), "shoal-registry-auth-"));
after(() => rmSync(folder, { recursive: true, force: true }));
const env = { DOCKER_CONFIG: folder, PATH: `${folder}:${process.env["PATH"] ?? ""}` };

function configure(config: object): void {
  writeFileSync(path.join(folder, "config.json"), JSON.stringify(config));
}

function helper(name: string, script: string): void {
  const file = path.join(folder, `docker-credential-${name}`);
  writeFileSync(file, `#!/bin/sh\n${script}\n`);
  chmodSync(file, 0o755);
}

function authFor(image: string): unknown {
  const text = registryAuthHeader(env, image, true)["X-Registry-Auth"];
  return text === undefined ? undefined : JSON.parse(Buffer.from(text, "base64url").toString());
}

function base64(text: string): string {
  return Buffer.from(text).toString("base64");
}

test("registryOf() names the registry as config.json does", () => {
  assert.equal(registryOf("whoami:1"), "https://index.docker.io/v1/");
  assert.equal(registryOf("docker.io/team/app"), "https://index.docker.io/v1/");
  assert.equal(registryOf("localhost/app"), "localhost");
  assert.equal(registryOf("lab:5000/team/app@sha256:ab"), "lab:5000");
});

test("registryAuthHeader() takes the file's entry, under any form of its key, and nothing of others", () => {
  configure({
    auths: {
      "lab:5000": { auth: base64("me:p:w") },
      "https://old.test/v1/": { auth: base64("old:pw"), identitytoken: "it" },
    },
  });
  assert.deepEqual(authFor("lab:5000/app"), {
    username: "me",
    password: "p:w",
    serveraddress: "lab:5000",
    identitytoken: "",
  });
  assert.deepEqual(authFor("old.test/app"), {
    username: "old",
    password: "pw",
    serveraddress: "old.test",
    identitytoken: "it",
  });
  assert.equal(authFor("other.test/app"), undefined);
  assert.deepEqual(registryAuthHeader(env, "lab:5000/app", false), {});
});

test("registryAuthHeader() asks the registry's helper before the common one", () => {
  helper("common", 'echo \'{"Username":"all","Secret":"s"}\'');
  helper("own", 'read server; echo "{\\"Username\\":\\"<token>\\",\\"Secret\\":\\"for $server\\"}"');
  configure({ credsStore: "common", credHelpers: { "lab:5000": "own" } });
  assert.deepEqual(authFor("lab:5000/app"), { identitytoken: "for lab:5000", serveraddress: "lab:5000" });
  assert.deepEqual(authFor("other.test/app"), {
    username: "all",
    password: "s",
    serveraddress: "other.test",
  });
});

test("registryAuthHeader() takes a helper without credentials for nobody, and names one that fails", () => {
  helper("none", "echo credentials not found in native keychain; exit 1");
  helper("broken", "echo locked >&2; exit 3");
  helper("odd", "echo s3cret");
  configure({ credHelpers: { "a.test": "none", "b.test": "broken", "c.test": "odd", "d.test": "missing" } });
  assert.equal(authFor("a.test/app"), undefined);
  assert.throws(() => authFor("b.test/app"), /docker-credential-broken: exit status 3, out: "locked"/);
  assert.throws(
    () => authFor("c.test/app"),
    (caught: Error) => /must answer in JSON/.test(caught.message) && !caught.message.includes("s3cret"),
  );
  assert.throws(() => authFor("d.test/app"), /docker-credential-missing: .*ENOENT/);
});

test("registryAuthHeader() takes null for nothing, and names a file that it cannot understand", () => {
  const write = (text: string): void => writeFileSync(path.join(folder, "config.json"), text);
  for (const text of ["null", '{"auths":null}', '{"auths":{"a.test":null}}', '{"credsStore":null}']) {
    write(text);
    assert.equal(authFor("a.test/app"), undefined, text);
  }
  write('{"auths":{"a.test":{"email":null,"auth":5}}}');
  assert.deepEqual(authFor("a.test/app"), {
    username: "",
    password: "",
    serveraddress: "a.test",
    identitytoken: "",
  });
  for (const [text, why] of [
    ['{"auths": s3cret', /Cannot read credentials from ".*config.json": it must be JSON$/],
    ["[]", /it must be an object$/],
    ['{"auths":["a"]}', /auths must be an object$/],
    ['{"auths":{"a.test":"me"}}', /auths of "a.test" must be an object$/],
    ['{"credsStore":5}', /credsStore must be a string$/],
  ] as const) {
    write(text);
    assert.throws(() => authFor("a.test/app"), why, text);
  }
});
