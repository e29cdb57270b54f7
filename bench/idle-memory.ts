/**
 * What idle containers cost beyond their own processes: memory of the programs that watch them, and of the kernel's
 * objects (cgroups, namespaces, mounts, stacks, page tables), read from /proc.
 */
import { readdirSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

const KERNEL_FIELDS = ["SReclaimable", "SUnreclaim", "Percpu", "KernelStack", "PageTables"] as const;
/** Stack and task structures of a process in the kernel, which belong to the container's own process. */
const PROCESS_KERNEL_BYTES = 32 * 1024;
/** The kernel sets free in its own time what the containers before have left. */
const SETTLE_MS = 2_000;

function field(text: string, name: string): number {
  return Number(new RegExp(`^${name}:\\s+(\\d+)`, "m").exec(text)?.[1] ?? "0") * 1024;
}

function read(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return "";
  }
}

/** Bytes of the kernel's own objects, all of the machine. */
export async function kernelBytes(): Promise<number> {
  await sleep(SETTLE_MS);
  const text = read("/proc/meminfo");
  return KERNEL_FIELDS.reduce((sum, name) => sum + field(text, name), 0);
}

export function residentBytes(pid: number): number {
  return field(read(`/proc/${pid}/status`), "VmRSS");
}

/** Pages of a process that no other has. */
function privateBytes(pid: number): number {
  const text = read(`/proc/${pid}/smaps_rollup`);
  return field(text, "Private_Clean") + field(text, "Private_Dirty");
}

function children(pid: number): readonly number[] {
  return read(`/proc/${pid}/task/${pid}/children`)
    .split(" ")
    .filter((word) => word.trim() !== "")
    .map(Number);
}

/** Processes whose command line has one of `marks` and isn't `except`. */
export function processesWith(mark: string, except: readonly number[]): readonly number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name) && read(`/proc/${name}/cmdline`).includes(mark))
    .map(Number)
    .filter((pid) => !except.includes(pid));
}

export interface IdleCost {
  /** Of the programs that watch, in bytes for each container: private pages, and resident ones. */
  readonly privateBytes: number;
  readonly residentBytes: number;
  /** Of the kernel, in bytes for each container, without those of its own process. */
  readonly kernelBytes: number;
  /** Private, and the kernel's. */
  readonly totalBytes: number;
}

/** `watchers`: processes that exist because containers do; their children that aren't among them are the containers' own. */
export function idleCost(
  watchers: readonly number[],
  options: { readonly count: number; readonly kernelBytes: number },
): IdleCost {
  const { count } = options;
  const own = watchers.flatMap(children).filter((pid) => !watchers.includes(pid));
  const tables = own.reduce((sum, pid) => sum + field(read(`/proc/${pid}/status`), "VmPTE"), 0);
  const each = (bytes: (pid: number) => number): number =>
    watchers.reduce((sum, pid) => sum + bytes(pid), 0) / count;
  const kernel = (options.kernelBytes - tables) / count - PROCESS_KERNEL_BYTES;
  const privatePart = each(privateBytes);
  return {
    privateBytes: privatePart,
    residentBytes: each(residentBytes),
    kernelBytes: kernel,
    totalBytes: privatePart + kernel,
  };
}
