/** The commands that hold a container's streams: run, start -a, attach, exec. Their exit status is the container's. */
import { existsSync, writeFileSync } from "node:fs";
import { ClusterError } from "../../common/errors.ts";
import { ApiError } from "../client/api-client.ts";
import type { ApiClient } from "../client/api-client.ts";
import { parseDetachKeys } from "../../common/detach-keys.ts";
import { announceSize, connectStreams } from "../client/attach.ts";
import { registryAuthHeader } from "../client/registry-auth.ts";
import type { CommandContext, CommandDefinition, FlagDefinition } from "../command.ts";
import { bool, ExitError, list, text } from "../command.ts";
import { CONTAINER_FLAGS, createBody } from "../container-flags.ts";
import { choiceFlag, readEnvFile, resolveEnv } from "../flag-values.ts";
import type { ProgressLine } from "../output/json-progress.ts";
import { showProgress } from "../output/json-progress.ts";

const STATUS_DAEMON_ERROR = 125;
const STATUS_NOT_EXECUTABLE = 126;
const STATUS_NOT_FOUND = 127;
const SIGNALS: readonly NodeJS.Signals[] = ["SIGHUP", "SIGINT", "SIGTERM", "SIGQUIT", "SIGUSR1", "SIGUSR2"];

export interface ContainerInspect {
  readonly Id: string;
  readonly Name: string;
  readonly Config: { readonly Tty?: boolean; readonly OpenStdin?: boolean };
  readonly State: { readonly Running: boolean; readonly Paused?: boolean; readonly ExitCode?: number };
}

/** docker's exit status of a start that failed, from the words of the error. */
function startFailureStatus(message: string): number {
  if (/executable file not found|no such file or directory/i.test(message)) return STATUS_NOT_FOUND;
  if (/permission denied|is a directory/i.test(message)) return STATUS_NOT_EXECUTABLE;
  return STATUS_DAEMON_ERROR;
}

function asExit(caught: unknown): never {
  if (caught instanceof ApiError) {
    throw new ExitError(
      startFailureStatus(caught.message),
      `shoal: Error response from daemon: ${caught.message}\n`,
    );
  }
  throw caught;
}

async function pull(context: CommandContext, image: string): Promise<void> {
  const cut = image.includes("@")
    ? image.indexOf("@")
    : image.lastIndexOf(":") > image.lastIndexOf("/")
      ? image.lastIndexOf(":")
      : image.length;
  const lines = context.client.jsonLines<ProgressLine>("POST", "/images/create", {
    query: {
      fromImage: image.slice(0, cut),
      tag: image.slice(cut + 1) || "latest",
      platform: context.flags.string("platform"),
    },
    headers: registryAuthHeader(context.env, image, true),
  });
  await showProgress(lines, context.err, context.flags.bool("quiet"));
}

/** Creates the container, fetching the image if the daemon lacks it; its id. */
async function createContainer(context: CommandContext, isDetached: boolean): Promise<string> {
  const { client, flags, args, env, err } = context;
  const cidfile = flags.string("cidfile");
  if (cidfile !== undefined && existsSync(cidfile)) {
    throw new ClusterError(
      "already_exists",
      `Cannot write --cidfile "${cidfile}": the file exists; remove it or name another`,
    );
  }
  const policy = choiceFlag(flags, "pull", ["always", "missing", "never"]) ?? "missing";
  const image = args[0] ?? "";
  const body = createBody(args, flags, { env, isDetached });
  const create = async (): Promise<{ Id: string; Warnings?: readonly string[] | null }> =>
    await client.post("/containers/create", {
      query: { name: flags.string("name"), platform: flags.string("platform") },
      body,
    });
  if (policy === "always") await pull(context, image);
  let answer: { Id: string; Warnings?: readonly string[] | null };
  try {
    answer = await create();
  } catch (caught) {
    const lacksImage =
      caught instanceof ApiError && caught.status === 404 && /no such image/i.test(caught.message);
    if (!lacksImage || policy === "never") throw caught;
    err.write(`Unable to find image '${image}' locally\n`);
    await pull(context, image);
    answer = await create();
  }
  for (const warning of answer.Warnings ?? []) err.write(`WARNING: ${warning}\n`);
  if (cidfile !== undefined) writeFileSync(cidfile, answer.Id);
  return answer.Id;
}

/** Registers the wait before the start, so that no exit is missed; the exit status comes later. */
async function beginWait(client: ApiClient, id: string, condition: string): Promise<() => Promise<number>> {
  const response = await client.call("POST", `/containers/${id}/wait`, { query: { condition } });
  return async () => {
    let textSoFar = "";
    for await (const chunk of response) textSoFar += String(chunk);
    const answer = JSON.parse(textSoFar) as { StatusCode: number; Error?: { Message?: string } | null };
    const message = answer.Error?.Message ?? "";
    if (message !== "") throw new ExitError(STATUS_DAEMON_ERROR, `${message}\n`);
    return answer.StatusCode;
  };
}

/** Passes our signals on to the container until the returned function is called. */
function proxySignals(client: ApiClient, id: string): () => void {
  const handlers = SIGNALS.map((signal) => {
    const handler = (): void => {
      client.post(`/containers/${id}/kill`, { query: { signal } }).catch(() => {});
    };
    process.on(signal, handler);
    return [signal, handler] as const;
  });
  return () => {
    for (const [signal, handler] of handlers) process.off(signal, handler);
  };
}

interface AttachedRun {
  readonly id: string;
  readonly isTty: boolean;
  readonly sendsInput: boolean;
  readonly streams: { readonly stdout: boolean; readonly stderr: boolean };
  readonly waitCondition: string;
  /** Starts the container once the streams are in place. */
  readonly start: () => Promise<void>;
  readonly passesSignals: boolean;
}

async function runAttached(context: CommandContext, request: AttachedRun): Promise<number> {
  const { client, flags } = context;
  const { id, isTty, sendsInput } = request;
  const keys = flags.string("detach-keys");
  const stream = await client.hijack(`/containers/${id}/attach`, {
    query: {
      stream: true,
      stdin: sendsInput,
      stdout: request.streams.stdout,
      stderr: request.streams.stderr,
      detachKeys: keys,
    },
  });
  const exit = await beginWait(client, id, request.waitCondition);
  process.removeAllListeners("SIGINT").removeAllListeners("SIGTERM");
  const stopSignals = request.passesSignals && !isTty ? proxySignals(client, id) : () => {};
  try {
    await request.start();
    const resizePath = `/containers/${id}/resize`;
    if (isTty) await announceSize(client, resizePath);
    const outcome = await connectStreams(client, stream, {
      isTty,
      sendsInput,
      detachKeys: parseDetachKeys(keys),
      resizePath,
    });
    return outcome === "detached" ? 0 : await exit();
  } finally {
    stopSignals();
    stream.socket.destroy();
  }
}

async function runRun(context: CommandContext): Promise<number> {
  const { client, flags, out } = context;
  const isDetached = flags.bool("detach");
  try {
    if (flags.bool("tty") && flags.bool("interactive") && process.stdin.isTTY !== true && !isDetached) {
      throw new ClusterError("invalid_argument", "the input device is not a TTY");
    }
    const id = await createContainer(context, isDetached);
    const start = async (): Promise<void> => {
      try {
        await client.post(`/containers/${id}/start`);
      } catch (caught) {
        // A container that never ran is of no use with --rm; docker removes it too.
        if (flags.bool("rm"))
          await client.delete(`/containers/${id}`, { query: { force: true, v: true } }).catch(() => {});
        throw caught;
      }
    };
    if (isDetached) {
      await start();
      out.write(`${id}\n`);
      return 0;
    }
    const attached = flags.list("attach").map((each) => each.toLowerCase());
    const wants = (name: string): boolean => attached.length === 0 || attached.includes(name);
    return await runAttached(context, {
      id,
      isTty: flags.bool("tty"),
      sendsInput: flags.bool("interactive") && wants("stdin"),
      streams: { stdout: wants("stdout"), stderr: wants("stderr") },
      waitCondition: flags.bool("rm") ? "removed" : "next-exit",
      start,
      passesSignals: !flags.has("sig-proxy") || flags.bool("sig-proxy"),
    });
  } catch (caught) {
    return asExit(caught);
  }
}

async function runStart(context: CommandContext): Promise<number> {
  const { client, flags, args, out, err } = context;
  const isAttached = flags.bool("attach") || flags.bool("interactive");
  if (isAttached && args.length > 1)
    throw new ClusterError("invalid_argument", "You cannot start and attach multiple containers at once");
  if (isAttached) {
    const found = await client.get<ContainerInspect>(`/containers/${encodeURIComponent(args[0] ?? "")}/json`);
    return await runAttached(context, {
      id: found.Id,
      isTty: found.Config.Tty === true,
      sendsInput: flags.bool("interactive") && found.Config.OpenStdin === true,
      streams: { stdout: true, stderr: true },
      waitCondition: "next-exit",
      start: async () => {
        await client.post(`/containers/${found.Id}/start`);
      },
      passesSignals: true,
    });
  }
  let failures = 0;
  for (const name of args) {
    try {
      await client.post(`/containers/${encodeURIComponent(name)}/start`);
      out.write(`${name}\n`);
    } catch (caught) {
      if (!(caught instanceof ApiError)) throw caught;
      failures += 1;
      err.write(`Error response from daemon: ${caught.message}\n`);
    }
  }
  if (failures > 0) throw new ExitError(1, `failed to start containers: ${failures}\n`);
  return 0;
}

async function runAttach(context: CommandContext): Promise<number> {
  const { client, flags, args } = context;
  const found = await client.get<ContainerInspect>(`/containers/${encodeURIComponent(args[0] ?? "")}/json`);
  if (!found.State.Running)
    throw new ExitError(1, "You cannot attach to a stopped container, start it first\n");
  if (found.State.Paused === true)
    throw new ExitError(1, "You cannot attach to a paused container, unpause it first\n");
  return await runAttached(context, {
    id: found.Id,
    isTty: found.Config.Tty === true,
    sendsInput: !flags.bool("no-stdin") && found.Config.OpenStdin === true,
    streams: { stdout: true, stderr: true },
    waitCondition: "not-running",
    start: async () => {},
    passesSignals: !flags.has("sig-proxy") || flags.bool("sig-proxy"),
  });
}

async function runExec(context: CommandContext): Promise<number> {
  const { client, flags, args, env } = context;
  const [name = "", ...command] = args;
  const isTty = flags.bool("tty");
  const isDetached = flags.bool("detach");
  const sendsInput = flags.bool("interactive") && !isDetached;
  if (isTty && sendsInput && process.stdin.isTTY !== true)
    throw new ExitError(1, "the input device is not a TTY\n");
  const keys = flags.string("detach-keys");
  const size =
    isTty && process.stdout.rows !== undefined ? [process.stdout.rows, process.stdout.columns] : undefined;
  const environment = [
    ...flags.list("env-file").flatMap((file) => readEnvFile(file, env)),
    ...resolveEnv(flags.list("env"), env),
  ];
  const { Id: id } = await client.post<{ Id: string }>(`/containers/${encodeURIComponent(name)}/exec`, {
    body: {
      Cmd: command,
      Tty: isTty,
      Privileged: flags.bool("privileged"),
      AttachStdin: sendsInput,
      AttachStdout: !isDetached,
      AttachStderr: !isDetached,
      DetachKeys: keys ?? "",
      ...(environment.length === 0 ? {} : { Env: environment }),
      ...(flags.has("user") ? { User: flags.string("user") } : {}),
      ...(flags.has("workdir") ? { WorkingDir: flags.string("workdir") } : {}),
      ...(size === undefined ? {} : { ConsoleSize: size }),
    },
  });
  const startBody = { Detach: isDetached, Tty: isTty, ...(size === undefined ? {} : { ConsoleSize: size }) };
  if (isDetached) {
    await client.post(`/exec/${id}/start`, { body: startBody });
    return 0;
  }
  const stream = await client.hijack(`/exec/${id}/start`, { body: startBody });
  if (isTty) await announceSize(client, `/exec/${id}/resize`);
  await connectStreams(client, stream, {
    isTty,
    sendsInput,
    detachKeys: parseDetachKeys(keys),
    resizePath: `/exec/${id}/resize`,
  });
  stream.socket.destroy();
  const found = await client.get<{ ExitCode?: number | null }>(`/exec/${id}/json`);
  return found.ExitCode ?? 0;
}

const DETACH_KEYS: FlagDefinition = text(
  "detach-keys",
  "keys",
  "Keys that let go of the container (default ctrl-p,ctrl-q)",
);

export const RUN_COMMANDS: readonly CommandDefinition[] = [
  {
    name: "run",
    usage: "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    summary: "Create and run a container on this machine",
    argsMin: 1,
    stopsAtArgument: true,
    flags: [
      ...CONTAINER_FLAGS,
      bool("detach", "Run in the background and print the id", "d"),
      DETACH_KEYS,
      bool("sig-proxy", "Pass signals on (default true)"),
    ],
    run: runRun,
  },
  {
    name: "create",
    usage: "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    summary: "Create a container without starting it",
    argsMin: 1,
    stopsAtArgument: true,
    flags: CONTAINER_FLAGS,
    run: async (context) => {
      context.out.write(`${await createContainer(context, false)}\n`);
    },
  },
  {
    name: "start",
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    summary: "Start containers",
    argsMin: 1,
    flags: [
      bool("attach", "Attach to its output", "a"),
      bool("interactive", "Attach to its stdin", "i"),
      DETACH_KEYS,
    ],
    run: runStart,
  },
  {
    name: "attach",
    usage: "[OPTIONS] CONTAINER",
    summary: "Attach to a running container",
    argsMin: 1,
    argsMax: 1,
    flags: [
      bool("no-stdin", "Don't attach to stdin"),
      bool("sig-proxy", "Pass signals on (default true)"),
      DETACH_KEYS,
    ],
    run: runAttach,
  },
  {
    name: "exec",
    usage: "[OPTIONS] CONTAINER COMMAND [ARG...]",
    summary: "Run a command in a running container",
    argsMin: 2,
    stopsAtArgument: true,
    flags: [
      bool("detach", "Run in the background", "d"),
      DETACH_KEYS,
      list("env", "NAME=value", "Environment variable", "e"),
      list("env-file", "file", "File of environment variables"),
      bool("interactive", "Keep stdin open", "i"),
      bool("privileged", "All capabilities"),
      bool("tty", "Give it a terminal", "t"),
      text("user", "user[:group]", "User", "u"),
      text("workdir", "path", "Working folder", "w"),
    ],
    run: runExec,
  },
];
