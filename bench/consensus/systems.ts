/**
 * The two systems as the bench sees them: three server processes each, with a leader, a client port per member, and
 * processor time that can be read. Ours runs member.ts, the other is Debian's etcd with its defaults; both without TLS
 * and with their data on the same disk.
 */
import { type ChildProcess, fork, spawn } from "node:child_process";
import { mkdirSync, readFileSync, rmSync } from "node:fs";
import path from "node:path";
import { SERVER_FLAGS } from "../../cli/server-flags.ts";
import { until, type UntilOptions } from "../../dev/until.ts";
import type { MemberOrders, Order } from "./member.ts";

export interface System {
  readonly name: string;
  /** Client port of the leader, waiting for one if need be. */
  leaderPort(): Promise<number>;
  readonly clientPorts: readonly number[];
  pidOf(port: number): number;
  /** Processor seconds of all three servers so far. */
  cpuSeconds(): number;
  /** A planned stop of the leader, as its operator would do it. */
  stopLeader(): Promise<void>;
  /** Starts what is down. */
  restart(): Promise<void>;
  stop(): void;
}

const TICKS_PER_SECOND = 100;
/** For a member or a leader to be there. */
const READY: UntilOptions = { timeoutMs: 30_000, pollMs: 5 };

function cpuOf(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
}

interface Reply {
  readonly id: number;
  readonly result?: unknown;
  readonly error?: string;
}

class Child {
  readonly process: ChildProcess;
  readonly port: number;
  #nextId = 0;
  readonly #waiting = new Map<
    number,
    { resolve: (value: unknown) => void; reject: (error: Error) => void }
  >();
  readonly ready: Promise<unknown>;

  constructor(orders: MemberOrders) {
    this.port = orders.clientPort;
    const isBuilt = import.meta.filename.endsWith(".js");
    const script = path.join(import.meta.dirname, isBuilt ? "member.js" : "member.ts");
    this.process = fork(script, [JSON.stringify(orders)], {
      stdio: ["ignore", "ignore", "inherit", "ipc"],
      execArgv: [...process.execArgv, ...SERVER_FLAGS],
    });
    this.ready = new Promise((resolve, reject) => {
      this.#waiting.set(0, { resolve, reject });
    });
    this.process.on("message", (reply: Reply) => {
      const waiting = this.#waiting.get(reply.id);
      this.#waiting.delete(reply.id);
      if (reply.error === undefined) waiting?.resolve(reply.result);
      else waiting?.reject(new Error(reply.error));
    });
    this.process.on("exit", () => {
      for (const waiting of this.#waiting.values()) waiting.reject(new Error("the member ended"));
      this.#waiting.clear();
    });
    this.ready.catch(() => undefined);
  }

  get isUp(): boolean {
    return this.process.exitCode === null && this.process.signalCode === null;
  }

  ask(order: Order): Promise<unknown> {
    if (!this.isUp) return Promise.reject(new Error("the member is down"));
    this.#nextId += 1;
    const id = this.#nextId;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.process.send({ id, order });
    });
  }
}

export interface MemberStatus {
  readonly isLeader: boolean;
  readonly term: number;
  readonly appliedIndex: number;
  readonly rssBytes: number;
  readonly keys: number;
  readonly bootMs: number;
  readonly elections: number;
}

export type OursOptions = Pick<MemberOrders, "diskDelayMs" | "state">;

export class Ours implements System {
  readonly name = "shoal";
  readonly #folder: string;
  readonly #options: OursOptions;
  readonly #basePort: number;
  #children: Child[] = [];

  private constructor(folder: string, basePort: number, options: OursOptions) {
    this.#folder = folder;
    this.#basePort = basePort;
    this.#options = options;
  }

  static async start(
    folder: string,
    basePort: number,
    options: OursOptions = { diskDelayMs: 0, state: "map" },
  ): Promise<Ours> {
    rmSync(folder, { recursive: true, force: true });
    const ours = new Ours(folder, basePort, options);
    ours.#children = [1, 2, 3].map((raftId) => ours.#spawn(raftId, false));
    await Promise.all(ours.#children.map((child) => child.ready));
    await ours.leaderPort();
    return ours;
  }

  get clientPorts(): readonly number[] {
    return this.#children.map((child) => child.port);
  }

  async leaderPort(): Promise<number> {
    return (await this.leader()).port;
  }

  leader(): Promise<Child> {
    return until("a leader of ours", READY, async () => {
      for (const child of this.#children) {
        const status = await this.status(child).catch(() => undefined);
        if (status?.isLeader === true) return child;
      }
      return undefined;
    });
  }

  async status(child: Child): Promise<MemberStatus> {
    return (await child.ask({ kind: "status" })) as MemberStatus;
  }

  get children(): readonly Child[] {
    return this.#children;
  }

  pidOf(port: number): number {
    return this.#children.find((child) => child.port === port)?.process.pid ?? 0;
  }

  cpuSeconds(): number {
    return this.#children.reduce((sum, child) => sum + (child.isUp ? cpuOf(child.process.pid ?? 0) : 0), 0);
  }

  async stopLeader(): Promise<void> {
    const leader = await this.leader();
    await leader.ask({ kind: "leave" }).catch(() => undefined);
  }

  async restart(): Promise<void> {
    for (const [at, child] of this.#children.entries()) {
      if (!child.isUp) this.#children[at] = this.#spawn(at + 1, true);
    }
    await Promise.all(this.#children.map((child) => child.ready));
  }

  stop(): void {
    for (const child of this.#children) child.process.kill("SIGKILL");
    rmSync(this.#folder, { recursive: true, force: true });
  }

  #spawn(raftId: number, isRestart: boolean): Child {
    const members = [1, 2, 3].map((each) => ({ raftId: each, addr: `127.0.0.1:${this.#basePort + each}` }));
    const folder = `${this.#folder}/${raftId}`;
    mkdirSync(folder, { recursive: true });
    return new Child({
      raftId,
      folder,
      raftPort: this.#basePort + raftId,
      clientPort: this.#basePort + 10 + raftId,
      members,
      isRestart,
      ...this.#options,
    });
  }
}

interface EtcdStatus {
  readonly header?: { readonly member_id?: string };
  readonly leader?: string;
}

export class Etcd implements System {
  readonly name = "etcd";
  readonly #folder: string;
  readonly #basePort: number;
  #processes: ChildProcess[] = [];

  private constructor(folder: string, basePort: number) {
    this.#folder = folder;
    this.#basePort = basePort;
  }

  static async start(folder: string, basePort: number): Promise<Etcd> {
    rmSync(folder, { recursive: true, force: true });
    const etcd = new Etcd(folder, basePort);
    etcd.#processes = [0, 1, 2].map((at) => etcd.#spawn(at));
    await etcd.leaderPort();
    return etcd;
  }

  get clientPorts(): readonly number[] {
    return [0, 1, 2].map((at) => this.#basePort + 10 + at);
  }

  leaderPort(): Promise<number> {
    return until("a leader of etcd", READY, async () => {
      for (const port of this.clientPorts) {
        const status = await this.#status(port);
        if (
          status?.leader !== undefined &&
          status.leader !== "0" &&
          status.leader === status.header?.member_id
        ) {
          return port;
        }
      }
      return undefined;
    });
  }

  pidOf(port: number): number {
    return this.#processes[this.clientPorts.indexOf(port)]?.pid ?? 0;
  }

  cpuSeconds(): number {
    const up = this.#processes.filter((each) => each.exitCode === null && each.signalCode === null);
    return up.reduce((sum, each) => sum + cpuOf(each.pid ?? 0), 0);
  }

  async stopLeader(): Promise<void> {
    process.kill(this.pidOf(await this.leaderPort()), "SIGTERM");
  }

  async restart(): Promise<void> {
    for (const [at, each] of this.#processes.entries()) {
      if (each.exitCode !== null || each.signalCode !== null) this.#processes[at] = this.#spawn(at);
    }
    await until("all of etcd", READY, async () => {
      const all = await Promise.all(this.clientPorts.map((port) => this.#status(port)));
      return all.every((status) => status?.leader !== undefined && status.leader !== "0");
    });
  }

  stop(): void {
    for (const each of this.#processes) each.kill("SIGKILL");
    rmSync(this.#folder, { recursive: true, force: true });
  }

  async #status(port: number): Promise<EtcdStatus | undefined> {
    try {
      const url = `http://127.0.0.1:${port}/v3/maintenance/status`;
      const response = await fetch(url, { method: "POST", body: "{}", signal: AbortSignal.timeout(500) });
      return (await response.json()) as EtcdStatus;
    } catch {
      return undefined;
    }
  }

  #spawn(at: number): ChildProcess {
    const peer = (each: number): string => `http://127.0.0.1:${this.#basePort + each}`;
    const client = `http://127.0.0.1:${this.#basePort + 10 + at}`;
    const cluster = [0, 1, 2].map((each) => `m${each}=${peer(each)}`).join(",");
    const flags = [
      `--name=m${at}`,
      `--data-dir=${this.#folder}/${at}`,
      `--listen-peer-urls=${peer(at)}`,
      `--initial-advertise-peer-urls=${peer(at)}`,
      `--listen-client-urls=${client}`,
      `--advertise-client-urls=${client}`,
      `--initial-cluster=${cluster}`,
      "--log-level=error",
    ];
    mkdirSync(this.#folder, { recursive: true });
    return spawn("etcd", flags, { stdio: "ignore", env: { ...process.env, ETCD_UNSUPPORTED_ARCH: "arm64" } });
  }
}
