/**
 * A cluster of several hosts on this one machine: a network namespace and a daemon each, joined into one swarm. Made for
 * users who try things, for the tests and for the benches. What is there is always read from the kernel and the daemons;
 * the state file holds only the plan, so every verb may be repeated and repairs what a crash left.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { ClusterError } from "../common/errors.ts";
import { packageRoot } from "../common/package-root.ts";
import { removeCgroups } from "./cgroups.ts";
import { callDaemon, type NodeAnswer } from "./daemon-api.ts";
import { findInit, killNamespace, sendSignal, waitForExit } from "./processes.ts";
import type { CommandResult, RunOptions } from "./run-command.ts";
import { run } from "./run-command.ts";
import type { SandboxPlace } from "./sandbox.ts";
import { findStarted, runInside, runInteractive, startInside, startSandbox } from "./sandbox.ts";
import type { Subnet } from "./switch-network.ts";
import {
  clusterNamespaces,
  createSwitch,
  healPorts,
  hostAddress,
  namespaceExists,
  namespaceName,
  partitionPorts,
  plugHost,
  removeSwitch,
  unplugHost,
} from "./switch-network.ts";

export const DEFAULT_NAME = "dev";
const STATE_ROOT = "/var/lib/shoal-dev";
const HOSTS_MAX = 100;
const CLUSTER_PORT = 2377;
const DAEMON_START_TIMEOUT_MS = 120_000;
const DAEMON_STOP_TIMEOUT_MS = 120_000;
const JOIN_RETRY_MS = 120_000;
const POLL_MS = 50;
const LOG_TAIL_LINES = 15;

export type DevRole = "manager" | "worker";

export interface DevHost {
  readonly name: string;
  readonly role: DevRole;
  readonly index: number;
  readonly address: string;
  readonly folder: string;
  readonly socketPath: string;
  readonly logPath: string;
}

export interface DevClusterOptions {
  /** Default "dev"; letters and digits. */
  readonly name?: string;
  readonly managers: number;
  readonly workers: number;
  /** Default /var/lib/shoal-dev/NAME. */
  readonly stateFolder?: string;
  /** Further flags for every daemon. */
  readonly daemonFlags?: readonly string[];
  /** Starts a daemon; default this package's `bin/shoal daemon`. */
  readonly daemonCommand?: readonly string[];
  /** Told what is being done. */
  readonly log?: (line: string) => void;
}

export interface DevHostStatus {
  readonly host: DevHost;
  readonly isOn: boolean;
  readonly isDaemonUp: boolean;
  /** Docker's LocalNodeState: active, inactive, pending, error, locked; "" if the daemon doesn't answer. */
  readonly swarmState: string;
  readonly isLeader: boolean;
}

interface PlanFile {
  readonly name: string;
  readonly subnet: Subnet;
  readonly hosts: readonly { readonly name: string; readonly role: DevRole; readonly index: number }[];
  readonly daemonCommand: readonly string[];
  readonly daemonFlags: readonly string[];
}

interface InfoAnswer {
  readonly Swarm?: {
    readonly LocalNodeState?: string;
    readonly NodeID?: string;
    readonly ControlAvailable?: boolean;
  };
}

function checkName(name: string): void {
  if (!/^[a-z][a-z0-9]{0,15}$/.test(name)) {
    throw new ClusterError(
      "invalid_argument",
      `Invalid cluster name "${name}": expected up to 16 lower-case letters and digits`,
    );
  }
}

function planPath(stateFolder: string): string {
  return path.join(stateFolder, "cluster.json");
}

function readPlan(stateFolder: string): PlanFile | undefined {
  const file = planPath(stateFolder);
  return existsSync(file) ? (JSON.parse(readFileSync(file, "utf8")) as PlanFile) : undefined;
}

function defaultDaemonCommand(): readonly string[] {
  return [path.join(packageRoot(import.meta.dirname), "bin", "shoal"), "daemon"];
}

export class DevCluster {
  readonly name: string;
  readonly stateFolder: string;
  readonly subnet: Subnet;
  readonly hosts: readonly DevHost[];
  readonly #plan: PlanFile;
  readonly #log: (line: string) => void;

  private constructor(plan: PlanFile, stateFolder: string, log: (line: string) => void) {
    this.name = plan.name;
    this.stateFolder = stateFolder;
    this.subnet = plan.subnet;
    this.#plan = plan;
    this.#log = log;
    this.hosts = plan.hosts.map((host) => {
      const folder = path.join(stateFolder, host.name);
      return {
        ...host,
        address: hostAddress(plan.subnet, host.index),
        folder,
        socketPath: path.join(folder, "shoal.sock"),
        logPath: path.join(folder, "daemon.log"),
      };
    });
  }

  /** The cluster whose plan lies in the state folder; undefined if there is none. */
  static open(options: {
    readonly name?: string;
    readonly stateFolder?: string;
    readonly log?: (line: string) => void;
  }): DevCluster | undefined {
    const name = options.name ?? DEFAULT_NAME;
    checkName(name);
    const stateFolder = options.stateFolder ?? path.join(STATE_ROOT, name);
    const plan = readPlan(stateFolder);
    return plan === undefined ? undefined : new DevCluster(plan, stateFolder, options.log ?? (() => {}));
  }

  /** Makes or repairs the cluster: every host on, every daemon up, all in one swarm. */
  static async up(options: DevClusterOptions): Promise<DevCluster> {
    const log = options.log ?? (() => {});
    const name = options.name ?? DEFAULT_NAME;
    checkName(name);
    if (process.getuid?.() !== 0)
      throw new ClusterError("permission_denied", "A dev cluster needs root: namespaces, links and cgroups");
    const stateFolder = path.resolve(options.stateFolder ?? path.join(STATE_ROOT, name));
    const before = readPlan(stateFolder);
    const hosts = planHosts(options, before?.hosts ?? []);
    mkdirSync(stateFolder, { recursive: true, mode: 0o755 });
    const subnet = await createSwitch(name, before?.subnet);
    const plan: PlanFile = {
      name,
      subnet,
      hosts,
      daemonCommand: options.daemonCommand ?? before?.daemonCommand ?? defaultDaemonCommand(),
      daemonFlags: options.daemonFlags ?? before?.daemonFlags ?? [],
    };
    writeFileSync(`${planPath(stateFolder)}.tmp`, `${JSON.stringify(plan, null, 2)}\n`);
    renameSync(`${planPath(stateFolder)}.tmp`, planPath(stateFolder));
    const cluster = new DevCluster(plan, stateFolder, log);
    await Promise.all(cluster.hosts.map((host) => cluster.startHost(host.name)));
    await cluster.#formSwarm();
    return cluster;
  }

  host(name: string): DevHost {
    const found = this.hosts.find((host) => host.name === name);
    if (found === undefined) {
      throw new ClusterError(
        "not_found",
        `There is no host "${name}"; hosts: ${this.hosts.map((host) => host.name).join(", ")}`,
      );
    }
    return found;
  }

  get managers(): readonly DevHost[] {
    return this.hosts.filter((host) => host.role === "manager");
  }

  get workers(): readonly DevHost[] {
    return this.hosts.filter((host) => host.role === "worker");
  }

  /** Switches the host on if it is off and starts its daemon if it is down; resolves when the daemon answers. */
  async startHost(name: string): Promise<void> {
    const host = this.host(name);
    const namespace = namespaceName(this.name, host.name);
    if (findInit(namespace) === undefined) {
      await killNamespace(namespace);
      this.#log(`${host.name}: switching on at ${host.address}`);
      await plugHost(this.name, this.subnet, host);
      rmSync(path.join(host.folder, "exec"), { recursive: true, force: true });
      await startSandbox(this.#place(host));
    }
    await this.startDaemon(name);
  }

  async startDaemon(name: string): Promise<void> {
    const host = this.host(name);
    if (this.daemonPid(name) === undefined) {
      this.#log(`${host.name}: starting the daemon`);
      rmSync(host.socketPath, { force: true });
      const flags = [
        `--data-root=${path.join(host.folder, "data")}`,
        `--exec-root=${path.join(host.folder, "exec")}`,
        `--host=unix://${host.socketPath}`,
        `--pidfile=${path.join(host.folder, "shoal.pid")}`,
        `--listen-addr=${host.address}:${CLUSTER_PORT}`,
        `--advertise-addr=${host.address}`,
        "--log-level=info",
        ...this.#plan.daemonFlags,
      ];
      await startInside(this.#place(host), [...this.#plan.daemonCommand, ...flags], {
        log: host.logPath,
        pidfile: this.#pidfile(host),
      });
    }
    await this.#waitForDaemon(host);
  }

  /** SIGTERM to the daemon alone, as an upgrade does; its containers go on. */
  async stopDaemon(name: string): Promise<void> {
    const pid = this.daemonPid(name);
    if (pid === undefined) return;
    sendSignal(pid, "SIGTERM");
    if (!(await waitForExit(pid, DAEMON_STOP_TIMEOUT_MS))) {
      throw new ClusterError(
        "deadline_exceeded",
        `The daemon of "${name}" did not stop within ${DAEMON_STOP_TIMEOUT_MS / 1000} s`,
      );
    }
  }

  /** SIGKILL to the daemon alone; its containers go on. */
  async killDaemon(name: string): Promise<void> {
    const pid = this.daemonPid(name);
    if (pid === undefined) return;
    sendSignal(pid, "SIGKILL");
    await waitForExit(pid);
  }

  /** Pulls the plug: everything of the host dies at once, its address falls silent, its memory is lost. The disk stays. */
  async killHost(name: string): Promise<void> {
    const host = this.host(name);
    // Off the wire first, so that no process has time to say goodbye.
    await run(["ip", "-n", namespaceName(this.name, host.name), "link", "set", "eth0", "down"]);
    await killNamespace(namespaceName(this.name, host.name));
    await unplugHost(this.name, host);
    await removeCgroups(this.name, host.name);
    rmSync(path.join(host.folder, "exec"), { recursive: true, force: true });
    rmSync(host.socketPath, { force: true });
  }

  /** Our id of the host's daemon; undefined if it does not run. */
  daemonPid(name: string): number | undefined {
    const host = this.host(name);
    return findStarted(this.#place(host), this.#pidfile(host));
  }

  /** No packet passes between the groups. Hosts that are not named are one more group. */
  async partition(groups: readonly (readonly string[])[]): Promise<void> {
    const named = new Set(groups.flat());
    const rest = this.hosts.filter((host) => !named.has(host.name));
    await partitionPorts(this.name, [...groups.map((group) => group.map((name) => this.host(name))), rest]);
  }

  async heal(): Promise<void> {
    await healPorts(this.name);
  }

  /** Runs a program on the host: in its network, host name, processes and mounts. */
  async exec(name: string, argv: readonly string[], options: RunOptions = {}): Promise<CommandResult> {
    return await runInside(this.#place(this.host(name)), argv, options);
  }

  /** The same with this process's terminal. */
  async execInteractive(name: string, argv: readonly string[]): Promise<number> {
    return await runInteractive(this.#place(this.host(name)), argv);
  }

  /** The environment that makes docker and shoal talk to the host. */
  env(name: string): Record<string, string> {
    const url = `unix://${this.host(name).socketPath}`;
    return { DOCKER_HOST: url, SHOAL_HOST: url };
  }

  /** The unmodified docker CLI against the host's daemon. */
  async docker(name: string, argv: readonly string[], options: RunOptions = {}): Promise<CommandResult> {
    return await run(["docker", ...argv], {
      ...options,
      env: { ...process.env, ...this.env(name), ...options.env },
    });
  }

  /** This package's CLI against the host's daemon. */
  async shoal(name: string, argv: readonly string[], options: RunOptions = {}): Promise<CommandResult> {
    const program = path.join(packageRoot(import.meta.dirname), "bin", "shoal");
    return await run([program, ...argv], {
      ...options,
      env: { ...process.env, ...this.env(name), ...options.env },
    });
  }

  /** One call to the host's API. */
  async api<T>(name: string, method: string, apiPath: string, body?: unknown): Promise<T> {
    return await callDaemon<T>(this.host(name).socketPath, method, apiPath, body);
  }

  async status(): Promise<DevHostStatus[]> {
    const leader = await this.leader();
    return await Promise.all(
      this.hosts.map(async (host) => {
        const info = await this.#info(host);
        return {
          host,
          isOn: findInit(namespaceName(this.name, host.name)) !== undefined,
          isDaemonUp: info !== undefined,
          swarmState: info?.Swarm?.LocalNodeState ?? "",
          isLeader: leader?.name === host.name,
        };
      }),
    );
  }

  /** The manager that leads now, as any reachable manager knows it. */
  async leader(): Promise<DevHost | undefined> {
    for (const host of this.managers) {
      const nodes = await this.#nodes(host);
      const leader = nodes.find((node) => node.ManagerStatus?.Leader === true);
      const found = this.hosts.find((each) => each.name === leader?.Description?.Hostname);
      if (found !== undefined) return found;
    }
    return undefined;
  }

  /** Ends and removes everything. */
  async down(): Promise<void> {
    await removeCluster({ name: this.name, stateFolder: this.stateFolder });
  }

  #place(host: DevHost): SandboxPlace {
    return { cluster: this.name, host: host.name, folder: host.folder };
  }

  #pidfile(host: DevHost): string {
    return path.join(host.folder, "daemon.pid");
  }

  async #info(host: DevHost): Promise<InfoAnswer | undefined> {
    try {
      return await callDaemon<InfoAnswer>(host.socketPath, "GET", "/info");
    } catch {
      // A daemon that is down is a state, not an error.
      return undefined;
    }
  }

  async #nodes(host: DevHost): Promise<readonly NodeAnswer[]> {
    try {
      return await callDaemon<readonly NodeAnswer[]>(host.socketPath, "GET", "/nodes");
    } catch {
      return [];
    }
  }

  async #waitForDaemon(host: DevHost): Promise<void> {
    const deadline = performance.now() + DAEMON_START_TIMEOUT_MS;
    for (;;) {
      try {
        await callDaemon(host.socketPath, "GET", "/_ping");
        return;
      } catch (caught) {
        const isGone = this.daemonPid(host.name) === undefined;
        if (isGone || performance.now() > deadline) {
          const why = isGone ? "it ended" : "it does not answer";
          throw new ClusterError(
            "unavailable",
            `Cannot start the daemon of "${host.name}": ${why}; end of ${host.logPath}:\n${logTail(host.logPath)}`,
            { cause: caught },
          );
        }
      }
      await sleep(POLL_MS);
    }
  }

  /** Makes the first manager's swarm if there is none and lets every host that is in none join. */
  async #formSwarm(): Promise<void> {
    const states = await Promise.all(
      this.hosts.map(async (host) => ({ host, info: await this.#info(host) })),
    );
    const isIn = (info: InfoAnswer | undefined): boolean =>
      !["", "inactive"].includes(info?.Swarm?.LocalNodeState ?? "");
    let seed = states.find(({ host, info }) => host.role === "manager" && isIn(info))?.host;
    if (seed === undefined) {
      seed = this.managers[0];
      if (seed === undefined) throw new ClusterError("invalid_argument", "A cluster needs a manager");
      this.#log(`${seed.name}: shoal swarm init --advertise-addr ${seed.address}`);
      await callDaemon(seed.socketPath, "POST", "/swarm/init", {
        ListenAddr: `${seed.address}:${CLUSTER_PORT}`,
        AdvertiseAddr: `${seed.address}:${CLUSTER_PORT}`,
        DataPathAddr: seed.address,
        Spec: {},
      });
    }
    const others = states.filter(({ host, info }) => host !== seed && !isIn(info)).map(({ host }) => host);
    // Managers one after the other: each join changes the quorum. Workers all at once.
    for (const host of others.filter((each) => each.role === "manager")) await this.#join(seed, host);
    const by = seed;
    await Promise.all(
      others.filter((each) => each.role === "worker").map(async (host) => await this.#join(by, host)),
    );
    await this.#waitForNodes(seed);
  }

  async #join(seed: DevHost, host: DevHost): Promise<void> {
    this.#log(`${host.name}: shoal swarm join --token … ${seed.address}:${CLUSTER_PORT} (as ${host.role})`);
    const deadline = performance.now() + JOIN_RETRY_MS;
    for (;;) {
      try {
        const swarm = await callDaemon<{ JoinTokens: { Worker: string; Manager: string } }>(
          seed.socketPath,
          "GET",
          "/swarm",
        );
        await callDaemon(host.socketPath, "POST", "/swarm/join", {
          ListenAddr: `${host.address}:${CLUSTER_PORT}`,
          AdvertiseAddr: `${host.address}:${CLUSTER_PORT}`,
          DataPathAddr: host.address,
          RemoteAddrs: [`${seed.address}:${CLUSTER_PORT}`],
          JoinToken: host.role === "manager" ? swarm.JoinTokens.Manager : swarm.JoinTokens.Worker,
        });
        return;
      } catch (caught) {
        const info = await this.#info(host);
        if (info?.Swarm?.LocalNodeState === "active") return;
        if (performance.now() > deadline) throw caught;
        await sleep(POLL_MS * 10);
      }
    }
  }

  async #waitForNodes(seed: DevHost): Promise<void> {
    const deadline = performance.now() + JOIN_RETRY_MS;
    for (;;) {
      const nodes = await this.#nodes(seed);
      const ready = new Set(
        nodes.filter((node) => node.Status?.State === "ready").map((node) => node.Description?.Hostname),
      );
      const missing = this.hosts.filter((host) => !ready.has(host.name)).map((host) => host.name);
      if (missing.length === 0) return;
      if (performance.now() > deadline) {
        throw new ClusterError(
          "deadline_exceeded",
          `Not all hosts became ready nodes: ${missing.join(", ")}; see ${this.stateFolder}/HOST/daemon.log`,
        );
      }
      await sleep(POLL_MS);
    }
  }
}

function logTail(file: string): string {
  try {
    return readFileSync(file, "utf8").trimEnd().split("\n").slice(-LOG_TAIL_LINES).join("\n");
  } catch {
    return "(no log)";
  }
}

/** Hosts manager1… and worker1…; hosts of an earlier plan keep their index and thus their address. */
function planHosts(options: DevClusterOptions, before: PlanFile["hosts"]): PlanFile["hosts"] {
  const { managers, workers } = options;
  if (
    !Number.isInteger(managers) ||
    managers < 1 ||
    !Number.isInteger(workers) ||
    workers < 0 ||
    managers + workers > HOSTS_MAX
  ) {
    throw new ClusterError(
      "invalid_argument",
      `Invalid size of the cluster: expected 1 manager or more and at most ${HOSTS_MAX} hosts, got ${managers} and ${workers}`,
    );
  }
  const hosts = [...before];
  const add = (role: DevRole, count: number): void => {
    for (let number = 1; number <= count; number += 1) {
      const name = `${role}${number}`;
      if (!hosts.some((host) => host.name === name)) hosts.push({ name, role, index: hosts.length });
    }
  };
  add("manager", managers);
  add("worker", workers);
  return hosts;
}

/** Makes or repairs a dev cluster and resolves when all its nodes are ready. */
export async function startDevCluster(options: DevClusterOptions): Promise<DevCluster> {
  return await DevCluster.up(options);
}

/** Removes whatever there is of the cluster, also if its state folder or half of it is lost. */
export async function removeCluster(options: {
  readonly name?: string;
  readonly stateFolder?: string;
}): Promise<void> {
  const name = options.name ?? DEFAULT_NAME;
  checkName(name);
  const stateFolder = path.resolve(options.stateFolder ?? path.join(STATE_ROOT, name));
  const names = clusterNamespaces(name).filter((each) => each !== namespaceName(name, "switch"));
  await Promise.all(names.map(async (each) => await killNamespace(each)));
  for (const each of names) if (namespaceExists(each)) await run(["ip", "netns", "del", each]);
  await removeSwitch(name);
  await removeCgroups(name);
  // Only a folder of ours is removed: a wrong --state must not cost anyone's files.
  if (existsSync(planPath(stateFolder)) || stateFolder.startsWith(`${STATE_ROOT}/`)) {
    rmSync(stateFolder, { recursive: true, force: true, maxRetries: 5 });
    if (existsSync(STATE_ROOT) && readdirSync(STATE_ROOT).length === 0)
      rmSync(STATE_ROOT, { recursive: true });
  }
}

/** Names of the dev clusters in the default place. */
export function listClusters(): string[] {
  if (!existsSync(STATE_ROOT)) return [];
  return readdirSync(STATE_ROOT).filter((name) => existsSync(planPath(path.join(STATE_ROOT, name))));
}
