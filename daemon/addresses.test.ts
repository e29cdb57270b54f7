import assert from "node:assert/strict";
import { test } from "node:test";
import { advertiseAddress, formatHostPort, parseHostPort } from "./addresses.ts";

test("parseHostPort() reads every form and fills in the port", () => {
  assert.deepEqual(parseHostPort("10.0.0.1", "x"), { host: "10.0.0.1", port: 2377 });
  assert.deepEqual(parseHostPort("10.0.0.1:99", "x"), { host: "10.0.0.1", port: 99 });
  assert.deepEqual(parseHostPort(":99", "x"), { host: "", port: 99 });
  assert.deepEqual(parseHostPort("[fd00::1]:99", "x"), { host: "fd00::1", port: 99 });
  assert.deepEqual(parseHostPort("fd00::1", "x"), { host: "fd00::1", port: 2377 });
});

test("parseHostPort() names the field and the value it refuses", () => {
  assert.throws(() => parseHostPort("a:b:c", "listen-addr"), /listen-addr must be.*got "a:b:c"/);
  assert.throws(() => parseHostPort("a:70000", "listen-addr"), /got "a:70000"/);
});

test("formatHostPort() brackets IPv6 addresses", () => {
  assert.equal(formatHostPort({ host: "fd00::1", port: 1 }), "[fd00::1]:1");
  assert.equal(formatHostPort({ host: "10.0.0.1", port: 1 }), "10.0.0.1:1");
});

test("advertiseAddress() takes what was asked for, then a definite listen address", async () => {
  const listen = { host: "127.0.0.9", port: 7000 };
  assert.deepEqual(await advertiseAddress("127.0.0.1", listen), { host: "127.0.0.1", port: 7000 });
  assert.deepEqual(await advertiseAddress("lo:8000", listen), { host: "127.0.0.1", port: 8000 });
  assert.deepEqual(await advertiseAddress("", listen), listen);
});
