/** Unit tests of the pure parts of local networks: requests, addresses, ports, filters, the packet filter's elements. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { parseBlock } from "./addresses.ts";
import { LocalAddresses } from "./local-addresses.ts";
import { matchesFilters } from "./local-describe.ts";
import { portRequests } from "./local-ports.ts";
import { chooseSubnet, parseCreateRequest, predefinedRecord } from "./local-records.ts";
import { publishedOf, describePorts, extraHosts } from "./local-results.ts";
import { localElements } from "./local-rules.ts";

const identity = { id: "f".repeat(64), created: "2026-01-02T03:04:05.000000000Z" };

test("LocalAddresses.take() gives the lowest free address and skips gateway and reserved ones", () => {
  const addresses = new LocalAddresses({
    Subnet: "10.1.0.0/29",
    Gateway: "10.1.0.1",
    AuxiliaryAddresses: { router: "10.1.0.3" },
  });
  assert.deepEqual(
    [addresses.take(), addresses.take(), addresses.take()],
    ["10.1.0.2", "10.1.0.4", "10.1.0.5"],
  );
  addresses.release("10.1.0.2");
  assert.equal(addresses.take(), "10.1.0.2");
  assert.equal(addresses.take(), "10.1.0.6");
  assert.throws(() => addresses.take(), /no available IPv4 addresses/);
});

test("LocalAddresses.claim() refuses what is taken, outside, or no address; release() keeps the gateway", () => {
  const addresses = new LocalAddresses({ Subnet: "10.1.0.0/24", Gateway: "10.1.0.1" });
  addresses.claim("10.1.0.9");
  assert.throws(() => addresses.claim("10.1.0.9"), /Address already in use/);
  assert.throws(() => addresses.claim("10.2.0.9"), /no configured subnet or ip-range contain/);
  assert.throws(() => addresses.claim("nine"), /invalid IPv4 address: nine/);
  addresses.release("10.1.0.1");
  assert.throws(() => addresses.claim("10.1.0.1"), /Address already in use/);
});

test("LocalAddresses.take() stays in the range that was given", () => {
  const addresses = new LocalAddresses({
    Subnet: "10.1.0.0/24",
    Gateway: "10.1.0.1",
    IPRange: "10.1.0.128/30",
  });
  assert.equal(addresses.take(), "10.1.0.128");
});

test("LocalAddresses of an IPv6 subnet skips the first address, and knows an address in any of its forms", () => {
  const addresses = new LocalAddresses({ Subnet: "fd00:1::/64", Gateway: "fd00:1::2" });
  assert.deepEqual([addresses.take(), addresses.take()], ["fd00:1::1", "fd00:1::3"]);
  assert.equal(addresses.claim("FD00:1:0::9"), "fd00:1::9");
  assert.throws(() => addresses.claim("fd00:1::9"), /Address already in use/);
  assert.throws(() => addresses.check("fd00:2::9"), /no configured subnet or ip-range contain/);
  assert.throws(() => addresses.check("10.0.0.1"), /invalid IPv6 address: 10.0.0.1/);
  addresses.release("fd00:1:0::2");
  assert.throws(() => addresses.claim("fd00:1::2"), /Address already in use/);
  assert.equal(addresses.prefixLength, 64);
  const few = new LocalAddresses({ Subnet: "fd00:1::/64", IPRange: "fd00:1::/127" });
  assert.equal(few.take(), "fd00:1::1");
  assert.throws(() => few.take(), /no available IPv6 addresses/);
});

test("chooseSubnet() takes the first of Docker's pools that nothing overlaps", () => {
  assert.equal(chooseSubnet([]).Subnet, "172.17.0.0/16");
  const used = ["172.17.4.0/24", "172.18.0.0/15"].map(parseBlock);
  assert.deepEqual(chooseSubnet(used), { Subnet: "172.20.0.0/16", Gateway: "172.20.0.1" });
  assert.equal(chooseSubnet([parseBlock("172.16.0.0/12")]).Subnet, "192.168.0.0/20");
  assert.throws(() => chooseSubnet(["172.16.0.0/12", "192.168.0.0/16"].map(parseBlock)), /non-overlapping/);
});

test("parseCreateRequest() fills the gateway in and keeps what the user gave", () => {
  const record = parseCreateRequest(
    { Name: "n", Labels: { a: "b" }, Internal: true, IPAM: { Config: [{ Subnet: "10.9.0.0/24" }] } },
    identity,
  );
  assert.deepEqual(record.plans, [{ Subnet: "10.9.0.0/24", Gateway: "10.9.0.1" }]);
  assert.equal(record.hasChosenSubnet, true);
  assert.equal(record.isInternal, true);
  assert.deepEqual(record.labels, { a: "b" });
});

test("parseCreateRequest() refuses wrong types and impossible plans, naming them", () => {
  const refused: readonly (readonly [Record<string, never> | object, RegExp])[] = [
    [{ Name: 7 }, /Name must be a string, got 7/],
    [{ Name: "n", Labels: { a: 1 } }, /a must be a string/],
    [{ Name: "n", IPAM: { Config: {} } }, /IPAM.Config must be a list/],
    [{ Name: "n", IPAM: { Config: [{ Gateway: "10.0.0.1" }] } }, /needs a Subnet/],
    [
      { Name: "n", IPAM: { Config: [{ Subnet: "10.0.0.0/24", IPRange: "10.1.0.0/25" }] } },
      /invalid ip-range/,
    ],
    [
      { Name: "n", Driver: "ipvlan", Options: { parent: "eth0", ipvlan_mode: "l9" } },
      /unknown ipvlan mode "l9"/,
    ],
    [{ Name: "n", Scope: "foo" }, /invalid network scope: want local or swarm, got "foo"/],
    [
      { Name: "n", Options: { "com.docker.network.bridge.name": "x; flush" } },
      /invalid bridge name "x; flush"/,
    ],
    [{ Name: "n", Options: { "com.docker.network.bridge.name": ".." } }, /invalid bridge name/],
    [{ Name: "n", IPAM: { Driver: "foo" } }, /could not find IPAM driver "foo"/],
    [
      { Name: "n", Options: { "com.docker.network.driver.mtu": "foo" } },
      /mtu value: want 68 to 65535, got "foo"/,
    ],
    [
      { Name: "n", Options: { "com.docker.network.bridge.enable_icc": "foo" } },
      /icc value: want true or false/,
    ],
    [
      { Name: "n", Options: { "com.docker.network.bridge.host_binding_ipv4": "foo" } },
      /host_binding_ipv4 value: want an IPv4 address, got "foo"/,
    ],
  ];
  for (const [request, message] of refused)
    assert.throws(
      () => parseCreateRequest(request as Parameters<typeof parseCreateRequest>[0], identity),
      message,
    );
});

test("portRequests() reads bindings, ranges and -P, and counts 0.0.0.0 and :: as one", () => {
  const requests = portRequests(
    {
      PortBindings: {
        "80/tcp": [
          { HostIp: "0.0.0.0", HostPort: "8080" },
          { HostIp: "::", HostPort: "8080" },
        ],
        "53/udp": [{ HostIp: "127.0.0.1", HostPort: "5300-5310" }],
      },
      PublishAllPorts: true,
    },
    { ExposedPorts: { "80/tcp": {}, "443/tcp": {} } },
  );
  assert.deepEqual(
    requests.map(({ protocol, containerPort, hostIp, first, last }) => [
      protocol,
      containerPort,
      hostIp,
      first,
      last,
    ]),
    [
      ["udp", 53, "127.0.0.1", 5300, 5310],
      ["tcp", 80, "0.0.0.0", 8080, 8080],
      ["tcp", 443, "0.0.0.0", 0, 0],
    ],
  );
});

test("portRequests() gives ports without an address the network's, and leaves the others theirs", () => {
  const PortBindings = {
    "80/tcp": [{ HostPort: "8080" }],
    "90/tcp": [{ HostIp: "0.0.0.0", HostPort: "9090" }],
  };
  const given = portRequests(
    { PortBindings, PublishAllPorts: true },
    { ExposedPorts: { "99/tcp": {} } },
    {
      defaultIp: "127.0.0.1",
    },
  );
  assert.deepEqual(
    given.map(({ hostIp, isDual }) => [hostIp, isDual]),
    [
      ["127.0.0.1", undefined],
      ["0.0.0.0", undefined],
      ["127.0.0.1", undefined],
    ],
  );
});

test("portRequests() takes a default of 0.0.0.0, which the default bridge has, for all addresses of both families", () => {
  const PortBindings = { "80/tcp": [{ HostPort: "8080" }] };
  const [request] = portRequests({ PortBindings }, {}, { defaultIp: "0.0.0.0" });
  assert.deepEqual([request?.hostIp, request?.isDual], ["0.0.0.0", true]);
});

test("portRequests() refuses bad ports", () => {
  for (const PortBindings of [
    { "80/tcp": [{ HostPort: "70000" }] },
    { "80/tcp": [{ HostPort: "9-8" }] },
    { "80/sctp": [{ HostPort: "1" }] },
    { "x/tcp": [{ HostPort: "1" }] },
    { "80/tcp": [{ HostIp: "nowhere", HostPort: "1" }] },
  ])
    assert.throws(() => portRequests({ PortBindings }, {}), /invalid/, JSON.stringify(PortBindings));
});

test("describePorts() and publishedOf() are each other's opposite", () => {
  const ports = [
    { protocol: "tcp" as const, containerPort: 80, hostIp: "0.0.0.0", hostPort: 8080 },
    { protocol: "udp" as const, containerPort: 53, hostIp: "127.0.0.1", hostPort: 5300 },
  ];
  assert.deepEqual(publishedOf(describePorts(ports)), ports);
});

test("extraHosts() puts the gateway in for host-gateway and takes IPv6 addresses", () => {
  const hosts = extraHosts({ ExtraHosts: ["host.docker.internal:host-gateway", "six:fd00::1"] }, "10.0.0.1");
  assert.deepEqual(hosts, [
    { ip: "10.0.0.1", names: ["host.docker.internal"] },
    { ip: "fd00::1", names: ["six"] },
  ]);
});

test("matchesFilters() knows Docker's keys and refuses others", () => {
  const bridge = predefinedRecord("bridge", "bridge", identity);
  const own = { ...bridge, name: "own", labels: { a: "b" } };
  const is = (record: typeof bridge, key: string, ...values: string[]) =>
    matchesFilters(record, new Map([[key, values]]), false);
  assert.ok(is(own, "label", "a=b") && is(own, "label", "a") && !is(own, "label", "a=c"));
  assert.ok(!is(own, "label", "constructor") && is(own, "label!", "constructor", "b"));
  assert.ok(is(bridge, "type", "builtin") && is(own, "type", "custom"));
  assert.ok(is(own, "dangling", "true") && !is(bridge, "dangling", "true"));
  assert.ok(is(own, "name", "x", "ow") && is(own, "driver", "bridge") && !is(own, "scope", "swarm"));
  assert.throws(() => is(own, "nosuch", "1"), /invalid filter 'nosuch'/);
});

test("localElements() sends ports of all addresses and of one into different maps", () => {
  const elements = localElements(
    [
      {
        device: "br-1",
        subnet: "10.0.0.0/24",
        gateway: "10.0.0.1",
        isInternal: true,
        isOpenInside: false,
        isMasqueraded: true,
        dnsPort: 4053,
      },
    ],
    [
      {
        address: "10.0.0.2",
        ports: [
          { protocol: "tcp", containerPort: 80, hostIp: "0.0.0.0", hostPort: 8080 },
          { protocol: "tcp", containerPort: 81, hostIp: "127.0.0.1", hostPort: 8081 },
        ],
      },
    ],
  );
  assert.deepEqual([...(elements.get("at_all") ?? [])], [["tcp . 8080", "10.0.0.2 . 80"]]);
  assert.deepEqual([...(elements.get("at_one") ?? [])], [["127.0.0.1 . tcp . 8081", "10.0.0.2 . 81"]]);
  assert.equal(elements.get("ways_out")?.size, 0, "an internal network has no way out");
  assert.equal(elements.get("open")?.size, 0);
  assert.deepEqual([...(elements.get("names") ?? [])], [["10.0.0.1 . 53", "10.0.0.1 . 4053"]]);
});
