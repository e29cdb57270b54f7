/** What the flags of `run` come to in a create request. */
import assert from "node:assert/strict";
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
