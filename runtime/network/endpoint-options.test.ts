import assert from "node:assert/strict";
import { test } from "node:test";
import { endpointOptions } from "./endpoint-options.ts";

const NAME = "com.docker.network.endpoint.ifname";
const SYSCTLS = "com.docker.network.endpoint.sysctls";

test("endpointOptions() takes the interface's name and its settings, and nothing of other options", () => {
  assert.deepEqual(endpointOptions({}), { sysctls: [] });
  assert.deepEqual(endpointOptions({ DriverOpts: null }), { sysctls: [] });
  const sysctls = "net.ipv4.conf.IFNAME.log_martians=1, net.ipv6.neigh.IFNAME.app_solicit=2";
  assert.deepEqual(endpointOptions({ DriverOpts: { [NAME]: "wan0", [SYSCTLS]: sysctls, other: "x" } }), {
    interfaceName: "wan0",
    sysctls: [
      { path: "ipv4/conf/IFNAME/log_martians", value: "1" },
      { path: "ipv6/neigh/IFNAME/app_solicit", value: "2" },
    ],
  });
});

test("endpointOptions() refuses names that no interface has, and settings of other things", () => {
  for (const name of ["a/b", "a b", "..", "lo", "sixteen-letters-", "eth%d"])
    assert.throws(() => endpointOptions({ DriverOpts: { [NAME]: name } }), /ifname: must be .* got "/, name);
  const refused = [
    "net.ipv4.ip_forward=1",
    "net.ipv4.conf.eth0.forwarding=1",
    "net.ipv4.conf.IFNAME.../../x=1",
    "net.ipv4.conf.IFNAME.forwarding",
    "kernel.x.conf.IFNAME.y=1",
    "net.mpls.neigh.IFNAME.x=1",
  ];
  for (const text of refused)
    assert.throws(() => endpointOptions({ DriverOpts: { [SYSCTLS]: text } }), /sysctls: must be like/, text);
});
