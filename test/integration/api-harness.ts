/** A server of the API over fakes on a socket of its own, and raw clients for it. Used by the api-*.test.ts files. */
import { execFile } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { request as httpRequest } from "node:http";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import type { TestContext } from "node:test";
import { createApiServer, type ApiServer, type ApiServerOptions } from "../../api/api-server.ts";
import { FakeEngine } from "../../api/testing/fake-engine.ts";
import { FakeSwarm } from "../../api/testing/fake-swarm.ts";
import { silentLogger } from "../../common/log.ts";
import { realEnv } from "../../common/real-env.ts";
import type { UntilOptions } from "../../dev/until.ts";

export interface Harness {
  readonly engine: FakeEngine;
  readonly swarm: FakeSwarm;
  readonly server: ApiServer;
  readonly socketPath: string;
  readonly folder: string;
}

/** What must come may take its time on a machine that does much else. */
export const WAIT: UntilOptions = { timeoutMs: 120_000, pollMs: 10 };

const VERSION = {
  version: "0.1.0",
  gitCommit: "abcdef",
  buildTime: "2026-01-01T00:00:00Z",
  kernelVersion: "6.0",
  arch: "amd64",
};

export async function startApi(
  context: TestContext,
  options: Pick<ApiServerOptions, "networksHere"> = {},
): Promise<Harness> {
  const folder = await mkdtemp(path.join(tmpdir(), "shoal-api-"));
  const engine = new FakeEngine();
  const swarm = new FakeSwarm();
  const server = createApiServer({
    engine,
    swarm,
    env: realEnv,
    log: silentLogger,
    version: VERSION,
    ...options,
  });
  const socketPath = path.join(folder, "api.sock");
  await server.listen({ unix: socketPath });
  context.after(async () => {
    await server.stop();
    await rm(folder, { recursive: true, force: true });
  });
  return { engine, swarm, server, socketPath, folder };
}

export interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly text: string;
}

export interface RequestOptions {
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
}

export function call(harness: Harness, line: string, options: RequestOptions = {}): Promise<Answer> {
  const [method = "GET", target = "/"] = line.split(" ");
  const body = options.body === undefined ? undefined : toBody(options.body);
  const type = body === undefined ? {} : { "Content-Type": "application/json" };
  return new Promise((resolve, reject) => {
    const request = httpRequest(
      { socketPath: harness.socketPath, method, path: target, headers: { ...type, ...options.headers } },
      (response) => {
        const chunks: Buffer[] = [];
        response.on("data", (chunk: Buffer) => chunks.push(chunk));
        response.on("end", () => {
          const text = Buffer.concat(chunks).toString("utf8");
          resolve({ status: response.statusCode ?? 0, headers: response.headers, text });
        });
        response.on("error", reject);
      },
    );
    request.on("error", reject);
    request.end(body);
  });
}

function toBody(body: unknown): string {
  return typeof body === "string" ? body : JSON.stringify(body);
}

/** A bare connection that collects what arrives. */
export class RawClient {
  readonly socket: Socket;
  #received: Buffer = Buffer.alloc(0);
  #isEnded = false;
  #wake: () => void = () => {};

  constructor(socketPath: string) {
    this.socket = connect({ path: socketPath, allowHalfOpen: true });
    this.socket.on("data", (chunk: Buffer) => {
      this.#received = Buffer.concat([this.#received, chunk]);
      this.#wake();
    });
    const ended = (): void => {
      this.#isEnded = true;
      this.#wake();
    };
    this.socket.on("end", ended).on("error", ended).on("close", ended);
  }

  get received(): Buffer {
    return this.#received;
  }

  send(...lines: readonly string[]): void {
    this.socket.write(`${lines.join("\r\n")}\r\n\r\n`);
  }

  /** Resolves once `text` (latin1) is among what came; rejects if the server ends before. */
  async until(text: string): Promise<string> {
    while (!this.#received.includes(Buffer.from(text, "latin1"))) {
      if (this.#isEnded)
        throw new Error(`wanted ${JSON.stringify(text)}, got ${this.#received.toString("latin1")}`);
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    return this.#received.toString("latin1");
  }

  /** Everything, once the server has ended its side. */
  async ended(): Promise<string> {
    while (!this.#isEnded) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    return this.#received.toString("latin1");
  }
}

export interface CliResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** The docker CLI against the harness; undefined if there is none on PATH. */
export function docker(harness: Harness, ...args: readonly string[]): Promise<CliResult> {
  const env = {
    PATH: process.env["PATH"] ?? "",
    HOME: harness.folder,
    DOCKER_HOST: `unix://${harness.socketPath}`,
  };
  return new Promise((resolve, reject) => {
    execFile("docker", [...args], { env, timeout: WAIT.timeoutMs }, (error, stdout, stderr) => {
      if (error !== null && typeof error.code !== "number") reject(error);
      else resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr });
    });
  });
}
