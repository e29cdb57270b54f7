import assert from "node:assert/strict";
import { test } from "node:test";
import type { ClusterSpec, ContainerSpec, Driver, Mount } from "../../../model/specs.ts";
import { checkClusterSpec } from "./other-specs.ts";
import { checkServiceSpec } from "./service-spec.ts";

function check(container: Partial<ContainerSpec>, LogDriver?: Driver): void {
  checkServiceSpec({
    Name: "web",
    TaskTemplate: {
      ContainerSpec: { Image: "i", ...container },
      ...(LogDriver === undefined ? {} : { LogDriver }),
    },
  });
}

test("a service's log options are refused where its driver is one that every node has", () => {
  check({}, { Name: "syslog", Options: { "syslog-address": "udp://192.0.2.1:514" } });
  check({}, { Name: "a-plugin", Options: { anything: "goes" } });
  check({}, { Options: { "max-size": "1m" } });
  assert.throws(
    () => check({}, { Name: "syslog", Options: { "syslog-port": "514" } }),
    /TaskTemplate\.LogDriver: unknown log opt 'syslog-port' for syslog log driver: want one of .*, got "514"/,
  );
});

test("the cluster's default log driver is checked like a service's", () => {
  const stored = { Name: "default", Labels: {} } as ClusterSpec;
  const LogDriver = { Name: "gelf", Options: { "gelf-address": "http://x" } };
  assert.throws(
    () => checkClusterSpec({ Name: "default", TaskDefaults: { LogDriver } }, stored),
    /TaskDefaults\.LogDriver: invalid value for gelf-address: want .*, got "http:\/\/x"/,
  );
});

test("a text with a NUL is refused by the field that holds it", () => {
  const cases: readonly (readonly [string, Partial<ContainerSpec>])[] = [
    ["Env", { Env: ["A=1\0B"] }],
    ["Args", { Args: ["x\0"] }],
    ["Command", { Command: ["x\0"] }],
    ["Labels", { Labels: { a: "\0" } }],
    ["Hostname, Dir or User", { Dir: "/a\0" }],
    ["Mounts", { Mounts: [{ Type: "bind", Source: "/a\0", Target: "/b" }] }],
  ];
  for (const [field, container] of cases)
    assert.throws(() => check(container), new RegExp(`${field} must hold no NUL character, got `));
});

test("mounts of images, and subpaths that lead out", () => {
  const mounted = (mount: Partial<Mount>): void => check({ Mounts: [{ Target: "/x", ...mount }] });
  mounted({ Type: "image", Source: "tools:2", ImageOptions: { Subpath: "bin" } });
  assert.throws(
    () => mounted({ Type: "image" }),
    /type "image": field Source must be the name of an image, got ""/,
  );
  assert.throws(() => mounted({ Type: "volume", ImageOptions: {} }), /ImageOptions must not be specified/);
  for (const Subpath of ["/etc", "a/../../b"]) {
    assert.throws(
      () => mounted({ Type: "image", Source: "i", ImageOptions: { Subpath } }),
      /relative path .*, got/,
    );
    assert.throws(() => mounted({ Source: "v", VolumeOptions: { Subpath } }), /relative path/);
  }
  assert.throws(
    () => mounted({ Type: "cluster", Source: "v" }),
    /type "cluster": cluster volumes need a CSI plugin/,
  );
});
