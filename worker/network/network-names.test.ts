/** Unit tests of network-names.ts and of how questions become answers. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { SeededRandom } from "../../common/testing/seeded-random.ts";
import type { NetworkAssignment } from "../../model/dispatch.ts";
import { resolveName } from "../../runtime/network/dns-names.ts";
import { DnsType } from "../../runtime/network/dns-wire.ts";
import { joinNames, NetworkNames } from "./network-names.ts";

function network(name: string, vip: string): NetworkAssignment {
  const endpoint = (taskId: string, ip: string, state: "starting" | "ready" | "draining") => ({
    taskId,
    serviceId: "s",
    nodeId: "n",
    ip,
    state,
    names: [`web.${taskId}`],
  });
  return {
    networkId: name,
    name,
    vni: 4097,
    subnets: [],
    isInternal: false,
    options: {},
    endpoints: [
      endpoint("t1", "10.0.0.1", "ready"),
      endpoint("t2", "10.0.0.2", "ready"),
      endpoint("t3", "10.0.0.3", "starting"),
      endpoint("t4", "10.0.0.4", "draining"),
    ],
    services: [{ serviceId: "s", name: "Web", aliases: ["www"], vip }],
  };
}

test("NetworkNames.lookup() gives the virtual address of a service and only ready endpoints of tasks.", () => {
  const names = new NetworkNames(network("back", "10.0.0.99"), new Set());
  assert.deepEqual(names.lookup("web")?.addresses, ["10.0.0.99"]);
  assert.deepEqual(names.lookup("www.back")?.addresses, ["10.0.0.99"]);
  assert.deepEqual(names.lookup("tasks.web")?.addresses, ["10.0.0.1", "10.0.0.2"]);
  assert.deepEqual(names.lookup("web.t3")?.addresses, ["10.0.0.3"]);
  assert.equal(names.lookup("web.t4"), undefined);
  assert.equal(names.lookup("other"), undefined);
});

test("NetworkNames.lookup() of a service without virtual address gives its endpoints", () => {
  const names = new NetworkNames(network("back", ""), new Set());
  assert.deepEqual(names.lookup("web")?.addresses, ["10.0.0.1", "10.0.0.2"]);
});

test("NetworkNames leaves out what is drained on this node", () => {
  const names = new NetworkNames(network("back", ""), new Set(["t1"]));
  assert.deepEqual(names.lookup("tasks.web")?.addresses, ["10.0.0.2"]);
});

test("joinNames() lets the first network that knows a name answer", () => {
  const joined = joinNames([
    new NetworkNames(network("one", "10.0.0.99"), new Set()),
    new NetworkNames(network("two", "10.1.0.99"), new Set()),
  ]);
  assert.deepEqual(joined.lookup("web")?.addresses, ["10.0.0.99"]);
  assert.deepEqual(joined.lookup("web.two")?.addresses, ["10.1.0.99"]);
  assert.equal(joined.reverse("10.1.0.99"), "Web.two");
});

test("resolveName() answers empty for another type, no such name for single labels, and forwards the rest", () => {
  const names = new NetworkNames(network("back", "10.0.0.99"), new Set());
  const ask = (name: string, type: number) =>
    resolveName(
      {
        id: 1,
        name,
        type,
        isRecursionWanted: true,
        udpBytes: 512,
        hasEdns: false,
        section: Buffer.alloc(0),
      },
      names,
      ["192.0.2.1"],
      new SeededRandom(1),
    );
  assert.deepEqual(ask("web", DnsType.aaaa), { kind: "answer", answer: { code: 0, records: [] } });
  assert.deepEqual(ask("nobody", DnsType.a), { kind: "answer", answer: { code: 3, records: [] } });
  assert.deepEqual(ask("example.org", DnsType.a), { kind: "forward", upstreams: ["192.0.2.1"] });
  assert.deepEqual(ask("", 2), { kind: "forward", upstreams: ["192.0.2.1"] });
});
