/**
 * Runs the system programs that build a dev cluster (ip, nft, nsenter, bash) and the clients that look at it. Every call has
 * a time limit; a failure names the command and what it wrote.
 */
import { spawn } from "node:child_process";
import { ClusterError } from "../common/errors.ts";

const TIMEOUT_MS = 120_000;
const OUTPUT_BYTES_MAX = 64 * 1024 * 1024;

export interface CommandResult {
  /** 128 + signal where a signal ended it. */
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly input?: string | Buffer;
  /** SIGINT when it aborts. */
  readonly signal?: AbortSignal;
  readonly env?: Readonly<Record<string, string | undefined>>;
  readonly timeoutMs?: number;
  readonly cwd?: string;
}

/** Runs to the end, whatever the status is. */
export async function run(argv: readonly string[], options: RunOptions = {}): Promise<CommandResult> {
  const [command = "", ...args] = argv;
  return await new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      stdio: ["pipe", "pipe", "pipe"],
      ...(options.env === undefined ? {} : { env: options.env }),
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    });
    const chunks: { stdout: Buffer[]; stderr: Buffer[] } = { stdout: [], stderr: [] };
    let bytes = 0;
    const keep = (list: Buffer[]) => (chunk: Buffer) => {
      bytes += chunk.length;
      if (bytes <= OUTPUT_BYTES_MAX) list.push(chunk);
    };
    child.stdout.on("data", keep(chunks.stdout));
    child.stderr.on("data", keep(chunks.stderr));
    options.signal?.addEventListener("abort", () => child.kill("SIGINT"));
    const timer = setTimeout(() => child.kill("SIGKILL"), options.timeoutMs ?? TIMEOUT_MS);
    child.on("error", (caught) => {
      clearTimeout(timer);
      reject(
        new ClusterError("failed_precondition", `Cannot run "${command}": ${caught.message}`, {
          cause: caught,
        }),
      );
    });
    child.on("close", (code, signal) => {
      clearTimeout(timer);
      const text = (list: readonly Buffer[]): string => Buffer.concat(list).toString("utf8");
      resolve({
        status: code ?? (signal === null ? 1 : 128 + 9),
        stdout: text(chunks.stdout),
        stderr: text(chunks.stderr),
      });
    });
    // A program that ends without reading its input is told by its status.
    child.stdin.on("error", () => {});
    child.stdin.end(options.input ?? "");
  });
}

/** Runs and demands status 0; its standard output. */
export async function mustRun(argv: readonly string[], options: RunOptions = {}): Promise<string> {
  const result = await run(argv, options);
  if (result.status !== 0) {
    const said = (result.stderr.trim() || result.stdout.trim()).slice(0, 2000);
    throw new ClusterError(
      "internal",
      `Command failed with status ${result.status}: ${argv.join(" ")}${said === "" ? "" : `: ${said}`}`,
    );
  }
  return result.stdout;
}
