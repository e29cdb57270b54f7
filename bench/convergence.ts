/**
 * How fast desired state becomes running containers: 0 -> 100 replicas, 100 -> 0, and one create -> running, on one node
 * without an overlay network, for Shoal and (where Debian's docker.io is installed) for a Docker Swarm, in turn in one run.
 * Each engine has a network namespace and data folders of its own, made and removed here. Needs root.
 *
 *   node bench/convergence.ts      after `npm run build`; `--help` names its options
 */
import { execFileSync } from "node:child_process";
import { until, type UntilOptions } from "../dev/until.ts";
import { count, toggle, toolOptions } from "../dev/tool-options.ts";
import { type Contender, type ContenderOptions, hasDocker, startDocker, startShoal } from "./contenders.ts";
import { ask, request } from "./docker-http.ts";
import { type Comparison, printComparisons } from "./statistics.ts";
import { busyboxTar } from "./test-image.ts";

const IMAGE = "bench-idle:1";
const CONVERGENCE: UntilOptions = { timeoutMs: 180_000, pollMs: 20 };

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

/** An engine in a network namespace of its own, with the image and a swarm. */
async function startSwarm(
  name: string,
  begin: (options: ContenderOptions) => Promise<Contender>,
): Promise<Contender> {
  const namespace = makeNamespace(`bench-${name}-${process.pid}`);
  let engine: Contender | undefined;
  const stop = async (): Promise<void> => {
    await engine?.stop();
    namespace.remove();
  };
  try {
    engine = await begin({
      namespace: namespace.name,
      beforeStop: async (socket) => void (await request(socket, "POST", "/swarm/leave?force=1")),
    });
    const { socket } = engine;
    const command = encodeURIComponent('CMD ["/bin/sleep","1d"]');
    const target = `/images/create?fromSrc=-&repo=bench-idle&tag=1&changes=${command}`;
    await ask(socket, "POST", target, busyboxTar());
    await ask(socket, "POST", "/swarm/init", { ListenAddr: "0.0.0.0:2377", AdvertiseAddr: "10.253.0.1" });
    return { ...engine, stop };
  } catch (caught) {
    await stop();
    throw caught;
  }
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
    await until(
      `${engine.name} ${name}`,
      CONVERGENCE,
      async () => (await runningTasks(engine, name)) === count,
    );
    return (performance.now() - start) / 1000;
  };
  const one = await create(`one-${index}`, 1);
  await ask(engine.socket, "DELETE", `/services/one-${index}`);
  await until("one gone", CONVERGENCE, async () => (await containers(engine)) === 0);
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
  await until("scaled to 0", CONVERGENCE, async () => (await containers(engine)) === 0);
  const down = (performance.now() - start) / 1000;
  await ask(engine.socket, "DELETE", `/services/${name}`);
  return { one, up, down };
}

async function main(): Promise<void> {
  const { noPeer, replicas, rounds } = toolOptions(
    {
      run: "node bench/convergence.ts",
      about: "Measures how fast a service's replicas come and go, beside a Docker Swarm. Needs root.",
    },
    {
      rounds: count("rounds of all measurements", { fallback: 3 }),
      replicas: count("replicas of the service", { fallback: 100 }),
      noPeer: toggle("without Docker"),
    },
  );
  const withPeer = !noPeer && hasDocker();
  if (!withPeer) console.log("dockerd is not installed or not wanted: Shoal alone");
  const ours: Round[] = [];
  const peers: Round[] = [];
  const engines: { readonly engine: Contender; readonly into: Round[] }[] = [];
  try {
    engines.push({ engine: await startSwarm("shoal", startShoal), into: ours });
    if (withPeer) engines.push({ engine: await startSwarm("docker", startDocker), into: peers });
    for (let index = 0; index < rounds; index += 1) {
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
