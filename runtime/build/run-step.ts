/**
 * One RUN: a container on the image so far, its output told line by line, its writable layer kept for the next image.
 * A failing command ends the build with its exit status.
 */
import { ClusterError } from "../../common/errors.ts";
import type {
  ContainerConfig,
  ContainerEngine,
  HostConfig,
  InjectedFile,
  ProgressLine,
} from "../../model/engine.ts";

export interface RunRequest {
  readonly containers: ContainerEngine;
  readonly config: ContainerConfig;
  readonly hostConfig: HostConfig;
  readonly platform: string;
  /** Put into it when it starts, in memory only: files and variables that no record may have. */
  readonly files: readonly InjectedFile[];
  readonly secretEnv: readonly string[];
  /** What is said of a command that failed. */
  readonly failure: (exitCode: number) => string;
  /** Gets what the command prints; absent: it is reported as lines. */
  readonly output?: (stream: "stdout" | "stderr", content: Uint8Array) => void;
  readonly removesContainer: boolean;
  readonly removesFailed: boolean;
  readonly report: (line: ProgressLine) => void;
  /** Awaited after each piece that is reported; the command is held back meanwhile. Absent: all is taken at once. */
  readonly room?: () => Promise<void>;
  readonly signal: AbortSignal;
}

/** As errors' lines are told. */
export function inRed(text: string): string {
  return `\u001b[91m${text}\u001b[0m`;
}

async function output(request: RunRequest, id: string): Promise<() => Promise<void>> {
  const streams = await request.containers.attach(id, {
    stdin: false,
    stdout: true,
    stderr: true,
    logs: false,
    stream: true,
  });
  const reading = (async (): Promise<void> => {
    // A character may be cut in two between pieces of a stream.
    const decoders = { stdout: new TextDecoder(), stderr: new TextDecoder() };
    for await (const { stream, data } of streams.output) {
      if (request.output !== undefined) {
        request.output(stream, data);
        continue;
      }
      const text = decoders[stream].decode(data, { stream: true });
      if (text !== "") request.report({ stream: stream === "stderr" ? inRed(text) : text });
      await request.room?.();
    }
  })();
  return () => reading;
}

/** Runs the command and gives the stopped container to `keep`. */
export async function runStep<T>(request: RunRequest, keep: (containerId: string) => Promise<T>): Promise<T> {
  const { containers, signal, report } = request;
  signal.throwIfAborted();
  const platform = request.platform === "" ? {} : { platform: request.platform };
  const { Id: id } = await containers.create({
    config: request.config,
    hostConfig: request.hostConfig,
    ...platform,
    ...(request.files.length + request.secretEnv.length === 0
      ? {}
      : { task: { files: request.files, genericResourceEnv: request.secretEnv } }),
  });
  report({ stream: ` ---> Running in ${id.slice(0, 12)}\n` });
  let removes = request.removesFailed;
  try {
    const exitCode = await execute(request, id);
    if (exitCode !== 0) {
      throw new ClusterError("failed_precondition", request.failure(exitCode), { details: { exitCode } });
    }
    const kept = await keep(id);
    removes = request.removesContainer;
    return kept;
  } catch (caught) {
    // A build that nobody waits for leaves nothing behind.
    if (signal.aborted) removes = true;
    throw caught;
  } finally {
    if (removes) {
      await containers.remove(id, { force: true, volumes: true, link: false });
      report({ stream: ` ---> Removed intermediate container ${id.slice(0, 12)}\n` });
    }
  }
}

async function execute(request: RunRequest, id: string): Promise<number> {
  const { containers, signal } = request;
  const finished = await output(request, id);
  const kill = (): void => {
    containers.kill(id, "SIGKILL").catch(() => undefined);
  };
  signal.throwIfAborted();
  signal.addEventListener("abort", kill, { once: true });
  try {
    await containers.start(id);
    // Left while it was being started: then there was nothing to kill.
    if (signal.aborted) kill();
    const { exitCode } = await containers.wait(id, "not-running", {});
    signal.throwIfAborted();
    await finished();
    return exitCode;
  } finally {
    signal.removeEventListener("abort", kill);
  }
}
