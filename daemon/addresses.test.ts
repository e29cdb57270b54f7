import assert from "node:assert/strict";
import { once } from "node:events";
import { type AddressInfo, createServer } from "node:net";
import { test } from "node:test";
import {
  advertiseAddress,
  dialAddress,
  formatHostPort,
  isOwnInterface,
  joinTimeout,
  checkListen,
  listenError,
  parseHostPort,
} from "./addresses.ts";

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

test("isOwnInterface() knows what container engines make", () => {
  for (const name of [
    "docker0",
    "br-0a1b2c3d4e5f",
    "smx-236a",
    "sm236a-0f0f0f0f",
    "sl2416-01234567",
    "shd-203-214-0",
  ])
    assert.equal(isOwnInterface(name), true, name);
  for (const name of ["eth0", "enp3s0", "small0", "slave1", "wlan0"])
    assert.equal(isOwnInterface(name), false, name);
});

test("dialAddress() reaches this machine where it listens, and others where they advertise", () => {
  const advertiseAddr = "198.51.100.7:2377";
  const dialled = (addr: string, listenAddr: string): string =>
    dialAddress(addr, { advertiseAddr, listenAddr });
  assert.equal(dialled(advertiseAddr, "0.0.0.0:7000"), "127.0.0.1:7000");
  assert.equal(dialled(advertiseAddr, "[::]:7000"), "[::1]:7000");
  assert.equal(dialled(advertiseAddr, "10.0.0.1:7000"), "10.0.0.1:7000");
  assert.equal(dialled("10.0.0.2:2377", "0.0.0.0:7000"), "10.0.0.2:2377");
});

test("joinTimeout() names the addresses by their flags, and one that is elsewhere", () => {
  const own = { listenAddr: "0.0.0.0:2377", managers: ["10.0.0.1:2377"] };
  const { message } = joinTimeout({ ...own, advertiseAddr: "198.51.100.7:2377" });
  assert.match(message, /at 10\.0\.0\.1:2377; advertise-addr is "198\.51\.100\.7:2377" \(no address of this/);
  assert.match(message, /listen-addr is "0\.0\.0\.0:2377"/);
  assert.match(
    joinTimeout({ ...own, advertiseAddr: "127.0.0.1:2377" }).message,
    /is "127\.0\.0\.1:2377", listen/,
  );
});

test("checkListen() lets go of an address that is free, and refuses others", async () => {
  const held = createServer().listen(0, "127.0.0.1");
  await once(held, "listening");
  const { port } = held.address() as AddressInfo;
  const refused = { code: "invalid_argument", message: new RegExp(`got "127.0.0.1:${port}": .*EADDRINUSE`) };
  await assert.rejects(checkListen(`127.0.0.1:${port}`), refused);
  // Of a documentation network (RFC 5737).
  await assert.rejects(checkListen(`192.0.2.1:${port}`), /EADDRNOTAVAIL/);
  await new Promise((resolve) => held.close(resolve));
  await checkListen(`127.0.0.1:${port}`);
  await checkListen(`127.0.0.1:${port}`);
});

test("listenError() names the flag and the address", () => {
  const { code, message } = listenError("10.0.0.1:2377", new Error("listen EADDRNOTAVAIL"));
  assert.equal(code, "invalid_argument");
  assert.match(message, /^listen-addr must be .*, got "10\.0\.0\.1:2377": listen EADDRNOTAVAIL$/);
});
