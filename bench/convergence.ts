/**
 * How fast desired state becomes running containers: 0 -> 100 replicas, 100 -> 0, and one create -> running, on one node
 * without an overlay network, for Shoal and (where Debian's docker.io is installed) for a Docker Swarm, in turn in one run.
 * Each engine has a network namespace and data folders of its own, made and removed here. Needs root.
 *
 *   node dist/bench/convergence.js [--rounds N] [--replicas N] [--no-peer]
 */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { ask, request } from "./docker-http.ts";
import { packageRoot } from "../common/package-root.ts";
import { type Comparison, printComparisons } from "./statistics.ts";
import { busyboxTar } from "./test-image.ts";

const IMAGE = "bench-idle:1";
const START_TIMEOUT_MS = 30_000;
const POLL_MS = 20;
const CONVERGE_TIMEOUT_MS = 180_000;

interface Contender {
  readonly name: string;
  readonly socket: string;
  readonly stop: () => Promise<void>;
}

interface Namespace {
  readonly name: string;
  readonly remove: () => void;
}

function makeNamespace(name: string): Namespace {
  execFileSync("ip", ["netns", "add", name]);
  execFileSync("ip", ["-n", name, "link", "set", "lo", "up"]);
  execFileSync("ip", ["-n", name, "link", "add", "host0", "type", "veth", "peer", "name", "peer0"]);
  execFileSync("ip", ["-n", name, "addr", "add", "10.253.0.1/24", "dev", "host0"]);
  execFileSync("ip", ["-n", name, "link", "set", "host0", "up"]);
  execFileSync("ip", ["-n", name, "link", "set", "peer0", "up"]);
  return { name, remove: () => execFileSync("ip", ["netns", "delete", name]) };
}

async function untilAnswers(socket: string): Promise<void> {
  const deadline = performance.now() + START_TIMEOUT_MS;
  while (performance.now() < deadline) {
    if (
      existsSync(socket) &&
      (await request(socket, "GET", "/version").catch(() => undefined))?.status === 200
    )
      return;
    await sleep(50);
  }
  throw new Error(`${socket} did not answer within ${START_TIMEOUT_MS} ms`);
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  await new Promise((resolve) => child.once("exit", resolve));
}

/** Processes whose command line holds `mark`, a folder that only this run uses. */
function processesOf(mark: string): readonly number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .filter((name) => {
      try {
        return readFileSync(`/proc/${name}/cmdline`, "utf8").includes(mark);
      } catch {
        return false;
      }
    })
    .map(Number)
    .filter((pid) => pid !== process.pid);
}

async function startEngine(
  name: string,
  command: (folder: string, socket: string) => readonly string[],
): Promise<Contender> {
  const folder = mkdtempSync(path.join(tmpdir(), `shoal-bench-${name}-`));
  const socket = path.join(folder, "api.sock");
  const namespace = makeNamespace(`bench-${name}-${process.pid}`);
  // Not `ip netns exec`: its own view of /sys has no cgroups.
  const child = spawn("nsenter", [`--net=/run/netns/${namespace.name}`, ...command(folder, socket)], {
    stdio: ["ignore", "ignore", process.env["BENCH_VERBOSE"] === undefined ? "ignore" : "inherit"],
  });
  const stop = async (): Promise<void> => {
    await request(socket, "POST", "/swarm/leave?force=1").catch(() => undefined);
    child.kill("SIGTERM");
    await ended(child);
    for (const pid of processesOf(folder)) process.kill(pid, "SIGKILL");
    namespace.remove();
    rmSync(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
  };
  try {
    await untilAnswers(socket);
    await ask(
      socket,
      "POST",
      `/images/create?fromSrc=-&repo=bench-idle&tag=1&changes=${encodeURIComponent('CMD ["/bin/sleep","1d"]')}`,
      busyboxTar(),
    );
    await ask(socket, "POST", "/swarm/init", { ListenAddr: "0.0.0.0:2377", AdvertiseAddr: "10.253.0.1" });
  } catch (caught) {
    await stop();
    throw caught;
  }
  return { name, socket, stop };
}

function startShoal(): Promise<Contender> {
  return startEngine("shoal", (folder, socket) => [
    path.join(packageRoot(import.meta.dirname), "bin/shoal"),
    "daemon",
    "--data-root",
    path.join(folder, "data"),
    "--exec-root",
    path.join(folder, "run"),
    "--host",
    `unix://${socket}`,
  ]);
}

function startDocker(): Promise<Contender> {
  return startEngine("docker", (folder, socket) => [
    "unshare",
    "--mount",
    "dockerd",
    "--data-root",
    path.join(folder, "data"),
    "--exec-root",
    path.join(folder, "run"),
    "--pidfile",
    path.join(folder, "docker.pid"),
    "--host",
    `unix://${socket}`,
  ]);
}

interface ServiceJson {
  readonly Spec: { readonly Name: string };
  readonly ServiceStatus?: { readonly RunningTasks: number };
}

/** As `service ls` counts them; a small answer, so that asking often costs neither engine much. */
async function runningTasks(engine: Contender, service: string): Promise<number> {
  const services = (await ask(engine.socket, "GET", "/services?status=true")) as readonly ServiceJson[];
  return services.find((each) => each.Spec.Name === service)?.ServiceStatus?.RunningTasks ?? 0;
}

async function until(what: string, holds: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + CONVERGE_TIMEOUT_MS;
  while (!(await holds())) {
    if (performance.now() > deadline) throw new Error(`${what}: not within ${CONVERGE_TIMEOUT_MS} ms`);
    await sleep(POLL_MS);
  }
}

function spec(name: string, replicas: number): object {
  return {
    Name: name,
    TaskTemplate: { ContainerSpec: { Image: IMAGE, StopSignal: "SIGKILL" } },
    Mode: { Replicated: { Replicas: replicas } },
  };
}

async function containers(engine: Contender): Promise<number> {
  return ((await ask(engine.socket, "GET", "/containers/json")) as readonly unknown[]).length;
}

interface Round {
  readonly one: number;
  readonly up: number;
  readonly down: number;
}

/** Seconds from the request to the last task reported running, or the last container gone from the list. */
async function round(engine: Contender, index: number, replicas: number): Promise<Round> {
  const create = async (name: string, count: number): Promise<number> => {
    const start = performance.now();
    await ask(engine.socket, "POST", "/services/create", spec(name, count));
    await until(`${engine.name} ${name}`, async () => (await runningTasks(engine, name)) === count);
    return (performance.now() - start) / 1000;
  };
  const one = await create(`one-${index}`, 1);
  await ask(engine.socket, "DELETE", `/services/one-${index}`);
  await until("one gone", async () => (await containers(engine)) === 0);
  const name = `many-${index}`;
  const up = await create(name, replicas);
  const service = (await ask(engine.socket, "GET", `/services/${name}`)) as {
    readonly Version: { readonly Index: number };
  };
  const start = performance.now();
  await ask(
    engine.socket,
    "POST",
    `/services/${name}/update?version=${service.Version.Index}`,
    spec(name, 0),
  );
  await until("scaled to 0", async () => (await containers(engine)) === 0);
  const down = (performance.now() - start) / 1000;
  await ask(engine.socket, "DELETE", `/services/${name}`);
  return { one, up, down };
}

function hasDocker(): boolean {
  return (process.env["PATH"] ?? "").split(":").some((folder) => existsSync(path.join(folder, "dockerd")));
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      rounds: { type: "string", default: "3" },
      replicas: { type: "string", default: "100" },
      "no-peer": { type: "boolean", default: false },
    },
  });
  const replicas = Number(values.replicas);
  const withPeer = !values["no-peer"] && hasDocker();
  if (!withPeer) console.log("dockerd is not installed or not wanted: Shoal alone");
  const ours: Round[] = [];
  const peers: Round[] = [];
  const engines: { readonly engine: Contender; readonly into: Round[] }[] = [];
  try {
    engines.push({ engine: await startShoal(), into: ours });
    if (withPeer) engines.push({ engine: await startDocker(), into: peers });
    for (let index = 0; index < Number(values.rounds); index += 1) {
      for (const { engine, into } of engines) into.push(await round(engine, index, replicas));
    }
  } finally {
    for (const { engine } of engines) await engine.stop();
  }
  const row = (what: string, key: keyof Round): Comparison => ({
    what,
    ours: ours.map((each) => each[key]),
    peer: peers.map((each) => each[key]),
  });
  printComparisons(
    `Convergence on one node, ${replicas} replicas, no overlay network, image present`,
    "swarm",
    [
      row(`0 -> ${replicas} running`, "up"),
      row(`${replicas} -> 0 containers`, "down"),
      row("one create -> running", "one"),
    ],
  );
}

await main();
