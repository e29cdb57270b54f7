/**
 * Containers side by side with runc and Docker on one machine, in turn: create + start + wait + remove of `true`, exec, a hundred at once,
 * memory of a hundred idle ones. `node bench/runtime.ts [rounds]` as root, after `npm run build`. A peer that is not installed is
 * skipped, and it says so.
 */
import { execFile, execFileSync } from "node:child_process";
import { createReadStream, existsSync } from "node:fs";
import * as fs from "node:fs/promises";
import * as os from "node:os";
import path from "node:path";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { promisify } from "node:util";
import { must } from "../common/assert.ts";
import { silentLogger } from "../common/log.ts";
import { realEnv } from "../common/real-env.ts";
import type { ContainerEngine } from "../model/engine.ts";
import { createEngine } from "../runtime/engine.ts";
import { median } from "./statistics.ts";

const run = promisify(execFile);
const BURST_COUNT = 100;
const IDLE_COUNT = 100;
const BUSYBOX = ["/bin/busybox", "/usr/bin/busybox"].find((file) => existsSync(file)) ?? "/bin/busybox";

async function makeTree(root: string): Promise<string> {
  const tree = path.join(root, "tree");
  for (const name of ["bin", "etc", "proc", "sys", "dev", "tmp"])
    await fs.mkdir(path.join(tree, name), { recursive: true });
  await fs.copyFile(BUSYBOX, path.join(tree, "bin/busybox"));
  await fs.chmod(path.join(tree, "bin/busybox"), 0o755);
  for (const name of ["true", "sh", "sleep"]) await fs.symlink("busybox", path.join(tree, "bin", name));
  execFileSync("tar", ["-C", tree, "-cf", path.join(root, "tree.tar"), "."]);
  return tree;
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await work();
  return performance.now() - start;
}

class Ours {
  readonly #containers: ContainerEngine;

  constructor(containers: ContainerEngine) {
    this.#containers = containers;
  }

  async create(command: readonly string[]): Promise<string> {
    const { Id } = await this.#containers.create({
      config: { Image: "bench:1", Cmd: command },
      hostConfig: { NetworkMode: "none" },
    });
    return Id;
  }

  async whole(): Promise<void> {
    const id = await this.create(["/bin/true"]);
    const ended = this.#containers.wait(id, "next-exit", {});
    await this.#containers.start(id);
    await ended;
    await this.remove(id);
  }

  remove(id: string): Promise<void> {
    return this.#containers.remove(id, { force: true, volumes: true, link: false });
  }

  start(id: string): Promise<boolean> {
    return this.#containers.start(id);
  }

  async exec(id: string): Promise<void> {
    const { Id } = await this.#containers.createExec(id, { Cmd: ["/bin/true"], AttachStdout: true });
    const streams = must(await this.#containers.startExec(Id, { detach: false, tty: false }), "attached");
    for await (const chunk of streams.output) must(chunk.data, "a chunk has data");
  }
}

type Peer = (() => Promise<unknown>) | undefined;

/** `runc run` of the same tree: its bundle is made once. */
async function runcPeer(root: string, tree: string): Promise<Peer> {
  if (!existsSync("/usr/sbin/runc") && !existsSync("/usr/bin/runc")) return undefined;
  const bundle = path.join(root, "bundle");
  await fs.mkdir(bundle);
  await run("runc", ["spec"], { cwd: bundle });
  const file = path.join(bundle, "config.json");
  const config = JSON.parse(await fs.readFile(file, "utf8")) as {
    process: { terminal: boolean; args: string[] };
    root: { path: string };
  };
  config.process.terminal = false;
  config.process.args = ["/bin/true"];
  config.root.path = tree;
  await fs.writeFile(file, JSON.stringify(config));
  let count = 0;
  return () =>
    run("runc", [
      "--root",
      path.join(root, "runc"),
      "run",
      "--bundle",
      bundle,
      `shoal-bench-${process.pid}-${count++}`,
    ]);
}

/** A real Docker engine: ours answers on other sockets. */
async function dockerPeer(root: string): Promise<Peer> {
  const host = process.env["BENCH_DOCKER_HOST"] ?? "unix:///var/run/docker.sock";
  const docker = (...args: string[]): Promise<unknown> => run("docker", ["-H", host, ...args]);
  try {
    await docker("import", path.join(root, "tree.tar"), "shoal-bench:1");
  } catch {
    return undefined;
  }
  return () => docker("run", "--rm", "--network", "none", "shoal-bench:1", "/bin/true");
}

function report(name: string, ours: readonly number[], peer: readonly number[] | undefined): void {
  const own = median(ours);
  const least = Math.min(...ours);
  const peerText =
    peer === undefined
      ? "not installed"
      : `${median(peer).toFixed(1)} ms, ${(median(peer) / own).toFixed(1)} x`;
  console.log(`${name.padEnd(34)} min ${least.toFixed(1)} median ${own.toFixed(1)} ms | ${peerText}`);
}

/** Pages that are this process's alone: resident ones that no other maps. */
async function privateBytes(pid: string): Promise<number> {
  const text = await fs.readFile(`/proc/${pid}/smaps_rollup`, "utf8").catch(() => "");
  const kilobytes = [...text.matchAll(/^Private_\w+:\s+(\d+) kB$/gm)].map((match) => Number(match[1]));
  return kilobytes.reduce((sum, each) => sum + each, 0) * 1024;
}

async function monitorMemory(execRoot: string): Promise<{ readonly count: number; readonly bytes: number }> {
  let count = 0;
  let bytes = 0;
  for (const pid of (await fs.readdir("/proc")).filter((name) => /^\d+$/.test(name))) {
    const line = await fs.readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "");
    const name = await fs.readFile(`/proc/${pid}/comm`, "utf8").catch(() => "");
    if (!line.includes(execRoot) || !/^shoal-[0-9a-f]{8}/.test(name)) continue;
    count++;
    bytes += await privateBytes(pid);
  }
  return { count, bytes };
}

async function measureIdle(ours: Ours, execRoot: string): Promise<void> {
  const free = async (): Promise<number> =>
    Number(/MemAvailable:\s+(\d+)/.exec(await fs.readFile("/proc/meminfo", "utf8"))?.[1]);
  const before = await free();
  const ids: string[] = [];
  for (let i = 0; i < IDLE_COUNT; i++) {
    const id = await ours.create(["/bin/sleep", "1000"]);
    await ours.start(id);
    ids.push(id);
  }
  const { count, bytes } = await monitorMemory(execRoot);
  const machine = (before - (await free())) / 1024 / IDLE_COUNT;
  console.log(
    `${`${IDLE_COUNT} idle containers`.padEnd(34)} ${(bytes / count / 1024).toFixed(0)} kB private per monitor (${count}), ` +
      `${machine.toFixed(2)} MB of the machine each, their own processes included`,
  );
  for (const id of ids) await ours.remove(id);
}

async function compare(ours: Ours, peers: Readonly<Record<string, Peer>>, rounds: number): Promise<void> {
  const own: number[] = [];
  const theirs = new Map<string, number[]>();
  await ours.whole();
  for (let round = 0; round < rounds; round++) {
    own.push(await timed(() => ours.whole()));
    for (const [name, peer] of Object.entries(peers)) {
      if (peer === undefined) continue;
      theirs.set(name, [...(theirs.get(name) ?? []), await timed(peer)]);
    }
  }
  for (const name of Object.keys(peers)) report(`whole life of true, against ${name}`, own, theirs.get(name));
}

async function main(): Promise<void> {
  const rounds = Number(process.argv[2] ?? "20");
  const root = await fs.mkdtemp(path.join(os.tmpdir(), "shoal-bench-runtime-"));
  const tree = await makeTree(root);
  const engine = await createEngine({
    env: realEnv,
    log: silentLogger,
    dataRoot: path.join(root, "data"),
    execRoot: path.join(root, "run"),
    nativeBinary: path.resolve(import.meta.dirname, "../runtime/native/build/shoal-runtime"),
  });
  await engine.start();
  try {
    const tar = createReadStream(path.join(root, "tree.tar"));
    for await (const line of engine.images.import(tar, { repo: "bench", tag: "1", changes: [] }))
      must(line, "a line");
    const ours = new Ours(engine.containers);
    console.log(`load ${os.loadavg()[0]?.toFixed(1)} on ${os.cpus().length} CPUs, ${rounds} rounds`);
    await compare(
      ours,
      { "runc run": await runcPeer(root, tree), "docker run": await dockerPeer(root) },
      rounds,
    );
    const id = await ours.create(["/bin/sleep", "1000"]);
    await ours.start(id);
    const execs: number[] = [];
    for (let round = 0; round < rounds; round++) execs.push(await timed(() => ours.exec(id)));
    report("exec of true", execs, undefined);
    await ours.remove(id);
    const delay = monitorEventLoopDelay({ resolution: 1 });
    delay.enable();
    const burst = await timed(() => Promise.all(Array.from({ length: BURST_COUNT }, () => ours.whole())));
    delay.disable();
    console.log(
      `${`${BURST_COUNT} at once`.padEnd(34)} ${burst.toFixed(0)} ms, event loop late by at most ${(delay.max / 1e6).toFixed(1)} ms`,
    );
    await measureIdle(ours, path.join(root, "run"));
  } finally {
    for (const { id } of engine.containers.summaries({})) {
      await engine.containers.remove(id, { force: true, volumes: true, link: false });
    }
    await engine.stop();
    await fs.rm(root, { recursive: true, force: true });
  }
}

await main();
