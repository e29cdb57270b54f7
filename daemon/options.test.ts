import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { parseConfig, parseHost, parseLogOpts, parseRuntimes, resolveOptions } from "./options.ts";

test("parseConfig() names an unknown key and the file", () => {
  assert.throws(() => parseConfig('{"data-rot": "/x"}', "d.json"), /Unknown key "data-rot".*"d\.json"/);
});

test("parseConfig() names the key, the wanted type and the given value", () => {
  assert.throws(
    () => parseConfig('{"data-path-port": "4789"}', "d.json"),
    /"data-path-port".*must be a number, got "4789"/,
  );
  assert.throws(() => parseConfig('{"hosts": "unix:///x"}', "d.json"), /must be a list of strings/);
  assert.throws(() => parseConfig("[1]", "d.json"), /want a JSON object/);
});

test("resolveOptions() lets flags win over the file and derives paths from the exec root", async (t) => {
  const folder = await mkdtemp(path.join(tmpdir(), "shoal-options-"));
  t.after(() => rm(folder, { recursive: true }));
  const config = path.join(folder, "daemon.json");
  await writeFile(config, '{"data-root": "/from/file", "labels": ["a=b"], "userns-remap": "default"}');
  const options = await resolveOptions({ config, dataRoot: "/from/flag", execRoot: "/run/other" });
  assert.equal(options.dataRoot, "/from/flag");
  assert.deepEqual(options.labels, ["a=b"]);
  assert.equal(options.usernsRemap, "default");
  assert.deepEqual(options.hosts, ["unix:///run/other/shoal.sock"]);
  assert.equal(options.pidFile, "/run/other/shoal.pid");
});

test("TLS comes from the file as Docker writes it, each of its parts from a flag as well", async (t) => {
  const folder = await mkdtemp(path.join(tmpdir(), "shoal-options-"));
  t.after(() => rm(folder, { recursive: true }));
  const config = path.join(folder, "daemon.json");
  await writeFile(config, '{"tlsverify": true, "tlscert": "/file/cert.pem", "tlskey": "/file/key.pem"}');
  assert.deepEqual((await resolveOptions({ config, tlsKey: "/flag/key.pem" })).tls, {
    verify: true,
    caCert: "/etc/shoal/tls/ca.pem",
    cert: "/file/cert.pem",
    key: "/flag/key.pem",
  });
  assert.equal((await resolveOptions({ config, tlsOn: true, tlsVerify: false })).tls?.verify, false);
  await writeFile(config, '{"tlscert": "/file/cert.pem"}');
  assert.equal((await resolveOptions({ config })).tls, undefined);
  assert.throws(() => parseConfig('{"tls": "yes"}', "d.json"), /"tls".*must be a boolean, got "yes"/);
});

test("resolveOptions() refuses a configuration file that was named and is missing", async () => {
  await assert.rejects(
    resolveOptions({ config: "/nonexistent/daemon.json" }),
    /Cannot read configuration file/,
  );
});

test("the default log driver comes from file and flags, and its options are checked like a container's", async (t) => {
  const folder = await mkdtemp(path.join(tmpdir(), "shoal-options-"));
  t.after(() => rm(folder, { recursive: true }));
  const config = path.join(folder, "daemon.json");
  await writeFile(config, '{"log-driver": "syslog", "log-opts": {"tag": "x", "syslog-facility": "mail"}}');
  const options = await resolveOptions({ config, logOpts: parseLogOpts(["tag=y=z"]) });
  assert.equal(options.logDriver, "syslog");
  assert.deepEqual(options.logOpts, { tag: "y=z", "syslog-facility": "mail" });
  await assert.rejects(
    resolveOptions({ config, logOpts: { "max-size": "1m" } }),
    /log-opts: unknown log opt 'max-size' for syslog log driver: want one of .*, got "1m"/,
  );
  await assert.rejects(
    resolveOptions({ logDriver: "splunk" }),
    /log-driver must be one of .*journald, got "splunk"/,
  );
  assert.throws(() => parseLogOpts(["tag"]), /log-opt must be KEY=VALUE, got "tag"/);
  assert.throws(
    () => parseConfig('{"log-opts": {"a": 1}}', "d.json"),
    /must be an object of strings .*, got/,
  );
});

test("address pools come from the file as Docker writes them, and wrong ones are refused", async () => {
  const file = '{"default-address-pools": [{"base": "10.10.0.0/16", "size": 24}]}';
  assert.deepEqual(parseConfig(file, "d.json").defaultAddressPools, [{ base: "10.10.0.0/16", size: 24 }]);
  assert.throws(
    () => parseConfig('{"default-address-pools": ["10.10.0.0/16"]}', "d.json"),
    /must be a list like \[\{"base"/,
  );
  await assert.rejects(
    resolveOptions({ defaultAddressPools: [{ base: "10.10.0.0/16", size: 8 }] }),
    /size must be 16 to 29 in 10\.10\.0\.0\/16/,
  );
});

test("resolveOptions() refuses ports and levels out of range", async () => {
  await assert.rejects(resolveOptions({ dataPathPort: 80 }), /data-path-port must be 1024 to 49151, got 80/);
  await assert.rejects(resolveOptions({ labels: ["novalue"] }), /label must be KEY=VALUE, got "novalue"/);
  await assert.rejects(
    resolveOptions({ registryMirrors: ["mirror.test"] }),
    /registry-mirror must be an http or https URL without a path, got "mirror.test"/,
  );
  await assert.rejects(
    resolveOptions({ insecureRegistries: ["http://a:5000"] }),
    /insecure-registry must be HOST, HOST:PORT or a network, got "http:\/\/a:5000"/,
  );
});

test("parseHost() reads UNIX and TCP hosts and refuses others", () => {
  assert.deepEqual(parseHost("unix:///run/x.sock"), { kind: "unix", path: "/run/x.sock" });
  assert.deepEqual(parseHost("tcp://127.0.0.1:2375"), { kind: "tcp", host: "127.0.0.1", port: 2375 });
  assert.deepEqual(parseHost("tcp://[::1]:2376"), { kind: "tcp", host: "::1", port: 2376 });
  assert.throws(() => parseHost("fd://"), /host must be unix/);
  assert.throws(() => parseHost("tcp://a:99999"), /got "tcp:\/\/a:99999"/);
});

test("runtimes come from the file and from flags, flags win, and both are checked by name", async () => {
  const file = {
    runtimes: { crun: { path: "/usr/bin/crun", runtimeArgs: ["--debug"] }, other: { path: "/a" } },
  };
  const parsed = parseConfig(JSON.stringify({ ...file, "default-runtime": "crun" }), "daemon.json");
  assert.deepEqual(parsed, { ...file, defaultRuntime: "crun" });
  const flags = parseRuntimes(["other=/b/c=d"]);
  assert.deepEqual((await resolveOptions({ runtimes: flags, config: undefined })).runtimes["other"], {
    path: "/b/c=d",
  });
  assert.throws(() => parseRuntimes(["nopath"]), /add-runtime must be NAME=PATH, got "nopath"/);
  for (const wrong of [
    { crun: "/usr/bin/crun" },
    { crun: { path: "" } },
    { crun: { path: "/a", runtimeArgs: [1] } },
    [],
  ]) {
    assert.throws(
      () => parseConfig(JSON.stringify({ runtimes: wrong }), "daemon.json"),
      /Key "runtimes".*must be an object like/,
    );
  }
});
