import assert from "node:assert/strict";
import { test } from "node:test";
import { parseFluentdAddress, parseGelfAddress, parseSyslogAddress } from "./log-addresses.ts";
import { checkLogOptions, parseLogBoolean, syslogFacility, type LogDriverName } from "./log-drivers.ts";
import { expandLogTag } from "./log-tags.ts";

test("addresses of collectors in all their forms", () => {
  assert.deepEqual(parseSyslogAddress(""), { network: "unixgram", path: "/dev/log" });
  assert.deepEqual(parseSyslogAddress("udp://192.0.2.1:1111"), {
    network: "udp",
    host: "192.0.2.1",
    port: 1111,
  });
  assert.deepEqual(parseSyslogAddress("tcp+tls://logs.example"), {
    network: "tls",
    host: "logs.example",
    port: 514,
  });
  assert.deepEqual(parseSyslogAddress("tcp://[2001:db8::1]:600"), {
    network: "tcp",
    host: "2001:db8::1",
    port: 600,
  });
  assert.deepEqual(parseSyslogAddress("unix:///run/s.sock"), { network: "unix", path: "/run/s.sock" });
  assert.deepEqual(parseFluentdAddress(""), { network: "tcp", host: "127.0.0.1", port: 24_224 });
  assert.deepEqual(parseFluentdAddress("collector"), { network: "tcp", host: "collector", port: 24_224 });
  assert.deepEqual(parseFluentdAddress("unix:///f"), { network: "unix", path: "/f" });
  for (const bad of [
    "192.0.2.1:514",
    "http://x",
    "udp://",
    "udp://a:0",
    "udp://a:70000",
    "unix://x",
    "tcp://[x]:1",
  ]) {
    assert.throws(() => parseSyslogAddress(bad), /invalid value for syslog-address: want .*, got ".+"/);
  }
  assert.throws(() => parseGelfAddress("udp://a"), /gelf-address/);
});

/** What is said of each of these. */
const REFUSED: readonly (readonly [LogDriverName, Readonly<Record<string, string>>, RegExp])[] = [
  [
    "syslog",
    { "syslog-adress": "udp://a" },
    /unknown log opt 'syslog-adress' for syslog log driver: want one of .*syslog-address.*, got "udp:\/\/a"/,
  ],
  ["syslog", { "max-size": "1m" }, /unknown log opt 'max-size' for syslog/],
  ["syslog", { "syslog-facility": "24" }, /syslog-facility: want .*, got "24"/],
  ["syslog", { "syslog-format": "rfc1" }, /syslog-format: want one of .*rfc5424micro, got "rfc1"/],
  ["syslog", { tag: "{{.Nothing}}" }, /there is no field "Nothing"/],
  ["syslog", { tag: "{{.ID" }, /template/],
  ["gelf", {}, /gelf-address is a required parameter/],
  ["gelf", { "gelf-address": "tcp://a:1", "gelf-compression-type": "gzip" }, /only supported on UDP/],
  ["gelf", { "gelf-address": "udp://a:1", "gelf-tcp-reconnect-delay": "1" }, /only valid for TCP/],
  ["gelf", { "gelf-address": "udp://a:1", "gelf-compression-level": "10" }, /want -1 to 9, got "10"/],
  ["fluentd", { "fluentd-async": "maybe" }, /want true or false, got "maybe"/],
  ["fluentd", { "fluentd-retry-wait": "1" }, /want a duration such as 500ms or 1s, got "1"/],
  ["fluentd", { "fluentd-max-retries": "-1" }, /want a whole number/],
  ["journald", { "labels-regex": "(" }, /want a regular expression, got "\("/],
  ["journald", { mode: "sometimes" }, /logging mode not supported: sometimes/],
  ["journald", { "cache-max-size": "big" }, /cache-max-size/],
  ["local", { tag: "x" }, /unknown log opt 'tag' for local/],
];

test("an option that a driver doesn't take is refused with what it takes and what was given", () => {
  for (const [driver, options, said] of REFUSED) {
    assert.throws(() => checkLogOptions(driver, options), said, JSON.stringify([driver, options]));
  }
  checkLogOptions("none", { anything: "goes" });
  checkLogOptions("syslog", {
    "syslog-address": "tcp+tls://a:1",
    "syslog-facility": "local3",
    "syslog-tls-skip-verify": "true",
    labels: "a,b",
    "env-regex": "^X",
    tag: "{{.ImageName}}/{{.Name}}",
    mode: "non-blocking",
    "max-buffer-size": "4m",
    "cache-disabled": "true",
  });
});

test("booleans and facilities as Docker writes them", () => {
  assert.equal(parseLogBoolean("T", "x"), true);
  assert.equal(parseLogBoolean("0", "x"), false);
  assert.equal(parseLogBoolean("", "x"), undefined);
  assert.equal(syslogFacility(undefined), 3);
  assert.equal(syslogFacility("local7"), 23);
  assert.equal(syslogFacility("13"), 13);
});

test("a tag names the container by Docker's fields", () => {
  const info = {
    id: "f".repeat(64),
    name: "web",
    imageId: `sha256:${"a".repeat(64)}`,
    imageName: "shop:2",
    command: ["nginx", "-g", "x"],
    created: "2026-01-01T00:00:00Z",
    env: ["A=1"],
    labels: { team: "blue" },
    attributes: { ZONE: "z1" },
    hostname: "h",
  };
  assert.equal(
    expandLogTag("{{.ID}}/{{.FullID}}/{{.Name}}/{{.ImageID}}", info),
    `${"f".repeat(12)}/${"f".repeat(64)}/web/${"a".repeat(12)}`,
  );
  assert.equal(
    expandLogTag("{{.DaemonName}} {{.Command}} {{upper .ImageName}}", info),
    "docker nginx -g x SHOP:2",
  );
  assert.equal(
    expandLogTag('{{(.ExtraAttributes nil).ZONE}}-{{index .ContainerLabels "team"}}', info),
    "z1-blue",
  );
});
