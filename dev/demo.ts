/**
 * `npm run demo`: shows the main job on five hosts of this machine, from nothing to a rolling update under load, the loss of
 * the leader and of a worker, and back. Each step prints what a user would type and ends with a check; the first check that
 * fails ends the demo with status 1. Run by scripts/demo.sh, which installs and builds first.
 */
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { packageRoot } from "../common/package-root.ts";
import type { DevHost } from "./cluster.ts";
import { DevCluster, removeCluster } from "./cluster.ts";
import type { NodeAnswer, TaskAnswer } from "./daemon-api.ts";
import { fetchText, LoadGenerator } from "./load-generator.ts";
import type { CommandResult } from "./run-command.ts";
import { run } from "./run-command.ts";
import { clusterNamespaces } from "./switch-network.ts";
import { buildWhoami } from "./whoami.ts";

const NAME = "demo";
const MANAGERS = 3;
const WORKERS = 2;
const SERVICE = "web_whoami";
const PORT = 8080;
const REQUEST_TIMEOUT_MS = 3_000;
const LOAD_CLIENTS = 8;
const LOAD_PAUSE_MS = 5;
const LOAD_BEFORE_MS = 1_000;
const POLL_MS = 50;
const LEADER_LIMIT_MS = 5_000;
const WORKER_LIMIT_MS = 10_000;
const BACK_LIMIT_MS = 20_000;

class CheckFailed extends Error {}

function check(condition: boolean, claim: string): void {
  if (!condition) throw new CheckFailed(claim);
  process.stdout.write(`   ✔ ${claim}\n`);
}

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}

interface ServiceAnswer {
  readonly ServiceStatus?: { readonly RunningTasks: number; readonly DesiredTasks: number };
}

/** The value of a line of whoami's answer. */
function lineOf(body: string, name: string): string {
  return new RegExp(`^${name}: (.*)$`, "m").exec(body)?.[1] ?? "";
}

async function waitFor(limitMs: number, claim: string, condition: () => Promise<boolean>): Promise<number> {
  const started = performance.now();
  while (!(await condition())) {
    if (performance.now() - started > limitMs) throw new CheckFailed(`${claim} within ${limitMs / 1000} s`);
    await sleep(POLL_MS);
  }
  return performance.now() - started;
}

class Demo {
  readonly #root = packageRoot(import.meta.dirname);
  readonly #started = performance.now();
  #step = 0;
  #cluster: DevCluster | undefined;

  get #up(): DevCluster {
    if (this.#cluster === undefined) throw new CheckFailed("the cluster is up");
    return this.#cluster;
  }

  async run(): Promise<void> {
    await this.#bringUp();
    await this.#deploy();
    await this.#request();
    await this.#scale();
    await this.#update();
    await this.#loseLeader();
    await this.#loseWorker();
    await this.#recover();
  }

  #title(text: string): void {
    this.#step += 1;
    const seconds = ((performance.now() - this.#started) / 1000).toFixed(1);
    say(`\n── ${this.#step}. ${text} (${seconds} s)`);
  }

  /** Runs what a user would type, shows it with its output, and demands success. */
  async #type(host: string, argv: readonly string[]): Promise<CommandResult> {
    say(
      `   ${host} $ shoal ${argv.map((word) => (path.relative(this.#root, word).startsWith("..") || !word.startsWith("/") ? word : path.relative(this.#root, word))).join(" ")}`,
    );
    const result = await this.#up.shoal(host, argv, { cwd: this.#root, timeoutMs: 120_000 });
    for (const line of `${result.stdout}${result.stderr}`.trimEnd().split("\n")) say(`     ${line}`);
    if (result.status !== 0) throw new CheckFailed(`the command exits with 0, not ${result.status}`);
    return result;
  }

  #url(host: DevHost): string {
    return `http://${host.address}:${PORT}/`;
  }

  /** A manager that answers, other than `without`. */
  #manager(without?: string): string {
    return this.#up.managers.find((host) => host.name !== without)?.name ?? "";
  }

  async #tasks(host: string): Promise<readonly TaskAnswer[]> {
    const filters = encodeURIComponent(JSON.stringify({ service: { [SERVICE]: true } }));
    return await this.#up.api<readonly TaskAnswer[]>(host, "GET", `/tasks?filters=${filters}`);
  }

  async #nodes(host: string): Promise<readonly NodeAnswer[]> {
    return await this.#up.api<readonly NodeAnswer[]>(host, "GET", "/nodes");
  }

  /** Tasks that run and are meant to, on nodes that are up. */
  async #running(host: string): Promise<number> {
    const down = new Set(
      (await this.#nodes(host)).filter((node) => node.Status?.State === "down").map((node) => node.ID),
    );
    const tasks = await this.#tasks(host);
    return tasks.filter(
      (task) =>
        task.Status.State === "running" && task.DesiredState === "running" && !down.has(task.NodeID ?? ""),
    ).length;
  }

  async #isDown(by: string, name: string): Promise<boolean> {
    const nodes = await this.#nodes(by).catch(() => []);
    return nodes.some((node) => node.Description?.Hostname === name && node.Status?.State === "down");
  }

  async #counts(host: string): Promise<string> {
    const service = await this.#up.api<readonly ServiceAnswer[]>(
      host,
      "GET",
      `/services?status=true&filters=${encodeURIComponent(JSON.stringify({ name: [SERVICE] }))}`,
    );
    const status = service[0]?.ServiceStatus;
    return `${status?.RunningTasks ?? 0}/${status?.DesiredTasks ?? 0}`;
  }

  async #bringUp(): Promise<void> {
    this.#title("Five hosts on this machine: a network namespace, a state folder and a daemon each");
    await removeCluster({ name: NAME });
    say(`   $ shoal dev up --managers ${MANAGERS} --workers ${WORKERS} --name ${NAME}`);
    this.#cluster = await DevCluster.up({
      name: NAME,
      managers: MANAGERS,
      workers: WORKERS,
      log: (line) => say(`     ${line}`),
    });
    const { stdout } = await this.#type("manager1", ["node", "ls"]);
    check((stdout.match(/\bReady\b/g) ?? []).length === MANAGERS + WORKERS, "all five nodes are Ready");
  }

  async #deploy(): Promise<void> {
    this.#title(
      "A stack from a Compose file; its image comes from a tar on one host, the others fetch it from there",
    );
    const image = await buildWhoami("1", path.join(this.#up.stateFolder, "images"));
    await this.#type("manager1", ["image", "load", "-i", image.tarPath]);
    await this.#type("manager1", [
      "stack",
      "deploy",
      "-c",
      path.join(this.#root, "examples", "whoami", "stack.yml"),
      "web",
    ]);
    await this.#type("manager1", ["service", "ps", SERVICE]);
    check((await this.#counts("manager1")) === "5/5", "5 of 5 replicas run");
  }

  async #request(): Promise<void> {
    this.#title("The published port answers on every host, also on those without a replica");
    const seen = new Set<string>();
    for (const host of this.#up.hosts) {
      say(`   $ curl http://${host.address}:${PORT}/`);
      const body = await fetchText(this.#url(host), { timeoutMs: REQUEST_TIMEOUT_MS });
      say(`     ${body.trim().replaceAll("\n", "   ")}`);
      seen.add(lineOf(body, "hostname"));
    }
    for (let round = 0; round < 20; round += 1) {
      const host = this.#up.hosts[round % this.#up.hosts.length];
      if (host !== undefined)
        seen.add(lineOf(await fetchText(this.#url(host), { timeoutMs: REQUEST_TIMEOUT_MS }), "hostname"));
    }
    check(seen.size > 1, `requests are spread: ${seen.size} different replicas answered`);
  }

  async #scale(): Promise<void> {
    this.#title("Scale to ten");
    await this.#type("manager2", ["service", "scale", `${SERVICE}=10`]);
    check((await this.#counts("manager1")) === "10/10", "10 of 10 replicas run");
  }

  async #update(): Promise<void> {
    this.#title(
      "A rolling update from version 1 to 2 under load: new tasks first, health-checked, old ones drained",
    );
    const image = await buildWhoami("2", path.join(this.#up.stateFolder, "images"));
    await this.#type("manager1", ["image", "load", "-i", image.tarPath]);
    const urls = this.#up.hosts.map((host) => this.#url(host));
    const load = new LoadGenerator(
      { urls, clients: LOAD_CLIENTS, pauseMs: LOAD_PAUSE_MS, timeoutMs: REQUEST_TIMEOUT_MS },
      (body) => lineOf(body, "version"),
    );
    load.start();
    try {
      await sleep(LOAD_BEFORE_MS);
      await this.#type("manager1", ["service", "update", "--image", image.reference, SERVICE]);
      await sleep(LOAD_BEFORE_MS);
    } finally {
      const report = await load.stop();
      const answers = [...report.answers]
        .sort(([left], [right]) => (left < right ? -1 : 1))
        .map(([version, count]) => `${count} by version ${version}`);
      say(
        `     ${report.requests} requests meanwhile: ${answers.join(", ")}, ${report.failed} failed (slowest ${report.slowestMs.toFixed(0)} ms)`,
      );
      for (const [reason, count] of report.reasons) say(`     ${count} × ${reason}`);
      check(report.failed === 0, "0 requests failed");
      check(
        (report.answers.get("1") ?? 0) > 0 && (report.answers.get("2") ?? 0) > 0,
        "both versions answered in the course of it",
      );
    }
    const versions = new Set(
      await Promise.all(
        urls.map(async (url) => lineOf(await fetchText(url, { timeoutMs: REQUEST_TIMEOUT_MS }), "version")),
      ),
    );
    check(versions.size === 1 && versions.has("2"), "every host answers with version 2");
  }

  async #loseLeader(): Promise<void> {
    this.#title("Pull the plug of the leader");
    const leader = await this.#up.leader();
    if (leader === undefined) throw new CheckFailed("there is a leader");
    const other = this.#manager(leader.name);
    say(`   $ shoal dev kill ${leader.name} --name ${NAME}`);
    await this.#up.killHost(leader.name);
    const started = performance.now();
    say(`   ${other} $ shoal service update --label-add survived=true --detach ${SERVICE}`);
    let last: CommandResult | undefined;
    await waitFor(LEADER_LIMIT_MS, "the next update is accepted", async () => {
      last = await this.#up.shoal(
        other,
        ["service", "update", "--label-add", "survived=true", "--detach", SERVICE],
        { timeoutMs: LEADER_LIMIT_MS },
      );
      return last.status === 0;
    });
    check(
      last?.status === 0,
      `the next update is accepted ${((performance.now() - started) / 1000).toFixed(2)} s after the loss (limit ${LEADER_LIMIT_MS / 1000} s)`,
    );
    const leaderNow = await this.#up.leader();
    say(`     the leader is now ${leaderNow?.name ?? "unknown"}`);
    const isDown = async (): Promise<boolean> => await this.#isDown(other, leader.name);
    await waitFor(WORKER_LIMIT_MS, `${leader.name} is seen as down`, isDown);
    await waitFor(WORKER_LIMIT_MS, "ten replicas run again", async () => (await this.#running(other)) >= 10);
    check(
      true,
      `its replicas run on other hosts ${((performance.now() - started) / 1000).toFixed(1)} s after the loss`,
    );
    this.#killed.push(leader.name);
  }

  readonly #killed: string[] = [];

  async #loseWorker(): Promise<void> {
    this.#title("Pull the plug of a worker");
    const other = this.#up.managers.find((host) => !this.#killed.includes(host.name))?.name ?? "";
    say(`   $ shoal dev kill worker1 --name ${NAME}`);
    await this.#up.killHost("worker1");
    this.#killed.push("worker1");
    const started = performance.now();
    await waitFor(
      WORKER_LIMIT_MS,
      "worker1 is seen as down",
      async () => await this.#isDown(other, "worker1"),
    );
    await waitFor(WORKER_LIMIT_MS, "ten replicas run again", async () => (await this.#running(other)) >= 10);
    const seconds = (performance.now() - started) / 1000;
    check(
      seconds <= WORKER_LIMIT_MS / 1000,
      `10 replicas run again ${seconds.toFixed(1)} s after the loss (limit ${WORKER_LIMIT_MS / 1000} s)`,
    );
    await this.#type(other, ["service", "ps", "--filter", "desired-state=running", SERVICE]);
    for (const host of this.#up.hosts.filter((each) => !this.#killed.includes(each.name))) {
      const body = await fetchText(this.#url(host), { timeoutMs: REQUEST_TIMEOUT_MS });
      check(lineOf(body, "version") === "2", `${host.name} still answers`);
    }
  }

  async #recover(): Promise<void> {
    this.#title("Switch both on again");
    for (const name of this.#killed) {
      say(`   $ shoal dev start ${name} --name ${NAME}`);
      await this.#up.startHost(name);
    }
    const isWhole = async (): Promise<boolean> => {
      const nodes = await this.#nodes(this.#manager()).catch(() => []);
      return nodes.filter((node) => node.Status?.State === "ready").length === MANAGERS + WORKERS;
    };
    await waitFor(BACK_LIMIT_MS, "all five nodes are Ready again", isWhole);
    await this.#type("manager1", ["node", "ls"]);
    check(await isWhole(), "all five nodes are Ready again");
    await this.#type("manager1", ["stack", "rm", "web"]);
  }
}

/** Nothing of the cluster may be left; what is, is named. */
async function tearDown(): Promise<void> {
  say(`\n── Tear down\n   $ shoal dev down --name ${NAME}`);
  await removeCluster({ name: NAME });
  const links = (await run(["ip", "-o", "link", "show"])).stdout;
  check(
    clusterNamespaces(NAME).length === 0 && !links.includes(`shoal-dev:${NAME}`),
    "no namespace or link is left",
  );
}

async function main(argv: readonly string[]): Promise<number> {
  const keeps = argv.includes("--keep");
  const unknown = argv.find((word) => word !== "--keep");
  if (unknown !== undefined) {
    process.stderr.write(`demo: unknown option "${unknown}"; the only one is --keep\n`);
    return 2;
  }
  const started = performance.now();
  let status = 0;
  try {
    await new Demo().run();
  } catch (caught) {
    status = 1;
    say(
      `   ✘ ${caught instanceof CheckFailed ? caught.message : caught instanceof Error ? (caught.stack ?? caught.message) : String(caught)}`,
    );
  }
  if (keeps) {
    say(
      `\nThe cluster stays up. Logs: /var/lib/shoal-dev/${NAME}/HOST/daemon.log; to end it: shoal dev down --name ${NAME}`,
    );
  } else {
    try {
      await tearDown();
    } catch (caught) {
      status = 1;
      say(`   ✘ ${caught instanceof Error ? caught.message : String(caught)}`);
    }
  }
  say(
    `\n${status === 0 ? "All steps held" : "The demo failed"} (${((performance.now() - started) / 1000).toFixed(1)} s)`,
  );
  return status;
}

/** An interrupted demo leaves nothing behind either. */
process.once("SIGINT", () => {
  removeCluster({ name: NAME }).then(
    () => process.exit(130),
    () => process.exit(130),
  );
});
process.exitCode = await main(process.argv.slice(2));
