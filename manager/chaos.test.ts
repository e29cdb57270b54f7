/**
 * Store, loops and model workers together under a random history: scaling, updates, rollbacks, drains, lost nodes, label
 * changes, changes of leader. Invariants are checked at every event, convergence at the end. A failing seed is printed
 * by fast-check and fails again alike.
 */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import { withoutMask } from "../common/addresses.ts";
import { firstUnmet, parseConstraints } from "../model/constraints.ts";
import { updateConfigOf } from "../model/defaults.ts";
import type { Node, StoreEvent, Task } from "../model/objects.ts";
import { NodeState } from "../model/objects.ts";
import type { ServiceSpec } from "../model/specs.ts";
import { isTerminal, TaskState } from "../model/task-state.ts";
import { ModelCluster } from "./testing/model-cluster.ts";

const MONITOR_NS = 3e8;
const NODE_COUNT = 5;

const step = fc.oneof(
  fc.record({ kind: fc.constant("scale" as const), service: fc.nat(2), replicas: fc.nat(8) }),
  fc.record({
    kind: fc.constant("image" as const),
    service: fc.nat(2),
    image: fc.constantFrom("ok", "ok2", "ok3", "reject", "crash:50"),
  }),
  fc.record({ kind: fc.constant("order" as const), service: fc.nat(2), isStartFirst: fc.boolean() }),
  fc.record({
    kind: fc.constant("constrain" as const),
    service: fc.nat(2),
    zone: fc.constantFrom("", "a", "b"),
  }),
  fc.record({
    kind: fc.constant("label" as const),
    node: fc.nat(NODE_COUNT - 1),
    zone: fc.constantFrom("a", "b"),
  }),
  fc.record({
    kind: fc.constant("availability" as const),
    node: fc.nat(NODE_COUNT - 1),
    availability: fc.constantFrom("active" as const, "drain" as const, "pause" as const),
  }),
  fc.record({ kind: fc.constant("kill" as const), node: fc.nat(NODE_COUNT - 1) }),
  fc.record({ kind: fc.constant("revive" as const), node: fc.nat(NODE_COUNT - 1) }),
  fc.record({ kind: fc.constant("lead" as const) }),
  fc.record({ kind: fc.constant("wait" as const), ms: fc.nat(800) }),
);
type Step = typeof step extends fc.Arbitrary<infer S> ? S : never;

function baseSpec(index: number, network: string): ServiceSpec {
  return {
    Name: `service${index}`,
    TaskTemplate: {
      ContainerSpec: { Image: "ok" },
      RestartPolicy: { Delay: 2e8 },
      ...(index < 2 ? { Networks: [{ Target: network }] } : {}),
    },
    Mode: index === 2 ? { Global: {} } : { Replicated: { Replicas: 3 } },
    UpdateConfig: {
      Parallelism: 2,
      Monitor: MONITOR_NS,
      FailureAction: (["rollback", "continue", "pause"] as const)[index] ?? "pause",
      Order: "stop-first",
    },
    RollbackConfig: { Parallelism: 0, Monitor: MONITOR_NS, Order: "stop-first" },
    EndpointSpec: { Ports: [{ TargetPort: 80 }] },
  };
}

class Invariants {
  readonly #cluster: ModelCluster;
  /** Services that ever had another update order than stop-first. */
  readonly startFirst = new Set<string>();
  /** Observed state by task: it only grows. */
  readonly #observed = new Map<string, number>();
  readonly #nodes = new Map<string, Node>();

  constructor(cluster: ModelCluster) {
    this.#cluster = cluster;
    cluster.onEvent((event) => this.check(event));
  }

  check(event: StoreEvent): void {
    if (event.table === "node") this.#nodes.set(event.object.id, event.object);
    if (event.table !== "task") return;
    const task = event.object;
    if (event.action === "remove") {
      assert(!this.#cluster.containers.has(task.id), `task ${task.id} was removed while its container ran`);
      return;
    }
    const before = this.#observed.get(task.id) ?? 0;
    assert(task.status.state >= before, `task ${task.id} went back from ${before} to ${task.status.state}`);
    this.#observed.set(task.id, task.status.state);
    if (event.previous !== undefined) {
      assert(task.desiredState >= event.previous.desiredState, `desired state of ${task.id} went back`);
      const { nodeId } = event.previous;
      assert(nodeId === "" || nodeId === task.nodeId, `task ${task.id} was moved`);
    }
    this.#checkSlots();
    this.#checkAddresses();
    if (task.status.state === TaskState.assigned && event.previous?.status.state === TaskState.pending) {
      this.#checkPlacement(task);
    }
  }

  /** At most one container in a slot; with start-first two, of which one is of another spec. */
  #checkSlots(): void {
    const slots = new Map<string, Task[]>();
    for (const task of this.#cluster.containers.values()) {
      const key = `${task.serviceId}/${task.slot}/${task.slot === 0 ? task.nodeId : ""}`;
      slots.set(key, [...(slots.get(key) ?? []), task]);
    }
    for (const [key, tasks] of slots) {
      const most = this.startFirst.has(tasks[0]?.serviceId ?? "") ? 2 : 1;
      assert(
        tasks.length <= most,
        `${tasks.length} containers in slot ${key}: ${tasks.map((task) => task.id).join()}`,
      );
    }
  }

  #checkAddresses(): void {
    const holders = new Map<string, string>();
    const hold = (address: string, holder: string): void => {
      const other = holders.get(address);
      assert(other === undefined, `address ${address} is held by ${other} and ${holder}`);
      holders.set(address, holder);
    };
    const view = this.#cluster.store.view();
    for (const task of view.list("task")) {
      if (isTerminal(task.status.state)) continue;
      for (const { addresses } of task.networks)
        for (const address of addresses) hold(withoutMask(address), task.id);
    }
    for (const service of view.list("service")) {
      for (const vip of service.endpoint?.virtualIps ?? []) hold(vip.addr, service.id);
      for (const port of service.endpoint?.ports ?? [])
        hold(`${port.Protocol}/${port.PublishedPort}`, service.id);
    }
    for (const node of view.list("node")) if (node.meshSubnet !== undefined) hold(node.meshSubnet, node.id);
  }

  /** Against the node as it was when the assignment was committed. */
  #checkPlacement(task: Task): void {
    const node = this.#nodes.get(task.nodeId);
    assert(node !== undefined, `task ${task.id} was assigned to a node that there is not`);
    const unmet = firstUnmet(parseConstraints(task.spec.Placement?.Constraints), node);
    assert(unmet === undefined, `task ${task.id} was assigned against ${unmet?.text}`);
    assert(node.status.state === NodeState.ready, `task ${task.id} was assigned to a node that is not ready`);
  }
}

async function perform(
  cluster: ModelCluster,
  ids: readonly string[],
  each: Step,
  invariants: Invariants,
): Promise<void> {
  const nodeId = "node" in each ? `node${String(each.node + 1).padStart(4, "0")}` : "";
  const service = "service" in each ? (ids[each.service] ?? "") : "";
  const isDown = (): boolean => cluster.store.view().get("node", nodeId)?.status.state === 1;
  switch (each.kind) {
    case "scale":
      if (each.service === 2) return;
      await cluster.updateService(service, (old) => ({
        ...old,
        Mode: { Replicated: { Replicas: each.replicas } },
      }));
      return;
    case "image":
      await cluster.updateService(service, (old) => ({
        ...old,
        TaskTemplate: { ...old.TaskTemplate, ContainerSpec: { Image: each.image } },
      }));
      return;
    case "order":
      if (each.isStartFirst) invariants.startFirst.add(service);
      await cluster.updateService(service, (old) => ({
        ...old,
        UpdateConfig: { ...old.UpdateConfig, Order: each.isStartFirst ? "start-first" : "stop-first" },
      }));
      return;
    case "constrain":
      await cluster.updateService(service, (old) => ({
        ...old,
        TaskTemplate: {
          ...old.TaskTemplate,
          Placement: { Constraints: each.zone === "" ? [] : [`node.labels.zone==${each.zone}`] },
        },
      }));
      return;
    case "label":
      await cluster.changeNode(nodeId, (node) => ({
        ...node,
        spec: { ...node.spec, Labels: { zone: each.zone } },
      }));
      return;
    case "availability":
      await cluster.changeNode(nodeId, (node) => ({
        ...node,
        spec: { ...node.spec, Availability: each.availability },
      }));
      return;
    case "kill":
      if (!isDown()) await cluster.killNode(nodeId);
      return;
    case "revive":
      if (isDown()) await cluster.reviveNode(nodeId);
      return;
    case "lead":
      await cluster.failOver();
      return;
    case "wait":
      await cluster.advance(each.ms);
  }
}

/** Whatever the steps left behind: after a while no replica is still expected to run where it can't. */
function checkSettled(cluster: ModelCluster, ids: readonly string[]): void {
  const view = cluster.store.view();
  for (const id of ids.slice(0, 2)) {
    for (const task of cluster.running(id)) {
      const node = view.get("node", task.nodeId);
      assert(node?.status.state === NodeState.ready, `task ${task.id} is left on lost node ${task.nodeId}`);
      assert(node.spec.Availability !== "drain", `task ${task.id} is left on drained node ${task.nodeId}`);
    }
  }
}

/** All services as wanted, on whatever nodes are left. */
async function converge(cluster: ModelCluster, ids: readonly string[]): Promise<void> {
  for (let index = 1; index <= NODE_COUNT; index += 1) {
    const nodeId = `node${String(index).padStart(4, "0")}`;
    if (cluster.store.view().get("node", nodeId)?.status.state === 1) await cluster.reviveNode(nodeId);
    await cluster.changeNode(nodeId, (node) => ({
      ...node,
      spec: { ...node.spec, Availability: "active", Labels: { zone: "a" } },
    }));
  }
  for (const id of ids) {
    await cluster.updateService(id, (old) => ({
      ...old,
      // Few enough for the network's thirteen addresses, also while one update makes room for the next.
      ...(old.Mode?.Global === undefined ? { Mode: { Replicated: { Replicas: 2 } } } : {}),
      TaskTemplate: { ...old.TaskTemplate, ContainerSpec: { Image: "ok9" }, Placement: { Constraints: [] } },
    }));
  }
  const isConverged = (id: string): boolean => {
    const { spec, updateStatus } = cluster.service(id);
    const wanted = spec.Mode?.Replicated?.Replicas ?? NODE_COUNT;
    const running = cluster.running(id).filter((task) => task.spec.ContainerSpec.Image === "ok9");
    const own = [...cluster.containers.values()].filter((task) => task.serviceId === id);
    const isDone = updateStatus === undefined || updateStatus.state === "completed";
    return running.length === wanted && own.length === wanted && isDone;
  };
  await cluster.until(`convergence of ${ids.length} services`, () => ids.every(isConverged), 60_000);
}

async function run(seed: number, steps: readonly Step[]): Promise<ModelCluster> {
  const cluster = new ModelCluster({ seed, stepMsMax: 15, stopMsMax: 400 });
  cluster.start();
  const invariants = new Invariants(cluster);
  for (let index = 0; index < NODE_COUNT; index += 1)
    await cluster.addNode({ labels: { zone: index % 2 === 0 ? "a" : "b" } });
  const network = await cluster.addNetwork({
    Name: "net",
    Driver: "overlay",
    IPAM: { Config: [{ Subnet: "10.7.0.0/28" }] },
  });
  const ids: string[] = [];
  for (let index = 0; index < 3; index += 1) ids.push(await cluster.createService(baseSpec(index, network)));
  for (const each of steps) await perform(cluster, ids, each, invariants);
  await cluster.advance(3_000);
  checkSettled(cluster, ids);
  await converge(cluster, ids);
  for (const id of ids) assert.equal(updateConfigOf(cluster.service(id).spec).monitorMs, MONITOR_NS / 1e6);
  await cluster.stop();
  return cluster;
}

// Virtual time costs real time on a busy machine; how much is no matter of correctness.
describe("store and loops under faults", { timeout: 600_000 }, () => {
  it(
    "hold their invariants at every event and converge once the faults stop",
    { timeout: 600_000 },
    async () => {
      const runs = Number(process.env["SHOAL_CHAOS_RUNS"] ?? 5);
      await fc.assert(
        fc.asyncProperty(
          fc.nat(1_000_000),
          fc.array(step, { minLength: 6, maxLength: 30 }),
          async (seed, steps) => {
            await run(seed, steps);
          },
        ),
        {
          numRuns: runs,
          ...(process.env["SHOAL_CHAOS_SEED"] === undefined
            ? {}
            : { seed: Number(process.env["SHOAL_CHAOS_SEED"]) }),
        },
      );
    },
  );

  it("give the same history for the same seed", { timeout: 120_000 }, async () => {
    const steps: Step[] = [
      { kind: "scale", service: 0, replicas: 7 },
      { kind: "image", service: 0, image: "crash:50" },
      { kind: "wait", ms: 500 },
      { kind: "kill", node: 1 },
      { kind: "lead" },
      { kind: "availability", node: 2, availability: "drain" },
      { kind: "wait", ms: 700 },
    ];
    const [first, second] = [await run(7, steps), await run(7, steps)];
    assert(first.history.length > 100);
    assert.deepEqual(first.history, second.history);
  });
});
