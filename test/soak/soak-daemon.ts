/**
 * The daemon that a soak torments: in a network namespace and folders of its own, killed and started again, asked over
 * its socket by a client that tries again while nobody answers.
 */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { packageRoot } from "../../common/package-root.ts";
import { requestOverSocket, type SocketAnswer } from "../../dev/socket-request.ts";

const RETRY_PAUSE_MS = 25;
/** A daemon that is started again must answer within this. */
const ANSWER_TIMEOUT_MS = 120_000;

export interface Answer extends SocketAnswer {
  /** Times that the request was sent before: its effect may have come from one of those. */
  readonly retries: number;
}

export class SoakDaemon {
  readonly dataRoot: string;
  readonly execRoot: string;
  readonly logFile: string;
  readonly #holder: ChildProcess;
  #child: ChildProcess | undefined;

  private constructor(root: string, holder: ChildProcess) {
    this.dataRoot = path.join(root, "data");
    this.execRoot = path.join(root, "run");
    this.logFile = path.join(root, "daemon.log");
    this.#holder = holder;
  }

  static async open(root: string): Promise<SoakDaemon> {
    const holder = spawn(
      "unshare",
      ["--net", "sh", "-c", "ip link set lo up && echo up && exec sleep infinity"],
      {
        stdio: ["ignore", "pipe", "inherit"],
      },
    );
    await new Promise((resolve, reject) => {
      holder.stdout?.once("data", resolve);
      holder.once("exit", () => reject(new Error("Cannot make a network namespace")));
    });
    return new SoakDaemon(root, holder);
  }

  get #namespace(): string {
    return `--net=/proc/${this.#holder.pid ?? 0}/ns/net`;
  }

  /** Standard output of a command in the daemon's network namespace. */
  inside(command: string, ...args: readonly string[]): string {
    return execFileSync("nsenter", [this.#namespace, command, ...args], { encoding: "utf8" });
  }

  start(): void {
    const shoal = path.join(packageRoot(import.meta.dirname), "bin", "shoal");
    const flags = ["--data-root", this.dataRoot, "--exec-root", this.execRoot, "--log-level", "warn"];
    const log = openSync(this.logFile, "a");
    this.#child = spawn("nsenter", [this.#namespace, shoal, "daemon", ...flags], {
      stdio: ["ignore", log, log],
      cwd: "/",
    });
    closeSync(log);
  }

  async #end(signal: "SIGKILL" | "SIGTERM"): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const ended = new Promise((resolve) => child.once("exit", resolve));
    child.kill(signal);
    await ended;
  }

  /** As a crash would: nothing is saved, nothing said. */
  kill(): Promise<void> {
    return this.#end("SIGKILL");
  }

  stop(): Promise<void> {
    return this.#end("SIGTERM");
  }

  /** Ends what holds the network namespace. */
  close(): void {
    this.#holder.kill("SIGKILL");
  }

  /** Sends until somebody answers. Statuses are the caller's affair. */
  async call(method: string, target: string, body?: Uint8Array | object): Promise<Answer> {
    const socketPath = path.join(this.execRoot, "shoal.sock");
    const deadline = performance.now() + ANSWER_TIMEOUT_MS;
    for (let retries = 0; ; retries++) {
      try {
        const answer = await requestOverSocket(socketPath, { method, path: `/v1.43${target}`, body });
        return { ...answer, retries };
      } catch (caught) {
        if (performance.now() > deadline) throw caught;
        await sleep(RETRY_PAUSE_MS);
      }
    }
  }
}
