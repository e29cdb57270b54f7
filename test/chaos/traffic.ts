/**
 * Steady HTTP requests from several clients to several addresses, each written down that is lost or slow: what it was
 * waiting for, from which port, when. Half of the clients open a connection for each request, half keep theirs. Its own
 * small client on sockets, since what is looked for is what happens to connections. Runs as a process of its own: see
 * startTraffic().
 */
import { type ChildProcess, spawn } from "node:child_process";
import { connect, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

export interface TrafficOptions {
  /** "host:port" each; a client stays with one. */
  readonly targets: readonly string[];
  /** At each target, of each kind. */
  readonly clients: number;
  /** Pause between two requests of a client, ms. */
  readonly pauseMs: number;
  /** A request without an answer for so long is lost, ms. */
  readonly timeoutMs: number;
  /** Slower ones are named, ms. */
  readonly slowMs: number;
}

export interface Trouble {
  /** Since 1970, ms. */
  readonly atMs: number;
  readonly target: string;
  readonly localPort: number;
  readonly isKept: boolean;
  /** Requests that the connection had carried before. */
  readonly used: number;
  readonly tookMs: number;
  /** What happened, and whether the connection was open by then. */
  readonly what: string;
}

export interface TrafficReport {
  readonly requests: number;
  readonly onNewConnections: number;
  readonly onKeptConnections: number;
  /** Connections that the server closed, as it said it would, between two requests. */
  readonly reconnects: number;
  readonly lost: readonly Trouble[];
  readonly slow: readonly Trouble[];
  readonly slowestMs: number;
  readonly medianMs: number;
  readonly p99Ms: number;
  /** Answers by the version they name. */
  readonly versions: Readonly<Record<string, number>>;
}

class Connection {
  readonly socket: Socket;
  readonly localPort: () => number;
  isOpen = false;
  isDone = false;
  used = 0;
  #received = "";
  #settle: ((outcome: string | Error) => void) | undefined;

  constructor(host: string, port: number) {
    this.socket = connect({ host, port, noDelay: true });
    let localPort = 0;
    this.localPort = () => localPort;
    this.socket.on("connect", () => {
      this.isOpen = true;
      localPort = this.socket.localPort ?? 0;
    });
    this.socket.on("data", (piece: Buffer) => this.#data(piece.toString("latin1")));
    this.socket.on("error", (caught: Error & { code?: string }) => this.#over(caught.code ?? caught.message));
    this.socket.on("close", () => this.#over("closed without an answer"));
  }

  request(isKept: boolean, timeoutMs: number): Promise<string | Error> {
    return new Promise((resolve) => {
      const timer = setTimeout(() => this.#over(`no answer in ${timeoutMs} ms`), timeoutMs);
      this.#settle = (outcome) => {
        clearTimeout(timer);
        this.#settle = undefined;
        resolve(outcome);
      };
      this.socket.write(
        `GET / HTTP/1.1\r\nHost: x\r\nConnection: ${isKept ? "keep-alive" : "close"}\r\n\r\n`,
      );
    });
  }

  #over(why: string): void {
    this.isDone = true;
    const stage = this.isOpen ? (this.#received === "" ? "connected" : "in the answer") : "connecting";
    this.#settle?.(new Error(`${why} (${stage})`));
    this.socket.destroy();
  }

  #data(text: string): void {
    this.#received += text;
    const end = this.#received.indexOf("\r\n\r\n");
    if (end < 0) return;
    const head = this.#received.slice(0, end);
    const length = Number(/content-length: (\d+)/i.exec(head)?.[1] ?? 0);
    if (this.#received.length < end + 4 + length) return;
    const body = this.#received.slice(end + 4);
    this.#received = "";
    this.used += 1;
    if (/connection: close/i.test(head)) this.isDone = true;
    if (head.startsWith("HTTP/1.1 200")) this.#settle?.(body);
    else this.#settle?.(new Error(head.split("\r\n")[0] ?? head));
    if (this.isDone) this.socket.destroy();
  }
}

class Traffic {
  readonly #options: TrafficOptions;
  readonly #lost: Trouble[] = [];
  readonly #slow: Trouble[] = [];
  readonly #tookMs: number[] = [];
  readonly #versions: Record<string, number> = {};
  #kept = 0;
  #fresh = 0;
  #reconnects = 0;
  #isStopping = false;
  #clients: Promise<void>[] = [];

  constructor(options: TrafficOptions) {
    this.#options = options;
  }

  start(): void {
    for (const target of this.#options.targets) {
      for (let index = 0; index < this.#options.clients; index += 1)
        this.#clients.push(this.#client(target, true), this.#client(target, false));
    }
  }

  async stop(): Promise<TrafficReport> {
    this.#isStopping = true;
    await Promise.all(this.#clients);
    const sorted = this.#tookMs.sort((a, b) => a - b);
    const at = (share: number): number => sorted[Math.floor(share * (sorted.length - 1))] ?? 0;
    return {
      requests: this.#kept + this.#fresh,
      onNewConnections: this.#fresh,
      onKeptConnections: this.#kept,
      reconnects: this.#reconnects,
      lost: this.#lost,
      slow: this.#slow,
      slowestMs: at(1),
      medianMs: at(0.5),
      p99Ms: at(0.99),
      versions: this.#versions,
    };
  }

  async #client(target: string, isKept: boolean): Promise<void> {
    const [host = "", port = ""] = target.split(":");
    let connection: Connection | undefined;
    while (!this.#isStopping) {
      if (connection === undefined || connection.isDone) {
        if (connection !== undefined && isKept) this.#reconnects += 1;
        connection = new Connection(host, Number(port));
      }
      await this.#request(connection, target, isKept);
      await sleep(this.#options.pauseMs * (0.5 + Math.random()));
    }
    connection?.socket.destroy();
  }

  async #request(connection: Connection, target: string, isKept: boolean): Promise<void> {
    const { timeoutMs, slowMs } = this.#options;
    const started = performance.now();
    const { used } = connection;
    if (isKept) this.#kept += 1;
    else this.#fresh += 1;
    const outcome = await connection.request(isKept, timeoutMs);
    const tookMs = performance.now() - started;
    this.#tookMs.push(tookMs);
    const trouble = (what: string): Trouble => ({
      atMs: Date.now(),
      target,
      localPort: connection.localPort(),
      isKept,
      used,
      tookMs: Math.round(tookMs),
      what,
    });
    if (outcome instanceof Error) {
      this.#lost.push(trouble(outcome.message));
      return;
    }
    const version = /version:? (\S+)/.exec(outcome)?.[1] ?? "?";
    this.#versions[version] = (this.#versions[version] ?? 0) + 1;
    if (tookMs > slowMs) this.#slow.push(trouble("answered late"));
  }
}

export interface RunningTraffic {
  /** Lets requests under way end. */
  stop(): Promise<TrafficReport>;
}

/** Starts traffic in a process of its own, in the network namespace of that path if one is given. */
export function startTraffic(options: TrafficOptions, namespacePath?: string): RunningTraffic {
  const own = [process.execPath, "--enable-source-maps", import.meta.filename, JSON.stringify(options)];
  const argv = namespacePath === undefined ? own : ["nsenter", `--net=${namespacePath}`, ...own];
  const [command = "", ...args] = argv;
  const child: ChildProcess = spawn(command, args, { stdio: ["ignore", "pipe", "inherit"] });
  const pieces: Buffer[] = [];
  child.stdout?.on("data", (piece: Buffer) => pieces.push(piece));
  const result = new Promise<TrafficReport>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", () => {
      const text = Buffer.concat(pieces).toString();
      if (text === "") reject(new Error("the traffic ended without a report"));
      else resolve(JSON.parse(text) as TrafficReport);
    });
  });
  return {
    stop: () => {
      child.kill("SIGTERM");
      return result;
    },
  };
}

async function main(text: string): Promise<void> {
  const traffic = new Traffic(JSON.parse(text) as TrafficOptions);
  traffic.start();
  await new Promise<void>((resolve) => {
    process.once("SIGTERM", () => resolve());
  });
  console.log(JSON.stringify(await traffic.stop()));
}

if (process.argv[1] === import.meta.filename) await main(process.argv[2] ?? "{}");
