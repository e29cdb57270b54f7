import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  canonicalForm,
  familiarForm,
  isDigest,
  normalizeReference,
  parseReference,
  tryParseReference,
} from "./image-reference.ts";

const DIGEST = `sha256:${"ab".repeat(32)}`;

const FORMS: readonly (readonly [string, string, string])[] = [
  ["whoami", "docker.io/library/whoami:latest", "whoami"],
  ["whoami:1", "docker.io/library/whoami:1", "whoami:1"],
  ["library/whoami:1", "docker.io/library/whoami:1", "whoami:1"],
  ["docker.io/whoami:1", "docker.io/library/whoami:1", "whoami:1"],
  ["index.docker.io/library/whoami", "docker.io/library/whoami:latest", "whoami"],
  ["team/app:v1.2_x-3", "docker.io/team/app:v1.2_x-3", "team/app:v1.2_x-3"],
  ["localhost/app", "localhost/app:latest", "localhost/app"],
  ["localhost:5000/app:1", "localhost:5000/app:1", "localhost:5000/app:1"],
  ["127.0.0.1:5000/a/b/c", "127.0.0.1:5000/a/b/c:latest", "127.0.0.1:5000/a/b/c"],
  ["[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000/app"],
  ["Host/app", "Host/app:latest", "Host/app"],
  ["gcr.io/a__b/c-d.e:T", "gcr.io/a__b/c-d.e:T", "gcr.io/a__b/c-d.e:T"],
  [`whoami@${DIGEST}`, `docker.io/library/whoami@${DIGEST}`, `whoami@${DIGEST}`],
  [`whoami:1@${DIGEST}`, `docker.io/library/whoami:1@${DIGEST}`, `whoami:1@${DIGEST}`],
  ["library/a/b", "docker.io/library/a/b:latest", "library/a/b"],
];

for (const [text, canonical, familiar] of FORMS) {
  test(`parseReference() reads ${text.slice(0, 40)}`, () => {
    assert.equal(normalizeReference(text), canonical);
    assert.equal(familiarForm(parseReference(text)), familiar);
  });
}

const REFUSED: readonly string[] = [
  "",
  ":tag",
  "/app",
  "app/",
  "a//b",
  "app:",
  "app:-x",
  `app:${"t".repeat(129)}`,
  "a___b",
  "a..b",
  "-a",
  "a-",
  "a b",
  "app@sha256:12",
  `app@sha256:${"AB".repeat(32)}`,
  `app@md5:${"ab".repeat(32)}`,
  "http://host/app",
  "host:port/app",
  "../etc/passwd",
  "a/../b",
  "-host.com/app",
  "a\u0000b",
];

for (const text of REFUSED) {
  test(`parseReference() refuses ${JSON.stringify(text.slice(0, 40))}`, () => {
    assert.throws(() => parseReference(text), {
      code: "invalid_argument",
      message: /^invalid reference format/,
    });
  });
}

test("parseReference() says when capitals are the trouble", () => {
  assert.throws(() => parseReference("Team"), {
    message: "invalid reference format: repository name (library/Team) must be lowercase",
  });
});

test("parseReference() refuses a bare image id and a name that is too long", () => {
  assert.throws(() => parseReference("ab".repeat(32)), /cannot specify 64-byte hexadecimal strings/);
  assert.throws(() => parseReference(`x/${"a".repeat(255)}`), /must not be more than 255 characters/);
});

test("isDigest() wants lower-case hex of the full length", () => {
  assert.equal(isDigest(DIGEST), true);
  assert.equal(isDigest(DIGEST.slice(0, -1)), false);
  assert.equal(isDigest(`sha512:${"0".repeat(128)}`), true);
});

test("canonicalForm() and familiarForm() are parsed back to the same reference", () => {
  const part = fc.stringMatching(/^[a-z0-9]{1,8}([._-][a-z0-9]{1,4})?$/);
  const reference = fc
    .tuple(
      fc.constantFrom("", "localhost/", "host.example:5000/"),
      part,
      part,
      fc.stringMatching(/^\w[\w.-]{0,9}$/),
    )
    .map(([host, left, right, tag]) => `${host}${left}/${right}:${tag}`);
  fc.assert(
    fc.property(reference, (text) => {
      const parsed = parseReference(text);
      assert.deepEqual(parseReference(canonicalForm(parsed)), parsed);
      assert.deepEqual(parseReference(familiarForm(parsed)), parsed);
    }),
  );
});

test("parseReference() ends quickly on anything", () => {
  fc.assert(
    fc.property(fc.string({ unit: "binary", maxLength: 400 }), (text) => {
      tryParseReference(text);
    }),
  );
  tryParseReference(`a${"-".repeat(1000)}`);
});
