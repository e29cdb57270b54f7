/**
 * Many nodes in one process: each has its own certificate, its own session over mTLS, and the worker's own agent and task
 * manager. Only what a container would do is made up: tasks prepare and start after a moment and run until they are told
 * to stop. Started by main.ts in a host's network namespace; takes orders over IPC.
 */
import net from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { silentLogger } from "../../common/log.ts";
import { realEnv } from "../../common/real-env.ts";
import { grpcConnector } from "../../daemon/dispatcher-connector.ts";
import { joinCluster } from "../../manager/ca/ca-client.ts";
import type { NodeDescription } from "../../model/objects.ts";
import { dial } from "../../proto/rpc-client.ts";
import { LiveIdentity } from "../../proto/rpc-identity.ts";
import { Agent } from "../../worker/agent/agent.ts";
import type { TaskController, TaskEnd, TaskFacts } from "../../worker/tasks/controller.ts";
import { MemoryTaskDb } from "../../worker/tasks/task-db.ts";
import { TaskManager } from "../../worker/tasks/task-manager.ts";
import { sourceAddress } from "./sources.ts";

export type FleetOrder =
  | {
      readonly kind: "join";
      readonly count: number;
      readonly token: string;
      readonly managers: readonly string[];
    }
  | { readonly kind: "status" }
  /** So many nodes fall silent, as when their machines lose power. */
  | { readonly kind: "lose"; readonly count: number };

export interface FleetStatus {
  readonly nodes: number;
  readonly connected: number;
  readonly running: number;
  /** Containers begun since the start. */
  readonly started: number;
}

const JOINS_AT_ONCE = 16;
const START_MS = { least: 50, spread: 100 };
const STOP_MS = 20;
const NO_FACTS: TaskFacts = {};

const counts = { running: 0, started: 0 };

class IdleController implements TaskController {
  #isRunning = false;

  prepare(): Promise<void> {
    return Promise.resolve();
  }

  async start(): Promise<TaskFacts> {
    await sleep(START_MS.least + Math.random() * START_MS.spread);
    this.#isRunning = true;
    counts.running += 1;
    counts.started += 1;
    return NO_FACTS;
  }

  watch(signal: AbortSignal): Promise<TaskEnd> {
    return new Promise((_resolve, reject) => {
      signal.addEventListener("abort", () => reject(new Error("no longer watched")), { once: true });
    });
  }

  async shutdown(): Promise<void> {
    await sleep(STOP_MS);
    this.gone();
  }

  remove(): Promise<void> {
    return Promise.resolve();
  }

  facts(): TaskFacts {
    return NO_FACTS;
  }

  gone(): void {
    if (this.#isRunning) counts.running -= 1;
    this.#isRunning = false;
  }
}

interface FleetNode {
  readonly agent: Agent;
  readonly tasks: TaskManager;
  readonly controllers: Set<IdleController>;
}

const nodes: FleetNode[] = [];

function describe(index: number): NodeDescription {
  return {
    Hostname: `fleet-${index}`,
    Platform: { Architecture: "x86_64", OS: "linux" },
    Resources: { NanoCPUs: 4e9, MemoryBytes: 16 * 2 ** 30 },
    Engine: { EngineVersion: "bench", Labels: {}, Plugins: [] },
  };
}

async function joinOne(order: Extract<FleetOrder, { kind: "join" }>, index: number): Promise<void> {
  const address = `10.255.${index >> 8}.${index & 255}`;
  const identity = await joinCluster({
    remoteAddrs: order.managers,
    token: order.token,
    availability: "active",
    addr: address,
  });
  const live = new LiveIdentity(identity);
  const { clock, timers, random } = realEnv;
  const controllers = new Set<IdleController>();
  const tasks: TaskManager = new TaskManager({
    clock,
    timers,
    random,
    log: silentLogger,
    controllers: {
      create: () => {
        const controller = new IdleController();
        controllers.add(controller);
        return controller;
      },
    },
    db: new MemoryTaskDb(),
    report: (taskId, status) => agent.report(taskId, status),
    forget: (taskId) => agent.forget(taskId),
  });
  const agent: Agent = new Agent(
    {
      clock,
      timers,
      random,
      log: silentLogger,
      connect: grpcConnector((addr) => dial(addr, live)),
      applyNetwork: () => Promise.resolve([]),
      applyTasks: (set) => tasks.apply(set),
      statusCommitted: () => {},
    },
    {
      description: () => describe(index),
      rpcAddress: `${address}:2377`,
      dataPathAddress: address,
      addr: address,
      availability: "active",
      managers: order.managers,
      managersChanged: () => {},
      roleWanted: () => {},
      removed: () => {},
    },
  );
  await tasks.start();
  agent.start();
  nodes.push({ agent, tasks, controllers });
}

async function join(order: Extract<FleetOrder, { kind: "join" }>): Promise<void> {
  let next = nodes.length;
  const end = next + order.count;
  const workers = Array.from({ length: JOINS_AT_ONCE }, async () => {
    while (next < end) {
      next += 1;
      await joinOne(order, next - 1);
    }
  });
  await Promise.all(workers);
}

async function lose(count: number): Promise<void> {
  for (const { agent, tasks, controllers } of nodes.splice(0, count)) {
    agent.stop();
    for (const controller of controllers) controller.gone();
    await tasks.stop();
  }
}

async function obey(order: FleetOrder): Promise<FleetStatus> {
  if (order.kind === "join") await join(order);
  else if (order.kind === "lose") await lose(order.count);
  const connected = nodes.filter((node) => node.agent.isConnected).length;
  return { nodes: nodes.length, connected, ...counts };
}

/** gRPC's channels know no local address; whose connection gets which is all the same. */
function spreadSources(): void {
  const { connect } = net;
  let count = 0;
  const spread = (to: net.TcpNetConnectOpts, connected?: () => void): net.Socket => {
    count += 1;
    return connect({ ...to, localAddress: sourceAddress(count) }, connected);
  };
  Object.assign(net, { connect: spread });
}

spreadSources();
process.on("message", (order: FleetOrder) => {
  obey(order).then(
    (status) => process.send?.({ status }),
    (caught: unknown) => process.send?.({ error: String(caught) }),
  );
});
process.on("disconnect", () => process.exit(0));
