/** Unit tests of mesh-rules.ts, overlay-rules.ts and peers.ts: what the texts must and must not say. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { tableText } from "../../runtime/network/nft-table.ts";
import { meshDefinition } from "./mesh-rules.ts";
import type { MeshShape } from "./mesh-rules.ts";
import { instanceTag, linkName } from "./names.ts";
import { overlayDefinition } from "./overlay-rules.ts";
import { MARK_MASK, markBase, tunnelEnds, tunnelMac } from "./peers.ts";

const shape: MeshShape = {
  table: "shoal_abcd_mesh",
  vxlan: "smx-abcd",
  linkPrefix: "smabcd-",
  pool: "10.210.0.0/16",
  subnet: "10.210.4.0/23",
  address: "10.210.4.1",
  dataPathPort: 4789,
  markBase: markBase(5),
  markMask: MARK_MASK,
  dnsPort: undefined,
  clientAddress: "client",
};

test("meshDefinition() redirects name queries once the name server is there", () => {
  assert.doesNotMatch(meshDefinition(shape).chains, /dnat to 10\.210/);
  assert.match(
    meshDefinition({ ...shape, dnsPort: 4053 }).chains,
    /ip daddr 10\.210\.4\.1 .* th dport 53 dnat to 10\.210\.4\.1:4053/,
  );
});

test("meshDefinition() hides all clients only where that is asked for, and those that are nodes always", () => {
  const snat = /oifname "smx-abcd" (.*)ip daddr 10\.210\.0\.0\/16 ct status dnat snat to 10\.210\.4\.1/;
  assert.equal(snat.exec(meshDefinition(shape).chains)?.[1], "ip saddr @vteps ");
  assert.equal(snat.exec(meshDefinition({ ...shape, clientAddress: "node" }).chains)?.[1], "");
});

test("tables name every set that their chains use", () => {
  for (const definition of [meshDefinition(shape), overlayDefinition("10.0.1.1")]) {
    const used = [...definition.chains.matchAll(/@(\w+)/g)].map((match) => match[1]);
    const declared = new Set(definition.sets.map(([name]) => name));
    for (const name of used) assert.ok(declared.has(name ?? ""), `${name} in ${definition.name}`);
    assert.ok(tableText(definition, new Map()).includes(`table ip ${definition.name} {`));
  }
});

test("tunnelEnds() leaves out nodes without block or an IPv4 address, and gives each node its own mark", () => {
  const peer = (nodeId: string, meshSubnet: string, dataPathAddress = "192.0.2.1") => ({
    nodeId,
    dataPathAddress,
    rpcAddress: "",
    meshSubnet,
  });
  const ends = tunnelEnds(
    {
      pool: "10.210.0.0/16",
      subnet: "10.210.0.0/23",
      vni: 4096,
      dataPathPort: 4789,
      peers: [
        peer("a", "10.210.2.0/23"),
        peer("b", "10.210.4.0/23"),
        peer("c", ""),
        peer("d", "10.210.8.0/23", ""),
        peer("e", "10.210.10.0/23", "fd00::1"),
        peer("f", "10.210.12.0/23", "192.0.2.1 }; flush ruleset"),
      ],
      ingressPorts: [],
    },
    markBase(5),
  );
  assert.deepEqual(
    ends.map((end) => [end.nodeId, end.address, end.mac]),
    [
      ["a", "10.210.2.1", tunnelMac("10.210.2.1")],
      ["b", "10.210.4.1", "02:53:0a:d2:04:01"],
    ],
  );
  assert.equal(new Set(ends.map((end) => end.mark)).size, 2);
  for (const end of ends) assert.equal((end.mark & MARK_MASK) >>> 0, markBase(5));
});

test("linkName() fits an interface name and differs by daemon and task", () => {
  const names = ["/data/one", "/data/two"].flatMap((instance) =>
    ["t1", "t2"].map((task) => linkName(`sm${instanceTag(instance)}-`, task)),
  );
  assert.equal(new Set(names).size, 4);
  for (const name of names) assert.ok(name.length <= 15, name);
});
