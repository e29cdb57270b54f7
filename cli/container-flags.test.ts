/** What the flags of `run` come to in a create request. */
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, realpathSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { Flags } from "./command.ts";
import { changeableLimits, createBody } from "./container-flags.ts";

const bodyOf = (
  values: Record<string, string | boolean | readonly string[]>,
): ReturnType<typeof createBody> =>
  createBody(["box", "run me"], new Flags(new Map(Object.entries(values))), { env: {}, isDetached: true });

test("createBody() takes limits of devices, links and both kinds of addresses as docker does", () => {
  const body = bodyOf({
    "device-read-bps": ["/dev/sda:1mb"],
    "device-write-iops": ["/dev/sda:100", "/dev/disk/by-path/pci:0:7"],
    "blkio-weight-device": ["/dev/sda:500"],
    link: ["db:database"],
    network: ["app"],
    ip: "10.0.0.9",
    ip6: "fd00::9",
  });
  const { BlkioDeviceReadBps, BlkioDeviceWriteIOps, BlkioWeightDevice, Links } = body.HostConfig;
  assert.deepEqual(BlkioDeviceReadBps, [{ Path: "/dev/sda", Rate: 1024 * 1024 }]);
  assert.deepEqual(BlkioDeviceWriteIOps, [
    { Path: "/dev/sda", Rate: 100 },
    { Path: "/dev/disk/by-path/pci:0", Rate: 7 },
  ]);
  assert.deepEqual(BlkioWeightDevice, [{ Path: "/dev/sda", Weight: 500 }]);
  assert.deepEqual(Links, ["db:database"]);
  assert.deepEqual(body.NetworkingConfig.EndpointsConfig["app"], {
    IPAMConfig: { IPv4Address: "10.0.0.9", IPv6Address: "fd00::9" },
  });
  assert.throws(
    () => bodyOf({ "device-read-iops": ["/dev/sda"] }),
    /Invalid --device-read-iops "\/dev\/sda"/,
  );
});

test("createBody() keeps an entry point with blanks as one word, as docker does", () => {
  assert.deepEqual(bodyOf({ entrypoint: "/opt/my app/start" }).Entrypoint, ["/opt/my app/start"]);
  assert.deepEqual(bodyOf({ entrypoint: "" }).Entrypoint, [""]);
});

test("createBody() binds folders that are named from where one stands, whatever characters are in the way", (t) => {
  const folder = realpathSync(mkdtempSync(path.join(tmpdir(), "shoal-run-")));
  const here = path.join(folder, "a#b %41$&?");
  mkdirSync(here);
  const before = process.cwd();
  process.chdir(here);
  t.after(() => {
    process.chdir(before);
    rmSync(folder, { recursive: true });
  });
  const volume = [
    ".:/here",
    "./data:/data:ro",
    "../100%:/up",
    "./c?d#e/:/odd",
    "/etc:/etc",
    "named:/n",
    "/anonymous",
  ];
  const { HostConfig, Volumes } = bodyOf({ volume });
  assert.deepEqual(HostConfig.Binds, [
    `${here}:/here`,
    `${here}/data:/data:ro`,
    `${folder}/100%:/up`,
    `${here}/c?d#e:/odd`,
    "/etc:/etc",
    "named:/n",
  ]);
  assert.deepEqual(Volumes, { "/anonymous": {} });
  assert.deepEqual(bodyOf({ volume: ["~/x:/x"] }).HostConfig.Binds, [`${process.env["HOME"] ?? ""}/x:/x`]);
});

test("createBody() takes devices, ulimits, labels and health checks in docker's short forms", () => {
  const body = bodyOf({
    device: ["/dev/a", "/dev/b:/dev/c", "/dev/d:rw", "/dev/e:/dev/f:m"],
    ulimit: ["nofile=10", "core=-1:20"],
    label: ["a=b=c", "d"],
    "health-cmd": "true",
    "health-retries": "2",
  });
  const device = (PathOnHost: string, PathInContainer: string, CgroupPermissions: string): object => ({
    PathOnHost,
    PathInContainer,
    CgroupPermissions,
  });
  assert.deepEqual(body.HostConfig.Devices, [
    device("/dev/a", "/dev/a", "rwm"),
    device("/dev/b", "/dev/c", "rwm"),
    device("/dev/d", "/dev/d", "rw"),
    device("/dev/e", "/dev/f", "m"),
  ]);
  assert.deepEqual(body.HostConfig.Ulimits, [
    { Name: "nofile", Soft: 10, Hard: 10 },
    { Name: "core", Soft: -1, Hard: 20 },
  ]);
  assert.deepEqual(body.Labels, { a: "b=c", d: "" });
  assert.deepEqual(body.Healthcheck, { Test: ["CMD-SHELL", "true"], Retries: 2 });
  assert.deepEqual(bodyOf({ "no-healthcheck": true }).Healthcheck, { Test: ["NONE"] });
  assert.equal(bodyOf({}).Healthcheck, undefined);
  assert.throws(() => bodyOf({ ulimit: ["nofile"] }), /Invalid ulimit "nofile"/);
});

test("createBody() attaches the streams that were asked for, stdin only of what is interactive", () => {
  const attached = (values: Record<string, boolean | readonly string[]>, isDetached = false): string => {
    const flags = new Flags(new Map(Object.entries(values)));
    const { AttachStdin, AttachStdout, AttachStderr, OpenStdin, StdinOnce } = createBody(["box"], flags, {
      env: {},
      isDetached,
    });
    const all = { AttachStdin, AttachStdout, AttachStderr, OpenStdin, StdinOnce };
    return Object.entries(all)
      .flatMap(([name, isOn]) => (isOn === true ? [name] : []))
      .join(" ");
  };
  assert.equal(attached({}), "AttachStdout AttachStderr");
  assert.equal(attached({ interactive: true }), "AttachStdin AttachStdout AttachStderr OpenStdin StdinOnce");
  assert.equal(attached({ interactive: true }, true), "OpenStdin");
  assert.equal(attached({ interactive: true, attach: ["STDERR"] }), "AttachStderr OpenStdin");
});

test("changeableLimits() is what run and update take alike, with a restart policy that there is", () => {
  const limitsOf = (values: Record<string, string>): ReturnType<typeof changeableLimits> =>
    changeableLimits(new Flags(new Map(Object.entries(values))));
  assert.deepEqual(limitsOf({}), {});
  const limits = { memory: "1g", "memory-swap": "-1", cpus: "1.5", restart: "on-failure:3" };
  const fields = {
    Memory: 1024 ** 3,
    MemorySwap: -1,
    NanoCpus: 1.5e9,
    RestartPolicy: { Name: "on-failure", MaximumRetryCount: 3 },
  };
  assert.deepEqual(limitsOf(limits), fields);
  assert.deepEqual(bodyOf(limits).HostConfig, { NetworkMode: "default", ...fields });
  for (const restart of ["on-failure:x", "always:3", "sometimes"])
    assert.throws(() => limitsOf({ restart }), /Invalid value for --restart/, restart);
});
