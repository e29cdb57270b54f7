/**
 * Containers side by side with runc and Docker on one machine, in turn in one run: create + start + wait + remove of `true` without
 * and with a bridge, exec, a hundred at once, memory of a hundred idle ones and of the daemon, and how late the event loop was.
 * A peer that is not installed is skipped, and it says so. Needs root.
 *
 *   node bench/runtime.ts      after `npm run build`; `--help` names its options
 */
import * as fs from "node:fs/promises";
import * as os from "node:os";
import path from "node:path";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { Readable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { must } from "../common/assert.ts";
import { silentLogger } from "../common/log.ts";
import { realEnv } from "../common/real-env.ts";
import { count, toggle, toolOptions } from "../dev/tool-options.ts";
import type { ContainerEngine } from "../model/engine.ts";
import { createEngine } from "../runtime/engine.ts";
import {
  create,
  dockerExec,
  dockerRun,
  exec,
  IMAGE,
  isInstalled,
  life,
  remove,
  runcLife,
  start,
  startEngine,
} from "./container-lives.ts";
import { ask } from "./docker-http.ts";
import { type Contender, hasDocker, memoryFolder, startDocker, startShoal } from "./contenders.ts";
import { idleCost, kernelBytes, processesWith, residentBytes } from "./idle-memory.ts";
import { median } from "./statistics.ts";
import { busyboxTar } from "./test-image.ts";

const BURST_COUNT = 100;
const BURST_ROUNDS = 3;
/**
 * Debian's dockerd 20.10 now and then never answers the wait of one of a hundred at once, though its container has ended (before it was started,
 * as its record says): it gets one try, and so long.
 */
const PEER_BURST_MS_MAX = 120_000;
/** To a question that any engine answers at once. */
const ANSWER_MS_MAX = 10_000;
const IDLE_COUNT = 100;

type Work = () => Promise<unknown>;

async function timed(work: Work): Promise<number> {
  const begin = performance.now();
  await work();
  return performance.now() - begin;
}

function milliseconds(values: readonly number[]): string {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  return `${median(values).toFixed(1)} ms (${low.toFixed(1)}-${high.toFixed(1)}, ${values.length} runs)`;
}

function report(
  what: string,
  ours: readonly number[],
  peer: { readonly name: string; readonly times: readonly number[] },
): void {
  const words =
    peer.times.length === 0
      ? `${peer.name}: not installed, or not done`
      : `${peer.name} ${milliseconds(peer.times)}   ${(median(peer.times) / median(ours)).toFixed(1)} x`;
  console.log(`${what.padEnd(36)} shoal ${milliseconds(ours)}   ${words}`);
}

/** Ours and its peers by name, in turn; each once before, not counted. */
async function compare(
  what: string,
  ours: Work,
  options: { readonly peers: Readonly<Record<string, Work | undefined>>; readonly rounds: number },
): Promise<void> {
  const own: number[] = [];
  const theirs = new Map<string, number[]>();
  const peers = Object.entries(options.peers);
  for (let round = -1; round < options.rounds; round++) {
    const time = await timed(ours);
    if (round >= 0) own.push(time);
    for (const [name, peer] of peers) {
      if (peer === undefined) continue;
      const spent = await timed(peer);
      if (round >= 0) theirs.set(name, [...(theirs.get(name) ?? []), spent]);
    }
  }
  for (const [name] of peers) report(what, own, { name, times: theirs.get(name) ?? [] });
}

/** The runtime without daemon and API, as `runc run` has none either. */
async function libraryLife(containers: ContainerEngine): Promise<void> {
  const { Id } = await containers.create({
    config: { Image: IMAGE, Cmd: ["/bin/true"] },
    hostConfig: { NetworkMode: "none" },
  });
  const ended = containers.wait(Id, "next-exit", {});
  await containers.start(Id);
  await ended;
  await containers.remove(Id, { force: true, volumes: true, link: false });
}

async function measureLibrary(root: string, rounds: number): Promise<void> {
  const leaveMemory = ["run", "runc"].map((name) => memoryFolder(path.join(root, name)));
  try {
    await measureEngine(root, rounds);
  } finally {
    for (const leave of leaveMemory) leave();
  }
}

async function measureEngine(root: string, rounds: number): Promise<void> {
  const engine = await createEngine({
    env: realEnv,
    log: silentLogger,
    dataRoot: path.join(root, "data"),
    execRoot: path.join(root, "run"),
    nativeBinary: path.resolve(import.meta.dirname, "../runtime/native/build/shoal-runtime"),
  });
  await engine.start();
  try {
    const [repo = "", tag = ""] = IMAGE.split(":");
    const tar = Readable.from([busyboxTar()]);
    for await (const line of engine.images.import(tar, { repo, tag, changes: [] })) must(line, "a line");
    const ours = (): Promise<void> => libraryLife(engine.containers);
    await compare("life of true, the runtime alone", ours, {
      peers: { "runc run": await runcLife(root) },
      rounds,
    });
    const delay = monitorEventLoopDelay({ resolution: 1 });
    delay.enable();
    const bursts: number[] = [];
    for (let round = 0; round < BURST_ROUNDS; round++)
      bursts.push(await timed(() => Promise.all(Array.from({ length: BURST_COUNT }, ours))));
    delay.disable();
    // The histogram counts from the timer's own period of one millisecond.
    const late = (nanoseconds: number): string => (nanoseconds / 1e6 - 1).toFixed(1);
    console.log(
      `${`${BURST_COUNT} lives at once, the runtime alone`.padEnd(36)} shoal ${milliseconds(bursts)}   ` +
        `event loop late by at most ${late(delay.max)} ms, 99 of 100 turns by ${late(delay.percentile(99))} ms`,
    );
  } finally {
    await engine.stop();
  }
}

/** Number of lives that have come to their end after `limitMs`; all of them, as a rule, and then it is over at once. */
async function burst(socket: string, limitMs: number): Promise<number> {
  let doneCount = 0;
  const lives = Array.from({ length: BURST_COUNT }, async () => {
    await life(socket, "none");
    doneCount += 1;
  });
  const over = new AbortController();
  try {
    await Promise.race([Promise.all(lives), sleep(limitMs, undefined, { signal: over.signal })]);
  } finally {
    over.abort();
    // Those that are still under way end with their engine.
    for (const each of lives) each.catch(() => undefined);
  }
  return doneCount;
}

/** How many containers there are of each state, in the engine's words. */
async function statesOf(socket: string): Promise<string> {
  const all = (await ask(socket, "GET", "/containers/json?all=true")) as readonly {
    readonly State: string;
  }[];
  const states = [...new Set(all.map(({ State }) => State))];
  return states.map((state) => `${all.filter(({ State }) => State === state).length} ${state}`).join(", ");
}

async function timedBurst(name: string, socket: string, limitMs: number): Promise<number[]> {
  let doneCount = 0;
  const time = await timed(async () => (doneCount = await burst(socket, limitMs)));
  if (doneCount === BURST_COUNT) return [time];
  const states = await Promise.race([statesOf(socket), sleep(ANSWER_MS_MAX, "no answer", { ref: false })]);
  console.log(
    `${BURST_COUNT} lives at once, API: ${name} not done in ${limitMs / 1000} s, ${doneCount} lives were; it has then: ${states}`,
  );
  return [];
}

/** False: the peer still has some of it before it. */
async function measureBursts(ours: string, docker: string | undefined): Promise<boolean> {
  const own: number[] = [];
  for (let round = 0; round < BURST_ROUNDS; round++)
    own.push(...(await timedBurst("shoal", ours, PEER_BURST_MS_MAX)));
  const theirs = docker === undefined ? [] : await timedBurst("docker", docker, PEER_BURST_MS_MAX);
  report(`${BURST_COUNT} lives at once, API`, own, { name: "docker API", times: theirs });
  return docker === undefined || theirs.length > 0;
}

async function measureExec(ours: string, docker: string | undefined, rounds: number): Promise<void> {
  const sleeper = async (socket: string): Promise<string> => {
    const id = await create(socket, ["/bin/sleep", "1000"]);
    await start(socket, id);
    return id;
  };
  const id = await sleeper(ours);
  const peer = docker === undefined ? undefined : { socket: docker, id: await sleeper(docker) };
  const viaApi = peer && ((): Promise<void> => exec(peer.socket, peer.id));
  const viaCommand =
    peer && isInstalled("docker") ? (): Promise<unknown> => dockerExec(peer.socket, peer.id) : undefined;
  await compare("exec of true, API", () => exec(ours, id), {
    peers: { "docker API": viaApi, "docker exec": viaCommand },
    rounds,
  });
  await remove(ours, id);
  if (peer !== undefined) await remove(peer.socket, peer.id);
}

async function measureLives(ours: string, docker: string | undefined, rounds: number): Promise<void> {
  const hasCommand = isInstalled("docker");
  for (const network of ["none", "bridge"] as const) {
    const viaApi = docker === undefined ? undefined : (): Promise<void> => life(docker, network);
    const viaCommand =
      docker !== undefined && hasCommand ? (): Promise<unknown> => dockerRun(docker, network) : undefined;
    await compare(`life of true, API, network ${network}`, () => life(ours, network), {
      peers: { "docker API": viaApi, "docker run": viaCommand },
      rounds,
    });
  }
}

async function measureIdle(engine: Contender): Promise<void> {
  const folder = path.dirname(engine.socket);
  const before = processesWith(folder, []);
  const kernelBefore = await kernelBytes();
  for (let index = 0; index < IDLE_COUNT; index++)
    await start(engine.socket, await create(engine.socket, ["/bin/sleep", "1000"]));
  const kernelAfter = await kernelBytes();
  const cost = idleCost(processesWith(folder, before), {
    count: IDLE_COUNT,
    kernelBytes: kernelAfter - kernelBefore,
  });
  const megabytes = (bytes: number): string => (bytes / 1024 / 1024).toFixed(3);
  console.log(
    `${`${IDLE_COUNT} idle containers`.padEnd(36)} ${engine.name}: ${megabytes(cost.totalBytes)} MB each beyond its own process ` +
      `(watching it ${megabytes(cost.privateBytes)} private, ${megabytes(cost.residentBytes)} resident; kernel ${megabytes(cost.kernelBytes)})`,
  );
  const daemons = before.map(residentBytes).filter((bytes) => bytes > 1024 * 1024);
  const sum = daemons.reduce((total, bytes) => total + bytes, 0);
  console.log(`${"the daemon itself".padEnd(36)} ${engine.name}: ${megabytes(sum)} MB resident`);
}

async function main(): Promise<void> {
  const { noPeer, rounds } = toolOptions(
    {
      run: "node bench/runtime.ts",
      about: "Measures containers' lives, exec, bursts and idle cost, beside runc and Docker. Needs root.",
    },
    {
      rounds: count("rounds of each measurement", { fallback: 20 }),
      noPeer: toggle("without Docker"),
    },
  );
  const root = await fs.mkdtemp(path.join(os.tmpdir(), "shoal-bench-runtime-"));
  console.log(`load ${os.loadavg()[0]?.toFixed(1)} on ${os.cpus().length} CPUs, ${rounds} rounds`);
  const withPeer = !noPeer && hasDocker();
  if (!withPeer) console.log("dockerd is not installed or not wanted");
  const engines: Contender[] = [];
  try {
    await measureLibrary(root, rounds);
    const ours = await startEngine("shoal", startShoal);
    engines.push(ours);
    const docker = withPeer ? await startEngine("docker", startDocker) : undefined;
    if (docker !== undefined) engines.push(docker);
    await measureLives(ours.socket, docker?.socket, rounds);
    await measureExec(ours.socket, docker?.socket, rounds);
    const isPeerFine = await measureBursts(ours.socket, docker?.socket);
    for (const engine of engines) if (engine === ours || isPeerFine) await measureIdle(engine);
  } finally {
    for (const engine of engines) await engine.stop();
    await fs.rm(root, { recursive: true, force: true });
  }
}

await main();
