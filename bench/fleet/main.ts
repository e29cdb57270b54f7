/**
 * What hundreds of nodes ask of three managers: real daemons as managers, each in a network namespace, and on one more host
 * a process with that many agents (agents.ts), each with a certificate and a session of its own. Joining, idling, one service
 * on all of them, an update, a leader killed, a tenth of the nodes lost; with processor time and memory of the managers.
 * There is no peer: nothing else that runs so many nodes on one machine. Needs root.
 *
 *   node bench/fleet/main.ts      after `npm run build`; `--help` names its options
 */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { must } from "../../common/assert.ts";
import { type DevCluster, type DevHost, removeCluster, startDevCluster } from "../../dev/cluster.ts";
import { mustRun } from "../../dev/run-command.ts";
import { namespaceName } from "../../dev/switch-network.ts";
import { count, toolOptions } from "../../dev/tool-options.ts";
import { until } from "../../dev/until.ts";
import { ask } from "../docker-http.ts";
import type { FleetOrder, FleetStatus } from "./agents.ts";
import { SOURCE_SUBNET } from "./sources.ts";

const IDLE_SECONDS = 20;
const WAIT = { timeoutMs: 300_000, pollMs: 50 };
/** Jiffies of /proc/PID/stat in a second: USER_HZ, the same on every Linux. */
const TICKS_PER_SECOND = 100;

/** All addresses of the fleet are those of the host on which its agents run; the others answer to them there. */
async function routeFleet(dev: DevCluster, home: DevHost): Promise<void> {
  for (const host of dev.managers) {
    const way = host === home ? ["local", SOURCE_SUBNET, "dev", "lo"] : [SOURCE_SUBNET, "via", home.address];
    await mustRun(["ip", "-n", namespaceName(dev.name, host.name), "route", "add", ...way]);
  }
}

class Fleet {
  readonly #child: ChildProcess;

  constructor(namespace: string) {
    const script = path.join(
      import.meta.dirname,
      "agents.ts".replace(".ts", path.extname(import.meta.filename)),
    );
    const argv = [`--net=/run/netns/${namespace}`, process.execPath, script];
    this.#child = spawn("nsenter", argv, { stdio: ["ignore", "inherit", "inherit", "ipc"] });
  }

  tell(order: FleetOrder): Promise<FleetStatus> {
    return new Promise((resolve, reject) => {
      this.#child.once("message", (answer: { readonly status?: FleetStatus; readonly error?: string }) => {
        if (answer.status === undefined) reject(new Error(answer.error));
        else resolve(answer.status);
      });
      this.#child.send(order);
    });
  }

  async until(what: string, isDone: (status: FleetStatus) => boolean): Promise<void> {
    await until(what, WAIT, async () => (isDone(await this.tell({ kind: "status" })) ? true : undefined));
  }

  stop(): void {
    this.#child.disconnect();
  }
}

interface Usage {
  readonly cpuSeconds: number;
  readonly residentMb: number;
}

function usage(pid: number): Usage {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]?.split(" ") ?? [];
  const ticks = Number(fields[11]) + Number(fields[12]);
  const resident = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
  return { cpuSeconds: ticks / TICKS_PER_SECOND, residentMb: Number(resident) / 1024 };
}

function usages(dev: DevCluster): ReadonlyMap<string, Usage> {
  const found = new Map<string, Usage>();
  for (const { name } of dev.managers) {
    const pid = dev.daemonPid(name);
    if (pid !== undefined) found.set(name, usage(pid));
  }
  return found;
}

/** Runs `work`, prints how long it took and what it cost each manager. */
async function measure(dev: DevCluster, what: string, work: () => Promise<void>): Promise<void> {
  const leader = (await dev.leader())?.name;
  const before = usages(dev);
  const begin = performance.now();
  await work();
  const seconds = (performance.now() - begin) / 1000;
  const after = usages(dev);
  const costs = [...after].map(([name, { cpuSeconds, residentMb }]) => {
    const used = cpuSeconds - (before.get(name)?.cpuSeconds ?? 0);
    const role = name === leader ? " (led)" : "";
    return `${name}${role} ${((used / seconds) * 100).toFixed(0)} % cpu ${residentMb.toFixed(0)} MB`;
  });
  console.log(`  ${what.padEnd(52)} ${seconds.toFixed(2).padStart(7)} s   ${costs.join(", ")}`);
}

interface ServiceAnswer {
  readonly Version: { readonly Index: number };
  readonly Spec: object;
  readonly ServiceStatus?: { readonly RunningTasks: number; readonly DesiredTasks: number };
  readonly UpdateStatus?: { readonly State: string };
}

const SERVICE = "fleet";

function spec(replicas: number, env: string): object {
  return {
    Name: SERVICE,
    TaskTemplate: {
      ContainerSpec: { Image: "fleet:1", Env: [env] },
      Placement: { Constraints: ["node.role==worker"] },
    },
    Mode: { Replicated: { Replicas: replicas } },
    UpdateConfig: { Parallelism: Math.ceil(replicas / 10), Order: "stop-first" },
  };
}

class Bench {
  readonly #dev: DevCluster;
  readonly #fleet: Fleet;
  readonly #size: { readonly nodes: number; readonly replicas: number };

  constructor(dev: DevCluster, fleet: Fleet, size: { readonly nodes: number; readonly replicas: number }) {
    this.#dev = dev;
    this.#fleet = fleet;
    this.#size = size;
  }

  async run(): Promise<void> {
    const { nodes, replicas } = this.#size;
    const measured = (what: string, work: () => Promise<void>): Promise<void> =>
      measure(this.#dev, what, work);
    await measured(`${nodes} nodes join`, () => this.#join());
    await measured("idle, heartbeats only", () => sleep(IDLE_SECONDS * 1000));
    await measured(`0 -> ${replicas} tasks running`, async () => {
      await ask(this.#socket(), "POST", "/services/create", spec(replicas, "VERSION=1"));
      await this.#untilRunning(replicas);
    });
    await measured("idle with them", () => sleep(IDLE_SECONDS * 1000));
    await measured("all updated, a tenth at a time", () => this.#update());
    await measured("leader killed: until all sessions are back", () => this.#killLeader());
    const lost = Math.floor(nodes / 10);
    await measured(`${lost} nodes lost: until their tasks run elsewhere`, async () => {
      await this.#fleet.tell({ kind: "lose", count: lost });
      await this.#fleet.until("tasks run again", (status) => status.running >= replicas);
    });
    await measured(`${replicas} -> 0 tasks`, async () => {
      await ask(this.#socket(), "DELETE", `/services/${SERVICE}`);
      await this.#fleet.until("no task runs", (status) => status.running === 0);
    });
  }

  #socket(): string {
    const up = this.#dev.managers.find((host) => this.#dev.daemonPid(host.name) !== undefined);
    if (up === undefined) throw new Error("no manager runs");
    return up.socketPath;
  }

  async #join(): Promise<void> {
    const swarm = (await ask(this.#socket(), "GET", "/swarm")) as {
      readonly JoinTokens: { readonly Worker: string };
    };
    const managers = this.#dev.managers.map((host: DevHost) => `${host.address}:2377`);
    const { nodes: count } = this.#size;
    await this.#fleet.tell({ kind: "join", count, token: swarm.JoinTokens.Worker, managers });
    await this.#fleet.until("all have a session", (status) => status.connected === count);
  }

  async #service(): Promise<ServiceAnswer> {
    const filters = encodeURIComponent(JSON.stringify({ name: [SERVICE] }));
    const found = await ask(this.#socket(), "GET", `/services?status=true&filters=${filters}`);
    const [service] = found as readonly ServiceAnswer[];
    if (service === undefined) throw new Error(`there is no service "${SERVICE}"`);
    return service;
  }

  /** As a user sees it. */
  async #untilRunning(count: number): Promise<void> {
    await until(`${count} tasks run`, { ...WAIT, pollMs: 100 }, async () =>
      (await this.#service()).ServiceStatus?.RunningTasks === count ? true : undefined,
    );
  }

  async #update(): Promise<void> {
    const { replicas } = this.#size;
    const { Version } = await this.#service();
    const target = `/services/${SERVICE}/update?version=${Version.Index}`;
    await ask(this.#socket(), "POST", target, spec(replicas, "VERSION=2"));
    await until("the update is complete", { ...WAIT, pollMs: 100 }, async () =>
      (await this.#service()).UpdateStatus?.State === "completed" ? true : undefined,
    );
  }

  async #killLeader(): Promise<void> {
    const leader = await this.#dev.leader();
    if (leader === undefined) throw new Error("nobody leads");
    const { started } = await this.#fleet.tell({ kind: "status" });
    const begin = performance.now();
    await this.#dev.killDaemon(leader.name);
    await until("a write is accepted", { ...WAIT, pollMs: 10 }, async () => {
      const secret = { Name: `s${Date.now()}`, Data: "eA==" };
      return ask(this.#socket(), "POST", "/secrets/create", secret).catch(() => undefined);
    });
    console.log(`    next write accepted after ${((performance.now() - begin) / 1000).toFixed(2)} s`);
    // Those that had another manager know nothing of it yet: a session is the leader's.
    await this.#fleet.until("sessions broke", (status) => status.connected < this.#size.nodes);
    await this.#fleet.until("all have a session", (status) => status.connected === this.#size.nodes);
    const { started: now } = await this.#fleet.tell({ kind: "status" });
    console.log(`    tasks started anew because of it: ${now - started}`);
  }
}

const size = toolOptions(
  { run: "node bench/fleet/main.ts", about: "Runs three managers with hundreds of agents. Needs root." },
  {
    nodes: count("agents in one process", { fallback: 500 }),
    replicas: count("replicas of the service", { fallback: 5000 }),
  },
);
const name = `fleet${process.pid}`;
const stateFolder = mkdtempSync(path.join(tmpdir(), "shoal-fleet-"));
try {
  const dev = await startDevCluster({ name, stateFolder, managers: 3, workers: 0 });
  const home = must(dev.managers[0], "there are three");
  await routeFleet(dev, home);
  const fleet = new Fleet(namespaceName(name, home.name));
  console.log(`${size.nodes} nodes, 3 managers, ${availableParallelism()} processors for all`);
  await new Bench(dev, fleet, size).run();
  fleet.stop();
} finally {
  await removeCluster({ name, stateFolder });
  rmSync(stateFolder, { recursive: true, force: true });
}
