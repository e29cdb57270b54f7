/**
 * A machine's own networks in a real network namespace: the default bridge, user bridges with names, published ports, and
 * what a restart of the daemon finds. Needs root.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { after, before, describe, test } from "node:test";
import { existsSync, readdirSync } from "node:fs";
import path from "node:path";
import type { ContainerNetworkRequest, ContainerNetworkResult } from "../../runtime/ports.ts";
import { listLinks } from "../../runtime/network/routing.ts";
import { NetworkLab } from "../../bench/network-lab.ts";
import type { LabHost, LabProcess } from "../../bench/network-lab.ts";

const isRoot = process.getuid?.() === 0;
const options = { skip: isRoot ? false : "needs root" };
let lab: NetworkLab | undefined;

let host: LabHost;
let daemon: LabProcess;
let outside: LabProcess;

function local<T>(method: string, ...list: readonly unknown[]): Promise<T> {
  return daemon.call("local", { method: method as "attach", arguments: list }) as Promise<T>;
}

async function startDaemon(folders: { readonly execRoot?: string } = {}): Promise<void> {
  assert.ok(lab !== undefined);
  daemon = await lab.processOn(host);
  await daemon.call("startLocal", { instance: "lab", dataRoot: path.join(lab.folder, "data"), ...folders });
}

describe("local networks", () => {
  before(async () => {
    if (!isRoot) return;
    lab = new NetworkLab();
    host = lab.addHost("machine");
    outside = await lab.processOn(lab.addHost("outside"));
    await startDaemon();
  });

  after(() => lab?.close());

  interface Started {
    readonly process: LabProcess;
    readonly result: ContainerNetworkResult;
    readonly ip: string;
  }

  function requestFor(
    name: string,
    pid: number,
    extra: Partial<ContainerNetworkRequest> = {},
  ): ContainerNetworkRequest {
    return {
      target: { containerId: name, pid },
      name,
      hostname: name,
      hostConfig: {},
      config: {},
      networkingConfig: undefined,
      ...extra,
    };
  }

  async function start(name: string, extra: Partial<ContainerNetworkRequest> = {}): Promise<Started> {
    assert.ok(lab !== undefined);
    const container = await lab.container();
    await container.call("serve", { port: 80, name });
    const result = await local<ContainerNetworkResult>("attach", requestFor(name, container.pid, extra));
    const [endpoint] = Object.values(result.endpoints);
    return { process: container, result, ip: endpoint?.IPAddress ?? "" };
  }

  let web: Started;
  let client: Started;
  let api: Started;

  test("the default bridge gives addresses, a way out and published ports", options, async () => {
    web = await start("web", {
      hostConfig: {
        PortBindings: {
          "80/tcp": [{ HostPort: "8080" }],
          "80/udp": [{ HostIp: "127.0.0.1", HostPort: "" }, { HostPort: "8080" }],
        },
      },
    });
    client = await start("client");
    assert.equal(web.ip, "172.17.0.2");
    assert.equal(client.ip, "172.17.0.3");
    const named = await start("named", { hostConfig: { Dns: ["192.0.2.53"] } });
    assert.deepEqual(named.result.nameservers, ["192.0.2.53"], "the default bridge has no names of its own");
    await local("detach", "named");
    assert.equal(await client.process.call("http", { url: `http://${web.ip}/` }), `web ${client.ip}`);
    await outside.call("serve", { port: 81, name: "outside" });
    assert.equal(
      await client.process.call("http", { url: "http://192.168.77.2:81/" }),
      "outside 192.168.77.1",
      "out with the host's address",
    );
  });

  test(
    "a container's interface has its broadcast address, and no IPv6 address where its network has none",
    options,
    () => {
      const inside = [
        "--target",
        String(web.process.pid),
        "--net",
        "ip",
        "-o",
        "address",
        "show",
        "dev",
        "eth0",
      ];
      const shown = execFileSync("nsenter", inside, { encoding: "utf8" });
      assert.match(shown, /inet 172\.17\.0\.2\/16 brd 172\.17\.255\.255 /);
      assert.doesNotMatch(shown, /inet6/);
    },
  );

  test(
    "an endpoint's driver options name its interface in the container and set it up",
    options,
    async () => {
      const endpoint = (name: string, sysctls = ""): Partial<ContainerNetworkRequest> => ({
        networkingConfig: {
          EndpointsConfig: {
            bridge: {
              DriverOpts: {
                "com.docker.network.endpoint.ifname": name,
                "com.docker.network.endpoint.sysctls": sysctls,
              },
            },
          },
        },
      });
      const sysctls = "net.ipv4.conf.IFNAME.log_martians=1,net.ipv4.conf.IFNAME.tag=7";
      const { process: container } = await start("optioned", endpoint("wan0", sysctls));
      const inside = (...command: readonly string[]): string =>
        execFileSync("nsenter", ["--target", String(container.pid), "--net", ...command], {
          encoding: "utf8",
        });
      assert.match(inside("ip", "-4", "-o", "address"), /: wan0 +inet 172\.17\./);
      assert.match(inside("ip", "route"), /^default via 172\.17\.0\.1 dev wan0/m);
      const shown = inside(
        "cat",
        "/proc/sys/net/ipv4/conf/wan0/log_martians",
        "/proc/sys/net/ipv4/conf/wan0/tag",
      );
      assert.equal(shown, "1\n7\n");
      await local("detach", "optioned");
      await assert.rejects(start("refused", endpoint("a/b")), /ifname: must be the name of an interface/);
      await assert.rejects(start("refused", endpoint("", "net.ipv4.conf.IFNAME.none=1")), /Cannot set net\//);
      await assert.rejects(start("refused", endpoint("lo0/")), /ifname/);
    },
  );

  test(
    "a published port answers from outside, on localhost by IPv4 and IPv6, and to containers of its own bridge",
    options,
    async () => {
      assert.equal(await outside.call("http", { url: "http://192.168.77.1:8080/" }), "web 192.168.77.2");
      const hosts = ["127.0.0.1", "192.168.77.1", ...(existsSync("/proc/net/if_inet6") ? ["[::1]"] : [])];
      for (const each of hosts)
        assert.match(await daemon.call("http", { url: `http://${each}:8080/` }), /^web /, each);
      for (const from of [client, web])
        assert.match(await from.process.call("http", { url: "http://192.168.77.1:8080/" }), /^web /);
      const [binding] = web.result.ports["80/udp"] ?? [];
      assert.equal(binding?.HostIp, "127.0.0.1");
      const port = Number(binding?.HostPort);
      assert.match(await daemon.call("udp", { host: "127.0.0.1", port, text: "hi" }), /^web .* hi$/);
      for (const host of hosts.map((each) => each.replaceAll(/[[\]]/g, "")))
        assert.match(await daemon.call("udp", { host, port: 8080, text: "hi" }), /^web .* hi$/, host);
    },
  );

  test(
    "what is published on 127.0.0.1 can't be reached by a neighbour that sends to 127.0.0.1",
    options,
    async () => {
      assert.ok(lab !== undefined);
      const neighbour = lab.addHost("neighbour");
      const process = await lab.processOn(neighbour);
      // It gives its own loopback up, and takes the way over the wire for that of the address.
      neighbour.namespace.setSysctls({ "ipv4/conf/all/route_localnet": "1" });
      for (const command of [
        "address del 127.0.0.1/8 dev lo",
        "route add 127.0.0.0/8 via 192.168.77.1 dev eth0",
      ])
        execFileSync("nsenter", [`--net=${neighbour.file}`, "ip", ...command.split(" ")]);
      const [binding] = web.result.ports["80/udp"] ?? [];
      const port = Number(binding?.HostPort);
      await assert.rejects(
        process.call("udp", { host: "127.0.0.1", port, text: "over the wire", timeoutMs: 1_000 }),
        /timeout/,
      );
      assert.match(await daemon.call("udp", { host: "127.0.0.1", port, text: "here" }), /^web .* here$/);
    },
  );

  test("a port that is taken is refused, by a container or by another program", options, async () => {
    const hostConfig = { PortBindings: { "80/tcp": [{ HostPort: "8080" }] } };
    await assert.rejects(
      start("second", { hostConfig }),
      /Bind for 0\.0\.0\.0:8080 failed: port is already allocated/,
    );
    const other = await lab?.processOn(host);
    await other?.call("serve", { port: 8099, name: "other" });
    const taken = { PortBindings: { "80/tcp": [{ HostPort: "8099" }] } };
    await assert.rejects(start("third", { hostConfig: taken }), /port is already allocated/);
  });

  test("what is not published can't be reached from outside", options, async () => {
    assert.equal(
      await outside.call("connectTo", { host: "192.168.77.1", port: 80 }),
      "connect ECONNREFUSED 192.168.77.1:80",
    );
    lab?.routeVia({ ...host, namespace: host.namespace }, "198.51.100.0", 24, "192.168.77.2");
    await assert.rejects(outside.call("http", { url: `http://${client.ip}/`, timeoutMs: 500 }));
  });

  test(
    "a user network has names, aliases and fixed addresses, and is closed to other networks",
    options,
    async () => {
      const { Id } = await local<{ Id: string }>("create", {
        Name: "app",
        IPAM: { Config: [{ Subnet: "10.91.0.0/24", IPRange: "10.91.0.128/25" }] },
      });
      assert.match(Id, /^[0-9a-f]{64}$/);
      const db = await start("db", {
        hostConfig: { NetworkMode: "app" },
        networkingConfig: {
          EndpointsConfig: { app: { Aliases: ["postgres"], IPAMConfig: { IPv4Address: "10.91.0.42" } } },
        },
      });
      api = await start("api", { hostConfig: { NetworkMode: "app" } });
      assert.equal(db.ip, "10.91.0.42");
      assert.equal(api.ip, "10.91.0.128");
      const [server = ""] = api.result.nameservers;
      for (const name of ["db", "postgres", "db.app", "DB"])
        assert.deepEqual(await api.process.call("resolve", { server, name, kind: "A" }), [db.ip], name);
      await assert.rejects(api.process.call("resolve", { server, name: "web", kind: "A" }), /ENOTFOUND/);
      assert.deepEqual(await api.process.call("resolve", { server, name: db.ip, kind: "PTR" }), ["db.app"]);
      assert.equal(await api.process.call("http", { url: `http://${db.ip}/` }), `db ${api.ip}`);
      await assert.rejects(
        client.process.call("http", { url: `http://${db.ip}/`, timeoutMs: 500 }),
        /timeout/,
      );
      await assert.rejects(
        local("remove", "app"),
        /has active endpoints \(name:"db" id:"[0-9a-f]{12}", name:"api" id:"[0-9a-f]{12}"\)\n/,
      );
      await assert.rejects(
        local(
          "validate",
          requestFor("x", 0, {
            hostConfig: { NetworkMode: "app" },
            networkingConfig: { EndpointsConfig: { app: { IPAMConfig: { IPv4Address: "10.92.0.1" } } } },
          }),
        ),
        /invalid config for network app: invalid endpoint settings:\nno configured subnet or ip-range contain the IP address 10\.92\.0\.1\n/,
      );
    },
  );

  test("port 53 can be published, and our own names are still answered", options, async () => {
    const both = [{ HostIp: "0.0.0.0", HostPort: "53" }];
    const hostConfig = { NetworkMode: "app", PortBindings: { "80/udp": both, "80/tcp": both } };
    const own = await start("resolver", { hostConfig });
    assert.match(await outside.call("udp", { host: "192.168.77.1", port: 53, text: "q" }), /^resolver .* q$/);
    assert.match(await outside.call("http", { url: "http://192.168.77.1:53/" }), /^resolver /);
    const [server = ""] = own.result.nameservers;
    assert.deepEqual(await own.process.call("resolve", { server, name: "db", kind: "A" }), ["10.91.0.42"]);
    await own.process.kill();
    await local("detach", "resolver");
  });

  test(
    "a container knows itself by its whole name on each of its networks, and asks our names first",
    options,
    async () => {
      await local("create", { Name: "side", IPAM: { Config: [{ Subnet: "10.93.0.0/24" }] } });
      const both = await start("both", {
        hostname: "shop",
        config: { Domainname: "example.org" },
        hostConfig: { NetworkMode: "app", DnsSearch: ["example.com"] },
        networkingConfig: { EndpointsConfig: { app: {}, side: {} } },
      });
      const ips = Object.values(both.result.endpoints).map((each) => each.IPAddress);
      assert.equal(ips.length, 2);
      assert.deepEqual(
        both.result.hosts,
        ips.map((ip) => ({ ip, names: ["shop.example.org", "shop"] })),
      );
      assert.deepEqual(both.result.dnsOptions, ["ndots:0"]);
      const given = await start("given", {
        hostname: "shop.example.org",
        hostConfig: { NetworkMode: "app", DnsOptions: ["ndots:2"] },
      });
      assert.deepEqual(given.result.hosts[0]?.names, ["shop.example.org", "shop"]);
      assert.deepEqual(given.result.dnsOptions, ["ndots:2"]);
      const plain = await start("plain");
      assert.deepEqual([plain.result.hosts[0]?.names, plain.result.dnsOptions], [["plain"], []]);
      for (const name of ["both", "given", "plain"]) await local("detach", name);
      await local("remove", "side");
    },
  );

  test("connect and disconnect change a running container's networks", options, async () => {
    await local("connect", "app", "client", { Aliases: ["visitor"] });
    assert.equal(await client.process.call("http", { url: "http://10.91.0.42/" }), "db 10.91.0.129");
    const inspected = await local<{ Containers: Record<string, { IPv4Address: string }> }>("inspect", "app", {
      verbose: false,
    });
    assert.equal(inspected.Containers["client"]?.IPv4Address, "10.91.0.129/24");
    assert.deepEqual(
      await client.process.call("resolve", { server: "172.17.0.1", name: "db", kind: "A" }),
      ["10.91.0.42"],
      "its name server knows its new network",
    );
    await assert.rejects(local("connect", "app", "client", {}), /already exists in network app/);
    await local("disconnect", "app", "client", false);
    await assert.rejects(client.process.call("http", { url: "http://10.91.0.42/", timeoutMs: 500 }));
    await outside.call("http", { url: "http://192.168.77.1:8080/" });
  });

  test("a connection that fails leaves nothing of it", options, async () => {
    const dying = await start("dying");
    await dying.process.kill();
    const chosen = { IPAMConfig: { IPv4Address: "10.91.0.77" } };
    await assert.rejects(local("connect", "app", "dying", chosen), /ns\/net/);
    const inspected = await local<{ Containers: Record<string, unknown> }>("inspect", "app", {
      verbose: false,
    });
    assert.equal(inspected.Containers["dying"], undefined);
    await local("connect", "app", "client", chosen);
    await local("disconnect", "app", "client", false);
    await local("detach", "dying");
  });

  test("an internal network has no way out", options, async () => {
    await local("create", { Name: "closed", Internal: true });
    const one = await start("one", { hostConfig: { NetworkMode: "closed" } });
    const two = await start("two", { hostConfig: { NetworkMode: "closed" } });
    assert.equal(await one.process.call("http", { url: `http://${two.ip}/` }), `two ${one.ip}`);
    await assert.rejects(
      one.process.call("http", { url: "http://192.168.77.2:81/", timeoutMs: 500 }),
      /ENETUNREACH/,
    );
  });

  test("a macvlan network gives a container an address on the host's own network", options, async () => {
    await local("create", {
      Name: "lan",
      Driver: "macvlan",
      Options: { parent: "eth0" },
      IPAM: { Config: [{ Subnet: "192.168.77.0/24", Gateway: "192.168.77.2", IPRange: "192.168.77.64/26" }] },
    });
    const guest = await start("guest", { hostConfig: { NetworkMode: "lan" } });
    assert.equal(guest.ip, "192.168.77.64");
    assert.equal(await outside.call("http", { url: "http://192.168.77.64/" }), "guest 192.168.77.2");
    await local("disconnect", "lan", "guest", false);
    await assert.rejects(outside.call("http", { url: "http://192.168.77.64/", timeoutMs: 500 }));
    await local("detach", "guest");
    await local("remove", "lan");
    await assert.rejects(local("create", { Name: "lan", Driver: "macvlan" }), /needs the option parent/);
  });

  test("bad requests are refused and change nothing", options, async () => {
    const refused: readonly (readonly [object, RegExp])[] = [
      [{ Name: "" }, /network name cannot be empty/],
      [{ Name: "bad name" }, /invalid network name/],
      [{ Name: "app" }, /network with name app already exists/],
      [{ Name: "x", Driver: "nosuch" }, /plugin "nosuch" not found/],
      [{ Name: "x", IPAM: { Config: [{ Subnet: "10.91.0.0/25" }] } }, /Pool overlaps/],
      [{ Name: "x", IPAM: { Config: [{ Subnet: "10.93.0.1/24" }] } }, /it should be 10\.93\.0\.0\/24/],
      [
        { Name: "x", IPAM: { Config: [{ Subnet: "10.93.0.0/24", Gateway: "10.94.0.1" }] } },
        /does not contain it/,
      ],
    ];
    for (const [request, message] of refused) await assert.rejects(local("create", request), message);
    await assert.rejects(local("inspect", "x", { verbose: false }), /network x not found/);
    await assert.rejects(local("remove", "bridge"), /pre-defined network and cannot be removed/);
  });

  test("a new daemon takes over what the killed one left", options, async () => {
    assert.ok(lab !== undefined);
    // A question for db, from one socket all the time.
    const text = "\x01\x02\x01\0\0\x01\0\0\0\0\0\0\x02db\0\0\x01\0\x01";
    const [host = ""] = api.result.nameservers;
    const asked = { host, port: 53, text, localPort: 4053 };
    assert.match(await api.process.call("udp", asked), /db/);
    await outside.call("startLoad", { url: "http://192.168.77.1:8080/", parallel: 4 });
    await outside.call("untilLoad", 20);
    await daemon.kill();
    assert.match(await outside.call("http", { url: "http://192.168.77.1:8080/" }), /^web /);
    const notes = readdirSync(path.join(lab.folder, "data/network/containers"));
    assert.ok(notes.includes("web.json"));
    // One that has its notes in another place takes them along.
    await startDaemon({ execRoot: path.join(lab.folder, "run") });
    assert.deepEqual(readdirSync(path.join(lab.folder, "data/network/containers")), []);
    assert.ok(readdirSync(path.join(lab.folder, "run/network/containers")).includes("web.json"));
    await local("adopt", { containerId: "web", pid: web.process.pid, dns: [] }, web.result);
    await local("adopt", { containerId: "api", pid: api.process.pid, dns: [] }, api.result);
    assert.match(await api.process.call("udp", asked), /db/, "the new server has another port");
    await outside.call("untilLoad", 20);
    const result = await outside.call("stopLoad");
    assert.equal(result.failed, 0, result.errors.join());
    const hostConfig = { PortBindings: { "80/tcp": [{ HostPort: "8080" }] } };
    await assert.rejects(start("again", { hostConfig }), /port is already allocated/);
    const fresh = await start("fresh");
    assert.notEqual(fresh.ip, web.ip);
    assert.notEqual(fresh.ip, client.ip);
  });

  test("detach frees the port and close() leaves nothing when no container is left", options, async () => {
    for (const id of ["web", "client", "db", "api", "one", "two", "fresh"]) await local("detach", id);
    assert.match(await outside.call("connectTo", { host: "192.168.77.1", port: 8080 }), /ECONNREFUSED/);
    await local("remove", "app");
    assert.deepEqual(await local("prune", new Map()), { NetworksDeleted: ["closed"] });
    for (const { process: container } of [web, client]) await container.kill();
    await local("close");
    const links = listLinks(host.namespace.route).map((link) => link.name);
    assert.deepEqual(
      links.filter((name) => !host.linksBefore.includes(name) && !name.startsWith("sl")),
      [],
    );
    assert.equal(await host.namespace.nft.run("list ruleset"), "");
  });
});
