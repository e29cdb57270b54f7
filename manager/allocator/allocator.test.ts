/** What an allocator that starts over must know of the grants that are still in flight. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { silentLogger } from "../../common/log.ts";
import type { ServiceSpec } from "../../model/specs.ts";
import { TaskState } from "../../model/task-state.ts";
import { ADDRESS_QUARANTINE_MS } from "../limits.ts";
import { newTask } from "../orchestrator/actions.ts";
import type { Store, WatchItem } from "../store/store.ts";
import { ModelCluster } from "../testing/model-cluster.ts";
import { Allocator } from "./allocator.ts";

/** Long enough to do something while a write is in flight. */
const COMMIT_MS = 15;

class Bench {
  readonly cluster: ModelCluster = new ModelCluster({ commitDelayMs: COMMIT_MS });
  #tell: ((items: readonly WatchItem[]) => void) | undefined;

  /** A network with room for five tasks, and a service on it that has none yet. */
  async begin(): Promise<void> {
    const IPAM = { Config: [{ Subnet: "10.9.0.0/29" }] };
    await this.cluster.write((tx) => tx.create("network", { id: "net", spec: { Name: "net", IPAM } }));
    await this.cluster.write((tx) =>
      tx.create("service", {
        id: "s",
        spec: {
          Name: "web",
          TaskTemplate: { ContainerSpec: { Image: "web" }, Networks: [{ Target: "net" }] },
          EndpointSpec: { Mode: "dnsrr" },
        },
        specVersion: 1,
      }),
    );
  }

  start(): Allocator {
    const { clock, random, store } = this.cluster;
    const watched = new Proxy<Store>(store, {
      get: (target, name) => {
        const value: unknown = Reflect.get(target, name, target);
        if (name !== "viewAndWatch") return typeof value === "function" ? value.bind(target) : value;
        return (...[options, listener]: Parameters<Store["viewAndWatch"]>) => {
          this.#tell = listener;
          return target.viewAndWatch(options, listener);
        };
      },
    });
    const allocator = new Allocator({ store: watched, clock, timers: clock, random, log: silentLogger });
    allocator.start();
    return allocator;
  }

  /** As if more had happened than the watch holds. */
  loseWatch(): void {
    this.#tell?.([{ kind: "resync", version: this.cluster.store.view().version }]);
  }

  /** Resolves as soon as they are there: what they are granted is in flight then. */
  async makeTasks(...ids: readonly string[]): Promise<void> {
    await this.cluster.write((tx) => {
      const service = tx.get("service", "s");
      assert.ok(service !== undefined);
      const context = { random: this.cluster.random, now: () => "", desiredState: TaskState.running };
      for (const [at, id] of ids.entries())
        tx.create("task", { ...newTask(tx, service, { slot: at + 1, nodeId: "" }, context), id });
    });
    await this.cluster.advance(1);
    for (const id of ids) assert.deepEqual(this.addresses(id), [], "its grant is in flight");
  }

  addresses(id: string): readonly string[] {
    const task = this.cluster.store.view().get("task", id);
    return task?.networks.flatMap((each) => each.addresses) ?? [];
  }

  async granted(...ids: readonly string[]): Promise<void> {
    await this.cluster.until("they have addresses", () => ids.every((id) => this.addresses(id).length > 0));
    await this.cluster.advance(10 * COMMIT_MS);
  }

  assertUnique(...ids: readonly string[]): void {
    const held = ids.flatMap((id) => this.addresses(id));
    assert.equal(new Set(held).size, ids.length, held.join());
  }
}

test("an allocator whose watch is lost while a grant is in flight doesn't give that away again", async () => {
  const bench = new Bench();
  await bench.begin();
  const allocator = bench.start();
  await bench.cluster.advance(10 * COMMIT_MS);
  await bench.makeTasks("a");
  bench.loseWatch();
  await bench.granted("a");
  await bench.makeTasks("b");
  await bench.granted("b");
  bench.assertUnique("a", "b");
  await allocator.stop();
});

test("an allocator that begins in the same term knows what the one before it had in flight", async () => {
  const bench = new Bench();
  await bench.begin();
  const former = bench.start();
  await bench.cluster.advance(10 * COMMIT_MS);
  // In another order than that of their ids, in which a view lists them.
  await bench.makeTasks("b", "a");
  void former.stop();
  const allocator = bench.start();
  await bench.granted("a", "b");
  await bench.cluster.write((tx) => {
    const task = tx.get("task", "a");
    assert.ok(task !== undefined);
    tx.update("task", { ...task, status: { ...task.status, state: TaskState.failed } });
  });
  await bench.cluster.advance(ADDRESS_QUARANTINE_MS + 10 * COMMIT_MS);
  await bench.makeTasks("c", "d", "e", "f");
  await bench.granted("c", "d", "e", "f");
  bench.assertUnique("b", "c", "d", "e", "f");
  await allocator.stop();
});

/** A cluster whose loops run, with a network that has addresses left and one whose only address is taken. */
async function withFullNetwork(): Promise<{ cluster: ModelCluster; roomy: string; full: string }> {
  const cluster = new ModelCluster();
  cluster.start();
  await cluster.addNode();
  const network = (Name: string, Subnet: string): Promise<string> =>
    cluster.addNetwork({ Name, IPAM: { Config: [{ Subnet }] } });
  const roomy = await network("roomy", "10.8.0.0/29");
  const full = await network("full", "10.9.0.0/30");
  const holder = await cluster.createService(onNetwork("holder", full, 0));
  await cluster.until("the address is taken", () => vipsOf(cluster, holder).length === 1);
  return { cluster, roomy, full };
}

function onNetwork(Name: string, network: string, replicas: number, port?: number): ServiceSpec {
  const Ports = port === undefined ? [] : [{ Protocol: "tcp", TargetPort: 80, PublishedPort: port } as const];
  return {
    Name,
    TaskTemplate: { ContainerSpec: { Image: "ok" }, Networks: [{ Target: network }] },
    Mode: { Replicated: { Replicas: replicas } },
    EndpointSpec: { Mode: "vip", Ports },
  };
}

function vipsOf(cluster: ModelCluster, serviceId: string): readonly string[] {
  return (cluster.service(serviceId).endpoint?.virtualIps ?? []).map((each) => each.addr);
}

function portsOf(cluster: ModelCluster, serviceId: string): readonly number[] {
  return (cluster.service(serviceId).endpoint?.ports ?? []).map((each) => each.PublishedPort);
}

test("a service whose new network is full keeps its VIP and its ports, and nobody else gets them", async () => {
  const { cluster, roomy, full } = await withFullNetwork();
  const id = await cluster.createService(onNetwork("moving", roomy, 1, 8080));
  await cluster.until("it runs", () => cluster.running(id).length === 1);
  const [vip] = vipsOf(cluster, id);
  await cluster.updateService(id, () => onNetwork("moving", full, 1, 8081));
  await cluster.advance(2 * ADDRESS_QUARANTINE_MS);
  const other = await cluster.createService(onNetwork("other", roomy, 5, 8080));
  await cluster.advance(2 * ADDRESS_QUARANTINE_MS);
  assert.deepEqual(
    [vipsOf(cluster, id), portsOf(cluster, id)],
    [[vip], [8080]],
    "what it has until it can move",
  );
  assert.deepEqual(portsOf(cluster, other), []);
  const given = cluster.tasks(other).flatMap((task) => task.networks.flatMap((each) => each.addresses));
  assert.ok(
    ![...given, ...vipsOf(cluster, other)].some((address) => address.startsWith(`${vip}`)),
    given.join(),
  );
  await cluster.stop();
});

test("a node that found no mesh block left gets one when another node is removed", async () => {
  const cluster = new ModelCluster();
  cluster.start();
  await cluster.write((tx) =>
    tx.create("cluster", {
      id: "cluster1",
      spec: { Name: "default" },
      rootCa: { certificate: "", key: "", digest: "", joinTokens: { worker: "", manager: "" } },
      tlsInfo: { TrustRoot: "", CertIssuerSubject: "", CertIssuerPublicKey: "" },
      defaultAddressPool: ["10.77.0.0/16"],
      subnetSize: 26,
      dataPathPort: 4789,
      meshPool: "100.64.0.0/22",
      unlockKey: "",
    }),
  );
  const first = await cluster.addNode();
  await cluster.addNode();
  const late = await cluster.addNode();
  const block = (): string | undefined => cluster.store.view().get("node", late)?.meshSubnet;
  await cluster.advance(1_000);
  assert.equal(block(), undefined, "there are two blocks");
  await cluster.write((tx) => tx.remove("node", first));
  await cluster.until("it has a block", () => block() !== undefined);
  await cluster.stop();
});

test("a service gets the port that another one has given up, though it was asked for first", async () => {
  const cluster = new ModelCluster();
  cluster.start();
  await cluster.addNode();
  const network = await cluster.addNetwork({ Name: "net", IPAM: { Config: [{ Subnet: "10.8.0.0/24" }] } });
  const make = (id: string): Promise<void> =>
    cluster.write((tx) =>
      tx.create("service", { id, spec: onNetwork(id, network, 0, 8080), specVersion: 1 }),
    );
  await make("z");
  await cluster.until("it has the port", () => portsOf(cluster, "z")[0] === 8080);
  await cluster.stop();
  await cluster.updateService("z", () => onNetwork("z", network, 0, 8081));
  // Before the other one in a view.
  await make("a");
  await cluster.failOver();
  await cluster.until("both have theirs", () => portsOf(cluster, "a")[0] === 8080);
  assert.deepEqual(portsOf(cluster, "z"), [8081]);
  await cluster.stop();
});

test("services that come and go use up no addresses of the family that their VIPs are not of", async () => {
  const cluster = new ModelCluster();
  cluster.start();
  await cluster.addNode();
  const Config = [{ Subnet: "10.8.0.0/24" }, { Subnet: "fd00:8::/125" }];
  const network = await cluster.addNetwork({ Name: "net", EnableIPv6: true, IPAM: { Config } });
  for (let round = 0; round < 10; round += 1) {
    const id = await cluster.createService(onNetwork(`web${round}`, network, 1));
    await cluster.until("it runs", () => cluster.running(id).length === 1);
    await cluster.removeService(id);
    await cluster.until("its tasks are gone", () => cluster.tasks(id).length === 0);
    await cluster.advance(ADDRESS_QUARANTINE_MS);
  }
  await cluster.stop();
});
