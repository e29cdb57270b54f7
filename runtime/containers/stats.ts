/** Docker's stats objects from cgroup files (v1 or v2) and the container's network namespace. Reads only. */
import { readFileSync } from "node:fs";
import * as fs from "node:fs/promises";
import * as os from "node:os";
import path from "node:path";
import { rfc3339, ZERO_TIME } from "../../common/time.ts";
import type { JsonObject } from "../../model/engine.ts";
import type { Cgroups } from "./cgroups.ts";

const USER_HZ = 100;
const NS_PER_TICK = 1_000_000_000 / USER_HZ;
/** v1 shows "no limit" as a number near 2^63. */
const UNLIMITED_FROM = 2 ** 60;

export interface StatsTarget {
  readonly id: string;
  readonly name: string;
  readonly pid: number;
  readonly parent: string | undefined;
}

async function text(file: string): Promise<string> {
  return fs.readFile(file, "utf8").catch(() => "");
}

async function number(file: string): Promise<number> {
  const value = Number((await text(file)).trim());
  return Number.isFinite(value) ? value : 0;
}

/** "key value" lines. */
function parseFlat(content: string): Readonly<Record<string, number>> {
  const entries = content
    .split("\n")
    .map((line) => line.split(" "))
    .filter((words) => words.length === 2)
    .map(([key = "", value = "0"]) => [key, Number(value)] as const);
  return Object.fromEntries(entries);
}

/** CPU time of the whole machine in nanoseconds, as /proc/stat has it. */
function systemCpuNanoseconds(stat: string): number {
  const fields = (stat.split("\n")[0] ?? "").trim().split(/\s+/).slice(1, 9).map(Number);
  return fields.reduce((sum, each) => sum + each, 0) * NS_PER_TICK;
}

interface Cpu {
  readonly total: number;
  readonly user: number;
  readonly kernel: number;
  readonly perCpu: readonly number[];
  readonly periods: number;
  readonly throttledPeriods: number;
  readonly throttledTime: number;
}

async function cpuV1(folder: (controller: string) => string): Promise<Cpu> {
  const [total, perCpu, split, throttle] = await Promise.all([
    number(path.join(folder("cpuacct"), "cpuacct.usage")),
    text(path.join(folder("cpuacct"), "cpuacct.usage_percpu")),
    text(path.join(folder("cpuacct"), "cpuacct.stat")),
    text(path.join(folder("cpu"), "cpu.stat")),
  ]);
  const parts = parseFlat(split);
  const limits = parseFlat(throttle);
  return {
    total,
    user: (parts["user"] ?? 0) * NS_PER_TICK,
    kernel: (parts["system"] ?? 0) * NS_PER_TICK,
    perCpu: perCpu
      .trim()
      .split(/\s+/)
      .filter((each) => each !== "")
      .map(Number),
    periods: limits["nr_periods"] ?? 0,
    throttledPeriods: limits["nr_throttled"] ?? 0,
    throttledTime: limits["throttled_time"] ?? 0,
  };
}

async function cpuV2(folder: string): Promise<Cpu> {
  const stat = parseFlat(await text(path.join(folder, "cpu.stat")));
  return {
    total: (stat["usage_usec"] ?? 0) * 1000,
    user: (stat["user_usec"] ?? 0) * 1000,
    kernel: (stat["system_usec"] ?? 0) * 1000,
    perCpu: [],
    periods: stat["nr_periods"] ?? 0,
    throttledPeriods: stat["nr_throttled"] ?? 0,
    throttledTime: (stat["throttled_usec"] ?? 0) * 1000,
  };
}

function bounded(limit: number): number {
  const total = os.totalmem();
  return limit <= 0 || limit >= UNLIMITED_FROM ? total : Math.min(limit, total);
}

async function memoryV1(folder: string): Promise<JsonObject> {
  const [usage, max, failures, limit, stat] = await Promise.all([
    number(path.join(folder, "memory.usage_in_bytes")),
    number(path.join(folder, "memory.max_usage_in_bytes")),
    number(path.join(folder, "memory.failcnt")),
    number(path.join(folder, "memory.limit_in_bytes")),
    text(path.join(folder, "memory.stat")),
  ]);
  return { usage, max_usage: max, failcnt: failures, limit: bounded(limit), stats: parseFlat(stat) };
}

async function memoryV2(folder: string): Promise<JsonObject> {
  const [usage, limit, stat] = await Promise.all([
    number(path.join(folder, "memory.current")),
    text(path.join(folder, "memory.max")),
    text(path.join(folder, "memory.stat")),
  ]);
  const max = limit.trim() === "max" || limit === "" ? 0 : Number(limit.trim());
  return { usage, limit: bounded(max), stats: parseFlat(stat) };
}

/** "8:0 Read 4096" lines of v1. */
function parseBlkio(content: string): readonly JsonObject[] {
  return content.split("\n").flatMap((line) => {
    const match = /^(\d+):(\d+) (\w+) (\d+)$/.exec(line.trim());
    if (match === null) return [];
    const [, major, minor, op = "", value] = match;
    return [{ major: Number(major), minor: Number(minor), op: op.toLowerCase(), value: Number(value) }];
  });
}

/** "8:0 rbytes=1 wbytes=2" lines of v2. */
function parseIoStat(content: string): readonly JsonObject[] {
  return content.split("\n").flatMap((line) => {
    const [device = "", ...pairs] = line.trim().split(" ");
    const [major = "", minor = ""] = device.split(":");
    if (minor === "") return [];
    const values = new Map(pairs.map((pair) => pair.split("=") as [string, string]));
    return (["read", "write"] as const).map((op) => ({
      major: Number(major),
      minor: Number(minor),
      op,
      value: Number(values.get(op === "read" ? "rbytes" : "wbytes") ?? "0"),
    }));
  });
}

/** /proc/PID/net/dev by interface, without lo. */
export function parseNetDev(content: string): JsonObject {
  const networks: Record<string, JsonObject> = {};
  for (const line of content.split("\n").slice(2)) {
    const [name = "", rest] = line.split(":");
    if (rest === undefined || name.trim() === "lo") continue;
    const fields = rest.trim().split(/\s+/).map(Number);
    const at = (index: number): number => fields[index] ?? 0;
    networks[name.trim()] = {
      rx_bytes: at(0),
      rx_packets: at(1),
      rx_errors: at(2),
      rx_dropped: at(3),
      tx_bytes: at(8),
      tx_packets: at(9),
      tx_errors: at(10),
      tx_dropped: at(11),
    };
  }
  return networks;
}

export interface StatsSample {
  readonly read: string;
  readonly cpu: JsonObject;
  readonly rest: JsonObject;
}

export async function sampleStats(target: StatsTarget, cgroups: Cgroups): Promise<StatsSample> {
  const v1 = (controller: string): string =>
    cgroups.v1Folder(controller, target.id, target.parent) ?? "/nonexistent";
  const v2 = cgroups.v2Folder(target.id, target.parent) ?? "/nonexistent";
  const { isV2 } = cgroups;
  const [cpu, memory, io, pids, pidsMax, net] = await Promise.all([
    isV2 ? cpuV2(v2) : cpuV1(v1),
    isV2 ? memoryV2(v2) : memoryV1(v1("memory")),
    isV2
      ? text(path.join(v2, "io.stat"))
      : text(path.join(v1("blkio"), "blkio.throttle.io_service_bytes_recursive")),
    number(path.join(isV2 ? v2 : v1("pids"), "pids.current")),
    text(path.join(isV2 ? v2 : v1("pids"), "pids.max")),
    text(`/proc/${target.pid}/net/dev`),
  ]);
  // 0: none. The largest 64-bit number, as Docker has it, is none that JSON holds exactly.
  const limit = pidsMax.trim() === "max" || pidsMax === "" ? 0 : Number(pidsMax);
  return {
    read: rfc3339(Date.now()),
    cpu: {
      cpu_usage: {
        total_usage: cpu.total,
        percpu_usage: cpu.perCpu,
        usage_in_kernelmode: cpu.kernel,
        usage_in_usermode: cpu.user,
      },
      system_cpu_usage: systemCpuNanoseconds(readFileSync("/proc/stat", "utf8")),
      online_cpus: os.cpus().length,
      throttling_data: {
        periods: cpu.periods,
        throttled_periods: cpu.throttledPeriods,
        throttled_time: cpu.throttledTime,
      },
    },
    rest: {
      pids_stats: { current: pids, limit },
      blkio_stats: {
        io_service_bytes_recursive: isV2 ? parseIoStat(io) : parseBlkio(io),
        io_serviced_recursive: null,
        io_queue_recursive: null,
        io_service_time_recursive: null,
        io_wait_time_recursive: null,
        io_merged_recursive: null,
        io_time_recursive: null,
        sectors_recursive: null,
      },
      num_procs: 0,
      storage_stats: {},
      memory_stats: memory,
      networks: parseNetDev(net),
    },
  };
}

const NO_CPU: JsonObject = {
  cpu_usage: { total_usage: 0, usage_in_kernelmode: 0, usage_in_usermode: 0 },
  throttling_data: { periods: 0, throttled_periods: 0, throttled_time: 0 },
};

/** One object for the client, from this sample and the one before. */
export function statsObject(
  target: StatsTarget,
  now: StatsSample,
  before: StatsSample | undefined,
): JsonObject {
  return {
    read: now.read,
    preread: before?.read ?? ZERO_TIME,
    ...now.rest,
    cpu_stats: now.cpu,
    precpu_stats: before?.cpu ?? NO_CPU,
    name: `/${target.name}`,
    id: target.id,
  };
}

/** What a container that does not run shows. */
export function emptyStats(id: string, name: string): JsonObject {
  return {
    read: ZERO_TIME,
    preread: ZERO_TIME,
    pids_stats: {},
    blkio_stats: {},
    num_procs: 0,
    storage_stats: {},
    cpu_stats: NO_CPU,
    precpu_stats: NO_CPU,
    memory_stats: {},
    name: `/${name}`,
    id,
  };
}
