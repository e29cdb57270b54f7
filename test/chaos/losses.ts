/**
 * `node test/chaos/losses.ts` (`--help` names its options): how long a cluster of three managers and two workers takes to
 * get over the loss of a host. Pulls the plug of the leader's host and waits for the next `service update` to be accepted;
 * pulls the plug of a worker's host and waits for its tasks to run elsewhere. Each several times; prints min, median and
 * max. Needs root.
 */
import path from "node:path";
import type { DevCluster } from "../../dev/cluster.ts";
import type { NodeAnswer, TaskAnswer } from "../../dev/daemon-api.ts";
import { count, text, toolOptions } from "../../dev/tool-options.ts";
import { until, type UntilOptions } from "../../dev/until.ts";
import { buildWhoami } from "../../dev/whoami.ts";
import { requestOnce } from "./requests.ts";
import { runOnCluster } from "./run-on-cluster.ts";

const SERVICE = "web";
const REPLICAS = 8;
const LIMITS: UntilOptions = { timeoutMs: 60_000, pollMs: 10 };

interface ServiceAnswer {
  readonly ID: string;
  readonly Version: { readonly Index: number };
  readonly Spec: { readonly Labels?: Readonly<Record<string, string>> };
}

class Losses {
  readonly #cluster: DevCluster;

  constructor(cluster: DevCluster) {
    this.#cluster = cluster;
  }

  async deploy(): Promise<void> {
    const image = await buildWhoami("1", path.join(this.#cluster.stateFolder, "images"));
    const loaded = await this.#cluster.shoal("manager1", ["image", "load", "-i", image.tarPath]);
    if (loaded.status !== 0) throw new Error(loaded.stderr);
    await this.#cluster.api("manager1", "POST", "/services/create", {
      Name: SERVICE,
      TaskTemplate: {
        ContainerSpec: { Image: image.reference },
        Placement: { Constraints: ["node.role==worker"] },
      },
      Mode: { Replicated: { Replicas: REPLICAS } },
    });
    await until(
      "all replicas run",
      LIMITS,
      async () => (await this.#runningOn("manager1")).length === REPLICAS,
    );
  }

  /** ms until the next change of a service is accepted. */
  async loseLeader(): Promise<number> {
    const leader = await this.#cluster.leader();
    const other = this.#cluster.managers.find((host) => host.name !== leader?.name);
    if (leader === undefined || other === undefined) throw new Error("there is no leader");
    const tookMs = await this.#timed(leader.name, () => this.#updateOnce(other.socketPath));
    await this.#repair(leader.name, other.name);
    return tookMs;
  }

  /** ms until all tasks of the worker with the most of them run on other nodes. */
  async loseWorker(): Promise<number> {
    const nodes = await this.#nodes("manager1");
    const running = await this.#runningOn("manager1");
    const victim = this.#cluster.workers
      .map((host) => ({ host, id: nodes.find((node) => node.Description?.Hostname === host.name)?.ID }))
      .map(({ host, id }) => ({ host, id, count: running.filter((task) => task.NodeID === id).length }))
      .toSorted((one, other) => other.count - one.count)[0];
    if (victim === undefined) throw new Error("there is no worker");
    const tookMs = await this.#timed(victim.host.name, async () => {
      const elsewhere = (await this.#runningOn("manager1")).filter((task) => task.NodeID !== victim.id);
      return elsewhere.length === REPLICAS;
    });
    await this.#repair(victim.host.name, "manager1");
    return tookMs;
  }

  async #timed(victim: string, isOver: () => Promise<boolean>): Promise<number> {
    const started = performance.now();
    // The cable goes first: from then on the host is lost to all others.
    const killed = this.#cluster.killHost(victim);
    await until(`"${victim}" is made up for`, LIMITS, isOver);
    const tookMs = performance.now() - started;
    await killed;
    return tookMs;
  }

  /** One try, on what the manager shows now. */
  async #updateOnce(socketPath: string): Promise<boolean> {
    const found = await requestOnce(socketPath, "GET", `/services/${SERVICE}`);
    if (found.kind !== "answered" || found.status !== 200) return false;
    const service = found.body as ServiceAnswer;
    const Labels = { ...service.Spec.Labels, at: String(performance.now()) };
    const call = `/services/${service.ID}/update?version=${service.Version.Index}`;
    const updated = await requestOnce(socketPath, "POST", call, { ...service.Spec, Labels });
    return updated.kind === "answered" && updated.status === 200;
  }

  async #repair(victim: string, by: string): Promise<void> {
    await this.#cluster.startHost(victim);
    const isWhole = async (): Promise<boolean> => {
      const nodes = await this.#nodes(by).catch(() => []);
      const ready = nodes.filter((node) => node.Status?.State === "ready");
      const reachable = nodes.filter((node) => node.ManagerStatus?.Reachability === "reachable");
      return (
        ready.length === this.#cluster.hosts.length && reachable.length === this.#cluster.managers.length
      );
    };
    await until("all nodes are ready", LIMITS, isWhole);
    await until(
      "all replicas run again",
      LIMITS,
      async () => (await this.#runningOn(by)).length === REPLICAS,
    );
  }

  async #nodes(host: string): Promise<readonly NodeAnswer[]> {
    return await this.#cluster.api<readonly NodeAnswer[]>(host, "GET", "/nodes");
  }

  async #runningOn(host: string): Promise<readonly TaskAnswer[]> {
    const filters = encodeURIComponent(JSON.stringify({ service: { [SERVICE]: true } }));
    const tasks = await this.#cluster.api<readonly TaskAnswer[]>(host, "GET", `/tasks?filters=${filters}`);
    return tasks.filter((task) => task.DesiredState === "running" && task.Status.State === "running");
  }
}

function spread(times: readonly number[]): string {
  const sorted = times.toSorted((one, other) => one - other);
  const at = (share: number): string =>
    ((sorted[Math.floor(share * (sorted.length - 1))] ?? 0) / 1000).toFixed(2);
  return `min ${at(0)}, median ${at(0.5)}, max ${at(1)} s of ${times.length}`;
}

const { name, times } = toolOptions(
  {
    run: "node test/chaos/losses.ts",
    about:
      "Measures how long a dev cluster takes to get over the loss of the leader's host, and of a worker's. Needs root.",
  },
  {
    times: count("how often each is lost", { fallback: 10 }),
    name: text("name of the cluster", { placeholder: "<name>", fallback: "losses" }),
  },
);
await runOnCluster({ name, managers: 3, workers: 2, keep: false }, async (cluster) => {
  const losses = new Losses(cluster);
  await losses.deploy();
  const [leader, worker]: [number[], number[]] = [[], []];
  for (let time = 0; time < times; time += 1) {
    leader.push(await losses.loseLeader());
    worker.push(await losses.loseWorker());
    const seconds = [leader, worker].map((list) => ((list.at(-1) ?? 0) / 1000).toFixed(2));
    console.log(`  leader's host: ${seconds[0]} s, worker's host: ${seconds[1]} s`);
  }
  console.log(`leader's host lost → next service update accepted: ${spread(leader)}`);
  console.log(`worker's host lost → its tasks run elsewhere: ${spread(worker)}`);
  return true;
});
