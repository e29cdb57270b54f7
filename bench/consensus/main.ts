/**
 * `npm run bench:consensus`, or a slice of it: our consensus beside etcd, in turn in one run (A B A B), through the same C
 * client (h2load), on the same disk, TLS off on both. Prints medians, best rounds and ratios, also per processor second of
 * the three servers. Skips etcd when it isn't installed, saying so.
 *
 * The whole takes a quarter of an hour. In slices, with what each takes:
 *   --only puts --clients 1 (or 64, or 256) [--rounds 6 --seconds 3]    60 s
 *   --only txn --callers 1 (or 16)                                      60 s
 *   --only reads                                                        60 s
 *   --only failover --blows "planned stop" (or SIGSTOP, "kill -9") [--failovers 20]    2 to 4 minutes
 *   --only inside, store, restart, snapshot (ours alone: add --peer no)    under 60 s each
 *   --only calm --minutes 10                                            elections while both cores are busy
 * Before anything is measured both systems take puts of 64 clients for --warm-up seconds.
 */
import { execFile, spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import * as http2 from "node:http2";
import os from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { choice, choices, count, counts, quantity, text, toolOptions } from "../../dev/tool-options.ts";
import { median } from "../statistics.ts";
import { Etcd, type MemberStatus, Ours, type System } from "./systems.ts";
import { frame, putRequest, rangeRequest, txnRequest } from "./wire.ts";

const run = promisify(execFile);
const KV_PATH = "/etcdserverpb.KV/";
const VALUE_BYTES = 256;
const OURS_PORT = 23_100;
const ETCD_PORT = 23_200;
const STORE_PORT = 23_300;
const FAILOVER_LIMIT_MS = 15_000;

interface Load {
  readonly name: string;
  readonly path: string;
  readonly body: Buffer;
  readonly clients: number;
  /** Puts that one request stands for. */
  readonly weight: number;
}

interface Sample {
  readonly rate: number;
  readonly perCpuSecond: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

const PARTS = ["puts", "txn", "reads", "inside", "store", "failover", "restart", "snapshot", "calm"] as const;
const BLOWS = ["kill -9", "SIGSTOP", "planned stop"] as const;
type Blow = (typeof BLOWS)[number];

const options = toolOptions(
  {
    run: "npm run bench:consensus --",
    about: "Measures our consensus beside etcd, through the same client, on the same disk.",
  },
  {
    only: choices("what is measured", { names: PARTS, fallback: PARTS.filter((part) => part !== "calm") }),
    rounds: count("rounds of each load", { fallback: 6 }),
    seconds: count("seconds that a load lasts", { fallback: 3 }),
    clients: counts("clients of single puts", { fallback: [1, 64, 256] }),
    callers: counts("clients of batches of puts", { fallback: [1, 16] }),
    warmUp: quantity("of puts before anything is measured", { unit: "seconds", fallback: 3 }),
    failovers: count("failovers of each kind", { fallback: 20 }),
    blows: choices("what befalls the leader", { names: BLOWS, fallback: BLOWS }),
    minutes: quantity("that elections are counted with --only calm", { unit: "minutes", fallback: 10 }),
    peer: choice("whether etcd is measured too", { names: ["yes", "no"], fallback: "yes" }),
    syncDelay: quantity("added to each synced write of ours; etcd, whose disk can't be slowed, is left out", {
      unit: "milliseconds",
      fallback: 0,
    }),
    profile: text("for processor profiles of our servers, one per load and member", {
      placeholder: "<folder>",
      fallback: undefined,
    }),
    folder: text("for the data of both", {
      placeholder: "<folder>",
      fallback: `${os.tmpdir()}/shoal-bench-consensus`,
    }),
  },
);
const { folder, rounds, syncDelay: diskDelayMs } = options;
const SECONDS = options.seconds;
const parts = new Set(options.only);

function isInstalled(command: string): boolean {
  return spawnSync("sh", ["-c", `command -v ${command}`]).status === 0;
}

function put(key: string): Buffer {
  return putRequest(key, Buffer.alloc(VALUE_BYTES, 7));
}

function puts(clients: number): Load {
  return { name: `put, ${clients} clients`, path: `${KV_PATH}Put`, body: put("key"), clients, weight: 1 };
}

function loads(): readonly Load[] {
  const chosen: Load[] = [];
  if (parts.has("puts")) {
    for (const clients of options.clients) chosen.push(puts(clients));
  }
  if (parts.has("txn")) {
    const body = txnRequest(Array.from({ length: 64 }, (_, at) => put(`key-${at}`)));
    for (const clients of options.callers) {
      chosen.push({
        name: `64 puts per call, ${clients} callers`,
        path: `${KV_PATH}Txn`,
        body,
        clients,
        weight: 64,
      });
    }
  }
  if (parts.has("reads")) {
    chosen.push({
      name: "linearizable read, 64 clients",
      path: `${KV_PATH}Range`,
      body: rangeRequest("key"),
      clients: 64,
      weight: 1,
    });
  }
  return chosen;
}

/** h2load's log has one line per request: start, status, microseconds. */
function latencies(file: string): readonly number[] {
  const lines = readFileSync(file, "utf8").trim().split("\n");
  return lines.map((line) => Number(line.split("\t")[2]) / 1000).sort((a, b) => a - b);
}

function profile(system: System, name: string, folder: string): readonly Promise<unknown>[] {
  if (!(system instanceof Ours)) return [];
  mkdirSync(folder, { recursive: true });
  const stem = `${folder}/${name.replaceAll(/[^a-z0-9]+/g, "-")}`;
  return system.children.map(async (child) => {
    const { isLeader } = await system.status(child);
    const file = `${stem}-${isLeader ? "leader" : child.port}.cpuprofile`;
    await child.ask({ kind: "profile", seconds: SECONDS, file });
  });
}

async function measure(system: System, load: Load, seconds = SECONDS): Promise<Sample> {
  const port = await system.leaderPort();
  const body = `${folder}/body`;
  const log = `${folder}/log`;
  writeFileSync(body, frame(load.body));
  rmSync(log, { force: true });
  const cpuBefore = system.cpuSeconds();
  const url = `http://127.0.0.1:${port}${load.path}`;
  const headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"];
  const flags = [
    "-t1",
    `-c${load.clients}`,
    "-m1",
    `-D${seconds}`,
    "--warm-up-time=1s",
    `--log-file=${log}`,
    "-d",
    body,
  ];
  const profiles = options.profile === undefined ? [] : profile(system, load.name, options.profile);
  const { stdout } = await run("h2load", [...flags, ...headers, url], { maxBuffer: 1e8 });
  await Promise.all(profiles);
  const cpu = (system.cpuSeconds() - cpuBefore) * (seconds / (seconds + 1));
  const found = /finished in .*?, ([\d.]+) req\/s/.exec(stdout);
  const failed = /(\d+) failed, (\d+) errored/.exec(stdout);
  if (found === null || Number(failed?.[1]) + Number(failed?.[2]) > 0) throw new Error(stdout.slice(0, 600));
  const rate = Number(found[1]) * load.weight;
  const times = latencies(log);
  const at = (share: number): number => times[Math.floor(times.length * share)] ?? Number.NaN;
  return { rate, perCpuSecond: (rate * seconds) / cpu, p50Ms: at(0.5), p99Ms: at(0.99) };
}

function print(name: string, ours: readonly Sample[], peer: readonly Sample[]): void {
  const row = (samples: readonly Sample[], pick: (each: Sample) => number, best: "max" | "min"): string => {
    const all = samples.map(pick);
    const top = best === "max" ? Math.max(...all) : Math.min(...all);
    return `${format(median(all))} [${format(top)}]`;
  };
  const columns: readonly (readonly [string, (each: Sample) => number, "max" | "min"])[] = [
    ["rate/s", (each) => each.rate, "max"],
    ["per CPU-s", (each) => each.perCpuSecond, "max"],
    ["p50 ms", (each) => each.p50Ms, "min"],
    ["p99 ms", (each) => each.p99Ms, "min"],
  ];
  console.log(`\n${name}`);
  for (const [what, pick, best] of columns) {
    const ratio =
      peer.length === 0 ? "" : `ratio ${(median(ours.map(pick)) / median(peer.map(pick))).toFixed(2)}`;
    const other = peer.length === 0 ? "" : `etcd ${row(peer, pick, best)}`;
    console.log(
      `  ${what.padEnd(10)} shoal ${row(ours, pick, best).padEnd(22)} ${other.padEnd(28)} ${ratio}`,
    );
  }
}

function format(value: number): string {
  return value >= 100 ? Math.round(value).toString() : value.toFixed(2);
}

/** One put on a fresh connection; resolves with whether it was accepted. */
function tryPut(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const session = http2.connect(`http://127.0.0.1:${port}`);
    const end = (accepted: boolean): void => {
      clearTimeout(timer);
      session.destroy();
      resolve(accepted);
    };
    const timer = setTimeout(() => end(false), 250);
    session.on("error", () => end(false));
    const headers = {
      ":method": "POST",
      ":path": `${KV_PATH}Put`,
      "content-type": "application/grpc",
      te: "trailers",
    };
    const stream = session.request(headers);
    let status = "";
    stream.on("response", (answered) => {
      status = String(answered["grpc-status"] ?? status);
    });
    stream.on("trailers", (trailers) => {
      status = String(trailers["grpc-status"] ?? "");
    });
    stream.on("data", () => undefined);
    stream.on("error", () => end(false));
    stream.on("end", () => setImmediate(() => end(status === "0")));
    stream.end(frame(put("failover")));
  });
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

/** From the blow to the leader until some other member accepts a put. */
async function failover(system: System, blow: Blow): Promise<number> {
  const port = await system.leaderPort();
  await sleep(1_000);
  const pid = system.pidOf(port);
  const others = system.clientPorts.filter((each) => each !== port);
  const began = performance.now();
  if (blow === "planned stop") await system.stopLeader();
  else process.kill(pid, blow === "kill -9" ? "SIGKILL" : "SIGSTOP");
  let took = Number.NaN;
  while (Number.isNaN(took) && performance.now() - began < FAILOVER_LIMIT_MS) {
    const accepted = await Promise.all(others.map((each) => tryPut(each)));
    if (accepted.includes(true)) took = performance.now() - began;
    else await sleep(2);
  }
  if (blow === "SIGSTOP") process.kill(pid, "SIGCONT");
  else while (isAlive(pid)) await sleep(10);
  await system.restart();
  return took;
}

async function failovers(systems: readonly System[]): Promise<void> {
  for (const blow of options.blows) {
    const taken = new Map<string, number[]>(systems.map((system) => [system.name, []]));
    for (let count = 0; count < options.failovers; count += 1) {
      for (const system of systems) taken.get(system.name)?.push(await failover(system, blow));
    }
    console.log(`\nleader: ${blow} -> next accepted put, ms (min / median / max of ${options.failovers})`);
    for (const [name, all] of taken) {
      const text = [Math.min(...all), median(all), Math.max(...all)]
        .map((each) => Math.round(each))
        .join(" / ");
      console.log(`  ${name.padEnd(8)} ${text}`);
    }
  }
}

interface InsideResult {
  readonly rate: number;
  readonly p50: number;
  readonly p99: number;
}

async function repeated(name: string, ask: () => Promise<unknown>): Promise<void> {
  const all: InsideResult[] = [];
  for (let round = 0; round < Math.min(rounds, 3); round += 1) all.push((await ask()) as InsideResult);
  const middle = (pick: (each: InsideResult) => number): string => format(median(all.map(pick)));
  const tail = `p50 ${middle((each) => each.p50)} ms, p99 ${middle((each) => each.p99)} ms`;
  console.log(`  ${name}: ${middle((each) => each.rate)} changes/s, ${tail}`);
}

async function inside(ours: Ours): Promise<void> {
  console.log("\nproposed inside the leader, one object each, three members");
  for (const inflight of [1, 64, 1024]) {
    await repeated(`${inflight} in flight`, async () =>
      (await ours.leader()).ask({ kind: "inside", inflight, seconds: SECONDS, valueBytes: VALUE_BYTES }),
    );
  }
}

async function store(): Promise<void> {
  console.log("\nstore transactions inside the leader, one object of 10,000 each, three members");
  const ours = await Ours.start(`${folder}/store`, STORE_PORT, { diskDelayMs, state: "store" });
  try {
    for (const inflight of [1, 64, 1024, 0]) {
      const name = inflight === 0 ? "batches of 10,000" : `${inflight} in flight`;
      await repeated(name, async () =>
        (await ours.leader()).ask({ kind: "store", inflight, seconds: SECONDS, valueBytes: VALUE_BYTES }),
      );
    }
  } finally {
    ours.stop();
  }
}

/** Kills a follower; the returned function starts it again and resolves with how long it took to hold what the leader held. */
async function killFollower(ours: Ours): Promise<() => Promise<{ tookMs: number; status: MemberStatus }>> {
  const leader = await ours.leader();
  const follower = ours.children.find((child) => child !== leader);
  if (follower === undefined) throw new Error("a cluster of three has followers");
  follower.process.kill("SIGKILL");
  await sleep(200);
  return async () => {
    const beganMs = performance.now();
    await ours.restart();
    const target = (await ours.status(await ours.leader())).appliedIndex;
    const again = ours.children.find((child) => child.port === follower.port);
    if (again === undefined) throw new Error("the follower was started again");
    let status = await ours.status(again);
    while (status.appliedIndex < target) {
      await sleep(5);
      status = await ours.status(again);
    }
    return { tookMs: Math.round(performance.now() - beganMs), status };
  };
}

function fill(ours: Ours): Promise<unknown> {
  return ours
    .leader()
    .then((leader) => leader.ask({ kind: "fill", count: 100_000, valueBytes: VALUE_BYTES }));
}

async function restart(ours: Ours): Promise<void> {
  await fill(ours);
  await sleep(3_000);
  const { tookMs, status } = await (await killFollower(ours))();
  console.log(
    `\nrestart with 100,000 objects: caught up after ${tookMs} ms (state loaded in ${Math.round(status.bootMs)} ms)`,
  );
  console.log(`  ${status.keys} keys, ${(status.rssBytes / 1e6).toFixed(0)} MB resident`);
}

/** A follower that missed 100,000 entries needs the whole state, which the leader sends while it serves puts. */
async function snapshot(ours: Ours): Promise<void> {
  const load = puts(64);
  const bringBack = await killFollower(ours);
  await fill(ours);
  await sleep(3_000);
  const before = await measure(ours, load);
  const [during, { tookMs, status }] = await Promise.all([measure(ours, load), sleep(1_000).then(bringBack)]);
  console.log(`\nsnapshot of ${status.keys} objects while 64 clients put, two members, then three`);
  console.log(
    `  without: ${format(before.rate)}/s, p50 ${format(before.p50Ms)} ms, p99 ${format(before.p99Ms)} ms`,
  );
  console.log(
    `  during:  ${format(during.rate)}/s, p50 ${format(during.p50Ms)} ms, p99 ${format(during.p99Ms)} ms`,
  );
  console.log(`  follower started, sent the state and caught up after ${tookMs} ms`);
}

/** Elections while nothing fails and both cores are busy with puts of 256 clients. There must be none. */
async function calm(ours: Ours): Promise<void> {
  const term = async (): Promise<number> => (await ours.status(await ours.leader())).term;
  const before = await term();
  const endMs = performance.now() + options.minutes * 60_000;
  const load = puts(256);
  const rates: number[] = [];
  while (performance.now() < endMs) rates.push((await measure(ours, load)).rate);
  console.log(`\n${options.minutes} minutes of puts by 256 clients, ${format(median(rates))}/s`);
  console.log(`  elections: ${(await term()) - before}, load ${os.loadavg()[1]?.toFixed(1)}`);
}

async function main(): Promise<void> {
  if (!isInstalled("h2load")) {
    console.log("h2load is not installed (Debian: nghttp2-client): nothing to measure with");
    return;
  }
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const ours = await Ours.start(`${folder}/shoal`, OURS_PORT, { diskDelayMs, state: "map" });
  const isPeerWanted = options.peer === "yes" && diskDelayMs === 0;
  const etcd =
    isPeerWanted && isInstalled("etcd") ? await Etcd.start(`${folder}/etcd`, ETCD_PORT) : undefined;
  if (etcd === undefined) {
    const why = isPeerWanted ? "etcd is not installed (Debian: etcd-server)" : "without etcd, as asked";
    console.log(`${why}: no comparison`);
  }
  const systems: readonly System[] = etcd === undefined ? [ours] : [ours, etcd];
  try {
    const cpu = os.cpus()[0]?.model ?? "?";
    console.log(
      `${new Date().toISOString().slice(0, 16)}, ${os.cpus().length} x ${cpu}, load ${os.loadavg()[0]?.toFixed(1)}`,
    );
    if (diskDelayMs > 0) console.log(`${diskDelayMs} ms added to each synced write`);
    console.log(
      `${rounds} rounds of ${SECONDS} s in turn, medians [best], values ${VALUE_BYTES} bytes, no TLS`,
    );
    if (options.warmUp > 0) for (const system of systems) await measure(system, puts(64), options.warmUp);
    for (const load of loads()) {
      const samples = new Map<string, Sample[]>(systems.map((system) => [system.name, []]));
      for (let round = 0; round < rounds; round += 1) {
        for (const system of systems) samples.get(system.name)?.push(await measure(system, load));
      }
      print(load.name, samples.get("shoal") ?? [], samples.get("etcd") ?? []);
    }
    if (parts.has("inside")) await inside(ours);
    if (parts.has("store")) await store();
    if (parts.has("failover")) await failovers(systems);
    if (parts.has("restart")) await restart(ours);
    if (parts.has("snapshot")) await snapshot(ours);
    if (parts.has("calm")) await calm(ours);
  } finally {
    for (const system of systems) system.stop();
    rmSync(folder, { recursive: true, force: true });
  }
}

await main();
