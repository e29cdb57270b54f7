/**
 * How fast the scheduler places tasks on empty nodes, without and with placement constraints and preferences: deciding
 * alone, and with every decision committed to a store (log of one member in memory) and heard back by a watcher.
 * `node bench/scheduler.ts` (`--help` names its options). swarmkit's own benchmark took 12.3 s and 75 s for the two sizes here.
 */
import { realClock, realRandom, realTimers } from "../common/real-env.ts";
import { silentLogger } from "../common/log.ts";
import { newObjectId } from "../common/ids.ts";
import { rfc3339 } from "../common/time.ts";
import type { Node, Task } from "../model/objects.ts";
import { NodeState } from "../model/objects.ts";
import type { TaskSpec } from "../model/specs.ts";
import { TaskState } from "../model/task-state.ts";
import { NodeSet } from "../manager/scheduler/node-set.ts";
import { placeTasks } from "../manager/scheduler/place.ts";
import { NodeImages } from "../manager/node-images.ts";
import { Scheduler } from "../manager/scheduler/scheduler.ts";
import { MemoryStore } from "../manager/store/memory-store.ts";
import { SingleMemberLog } from "../manager/store/testing/single-member-log.ts";
import { count, toolOptions } from "../dev/tool-options.ts";
import { median } from "./statistics.ts";

interface Case {
  readonly name: string;
  readonly nodeCount: number;
  readonly isConstrained: boolean;
  readonly limitS: number;
}

const CASES: readonly Case[] = [
  { name: "1,000 nodes", nodeCount: 1_000, isConstrained: false, limitS: 0.6 },
  { name: "5,000 nodes, constraints and spread", nodeCount: 5_000, isConstrained: true, limitS: 2 },
];
const ROUND_COUNT = 5;
const SERVICE_COUNT = 100;

const STAMP = rfc3339(0);
const META = { version: 1, createdAt: STAMP, updatedAt: STAMP };

function makeNode(index: number): Node {
  return {
    ...META,
    id: `node${String(index).padStart(21, "0")}`,
    spec: {
      Role: "worker",
      Availability: "active",
      Labels: { zone: `z${index % 5}`, disk: index % 2 === 0 ? "ssd" : "hdd" },
    },
    description: {
      Hostname: `host${index}`,
      Platform: { OS: "linux", Architecture: "x86_64" },
      Resources: { NanoCPUs: 64e9, MemoryBytes: 512 * 2 ** 30 },
      Engine: { EngineVersion: "bench" },
    },
    status: { state: NodeState.ready, message: "", addr: `10.0.${index >> 8}.${index & 255}` },
    rpcAddress: "",
    dataPathAddress: "",
    certificateRole: "worker",
    meshSubnet: "100.64.0.0/23",
  };
}

function specOf(isConstrained: boolean): TaskSpec {
  return {
    ContainerSpec: { Image: "bench" },
    Resources: { Reservations: { NanoCPUs: 1e7, MemoryBytes: 2 ** 24 } },
    ...(isConstrained
      ? {
          Placement: {
            Constraints: ["node.labels.disk==ssd", "node.role==worker"],
            Preferences: [{ Spread: { SpreadDescriptor: "node.labels.zone" } }],
          },
        }
      : {}),
  };
}

function makeTasks(count: number, isConstrained: boolean): readonly Task[] {
  const specs = Array.from({ length: SERVICE_COUNT }, () => specOf(isConstrained));
  return Array.from({ length: count }, (_each, index): Task => {
    const service = index % SERVICE_COUNT;
    const spec = specs[service] ?? specOf(isConstrained);
    return {
      ...META,
      id: newObjectId(realRandom),
      serviceId: `service${service}`,
      slot: index,
      nodeId: "",
      name: `s${service}.${index}`,
      serviceLabels: {},
      serviceName: `s${service}`,
      spec,
      specVersion: 1,
      desiredState: TaskState.running,
      status: { state: TaskState.pending, timestamp: STAMP, message: "", err: "" },
      networks: [],
      ports: [],
    };
  });
}

/** "median [best] s, median [best] CPU-s". */
function show(runs: readonly Took[]): string {
  const text = (values: readonly number[]): string =>
    `${median(values).toFixed(3)} [${Math.min(...values).toFixed(3)}]`;
  return `${text(runs.map((run) => run.wallS))} s, ${text(runs.map((run) => run.cpuS))} CPU-s`;
}

interface Took {
  readonly wallS: number;
  /** Of this process, its garbage collector's threads included: steadier than wall time on a busy machine. */
  readonly cpuS: number;
}

function stopwatch(): () => Took {
  const startMs = realClock.monotonicMs();
  const startCpu = process.cpuUsage();
  return () => {
    const { user, system } = process.cpuUsage(startCpu);
    return { wallS: (realClock.monotonicMs() - startMs) / 1000, cpuS: (user + system) / 1e6 };
  };
}

/** Decides on all tasks, from an empty node set. */
function decide(nodes: readonly Node[], tasks: readonly Task[]): Took {
  const set = new NodeSet();
  for (const node of nodes) set.putNode(node);
  const stop = stopwatch();
  const { placed, unplaced } = placeTasks(set, tasks, { nowMs: 0, timestamp: STAMP });
  const took = stop();
  if (placed.length !== tasks.length || unplaced.length > 0)
    throw new Error(`placed ${placed.length} of ${tasks.length}`);
  return took;
}

/** From the loop's start to the last assignment heard by a watcher. */
async function schedule(nodes: readonly Node[], tasks: readonly Task[]): Promise<Took> {
  const store = new MemoryStore({ clock: realClock, timers: realTimers, log: silentLogger });
  store.attach(new SingleMemberLog({ machine: store }));
  await store.batch(nodes, (tx, node) => tx.create("node", node));
  await store.batch(tasks, (tx, task) => tx.create("task", task));
  let assignedCount = 0;
  const heard = new Promise<void>((resolve) => {
    store.viewAndWatch({ tables: ["task"], eventCountMax: 1_000_000 }, (items) => {
      for (const item of items)
        if (item.kind === "event" && item.event.action === "update") assignedCount += 1;
      if (assignedCount >= tasks.length) resolve();
    });
  });
  const stop = stopwatch();
  const scheduler = new Scheduler(
    { store, clock: realClock, timers: realTimers, random: realRandom, log: silentLogger },
    new NodeImages(),
  );
  scheduler.start();
  await heard;
  const took = stop();
  await scheduler.stop();
  return took;
}

async function main(taskCount: number): Promise<boolean> {
  let isWithin = true;
  for (const each of CASES) {
    const nodes = Array.from({ length: each.nodeCount }, (_node, index) => makeNode(index));
    const tasks = makeTasks(taskCount, each.isConstrained);
    const decided: Took[] = [];
    for (let round = 0; round < ROUND_COUNT; round += 1) decided.push(decide(nodes, tasks));
    const committed: Took[] = [];
    for (let round = 0; round < 3; round += 1) committed.push(await schedule(nodes, tasks));
    const took = median(decided.map((run) => run.wallS));
    isWithin &&= took <= each.limitS;
    console.log(
      `${each.name} x ${taskCount} tasks, median [best]: decide ${show(decided)} (target ${each.limitS} s), ` +
        `${Math.round(taskCount / took)} tasks/s; with commits and watch ${show(committed)}`,
    );
  }
  return isWithin;
}

const { tasks } = toolOptions(
  {
    run: "node bench/scheduler.ts",
    about:
      "Measures how fast the scheduler places tasks on empty nodes. Exit status 1: slower than the targets.",
  },
  {
    tasks: count("tasks that are placed", { fallback: 100_000 }),
  },
);
process.exitCode = (await main(tasks)) ? 0 : 1;
