import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import { firstUnmet, parseConstraints } from "../../model/constraints.ts";
import type { Node, Task } from "../../model/objects.ts";
import { NodeState } from "../../model/objects.ts";
import type { GenericResource, Placement, Resources } from "../../model/specs.ts";
import { TaskState } from "../../model/task-state.ts";
import { NodeSet } from "./node-set.ts";
import { placePreassigned, placeTasks } from "./place.ts";

const META = { version: 1, createdAt: "", updatedAt: "" };
const OPTIONS = { nowMs: 0, timestamp: "" };

interface NodeShape {
  readonly zone?: string;
  readonly cpus?: number;
  readonly memory?: number;
  readonly generic?: readonly GenericResource[];
  readonly availability?: "active" | "pause" | "drain";
  readonly state?: NodeState;
}

function makeNode(index: number, shape: NodeShape = {}): Node {
  return {
    ...META,
    id: `n${String(index).padStart(3, "0")}`,
    spec: {
      Role: "worker",
      Availability: shape.availability ?? "active",
      Labels: shape.zone === undefined ? {} : { zone: shape.zone },
    },
    description: {
      Hostname: `h${index}`,
      Platform: { OS: "linux", Architecture: "x86_64" },
      Resources: {
        NanoCPUs: shape.cpus ?? 1000,
        MemoryBytes: shape.memory ?? 1000,
        GenericResources: shape.generic ?? [],
      },
      Engine: {
        EngineVersion: "",
        Plugins: [
          { Type: "Log", Name: "syslog" },
          { Type: "Volume", Name: "nfs:latest" },
        ],
      },
    },
    status: { state: shape.state ?? NodeState.ready, message: "", addr: "" },
    rpcAddress: "",
    dataPathAddress: "",
    certificateRole: "worker",
  };
}

interface TaskShape {
  readonly placement?: Placement;
  readonly reserved?: Resources;
  readonly hostPort?: number;
  readonly nodeId?: string;
  readonly state?: TaskState;
  readonly logDriver?: string;
  readonly volumeDriver?: string;
}

let taskCount = 0;

function makeTasks(service: string, count: number, shape: TaskShape = {}): Task[] {
  const spec = {
    ContainerSpec: {
      Image: "i",
      ...(shape.volumeDriver === undefined
        ? {}
        : { Mounts: [{ Target: "/v", VolumeOptions: { DriverConfig: { Name: shape.volumeDriver } } }] }),
    },
    ...(shape.placement === undefined ? {} : { Placement: shape.placement }),
    ...(shape.reserved === undefined ? {} : { Resources: { Reservations: shape.reserved } }),
    ...(shape.logDriver === undefined ? {} : { LogDriver: { Name: shape.logDriver } }),
  };
  return Array.from({ length: count }, (_each, index) => {
    taskCount += 1;
    const port = shape.hostPort;
    return {
      ...META,
      id: `t${String(taskCount).padStart(5, "0")}`,
      serviceId: service,
      slot: index + 1,
      nodeId: shape.nodeId ?? "",
      name: "",
      serviceLabels: {},
      serviceName: service,
      spec,
      specVersion: 1,
      desiredState: TaskState.running,
      status: { state: shape.state ?? TaskState.pending, timestamp: "", message: "", err: "" },
      networks: [],
      ports:
        port === undefined
          ? []
          : [{ Protocol: "tcp", TargetPort: 80, PublishedPort: port, PublishMode: "host" }],
    };
  });
}

function setOf(nodes: readonly Node[]): NodeSet {
  const set = new NodeSet();
  for (const node of nodes) set.putNode(node);
  return set;
}

function countBy(placed: readonly { readonly nodeId: string }[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const { nodeId } of placed) counts[nodeId] = (counts[nodeId] ?? 0) + 1;
  return counts;
}

describe("placeTasks()", () => {
  it("prefers a node that has the image only among nodes that are equal otherwise", () => {
    const options = { ...OPTIONS, nodesWith: () => new Set(["n003"]) };
    const equal = setOf([makeNode(1), makeNode(2), makeNode(3)]);
    assert.deepEqual(countBy(placeTasks(equal, makeTasks("web", 1), options).placed), { n003: 1 });
    const spread = setOf([makeNode(1), makeNode(2), makeNode(3)]);
    const placed = countBy(placeTasks(spread, makeTasks("web", 6), options).placed);
    assert.deepEqual(placed, { n001: 2, n002: 2, n003: 2 }, "spread comes first");
    const busy = setOf([makeNode(1), makeNode(2), makeNode(3)]);
    for (const task of makeTasks("other", 1, { nodeId: "n003", state: TaskState.running }))
      busy.putTask(task);
    assert.deepEqual(countBy(placeTasks(busy, makeTasks("web", 1), options).placed), { n001: 1 });
    const zones = setOf([makeNode(1, { zone: "a" }), makeNode(2, { zone: "b" }), makeNode(3, { zone: "b" })]);
    const placement = { Preferences: [{ Spread: { SpreadDescriptor: "node.labels.zone" } }] };
    const first = placeTasks(zones, makeTasks("web", 2, { placement }), options).placed;
    assert.deepEqual(countBy(first), { n001: 1, n003: 1 });
  });

  it("spreads a service evenly, then by what else is on a node", () => {
    const nodes = setOf([makeNode(1), makeNode(2), makeNode(3)]);
    for (const task of makeTasks("other", 5, { nodeId: "n001", state: TaskState.running }))
      nodes.putTask(task);
    const { placed } = placeTasks(nodes, makeTasks("web", 5), OPTIONS);
    assert.deepEqual(countBy(placed), { n001: 1, n002: 2, n003: 2 });
  });

  it("spreads over zones first, nodes of the zone second", () => {
    const nodes = setOf([
      makeNode(1, { zone: "a" }),
      makeNode(2, { zone: "a" }),
      makeNode(3, { zone: "b" }),
      makeNode(4),
    ]);
    const placement = { Preferences: [{ Spread: { SpreadDescriptor: "node.labels.zone" } }] };
    const { placed } = placeTasks(nodes, makeTasks("web", 12, { placement }), OPTIONS);
    assert.deepEqual(countBy(placed), { n001: 2, n002: 2, n003: 4, n004: 4 });
  });

  it("says for each filter on how many nodes it failed, and by what", () => {
    const nodes = setOf([
      makeNode(1, { availability: "drain" }),
      makeNode(2, { state: NodeState.down }),
      makeNode(3, { zone: "a", memory: 5 }),
      makeNode(4, { zone: "b" }),
    ]);
    const placement = { Constraints: ["node.labels.zone==a"] };
    const { placed, unplaced } = placeTasks(
      nodes,
      makeTasks("web", 1, { placement, reserved: { MemoryBytes: 6 } }),
      OPTIONS,
    );
    assert.deepEqual(placed, []);
    assert.equal(
      unplaced[0]?.reason,
      "no suitable node (2 nodes not available for new tasks; insufficient resources on 1 node; scheduling constraints not satisfied on 1 node)",
    );
    assert.equal(
      unplaced[0]?.detail,
      "1 node: availability drain; 1 node: constraint node.labels.zone==a; 1 node: not ready; 1 node: too little memory",
    );
  });

  it("explains full host ports, too many replicas, missing plugins and platforms with Docker's words", () => {
    const reason = (shape: TaskShape, count = 2): string =>
      placeTasks(setOf([makeNode(1)]), makeTasks("web", count, shape), OPTIONS).unplaced[0]?.reason ?? "";
    assert.equal(reason({ hostPort: 80 }), "no suitable node (host-mode port already in use on 1 node)");
    assert.equal(
      reason({ placement: { MaxReplicas: 1 } }),
      "no suitable node (max replicas per node limit exceed)",
    );
    assert.equal(
      reason({ placement: { Platforms: [{ OS: "linux", Architecture: "arm64" }] } }),
      "no suitable node (unsupported platform on 1 node)",
    );
    assert.equal(reason({ logDriver: "splunk" }), "no suitable node (missing plugin on 1 node)");
    assert.equal(reason({ logDriver: "syslog" }), "");
    assert.equal(reason({ volumeDriver: "rclone" }), "no suitable node (missing plugin on 1 node)");
    for (const volumeDriver of ["local", "nfs", "nfs:latest"]) assert.equal(reason({ volumeDriver }), "");
    assert.equal(
      placeTasks(new NodeSet(), makeTasks("web", 1), OPTIONS).unplaced[0]?.reason,
      "no suitable node",
    );
  });

  it("assigns generic resources by name and by count, each once", () => {
    const generic = [
      { NamedResourceSpec: { Kind: "gpu", Value: "u1" } },
      { NamedResourceSpec: { Kind: "gpu", Value: "u2" } },
      { DiscreteResourceSpec: { Kind: "ssd", Value: 3 } },
    ];
    const wanted = [
      { DiscreteResourceSpec: { Kind: "gpu", Value: 1 } },
      { DiscreteResourceSpec: { Kind: "ssd", Value: 1 } },
    ];
    const { placed, unplaced } = placeTasks(
      setOf([makeNode(1, { generic })]),
      makeTasks("web", 3, { reserved: { GenericResources: wanted } }),
      OPTIONS,
    );
    assert.deepEqual(
      placed.map((each) => each.assigned.assignedGenericResources),
      ["u1", "u2"].map((Value) => [
        { NamedResourceSpec: { Kind: "gpu", Value } },
        { DiscreteResourceSpec: { Kind: "ssd", Value: 1 } },
      ]),
    );
    assert.equal(unplaced[0]?.detail, "1 node: too little of gpu, ssd");
  });

  it("takes a node where the service kept failing last", () => {
    const nodes = setOf([makeNode(1), makeNode(2)]);
    for (let count = 0; count < 5; count += 1) nodes.get("n001")?.failed("web", 0);
    assert.deepEqual(countBy(placeTasks(nodes, makeTasks("web", 3), OPTIONS).placed), { n002: 3 });
    const later = { ...OPTIONS, nowMs: 400_000 };
    assert.deepEqual(countBy(placeTasks(nodes, makeTasks("web", 3), later).placed), { n001: 3 });
  });

  it("placePreassigned() asks only the task's own node", () => {
    const nodes = setOf([makeNode(1, { cpus: 10 }), makeNode(2)]);
    const tasks = makeTasks("agent", 2, { nodeId: "n001", reserved: { NanoCPUs: 6 } });
    const { placed, unplaced } = placePreassigned(nodes, tasks, OPTIONS);
    assert.equal(placed.length, 1);
    assert.equal(unplaced[0]?.reason, "no suitable node (insufficient resources on 1 node)");
  });

  it("never breaks a constraint, reservation, port or limit, and refuses only when no node fits", () => {
    const zone = fc.constantFrom("a", "b", "c");
    const nodeShape = fc.record({
      zone,
      cpus: fc.nat(20),
      memory: fc.nat(20),
      availability: fc.constantFrom("active" as const, "active" as const, "pause" as const),
    });
    const group = fc.record({
      count: fc.integer({ min: 1, max: 12 }),
      cpus: fc.nat(6),
      memory: fc.nat(6),
      zone: fc.option(zone, { nil: undefined }),
      maxReplicas: fc.nat(3),
      hostPort: fc.option(fc.constantFrom(80, 81), { nil: undefined }),
    });
    fc.assert(
      fc.property(
        fc.array(nodeShape, { maxLength: 8 }),
        fc.array(group, { maxLength: 6 }),
        (shapes, groups) => {
          const all = shapes.map((shape, index) => makeNode(index, shape));
          const nodes = setOf(all);
          const tasks = groups.flatMap((each, index) =>
            makeTasks(`s${index}`, each.count, {
              reserved: { NanoCPUs: each.cpus, MemoryBytes: each.memory },
              placement: {
                MaxReplicas: each.maxReplicas,
                Constraints: each.zone === undefined ? [] : [`node.labels.zone==${each.zone}`],
              },
              ...(each.hostPort === undefined ? {} : { hostPort: each.hostPort }),
            }),
          );
          const { placed, unplaced } = placeTasks(nodes, tasks, OPTIONS);
          assert.equal(placed.length + unplaced.length, tasks.length);
          for (const node of all) {
            const here = placed.filter((each) => each.nodeId === node.id).map((each) => each.assigned);
            const sum = (read: (task: Task) => number): number =>
              here.reduce((total, task) => total + read(task), 0);
            const capacity = node.description?.Resources;
            assert(
              sum((task) => task.spec.Resources?.Reservations?.NanoCPUs ?? 0) <= (capacity?.NanoCPUs ?? 0),
            );
            assert(
              sum((task) => task.spec.Resources?.Reservations?.MemoryBytes ?? 0) <=
                (capacity?.MemoryBytes ?? 0),
            );
            const ports = here.flatMap((task) => task.ports.map((port) => port.PublishedPort));
            assert.equal(new Set(ports).size, ports.length, "a host port once");
            assert(here.length === 0 || node.spec.Availability === "active");
            for (const task of here) {
              assert.equal(firstUnmet(parseConstraints(task.spec.Placement?.Constraints), node), undefined);
              const limit = task.spec.Placement?.MaxReplicas ?? 0;
              const same = here.filter((each) => each.serviceId === task.serviceId).length;
              assert(limit === 0 || same <= limit);
            }
          }
          // What was refused is refused again by the state at the end: no node was forgotten.
          assert.deepEqual(
            placeTasks(
              nodes,
              unplaced.map((each) => each.task),
              OPTIONS,
            ).placed,
            [],
          );
        },
      ),
      { numRuns: 200 },
    );
  });

  it("NodeInfo counts to nothing once all its tasks have ended or gone", () => {
    const nodes = setOf([
      makeNode(1, { cpus: 100, memory: 100, generic: [{ DiscreteResourceSpec: { Kind: "g", Value: 5 } }] }),
    ]);
    const reserved = {
      NanoCPUs: 5,
      MemoryBytes: 7,
      GenericResources: [{ DiscreteResourceSpec: { Kind: "g", Value: 1 } }],
    };
    const { placed } = placeTasks(nodes, makeTasks("web", 4, { reserved, hostPort: 0 }), OPTIONS);
    const info = nodes.get("n001");
    assert(info !== undefined);
    assert.deepEqual([info.freeNanoCpus, info.freeMemoryBytes, info.activeCount], [80, 72, 4]);
    for (const [index, { assigned }] of placed.entries()) {
      nodes.putTask({ ...assigned, desiredState: TaskState.shutdown });
      assert.equal(info.activeCount, 3 - index, "a task that is to stop does not count for the spread");
      if (index % 2 === 0) nodes.removeTask(assigned.id);
      else nodes.putTask({ ...assigned, status: { ...assigned.status, state: TaskState.shutdown } });
    }
    assert.deepEqual([info.freeNanoCpus, info.freeMemoryBytes, info.generic.get("g")?.count], [100, 100, 5]);
    assert.equal(info.serviceCount("web"), 0);
    assert.equal(info.tasks.size, 0);
  });
});
