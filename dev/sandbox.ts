/**
 * One dev host: a set of namespaces (network, mounts, PIDs, host name, IPC, cgroups) that a small init keeps alive and whose
 * death ends everything in it, as switching a machine off would. Daemons and commands are started inside.
 */
import { spawn } from "node:child_process";
import { closeSync, mkdirSync, openSync, readFileSync } from "node:fs";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { ClusterError } from "../common/errors.ts";
import { hierarchies, makeHostCgroups, settle } from "./cgroups.ts";
import { findInit, findInner } from "./processes.ts";
import type { CommandResult, RunOptions } from "./run-command.ts";
import { run } from "./run-command.ts";
import { namespaceName } from "./switch-network.ts";

const START_TIMEOUT_MS = 60_000;
const POLL_MS = 10;
/** What init prints once the host is set up. */
const READY = "host is up";

export interface SandboxPlace {
  readonly cluster: string;
  readonly host: string;
  /** Of this host; logs and pid files lie in it. */
  readonly folder: string;
}

function quoteShell(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** Runs in the new namespaces, as process 1: own view of cgroups, of named namespaces, own host name; then reaps for ever. */
function initScript(place: SandboxPlace, folders: readonly string[]): string {
  const mountpoints = hierarchies().map((each) => each.mountpoint);
  const binds = folders.map(
    (folder, index) => `mount --bind ${quoteShell(folder)} ${quoteShell(mountpoints[index] ?? "")}`,
  );
  const moves = mountpoints.map((mountpoint) => `echo 0 > ${quoteShell(`${mountpoint}/init/cgroup.procs`)}`);
  return [
    "set -e",
    ...binds,
    ...moves,
    "mkdir -p /run/netns",
    "mount -t tmpfs -o mode=755 tmpfs /run/netns",
    `hostname ${quoteShell(place.host)}`,
    `echo ${READY}`,
    // bash reaps whatever is orphaned into this namespace each time its own child ends.
    "set +e; while :; do sleep 1000000 & wait $!; done",
  ].join("\n");
}

/** Starts the host's init. The network namespace must be there and empty. */
export async function startSandbox(place: SandboxPlace): Promise<void> {
  const folders = makeHostCgroups(place.cluster, place.host);
  mkdirSync(place.folder, { recursive: true, mode: 0o755 });
  const joins = folders.map((folder) => `echo 0 > ${quoteShell(`${folder}/cgroup.procs`)}`).join("; ");
  const name = namespaceName(place.cluster, place.host);
  const enter = `exec nsenter --net=/run/netns/${name} unshare --mount --uts --ipc --pid --cgroup --fork --kill-child --mount-proc --propagation private`;
  const script = `set -e; ${joins}; ${enter} bash -c ${quoteShell(initScript(place, folders))}`;
  const logFile = path.join(place.folder, "sandbox.log");
  const log = openSync(logFile, "w");
  const child = spawn("bash", ["-c", script], { detached: true, stdio: ["ignore", log, log], cwd: "/" });
  closeSync(log);
  child.unref();
  let exited: number | undefined;
  child.on("exit", (code) => {
    exited = code ?? 1;
  });
  const deadline = performance.now() + START_TIMEOUT_MS;
  while (!readFileSync(logFile, "utf8").includes(READY)) {
    if (exited !== undefined || performance.now() > deadline) {
      const said = readFileSync(logFile, "utf8").trim().split("\n").slice(-3).join("; ");
      throw new ClusterError(
        "internal",
        `Cannot start dev host "${place.host}": ${said === "" ? "no answer in time" : said}`,
      );
    }
    await sleep(POLL_MS);
  }
  settle(folders);
}

/** nsenter's arguments that lead into the host. */
function enterArguments(place: SandboxPlace): string[] {
  const init = findInit(namespaceName(place.cluster, place.host));
  if (init === undefined)
    throw new ClusterError(
      "failed_precondition",
      `Host "${place.host}" is off; start it with: shoal dev start ${place.host}`,
    );
  return ["nsenter", "--target", String(init), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"];
}

export async function runInside(
  place: SandboxPlace,
  argv: readonly string[],
  options: RunOptions = {},
): Promise<CommandResult> {
  return await run([...enterArguments(place), "--", ...argv], options);
}

/** Runs with this process's own terminal; the exit status. */
export async function runInteractive(place: SandboxPlace, argv: readonly string[]): Promise<number> {
  const [command = "", ...args] = [...enterArguments(place), "--", ...argv];
  return await new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: "inherit" });
    child.on("error", reject);
    child.on("exit", (code) => resolve(code ?? 1));
  });
}

/** Starts a program that outlives us inside the host; its id as the host sees it is written to `pidfile`. */
export async function startInside(
  place: SandboxPlace,
  argv: readonly string[],
  options: { readonly log: string; readonly pidfile: string },
): Promise<void> {
  const moves = hierarchies()
    .map((each) => `echo 0 > ${quoteShell(`${each.mountpoint}/init/cgroup.procs`)}`)
    .join("; ");
  const command = argv.map(quoteShell).join(" ");
  const script = `${moves}; cd /; setsid ${command} >>${quoteShell(options.log)} 2>&1 </dev/null & echo $! > ${quoteShell(options.pidfile)}`;
  const result = await runInside(place, ["bash", "-c", script]);
  if (result.status !== 0)
    throw new ClusterError(
      "internal",
      `Cannot start "${argv[0]}" on "${place.host}": ${result.stderr.trim()}`,
    );
}

/** Our id of the program that startInside() started; undefined if it is gone. */
export function findStarted(place: SandboxPlace, pidfile: string): number | undefined {
  let inner: number;
  try {
    inner = Number(readFileSync(pidfile, "utf8").trim());
  } catch {
    return undefined;
  }
  return Number.isInteger(inner) && inner > 1
    ? findInner(namespaceName(place.cluster, place.host), inner)
    : undefined;
}
