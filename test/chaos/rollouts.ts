/**
 * `node test/chaos/rollouts.ts` (`--help` names its options): no request may be lost when tasks come and go under load. On
 * a dev cluster of three managers and two workers: rolling updates (start-first, health-checked), scaling down and up, and
 * draining a node, while clients from outside and from a node of the cluster send requests to every host, over new and
 * over kept connections. Prints counts; exits with 1 if a request was lost. Needs root.
 */
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { DevCluster } from "../../dev/cluster.ts";
import { namespaceName } from "../../dev/switch-network.ts";
import { count, text, toolOptions } from "../../dev/tool-options.ts";
import { buildWhoami } from "../../dev/whoami.ts";
import { runOnCluster } from "./run-on-cluster.ts";
import { startTraffic, type TrafficReport } from "./traffic.ts";

const SERVICE = "web";
const PORT = 8080;
const REPLICAS = 6;
const SETTLE_MS = 500;

interface Tally {
  requests: number;
  lost: number;
  slow: number;
  slowestMs: number;
}

class Rollouts {
  readonly #cluster: DevCluster;
  readonly #clients: number;
  readonly #tallies = new Map<string, Tally>();
  #version = 1;

  constructor(cluster: DevCluster, clients: number) {
    this.#cluster = cluster;
    this.#clients = clients;
  }

  get lostCount(): number {
    return [...this.#tallies.values()].reduce((sum, tally) => sum + tally.lost, 0);
  }

  async #shoal(...argv: readonly string[]): Promise<void> {
    const result = await this.#cluster.shoal("manager1", argv, { timeoutMs: 120_000 });
    if (result.status !== 0)
      throw new Error(`shoal ${argv.join(" ")}: ${result.status}\n${result.stdout}${result.stderr}`);
  }

  async deploy(): Promise<void> {
    for (const version of ["1", "2"]) {
      const image = await buildWhoami(version, path.join(this.#cluster.stateFolder, "images"));
      await this.#shoal("image", "load", "-i", image.tarPath);
    }
    const second = 1e9;
    await this.#cluster.api("manager1", "POST", "/services/create", {
      Name: SERVICE,
      TaskTemplate: {
        ContainerSpec: {
          Image: "whoami:1",
          Healthcheck: {
            Test: ["CMD", "/whoami", "healthcheck"],
            Interval: second,
            StartPeriod: 5 * second,
            StartInterval: second / 5,
          },
        },
      },
      Mode: { Replicated: { Replicas: REPLICAS } },
      UpdateConfig: { Parallelism: 2, Order: "start-first", Monitor: second / 2, FailureAction: "pause" },
      EndpointSpec: { Ports: [{ Protocol: "tcp", TargetPort: 80, PublishedPort: PORT }] },
    });
    await this.#untilRunning();
  }

  async round(): Promise<void> {
    this.#version = 3 - this.#version;
    const image = `whoami:${this.#version}`;
    await this.#under("rolling update", () =>
      this.#shoal("service", "update", "--quiet", "--image", image, SERVICE),
    );
    await this.#under("scale down and up", async () => {
      await this.#shoal("service", "scale", `${SERVICE}=2`);
      await this.#shoal("service", "scale", `${SERVICE}=${REPLICAS}`);
    });
    const node = this.#cluster.workers[this.#version % this.#cluster.workers.length]?.name ?? "worker1";
    await this.#under("drain of a node", async () => {
      await this.#shoal("node", "update", "--availability", "drain", node);
      await this.#untilRunning();
      await this.#shoal("node", "update", "--availability", "active", node);
    });
  }

  print(): void {
    for (const [what, { requests, lost, slow, slowestMs }] of this.#tallies)
      console.log(
        `${what}: ${requests} requests, ${lost} lost, ${slow} took longer than a second, slowest ${slowestMs.toFixed(0)} ms`,
      );
  }

  async #untilRunning(): Promise<void> {
    const filters = encodeURIComponent(JSON.stringify({ service: { [SERVICE]: true } }));
    for (;;) {
      const tasks = await this.#cluster.api<
        readonly { readonly DesiredState: string; readonly Status: { readonly State: string } }[]
      >("manager1", "GET", `/tasks?filters=${filters}`);
      const open = tasks.filter((task) => task.DesiredState === "running" || task.Status.State === "running");
      const isEven = open.every((task) => task.DesiredState === "running" && task.Status.State === "running");
      if (isEven && open.length === REPLICAS) return;
      await sleep(50);
    }
  }

  async #under(what: string, change: () => Promise<void>): Promise<void> {
    const targets = this.#cluster.hosts.map((host) => `${host.address}:${PORT}`);
    const options = { targets, clients: this.#clients, pauseMs: 15, timeoutMs: 5_000, slowMs: 1_000 };
    const inside = namespaceName(this.#cluster.name, "worker1");
    const traffics = [
      startTraffic(options),
      startTraffic({ ...options, clients: 1 }, `/run/netns/${inside}`),
    ];
    let reports: readonly TrafficReport[] = [];
    try {
      await sleep(SETTLE_MS);
      await change();
      await sleep(SETTLE_MS);
    } finally {
      reports = await Promise.all(traffics.map((traffic) => traffic.stop()));
    }
    const tally = this.#tallies.get(what) ?? { requests: 0, lost: 0, slow: 0, slowestMs: 0 };
    this.#tallies.set(what, tally);
    for (const [index, report] of reports.entries()) {
      tally.requests += report.requests;
      tally.lost += report.lost.length;
      tally.slow += report.slow.length;
      tally.slowestMs = Math.max(tally.slowestMs, report.slowestMs);
      for (const trouble of [...report.lost, ...report.slow]) {
        const { target, localPort, isKept, used, tookMs, atMs } = trouble;
        const from = index === 0 ? "outside" : "worker1";
        const kind = isKept ? `kept connection after ${used} requests` : "new connection";
        console.log(
          `  ${new Date(atMs).toISOString()} ${from}:${localPort} → ${target} (${kind}): ${trouble.what}, ${tookMs} ms`,
        );
      }
      const { requests, onNewConnections, reconnects, medianMs, p99Ms, slowestMs } = report;
      console.log(
        `${what}, ${index === 0 ? "from outside" : "from a node"}: ${requests} requests (${onNewConnections} on new connections, ` +
          `${reconnects} reconnects), ${report.lost.length} lost; median ${medianMs.toFixed(1)}, p99 ${p99Ms.toFixed(0)}, slowest ${slowestMs.toFixed(0)} ms`,
      );
    }
  }
}

const { clients, name, rounds } = toolOptions(
  {
    run: "node test/chaos/rollouts.ts",
    about:
      "Updates, scales and drains a service of a dev cluster under load, and counts lost and slow requests. Exit status 1: a request was lost. Needs root.",
  },
  {
    rounds: count("rounds of an update, a scaling down and up, and a drain", { fallback: 10 }),
    clients: count("clients that send requests to each host", { fallback: 3 }),
    name: text("name of the cluster", { placeholder: "<name>", fallback: "rollouts" }),
  },
);
const isGood = await runOnCluster({ name, managers: 3, workers: 2, keep: false }, async (cluster) => {
  const rollouts = new Rollouts(cluster, clients);
  await rollouts.deploy();
  for (let round = 1; round <= rounds; round += 1) {
    console.log(`round ${round} of ${rounds}`);
    await rollouts.round();
  }
  rollouts.print();
  return rollouts.lostCount === 0;
});
process.exitCode = isGood ? 0 : 1;
