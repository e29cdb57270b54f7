/**
 * Finds and ends the processes of one dev host. They are known by the network namespace they live in, never by name; the
 * first of them is init of the host's PID namespace, so that its death takes every container along.
 */
import { readdirSync, readFileSync, readlinkSync, statSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { ClusterError, hasNodeCode } from "../common/errors.ts";

const KILL_TIMEOUT_MS = 60_000;
const POLL_MS = 10;

function pids(): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number);
}

function namespaceOf(pid: number, kind: "net" | "pid"): string {
  try {
    return readlinkSync(`/proc/${pid}/ns/${kind}`);
  } catch {
    // Gone, or a zombie.
    return "";
  }
}

/** Processes in the named network namespace (/run/netns/NAME), in the order of their ids. */
function processesInNamespace(name: string): number[] {
  let inode: number;
  try {
    inode = statSync(`/run/netns/${name}`).ino;
  } catch {
    return [];
  }
  return pids().filter((pid) => namespaceOf(pid, "net") === `net:[${inode}]`);
}

/** Process ids of `pid` from the outermost namespace to its own. */
function namespacePids(pid: number): readonly number[] {
  try {
    const line = /^NSpid:\s*(.*)$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? "";
    return line.split(/\s+/).map(Number);
  } catch {
    return [];
  }
}

/** The process that is 1 in its own PID namespace among those of the network namespace. */
export function findInit(name: string): number | undefined {
  return processesInNamespace(name).find((pid) => {
    const all = namespacePids(pid);
    return all.length > 1 && all.at(-1) === 1;
  });
}

/** The process that the host's own namespace calls `innerPid`, as this namespace calls it; not one that only waits to be reaped. */
export function findInner(name: string, innerPid: number): number | undefined {
  const init = findInit(name);
  if (init === undefined) return undefined;
  const own = namespaceOf(init, "pid");
  return pids().find(
    (pid) => namespacePids(pid).at(-1) === innerPid && namespaceOf(pid, "pid") === own && isAlive(pid),
  );
}

/** Everything whose PID namespace is that of the host's init or lies inside it. */
function descendants(initPid: number): number[] {
  const depth = namespacePids(initPid).length;
  const own = namespaceOf(initPid, "pid");
  const children = new Map<number, number[]>();
  for (const pid of pids()) {
    const parent = Number(/^PPid:\s*(\d+)$/m.exec(statusOf(pid))?.[1] ?? 0);
    children.set(parent, [...(children.get(parent) ?? []), pid]);
  }
  const found: number[] = [];
  const queue = [initPid];
  for (let pid = queue.pop(); pid !== undefined; pid = queue.pop()) {
    if (namespaceOf(pid, "pid") === own || namespacePids(pid).length > depth) found.push(pid);
    queue.push(...(children.get(pid) ?? []));
  }
  return found;
}

function statusOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/status`, "utf8");
  } catch {
    return "";
  }
}

export function sendSignal(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (caught) {
    if (!hasNodeCode(caught, "ESRCH")) throw caught;
  }
}

function isAlive(pid: number): boolean {
  const state = /^State:\s*(\S)/m.exec(statusOf(pid))?.[1];
  return state !== undefined && state !== "Z" && state !== "X";
}

export async function waitForExit(pid: number, timeoutMs: number = KILL_TIMEOUT_MS): Promise<boolean> {
  const deadline = performance.now() + timeoutMs;
  while (isAlive(pid)) {
    if (performance.now() > deadline) return false;
    await sleep(POLL_MS);
  }
  return true;
}

/** SIGKILL to the host's init and everything else in its network namespace; resolves when all is gone. */
export async function killNamespace(name: string): Promise<void> {
  const init = findInit(name);
  const all = new Set(init === undefined ? [] : descendants(init));
  const deadline = performance.now() + KILL_TIMEOUT_MS;
  // Init first: the kernel then ends the whole PID namespace at once, as the loss of power would.
  if (init !== undefined) sendSignal(init, "SIGKILL");
  for (;;) {
    const left = [...new Set([...processesInNamespace(name), ...all])].filter(isAlive);
    if (left.length === 0) return;
    if (performance.now() > deadline) {
      throw new ClusterError(
        "deadline_exceeded",
        `Cannot end the processes of "${name}": ${left.join(", ")} still run`,
      );
    }
    for (const pid of left) sendSignal(pid, "SIGKILL");
    await sleep(POLL_MS);
  }
}
