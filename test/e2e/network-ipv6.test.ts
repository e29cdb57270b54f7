/** IPv6 on a machine's own bridge networks: addresses, names, way out, published ports, isolation, restart. Needs root. */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { NetworkLab, type LabHost, type LabProcess } from "../../bench/network-lab.ts";
import type { EndpointSettings, JsonObject } from "../../model/engine.ts";
import { addAddress, findLink, listLinks } from "../../runtime/network/routing.ts";
import type { ContainerNetworkRequest, ContainerNetworkResult } from "../../runtime/ports.ts";

const missing =
  process.getuid?.() !== 0
    ? "needs root"
    : existsSync("/proc/net/if_inet6")
      ? false
      : "this kernel has no IPv6";

interface Started {
  readonly process: LabProcess;
  readonly result: ContainerNetworkResult;
  readonly endpoint: EndpointSettings;
  readonly ip: string;
}

describe("IPv6 on bridge networks", { skip: missing }, () => {
  let lab: NetworkLab;
  let host: LabHost;
  let daemon: LabProcess;
  let outside: LabProcess;
  let web: Started;
  let api: Started;

  function local<T>(method: string, ...list: readonly unknown[]): Promise<T> {
    return daemon.call("local", { method: method as "attach", arguments: list }) as Promise<T>;
  }

  async function startDaemon(): Promise<void> {
    daemon = await lab.processOn(host);
    await daemon.call("startLocal", { instance: "lab", dataRoot: path.join(lab.folder, "data") });
  }

  function addHost(name: string, address: string): LabHost {
    const added = lab.addHost(name);
    const { route } = added.namespace;
    route.send([addAddress(findLink(route, "eth0")?.index ?? 0, { address, prefixLength: 64 })]);
    return added;
  }

  async function start(
    name: string,
    network: string,
    options: { readonly ports?: object; readonly settings?: EndpointSettings } = {},
  ): Promise<Started> {
    const container = await lab.container();
    await container.call("serve", { port: 80, name });
    const request: ContainerNetworkRequest = {
      target: { containerId: name, pid: container.pid },
      name,
      hostname: name,
      hostConfig: { NetworkMode: network, PortBindings: (options.ports ?? {}) as Record<string, []> },
      config: {},
      networkingConfig: { EndpointsConfig: { [network]: options.settings ?? {} } },
    };
    const result = await local<ContainerNetworkResult>("attach", request);
    const [endpoint = {}] = Object.values(result.endpoints);
    return { process: container, result, endpoint, ip: endpoint.GlobalIPv6Address ?? "" };
  }

  before(async () => {
    lab = new NetworkLab();
    host = addHost("machine", "fd77::1");
    outside = await lab.processOn(addHost("outside", "fd77::2"));
    await startDaemon();
    await local("create", {
      Name: "six",
      EnableIPv6: true,
      IPAM: { Config: [{ Subnet: "10.91.0.0/24" }, { Subnet: "fd00:91::/64" }] },
    });
  });

  after(() => lab.close());

  test("containers get an address of each kind, and inspect says so", async () => {
    web = await start("web", "six", {
      ports: { "80/tcp": [{ HostPort: "8080" }], "80/udp": [{ HostPort: "8080" }] },
    });
    const chosen = { IPAMConfig: { IPv6Address: "fd00:91::0:42" }, Aliases: ["backend"] };
    api = await start("api", "six", { settings: chosen });
    assert.equal(web.endpoint.IPAddress, "10.91.0.2");
    const { GlobalIPv6Address, GlobalIPv6PrefixLen, IPv6Gateway } = web.endpoint;
    assert.deepEqual([GlobalIPv6Address, GlobalIPv6PrefixLen, IPv6Gateway], ["fd00:91::2", 64, "fd00:91::1"]);
    assert.equal(api.ip, "fd00:91::42");
    assert.deepEqual(
      web.result.hosts.map(({ ip }) => ip),
      ["10.91.0.2", "fd00:91::2"],
    );
    const network = await local<JsonObject>("inspect", "six", { verbose: false });
    const containers = network["Containers"] as Record<string, { readonly IPv6Address: string }>;
    assert.equal(containers["web"]?.IPv6Address, "fd00:91::2/64");
    assert.deepEqual((network["IPAM"] as { readonly Config: unknown }).Config, [
      { Subnet: "10.91.0.0/24", Gateway: "10.91.0.1" },
      { Subnet: "fd00:91::/64", Gateway: "fd00:91::1" },
    ]);
  });

  test("containers find and reach each other, and the outside with the host's address", async () => {
    const [server = ""] = api.result.nameservers;
    const ask = (name: string, kind: "A" | "AAAA" | "PTR"): Promise<string[]> =>
      api.process.call("resolve", { server, name, kind });
    assert.deepEqual(await ask("web", "AAAA"), ["fd00:91::2"]);
    assert.deepEqual(await ask("web", "A"), ["10.91.0.2"]);
    assert.deepEqual(await ask("backend.six", "AAAA"), ["fd00:91::42"]);
    assert.deepEqual(await ask("fd00:91::2", "PTR"), ["web.six"]);
    assert.equal(await api.process.call("http", { url: "http://[fd00:91::2]/" }), `web ${api.ip}`);
    await outside.call("serve", { port: 81, name: "outside" });
    assert.equal(await api.process.call("http", { url: "http://[fd77::2]:81/" }), "outside fd77::1");
  });

  test("a container that leaves one of two networks goes out by the other", async () => {
    const two = await start("two", "six");
    await local("create", { Name: "seven", EnableIPv6: true });
    await local("connect", "seven", "two", {});
    await local("disconnect", "six", "two", false);
    assert.equal(await two.process.call("http", { url: "http://[fd77::2]:81/" }), "outside fd77::1");
    await local("detach", "two");
    await local("remove", "seven");
  });

  test("published ports answer on IPv6 as well, with the client's own address", async () => {
    const both = [
      { HostIp: "0.0.0.0", HostPort: "8080" },
      { HostIp: "::", HostPort: "8080" },
    ];
    assert.deepEqual(web.result.ports, { "80/tcp": both, "80/udp": both });
    assert.equal(await outside.call("http", { url: "http://[fd77::1]:8080/" }), "web fd77::2");
    assert.equal(await outside.call("http", { url: "http://192.168.77.1:8080/" }), "web 192.168.77.2");
    for (const url of ["http://[::1]:8080/", "http://[fd77::1]:8080/"])
      assert.match(await daemon.call("http", { url }), /^web /, url);
    assert.match(await outside.call("udp", { host: "fd77::1", port: 8080, text: "hi" }), /^web fd77::2 hi$/);
    const one = await start("one", "six", { ports: { "80/tcp": [{ HostIp: "fd77::1", HostPort: "8090" }] } });
    assert.deepEqual(one.result.ports, { "80/tcp": [{ HostIp: "fd77::1", HostPort: "8090" }] });
    assert.equal(await outside.call("http", { url: "http://[fd77::1]:8090/" }), "one fd77::2");
    assert.match(await outside.call("connectTo", { host: "192.168.77.1", port: 8090 }), /ECONNREFUSED/);
  });

  test("networks with IPv6 are closed to each other and to what is not published", async () => {
    await local("create", { Name: "other", EnableIPv6: true });
    const other = await start("other-1", "other");
    assert.match(other.ip, /^fd[0-9a-f]{2}:/);
    await assert.rejects(
      other.process.call("http", { url: "http://[fd00:91::2]/", timeoutMs: 500 }),
      /timeout/,
    );
    lab.routeVia(host, "198.51.100.0", 24, "192.168.77.2");
    await assert.rejects(outside.call("http", { url: `http://[${api.ip}]/`, timeoutMs: 500 }));
    await local("create", { Name: "closed", EnableIPv6: true, Internal: true });
    const closed = await start("closed-1", "closed");
    assert.equal(closed.endpoint.IPv6Gateway, "");
    await assert.rejects(
      closed.process.call("http", { url: "http://[fd77::2]:81/", timeoutMs: 500 }),
      /ENETUNREACH/,
    );
  });

  test("what can't be had is refused", async () => {
    const plan = (Config: readonly object[]): object => ({ Name: "x", EnableIPv6: true, IPAM: { Config } });
    const refused: readonly (readonly [object, RegExp])[] = [
      [plan([{ Subnet: "fd00:91::/80" }]), /Pool overlaps/],
      [plan([{ Subnet: "fd00:92::1/64" }]), /it should be fd00:92::\/64/],
      [plan([{ Subnet: "fd00:92::/64", Gateway: "fd00:93::1" }]), /does not contain it/],
      [plan([{ Subnet: "fd00:92::/64" }, { Subnet: "fd00:93::/64" }]), /at most one IPv6 Subnet/],
      [plan([{ Subnet: "fd00:92::/126" }]), /must have at most 120 bits/],
      [plan([{ Subnet: "fd00:xx::/64" }]), /Subnet must be like/],
      [
        { Name: "x", EnableIPv6: true, Driver: "macvlan", Options: { parent: "eth0" } },
        /driver must be bridge/,
      ],
    ];
    for (const [request, message] of refused) await assert.rejects(local("create", request), message);
    const IPv4Address = "10.91.0.99";
    const taken = { IPAMConfig: { IPv4Address, IPv6Address: "fd00:91::2" } };
    await assert.rejects(start("second", "six", { settings: taken }), /Address already in use/);
    await start("second", "six", { settings: { IPAMConfig: { IPv4Address } } });
    await local("detach", "second");
    const foreign = { IPAMConfig: { IPv6Address: "fd00:99::2" } };
    await assert.rejects(start("second", "six", { settings: foreign }), /no configured subnet/);
  });

  test("a new daemon takes over what the killed one left", async () => {
    await daemon.kill();
    assert.equal(await outside.call("http", { url: "http://[fd77::1]:8080/" }), "web fd77::2");
    await startDaemon();
    assert.equal(await outside.call("http", { url: "http://[fd77::1]:8080/" }), "web fd77::2");
    const fresh = await start("fresh", "six");
    assert.notEqual(fresh.ip, web.ip);
    await local("detach", "fresh");
    const again = await start("again", "six", { settings: { IPAMConfig: { IPv6Address: fresh.ip } } });
    assert.equal(again.ip, fresh.ip, "an address that was given back");
  });

  test("close() leaves nothing when no container is left", async () => {
    for (const id of ["web", "api", "one", "other-1", "closed-1", "again"]) await local("detach", id);
    assert.match(await outside.call("connectTo", { host: "fd77::1", port: 8080 }), /ECONNREFUSED/);
    await local("close");
    const links = listLinks(host.namespace.route).map((link) => link.name);
    assert.deepEqual(
      links.filter((name) => name.startsWith("br-")),
      [],
    );
    assert.equal(await host.namespace.nft.run("list ruleset"), "");
  });
});
