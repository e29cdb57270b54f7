/**
 * The cluster's network between two real network namespaces with VXLAN between them: what tasks see of each other, what
 * clients see of published ports, and what stays when daemons die and hosts are cut off. Needs root.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import type { IngressPort, MeshAssignment, RemoteEndpoint } from "../../model/dispatch.ts";
import type { Task } from "../../model/objects.ts";
import { listFlows } from "../../runtime/network/conntrack.ts";
import { listLinks } from "../../runtime/network/routing.ts";
import { labNetwork, labTask, NetworkLab } from "../../bench/network-lab.ts";
import type { LabHost, LabProcess } from "../../bench/network-lab.ts";

const isRoot = process.getuid?.() === 0;
const VIP = "10.77.1.250";

interface Node {
  readonly host: LabHost;
  readonly nodeId: string;
  readonly meshSubnet: string;
  agent: LabProcess;
}

interface Running {
  readonly task: Task;
  readonly node: Node;
  readonly process: LabProcess;
  readonly ip: string;
  meshIp: string;
  state: RemoteEndpoint["state"];
}

/** A small stand-in for the managers: knows all tasks and tells every node. */
class Cluster {
  readonly lab = new NetworkLab();
  readonly nodes: Node[] = [];
  readonly running: Running[] = [];
  /** Ends of containers outside of services. */
  readonly guests: RemoteEndpoint[] = [];

  async addNode(name: string): Promise<Node> {
    const host = this.lab.addHost(name);
    const agent = await this.lab.processOn(host);
    const node = { host, nodeId: name, meshSubnet: `10.210.${2 * this.nodes.length}.0/23`, agent };
    this.nodes.push(node);
    await this.startNetwork(node);
    return node;
  }

  startNetwork(node: Node): Promise<void> {
    return node.agent.call("startNetwork", {
      instance: `lab-${node.nodeId}`,
      nodeId: node.nodeId,
      dataPathAddress: node.host.address,
      runFolder: node.host.folder,
    });
  }

  async run(node: Node, id: string, ip: string, state: RemoteEndpoint["state"] = "ready"): Promise<Running> {
    const process = await this.lab.container();
    await process.call("serve", { port: 80, name: id });
    const networks = [{ networkId: "net1", address: `${ip}/24` }];
    const task = labTask(id, { serviceId: "web", networks });
    const running: Running = { task, node, process, ip, meshIp: "", state: "starting" };
    this.running.push(running);
    await this.tell();
    const attached = await node.agent.call("attach", { task, pid: process.pid });
    running.meshIp = (attached as { meshIp: string }).meshIp;
    running.state = state;
    await this.tell();
    return running;
  }

  /** Every node is told the whole state, as a new session would. */
  async tell(nodes: readonly Node[] = this.nodes): Promise<void> {
    const endpoints = this.running
      .map((each): RemoteEndpoint => ({
        taskId: each.task.id,
        serviceId: "web",
        nodeId: each.node.nodeId,
        ip: each.ip,
        state: each.state,
        names: [each.task.name],
      }))
      .concat(this.guests)
      .toSorted((one, other) => (one.taskId < other.taskId ? -1 : 1));
    const services = [{ serviceId: "web", name: "web", aliases: ["www"], vip: VIP }];
    for (const node of nodes) {
      const networks = [labNetwork(endpoints, services)];
      const errors = await node.agent.call("apply", { networks, mesh: this.#mesh(node) });
      assert.deepEqual(errors, []);
    }
  }

  async stop(running: Running): Promise<void> {
    this.running.splice(this.running.indexOf(running), 1);
    await this.tell();
    await running.node.agent.call("detach", running.task.id);
    await running.process.kill();
  }

  #mesh(node: Node): MeshAssignment {
    const backends = this.running
      .filter((each) => each.state === "ready" && each.meshIp !== "")
      .map((each) => ({ taskId: each.task.id, nodeId: each.node.nodeId, meshIp: each.meshIp }));
    const port = (protocol: IngressPort["protocol"]): IngressPort => ({
      serviceId: "web",
      protocol,
      publishedPort: 8080,
      targetPort: 80,
      backends,
    });
    return {
      pool: "10.210.0.0/16",
      subnet: node.meshSubnet,
      vni: 4096,
      dataPathPort: 4789,
      peers: this.nodes
        .filter((each) => each !== node)
        .map((each) => ({
          nodeId: each.nodeId,
          dataPathAddress: each.host.address,
          rpcAddress: "",
          meshSubnet: each.meshSubnet,
        })),
      ingressPorts: [port("tcp"), port("udp")],
    };
  }
}

let cluster: Cluster | undefined;
const options = { skip: isRoot ? false : "needs root" };

function lab(): Cluster {
  assert.ok(cluster !== undefined);
  return cluster;
}

/** How often the kernel asked again for a connection in the process's network, where nobody answered at once. */
function retriesOf({ pid }: LabProcess): number {
  const [names = [], values = []] = readFileSync(`/proc/${pid}/net/netstat`, "utf8")
    .split("\n")
    .filter((line) => line.startsWith("TcpExt:"))
    .map((line) => line.split(" "));
  const at = names.indexOf("TCPSynRetrans");
  assert.ok(at > 0);
  return Number(values[at]);
}

let a: Running;
let b: Running;
let idle: Node;
let outside: LabProcess;

describe("overlay networks", () => {
  before(async () => {
    if (!isRoot) return;
    cluster = new Cluster();
    const one = await cluster.addNode("one");
    const two = await cluster.addNode("two");
    idle = await cluster.addNode("idle");
    a = await cluster.run(one, "a", "10.77.1.10");
    b = await cluster.run(two, "b", "10.77.1.11");
    outside = await cluster.lab.processOn(cluster.lab.addHost("outside"));
  });

  after(() => cluster?.lab.close());

  test("tasks on two hosts reach each other by address and see each other's", options, async () => {
    assert.equal(await a.process.call("http", { url: `http://${b.ip}/` }), `b ${a.ip}`);
    assert.equal(await b.process.call("http", { url: `http://${a.ip}/` }), `a ${b.ip}`);
  });

  test(
    "the virtual address spreads new connections over both hosts, also for the backends themselves",
    options,
    async () => {
      for (const client of [a, b]) {
        const answers = new Set<string>();
        for (let count = 0; count < 8; count += 1)
          answers.add((await client.process.call("http", { url: `http://${VIP}/` })).split(" ")[0] ?? "");
        assert.deepEqual([...answers].toSorted(), ["a", "b"]);
      }
    },
  );

  test("names: service and alias give the virtual address, tasks.NAME the endpoints", options, async () => {
    const server = "10.210.0.1";
    const ask = (name: string, kind: "A" | "AAAA" | "PTR" | "SRV" = "A"): Promise<string[]> =>
      a.process.call("resolve", { server, name, kind });
    assert.deepEqual(await ask("web"), [VIP]);
    assert.deepEqual(await ask("www"), [VIP]);
    assert.deepEqual(await ask("web.backnet"), [VIP]);
    assert.deepEqual(await ask("tasks.web"), [a.ip, b.ip]);
    assert.deepEqual(await ask("b.1"), [b.ip]);
    assert.deepEqual(await ask(b.ip, "PTR"), ["b.1.backnet"]);
    assert.deepEqual(await ask("_8080._tcp.web", "SRV"), ["web:8080"]);
    await assert.rejects(ask("web", "AAAA"), /ENODATA/);
    await assert.rejects(ask("nobody"), /ENOTFOUND/);
  });

  test("a published port answers on every host, with the client's own address", options, async () => {
    for (const node of lab().nodes) {
      const names = new Set<string>();
      for (let count = 0; count < 8; count += 1) {
        const answer = await outside.call("http", { url: `http://${node.host.address}:8080/` });
        const [name = "", from] = answer.split(" ");
        assert.equal(from, "192.168.77.4", answer);
        names.add(name);
      }
      assert.deepEqual([...names].toSorted(), ["a", "b"]);
    }
  });

  test("a client may use one port of its own towards several nodes at once", options, async () => {
    const hosts = lab().nodes.map((node) => node.host.address);
    for (let localPort = 42_000; localPort < 42_012; localPort += 1) {
      const answers = await outside.call("samePort", { hosts, port: 8080, localPort });
      for (const answer of answers) assert.match(answer, /^[ab] 192\.168\.77\.4$/, answers.join(", "));
    }
  });

  test("a published port answers on localhost and for the host's own address", options, async () => {
    const local = await lab().lab.processOn(idle.host);
    for (const address of ["127.0.0.1", idle.host.address]) {
      const names = new Set<string>();
      for (let count = 0; count < 8; count += 1) {
        const answer = await local.call("http", { url: `http://${address}:8080/` });
        names.add(answer.split(" ")[0] ?? "");
      }
      assert.deepEqual([...names].toSorted(), ["a", "b"], address);
    }
    await local.kill();
  });

  test("a task reaches its own service through its node's published port", options, async () => {
    const url = `http://${a.node.host.address}:8080/`;
    const names = new Set<string>();
    for (let count = 0; count < 8; count += 1)
      names.add((await a.process.call("http", { url })).split(" ")[0] ?? "");
    assert.deepEqual([...names].toSorted(), ["a", "b"]);
  });

  test("datagrams go through the published port and the virtual address", options, async () => {
    const host = idle.host.address;
    assert.match(await outside.call("udp", { host, port: 8080, text: "hi" }), /^[ab] 192\.168\.77\.4 hi$/);
    assert.match(await a.process.call("udp", { host: VIP, port: 80, text: "yo" }), /^[ab] .* yo$/);
  });

  test("a task gets out through its node, with the node's address", options, async () => {
    await outside.call("serve", { port: 81, name: "outside" });
    const answer = await a.process.call("http", { url: "http://192.168.77.4:81/" });
    assert.equal(answer, `outside ${a.node.host.address}`);
  });

  test(
    "tasks can't reach each other over the mesh, nor can the outside reach a mesh address",
    options,
    async () => {
      const timeoutMs = 700;
      await assert.rejects(a.process.call("http", { url: `http://${b.meshIp}/`, timeoutMs }));
      lab().lab.routeVia(lab().nodes[2]?.host ?? idle.host, "203.0.113.0", 24, "192.168.77.4");
      await assert.rejects(outside.call("http", { url: `http://${b.meshIp}/`, timeoutMs }));
    },
  );

  test("an address of the network that nobody has is refused at once", options, async () => {
    const before = retriesOf(a.process);
    await assert.rejects(a.process.call("http", { url: "http://10.77.1.99/" }), /ECONNREFUSED/);
    assert.equal(retriesOf(a.process), before);
  });

  test(
    "a container outside of any service joins an attachable network, on a node without tasks of it",
    options,
    async () => {
      const guest = await lab().lab.container();
      const request = { network: "backnet", containerId: "guest", pid: guest.pid };
      const ip = "10.77.1.40";
      const { guests, nodes } = lab();
      guests.push({
        taskId: "guest",
        serviceId: "",
        nodeId: idle.nodeId,
        ip,
        state: "ready",
        names: ["buddy"],
      });
      const asked = idle.agent.call("guest", request);
      await lab().tell(nodes);
      assert.equal(await asked, ip);
      const server = "10.210.4.1";
      assert.deepEqual(await guest.call("resolve", { server, name: "web", kind: "A" }), [VIP]);
      const names = new Set<string>();
      for (let count = 0; count < 8; count += 1) {
        const [name = "", from] = (await guest.call("http", { url: `http://${VIP}/` })).split(" ");
        assert.equal(from, ip, "tasks see its own address");
        names.add(name);
      }
      assert.deepEqual([...names].toSorted(), ["a", "b"]);
      await guest.call("serve", { port: 80, name: "guest" });
      assert.deepEqual(await a.process.call("resolve", { server: "10.210.0.1", name: "buddy", kind: "A" }), [
        ip,
      ]);
      assert.equal(await a.process.call("http", { url: `http://${ip}/` }), `guest ${a.ip}`);
      await assert.rejects(
        idle.agent.call("guest", { ...request, network: "nosuch" }),
        /network nosuch not found/,
      );
      await idle.agent.call("guestGone", "guest");
      guests.pop();
      await lab().tell(nodes);
      await guest.kill();
    },
  );

  test("drain loses no new connection, and an established one goes on", options, async () => {
    const { nodes } = lab();
    const url = `http://${idle.host.address}:8080/`;
    await outside.call("startLoad", { url, parallel: 8 });
    await outside.call("untilLoad", 100);
    await a.process.call("hold", { host: b.ip, port: 80 });
    await b.node.agent.call("drain", "b");
    b.state = "draining";
    await lab().tell(nodes);
    await outside.call("untilLoad", 100);
    assert.match(await a.process.call("heldAnswers"), /200 OK/);
    const before = (await outside.call("http", { url })).split(" ")[0];
    assert.equal(before, "a");
    assert.deepEqual(
      await a.process.call("resolve", { server: "10.210.0.1", name: "tasks.web", kind: "A" }),
      [a.ip],
    );
    const result = await outside.call("stopLoad");
    assert.equal(result.failed, 0, result.errors.join());
    b.state = "ready";
  });

  test("a detached task's connections end with a reset, and its flows are forgotten", options, async () => {
    const c = await lab().run(b.node, "c", "10.77.1.12");
    await a.process.call("http", { url: `http://${c.ip}/` });
    await a.process.call("hold", { host: c.ip, port: 80 });
    await lab().stop(c);
    assert.match(await a.process.call("heldAnswers"), /ERROR.*ECONNRESET/);
    assert.deepEqual(
      listFlows(b.node.host.namespace).filter((flow) => flow.replySource === c.meshIp),
      [],
    );
  });

  test(
    "a client of a published port is told when the task behind its connection is gone",
    options,
    async () => {
      const c = await lab().run(b.node, "c", "10.77.1.13");
      const hold = async (): Promise<string> => {
        await outside.call("hold", { host: idle.host.address, port: 8080 });
        return outside.call("heldAnswers");
      };
      for (let tries = 0; !/\r\nc /.test(await hold()); tries += 1)
        assert.ok(tries < 50, "the task gets its share");
      await lab().stop(c);
      assert.match(await outside.call("heldAnswers"), /ERROR.*ECONNRESET/);
    },
  );

  test("traffic goes on without the daemon, and a new one takes everything over", options, async () => {
    const node = b.node;
    await a.process.call("startLoad", { url: `http://${b.ip}/`, parallel: 4 });
    await a.process.call("untilLoad", 20);
    await node.agent.kill();
    assert.equal(await a.process.call("http", { url: `http://${b.ip}/` }), `b ${a.ip}`);
    node.agent = await lab().lab.processOn(node.host);
    await lab().startNetwork(node);
    assert.deepEqual(
      await lab()
        .running.find((each) => each === b)
        ?.process.call("resolve", { server: "10.210.2.1", name: "nobody.at.all", kind: "A" })
        .catch((error: unknown) => /SERVFAIL/.test(String(error))),
      true,
      "the name server answers again before any manager has spoken",
    );
    await node.agent.call("adopt", { task: b.task, pid: b.process.pid, meshIp: b.meshIp });
    await lab().tell();
    assert.equal(await b.process.call("http", { url: `http://${a.ip}/` }), `a ${b.ip}`);
    await a.process.call("untilLoad", 20);
    const result = await a.process.call("stopLoad");
    assert.equal(result.failed, 0, result.errors.join());
  });

  test("what was taken away behind our back is made again on adoption", options, async () => {
    const node = b.node;
    await node.agent.kill();
    const links = listLinks(node.host.namespace.route).filter((link) => link.kind === "veth");
    await node.host.namespace.deleteLinks(
      links.map((link) => link.name).filter((name) => name.startsWith("sm")),
    );
    await node.host.namespace.nft.run("flush ruleset");
    node.agent = await lab().lab.processOn(node.host);
    await lab().startNetwork(node);
    await node.agent.call("adopt", { task: b.task, pid: b.process.pid, meshIp: b.meshIp });
    await lab().tell();
    const url = `http://${idle.host.address}:8080/`;
    await outside.call("startLoad", { url, parallel: 4 });
    await outside.call("untilLoad", 100);
    const result = await outside.call("stopLoad");
    assert.equal(result.failed, 0, result.errors.join());
    assert.ok((result.byServer["b"] ?? 0) > 0, "b takes traffic again");
  });

  test("a partition heals by itself", options, async () => {
    const { host } = b.node;
    await lab().lab.partition(host);
    await assert.rejects(a.process.call("http", { url: `http://${b.ip}/`, timeoutMs: 500 }), /timeout/);
    await lab().lab.heal(host);
    assert.equal(await a.process.call("http", { url: `http://${b.ip}/` }), `b ${a.ip}`);
  });

  test("a service without endpoints refuses at once", options, async () => {
    await lab().stop(b);
    a.state = "starting";
    await lab().tell();
    const before = [a.process, outside].map(retriesOf);
    await assert.rejects(a.process.call("http", { url: `http://${VIP}/` }), /ECONNREFUSED/);
    await assert.rejects(outside.call("http", { url: `http://${idle.host.address}:8080/` }), /ECONNREFUSED/);
    assert.deepEqual([a.process, outside].map(retriesOf), before);
  });

  test("removeAll() leaves a host as it was", options, async () => {
    await lab().stop(a);
    for (const node of lab().nodes) {
      await node.agent.call("removeAll");
      const { namespace } = node.host;
      assert.deepEqual(
        listLinks(namespace.route).map((link) => link.name),
        node.host.linksBefore,
      );
      assert.equal(await namespace.nft.run("list ruleset"), "");
    }
  });
});
