/**
 * Engines that benches compare: Shoal's daemon and Debian's dockerd, each started by the bench itself with folders and a
 * socket of its own, and taken away again with all that it left. Needs root.
 */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { packageRoot } from "../common/package-root.ts";
import { until, type UntilOptions } from "../dev/until.ts";
import { request } from "./docker-http.ts";

/** How long a program that was started may take to answer, and how often it is asked. */
export const START: UntilOptions = { timeoutMs: 120_000, pollMs: 20 };

/** A daemon that can't stop in order is killed. */
const STOP_MS_MAX = 60_000;

export interface Contender {
  readonly name: string;
  readonly socket: string;
  /** Of the daemon, for who wants to read its figures under /proc. */
  readonly pid: number;
  readonly stop: () => Promise<void>;
}

export interface ContenderOptions {
  /** Network namespace (below /run/netns) that the daemon lives in. */
  readonly namespace?: string;
  /** More arguments of the daemon. */
  readonly args?: readonly string[];
  /** Runs in stop(), before the daemon is told to end. */
  readonly beforeStop?: (socket: string) => Promise<void>;
}

export async function stopChild(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise((resolve) => child.once("exit", resolve));
  child.kill("SIGTERM");
  const late = setTimeout(() => child.kill("SIGKILL"), STOP_MS_MAX);
  await ended;
  clearTimeout(late);
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

/**
 * A folder in memory for what an engine keeps while it runs: /run is, where these are by default. Returns what takes it
 * away.
 */
export function memoryFolder(folder: string): () => void {
  mkdirSync(folder, { recursive: true });
  execFileSync("mount", ["-t", "tmpfs", "-o", "mode=0711", "bench", folder]);
  return () => execFileSync("umount", ["--lazy", folder]);
}

async function startContender(
  name: string,
  program: readonly string[],
  options: ContenderOptions,
): Promise<Contender> {
  const folder = mkdtempSync(path.join(tmpdir(), `shoal-bench-${name}-`));
  const socket = path.join(folder, "api.sock");
  const leaveMemory = memoryFolder(path.join(folder, "run"));
  const command = [
    // Not `ip netns exec`: its own view of /sys has no cgroups.
    ...(options.namespace === undefined ? [] : ["nsenter", `--net=/run/netns/${options.namespace}`]),
    ...program,
    "--data-root",
    path.join(folder, "data"),
    "--exec-root",
    path.join(folder, "run"),
    "--pidfile",
    path.join(folder, "pid"),
    "--host",
    `unix://${socket}`,
    ...(options.args ?? []),
  ];
  const stderr = process.env["BENCH_VERBOSE"] === undefined ? "ignore" : "inherit";
  const child = spawn(command[0] ?? "", command.slice(1), { stdio: ["ignore", "ignore", stderr] });
  const stop = async (): Promise<void> => {
    await options.beforeStop?.(socket).catch(() => undefined);
    await stopChild(child);
    for (const pid of processesOf(folder)) process.kill(pid, "SIGKILL");
    leaveMemory();
    rmSync(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
  };
  try {
    const answers = async (): Promise<boolean> => {
      if (!existsSync(socket)) return false;
      return (await request(socket, "GET", "/version").catch(() => undefined))?.status === 200;
    };
    await until(`${name} answers`, START, answers);
  } catch (caught) {
    await stop();
    throw caught;
  }
  return { name, socket, pid: child.pid ?? 0, stop };
}

export function startShoal(options: ContenderOptions = {}): Promise<Contender> {
  const program = path.join(packageRoot(import.meta.dirname), "bin/shoal");
  return startContender("shoal", [program, "daemon"], options);
}

/** Its mounts stay its own. */
export function startDocker(options: ContenderOptions = {}): Promise<Contender> {
  return startContender("docker", ["unshare", "--mount", "dockerd"], options);
}

/** A real dockerd, not our own program under its name. */
export function hasDocker(): boolean {
  return (process.env["PATH"] ?? "").split(":").some((folder) => existsSync(path.join(folder, "dockerd")));
}
