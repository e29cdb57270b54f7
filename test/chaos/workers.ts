/**
 * `node test/chaos/workers.ts` (`--help` names its options): daemons of nodes are killed (-9) at random and started again
 * while services are scaled and updated. No container may be lost and none be there twice: within a slot containers
 * follow each other (stop-first) or overlap by two at most (start-first), and in the end there are as many as were asked
 * for. Their times are read from the containers themselves, ended ones included. Needs root.
 */
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { SeededRandom } from "../../common/testing/seeded-random.ts";
import type { DevCluster, DevHost } from "../../dev/cluster.ts";
import { count, text, toggle, toolOptions } from "../../dev/tool-options.ts";
import { buildWhoami } from "../../dev/whoami.ts";
import { requestOnce } from "./requests.ts";
import { runOnCluster } from "./run-on-cluster.ts";

const SERVICES = [
  { name: "first", order: "start-first", countMax: 2 },
  { name: "last", order: "stop-first", countMax: 1 },
] as const;
const REPLICAS_MAX = 12;
const CONVERGE_MS = 60_000;
/** Shorter than managers wait before they take a node for lost and put its tasks elsewhere. */
const DOWN_MAX_MS = 2_500;
/** Away for longer than this, a node may have been taken for lost: its tasks run elsewhere until it is back and stops them. */
const LOST_MS = 4_000;
const BACK_MS = 15_000;
const SECOND_NS = 1e9;

interface ContainerRow {
  readonly Id: string;
  readonly Labels: Readonly<Record<string, string>>;
}

interface Life {
  readonly host: string;
  readonly slot: string;
  readonly startedMs: number;
  endedMs: number;
  /** When it was last there: one that is removed before its end was seen had ended some time after that. */
  seenMs: number;
}

class WorkerChaos {
  readonly #cluster: DevCluster;
  readonly #random: SeededRandom;
  readonly #lives = new Map<string, Life>();
  readonly #replicas = new Map<string, number>();
  /** When nodes were away for so long that their tasks may have been replaced. */
  readonly #lost: { readonly host: string; readonly fromMs: number; readonly toMs: number }[] = [];
  readonly counts = { kills: 0, lost: 0, scales: 0, updates: 0 };

  constructor(cluster: DevCluster, random: SeededRandom) {
    this.#cluster = cluster;
    this.#random = random;
  }

  get containerCount(): number {
    return this.#lives.size;
  }

  async deploy(): Promise<void> {
    for (const version of ["1", "2"]) {
      const image = await buildWhoami(version, path.join(this.#cluster.stateFolder, "images"));
      const loaded = await this.#cluster.shoal("manager1", ["image", "load", "-i", image.tarPath]);
      if (loaded.status !== 0) throw new Error(loaded.stderr);
    }
    for (const { name, order } of SERVICES) {
      this.#replicas.set(name, 5);
      await this.#cluster.api("manager1", "POST", "/services/create", {
        Name: name,
        TaskTemplate: {
          ContainerSpec: { Image: "whoami:1", StopGracePeriod: 2 * SECOND_NS },
          RestartPolicy: { Delay: SECOND_NS / 10 },
        },
        Mode: { Replicated: { Replicas: 5 } },
        UpdateConfig: { Parallelism: 2, Order: order, Monitor: SECOND_NS / 5, FailureAction: "continue" },
      });
    }
    await this.converge();
  }

  /**
   * One change with one or two daemons killed in the course of it. To be followed by converge(): a service that is scaled up
   * again before the last scaling down is through may use a slot whose former container is on its way out.
   */
  async cycle(): Promise<void> {
    const hosts = this.#cluster.hosts;
    const victims = new Set([this.#pick(hosts), this.#pick(hosts)].slice(0, 1 + this.#random.below(2)));
    await this.#change();
    await sleep(this.#random.float() * 600);
    await Promise.all(
      [...victims].map(async (host) => {
        this.counts.kills += 1;
        const fromMs = Date.now();
        await this.#cluster.killDaemon(host.name);
        await sleep(this.#random.float() * DOWN_MAX_MS);
        await this.#cluster.startDaemon(host.name);
        if (Date.now() - fromMs < LOST_MS) return;
        this.counts.lost += 1;
        this.#lost.push({ host: host.name, fromMs, toMs: Date.now() + BACK_MS });
      }),
    );
  }

  /** Waits until every service has what was asked for, no more and no less; what is wrong, or undefined. */
  async converge(): Promise<string | undefined> {
    const deadline = performance.now() + CONVERGE_MS;
    for (;;) {
      const wrong = await this.#difference();
      if (wrong === undefined) break;
      if (performance.now() > deadline) return `not as asked for within ${CONVERGE_MS / 1000} s: ${wrong}`;
      await sleep(200);
    }
    return this.#overlap();
  }

  async #change(): Promise<void> {
    const service = SERVICES[this.#random.below(SERVICES.length)] ?? SERVICES[0];
    const isScale = this.#random.float() < 0.5;
    const replicas = 1 + this.#random.below(REPLICAS_MAX);
    const image = `whoami:${1 + this.#random.below(2)}`;
    if (isScale) this.counts.scales += 1;
    else this.counts.updates += 1;
    for (;;) {
      const { socketPath } = this.#pick(this.#cluster.managers);
      const found = await requestOnce(socketPath, "GET", `/services/${service.name}`);
      if (found.kind !== "answered" || found.status !== 200) {
        await sleep(50);
        continue;
      }
      const { ID, Version, Spec } = found.body as { ID: string; Version: { Index: number }; Spec: Spec };
      const next = isScale
        ? { ...Spec, Mode: { Replicated: { Replicas: replicas } } }
        : {
            ...Spec,
            TaskTemplate: {
              ...Spec.TaskTemplate,
              ContainerSpec: { ...Spec.TaskTemplate.ContainerSpec, Image: image },
              ForceUpdate: (Spec.TaskTemplate.ForceUpdate ?? 0) + 1,
            },
          };
      const call = `/services/${ID}/update?version=${Version.Index}`;
      const answer = await requestOnce(socketPath, "POST", call, next);
      if (answer.kind === "answered" && answer.status === 200) {
        if (isScale) this.#replicas.set(service.name, replicas);
        return;
      }
    }
  }

  /** Looks at all containers on all hosts. */
  async #difference(): Promise<string | undefined> {
    const running = new Map<string, number>();
    for (const host of this.#cluster.hosts) {
      const filters = encodeURIComponent(JSON.stringify({ label: ["com.docker.swarm.service.name"] }));
      const listed = await requestOnce(host.socketPath, "GET", `/containers/json?all=1&filters=${filters}`);
      if (listed.kind !== "answered" || listed.status !== 200) return `${host.name} does not answer`;
      const rows = listed.body as readonly ContainerRow[];
      this.#noteRemoved(host, new Set(rows.map((row) => row.Id)));
      for (const { Id, Labels } of rows) {
        const isRunning = await this.#note(host, Id, Labels);
        const service = Labels["com.docker.swarm.service.name"] ?? "";
        if (isRunning) running.set(service, (running.get(service) ?? 0) + 1);
      }
    }
    for (const [service, wanted] of this.#replicas) {
      const found = running.get(service) ?? 0;
      if (found !== wanted) return `service "${service}": want ${wanted} containers, got ${found}`;
    }
    return undefined;
  }

  async #note(host: DevHost, id: string, labels: Readonly<Record<string, string>>): Promise<boolean> {
    const inspected = await requestOnce(host.socketPath, "GET", `/containers/${id}/json`);
    if (inspected.kind !== "answered" || inspected.status !== 200) return false;
    const { State } = inspected.body as {
      State: { Running: boolean; StartedAt: string; FinishedAt: string };
    };
    const startedMs = Date.parse(State.StartedAt);
    if (startedMs <= 0) return State.Running;
    // "web.3.TASKID": the slot is what is before the task.
    const slot = (labels["com.docker.swarm.task.name"] ?? "").split(".").slice(0, 2).join(".");
    const endedMs = State.Running ? Infinity : Date.parse(State.FinishedAt);
    this.#lives.set(id, { host: host.name, slot, startedMs, endedMs, seenMs: Date.now() });
    return State.Running;
  }

  #noteRemoved(host: DevHost, there: ReadonlySet<string>): void {
    for (const [id, life] of this.#lives) {
      if (life.host === host.name && life.endedMs === Infinity && !there.has(id)) life.endedMs = life.seenMs;
    }
  }

  #overlap(): string | undefined {
    for (const { name, countMax } of SERVICES) {
      const lives = [...this.#lives.values()].filter((life) => life.slot.startsWith(`${name}.`));
      for (const life of lives) {
        const beside = lives.filter(
          (other) =>
            other.slot === life.slot && other.startedMs <= life.startedMs && other.endedMs > life.startedMs,
        );
        const isReplaced = (other: Life): boolean =>
          this.#lost.some(
            ({ host, fromMs, toMs }) =>
              host === other.host && fromMs < life.startedMs && life.startedMs < toMs,
          );
        if (beside.filter((other) => other === life || !isReplaced(other)).length > countMax)
          return `slot "${life.slot}": ${beside.length} containers at once: ${JSON.stringify(beside)}`;
      }
    }
    return undefined;
  }

  #pick<T>(list: readonly T[]): T {
    const found = list[this.#random.below(list.length)];
    if (found === undefined) throw new Error("nothing to choose from");
    return found;
  }
}

interface Spec {
  readonly TaskTemplate: {
    readonly ContainerSpec: { readonly Image: string };
    readonly ForceUpdate?: number;
  };
}

const { cycles, keep, name, seed } = toolOptions(
  {
    run: "node test/chaos/workers.ts",
    about:
      "Kills daemons of a dev cluster's nodes at random and starts them again while services are scaled and updated. Exit status 1: a container was lost, or was there twice. Needs root.",
  },
  {
    cycles: count("faults and changes, one after the other", { fallback: 40 }),
    seed: count("which, and when", { fallback: 1 }),
    name: text("name of the cluster", { placeholder: "<name>", fallback: "workers" }),
    keep: toggle("keep the nodes' logs if the run is not good"),
  },
);
const isGood = await runOnCluster({ name, managers: 3, workers: 2, keep }, async (cluster) => {
  const chaos = new WorkerChaos(cluster, new SeededRandom(seed));
  await chaos.deploy();
  console.log(`seed ${seed}: ${cycles} cycles`);
  let wrong: string | undefined;
  for (let cycle = 1; cycle <= cycles && wrong === undefined; cycle += 1) {
    await chaos.cycle();
    wrong = await chaos.converge();
    console.log(`  cycle ${cycle}: ${JSON.stringify(chaos.counts)}, ${chaos.containerCount} containers seen`);
  }
  wrong ??= await chaos.converge();
  const { kills, lost, scales, updates } = chaos.counts;
  console.log(
    `${kills} daemons killed (${lost} were away for so long that their node counts as lost) during ${scales} scalings and ${updates} updates, ${chaos.containerCount} containers: ${wrong ?? "none lost, none twice"}`,
  );
  return wrong === undefined;
});
process.exitCode = isGood ? 0 : 1;
