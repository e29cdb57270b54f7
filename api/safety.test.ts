/** What a page in a browser may make it send, and what not. */
import assert from "node:assert/strict";
import type { IncomingMessage } from "node:http";
import { test } from "node:test";
import { checkHost, checkOrigin } from "./safety.ts";

const request = (headers: Readonly<Record<string, string>>): IncomingMessage =>
  ({ headers }) as unknown as IncomingMessage;

test("checkOrigin() takes programs and its own pages, and refuses other pages", () => {
  checkOrigin(request({ host: "10.0.0.1:2375" }));
  checkOrigin(request({ host: "10.0.0.1:2375", origin: "http://10.0.0.1:2375" }));
  for (const origin of ["http://evil.example", "null", "http://10.0.0.1:80"]) {
    assert.throws(() => checkOrigin(request({ host: "10.0.0.1:2375", origin })), {
      code: "permission_denied",
    });
  }
});

test("checkHost() serves browsers under the machine's own names only, programs under any", () => {
  const browser = { "accept-language": "en" };
  for (const host of [
    "10.0.0.1:2375",
    "[fd00::1]:2375",
    "localhost:1",
    "web1",
    "WEB1:2375",
    "web1.local",
    "a.localhost",
  ]) {
    checkHost(request({ ...browser, host }), "web1");
  }
  checkHost(request({ ...browser, host: "web1.example.com" }), "web1.example.com");
  checkHost(request({ host: "manager.example.com" }), "web1");
  for (const host of ["evil.example:2375", "web1.evil.example", "localhost.evil.example", "", "a b"]) {
    assert.throws(
      () => checkHost(request({ ...browser, host }), "web1"),
      { code: "permission_denied" },
      host,
    );
  }
  // A page that is of one origin with the rebound name.
  const rebound = { host: "evil.example:2375", origin: "http://evil.example:2375" };
  checkOrigin(request(rebound));
  assert.throws(() => checkHost(request(rebound), "web1"), { code: "permission_denied" });
});
