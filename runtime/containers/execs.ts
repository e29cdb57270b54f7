/**
 * Processes that join a running container: created, started, resized, inspected. Kept until the container goes, with a
 * bound.
 */
import { readFileSync } from "node:fs";
import * as fs from "node:fs/promises";
import path from "node:path";
import { DetachScanner, parseDetachKeys } from "../../common/detach-keys.ts";
import type { Random } from "../../common/env.ts";
import { ClusterError } from "../../common/errors.ts";
import { newHexId } from "../../common/ids.ts";
import type { RootfsLayers } from "../ports.ts";
import type { AttachStreams, ExecConfig, JsonObject } from "../../model/engine.ts";
import type { AppArmor } from "./apparmor.ts";
import type { Cgroups } from "./cgroups.ts";
import { DEFAULT_PATH } from "./container-defaults.ts";
import type { ContainerEvents } from "./events-of.ts";
import { inputStream } from "./input-stream.ts";
import type { LiveContainer } from "./live-container.ts";
import { FrameType, u32, type NativeConnection, type NativeExit } from "./native-frames.ts";
import { encodeExecJob, JobFlag, NamespaceFlag, type ExecJob } from "./native-job.ts";
import type { NativeLauncher } from "./native-launcher.ts";
import { documentText, ociProcess, resolveAccount } from "./oci-bundle.ts";
import type { OciRuntime, OciRuntimes } from "./oci-runtimes.ts";
import { OutputStream } from "./output-stream.ts";
import { groupOptions, hostnameOf, processOf } from "./spec.ts";
import { parseSecurityOptions } from "./security-options.ts";
import { execError, execExitCode } from "./start-errors.ts";
import { refuseNul } from "./texts.ts";
import { userNamespaceOf } from "./user-namespace.ts";

/** Beyond this, those are forgotten that ended, or were made and never started, the longest ago. */
const FINISHED_EXECS_MAX = 500;

export interface Exec {
  readonly id: string;
  readonly container: LiveContainer;
  readonly config: ExecConfig;
  isRunning: boolean;
  isStarted: boolean;
  exitCode: number | null;
  pid: number;
  connection: NativeConnection | undefined;
}

export interface ExecDeps {
  readonly launcher: NativeLauncher;
  readonly cgroups: Cgroups;
  readonly appArmor: AppArmor;
  readonly runtimes: OciRuntimes;
  readonly execRoot: string;
  readonly layersOf: (id: string) => Promise<RootfsLayers>;
  readonly random: Pick<Random, "bytes">;
  readonly events: ContainerEvents;
}

/** Field 22 of /proc/PID/stat. */
export function startTicks(pid: number): bigint {
  const text = readFileSync(`/proc/${pid}/stat`, "utf8");
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  return BigInt(fields[19] ?? "0");
}

/** Namespaces that the container does not share with us: entering one's own user namespace is an error, the rest is waste. */
function namespacesOf(live: LiveContainer): number {
  const { NetworkMode, PidMode, IpcMode, UTSMode, CgroupnsMode } = live.record.hostConfig;
  let flags: number = NamespaceFlag.mount;
  if (NetworkMode !== "host") flags |= NamespaceFlag.net;
  if (PidMode !== "host") flags |= NamespaceFlag.pid;
  if (IpcMode !== "host") flags |= NamespaceFlag.ipc;
  if (UTSMode !== "host") flags |= NamespaceFlag.uts;
  if (CgroupnsMode !== "host") flags |= NamespaceFlag.cgroup;
  return flags;
}

/** Docker has a space after the program, also where nothing follows. */
function commandText({ Cmd: [program = "", ...args] }: ExecConfig): string {
  return `${program} ${args.join(" ")}`;
}

/** The layers don't show what the container has for these files. */
function hasMountedAccounts({ record }: LiveContainer): boolean {
  return record.mounts.some(({ Destination }) =>
    ["/etc/passwd", "/etc/group"].some((file) => file === Destination || file.startsWith(`${Destination}/`)),
  );
}

export class Execs {
  readonly #deps: ExecDeps;
  readonly #execs = new Map<string, Exec>();

  constructor(deps: ExecDeps) {
    this.#deps = deps;
  }

  create(container: LiveContainer, config: ExecConfig): Exec {
    if (container.record.state.status === "paused") {
      throw new ClusterError(
        "conflict",
        `Container ${container.record.name} is paused, unpause the container before exec`,
      );
    }
    if (!container.isRunning) {
      throw new ClusterError("conflict", `container ${container.id} is not running`);
    }
    refuseNul(config, "ExecConfig");
    if (config.Cmd.length === 0) throw new ClusterError("invalid_argument", "No exec command specified");
    const exec: Exec = {
      id: newHexId(this.#deps.random),
      container,
      config,
      isRunning: false,
      isStarted: false,
      exitCode: null,
      pid: 0,
      connection: undefined,
    };
    this.#forgetOldest();
    this.#execs.set(exec.id, exec);
    this.#deps.events(container.record, `exec_create: ${commandText(config)}`, { execID: exec.id });
    return exec;
  }

  /**
   * Refuses a user or group that the container's files don't know, as dockerd does before it makes an exec. Where a mount
   * hides those files, the start finds out.
   */
  async checkUser(container: LiveContainer, { User = "" }: ExecConfig): Promise<void> {
    if (/^\d{0,9}(:\d{0,9})?$/.test(User) || !container.isRunning || hasMountedAccounts(container)) return;
    const layers = await this.#deps.layersOf(container.id);
    try {
      resolveAccount(User, [], layers);
    } catch (caught) {
      throw new ClusterError("invalid_argument", ClusterError.from(caught).message, { cause: caught });
    }
  }

  get(id: string): Exec {
    const exec = this.#execs.get(id);
    if (exec === undefined) throw new ClusterError("not_found", `No such exec instance: ${id}`);
    return exec;
  }

  idsOf(container: LiveContainer): readonly string[] {
    return [...this.#execs.values()]
      .filter((each) => each.container === container && each.isRunning)
      .map((each) => each.id);
  }

  forget(container: LiveContainer): void {
    for (const exec of this.#execs.values()) if (exec.container === container) this.#execs.delete(exec.id);
  }

  /** Who started it asks for its exit code next, however long ago it was made. */
  #ended(exec: Exec): void {
    if (this.#execs.delete(exec.id)) this.#execs.set(exec.id, exec);
  }

  #forgetOldest(): void {
    if (this.#execs.size < FINISHED_EXECS_MAX) return;
    for (const exec of this.#execs.values()) {
      if (exec.isRunning) continue;
      this.#execs.delete(exec.id);
      return;
    }
  }

  async #job(
    exec: Exec,
    options: { readonly isDiscarding: boolean; readonly consoleSize: readonly number[] | undefined },
  ): Promise<Buffer> {
    const { container, config } = exec;
    const { record } = container;
    const isPrivileged = config.Privileged === true || record.hostConfig.Privileged === true;
    const inherited = [DEFAULT_PATH, `HOSTNAME=${hostnameOf(record)}`, ...(record.config.Env ?? [])];
    const env = new Map<string, string>();
    if (config.Tty === true) env.set("TERM", "TERM=xterm");
    for (const entry of [...inherited, ...(config.Env ?? [])]) env.set(entry.split("=", 1)[0] ?? "", entry);
    const noNewPrivileges = parseSecurityOptions(record.hostConfig).hasNoNewPrivileges;
    const user = userNamespaceOf(record.state.pid);
    const cwd =
      (config.WorkingDir ?? "") === "" ? (record.config.WorkingDir ?? "") : (config.WorkingDir ?? "");
    if (cwd !== "" && !cwd.startsWith("/"))
      throw new ClusterError("invalid_argument", "Cwd must be an absolute path");
    const job: ExecJob = {
      flags:
        (config.Tty === true ? JobFlag.tty : 0) |
        (config.AttachStdin === true ? JobFlag.openStdin : 0) |
        (noNewPrivileges ? JobFlag.noNewPrivileges : 0) |
        (options.isDiscarding ? JobFlag.discardOutput : 0),
      process: processOf(record, {
        args: config.Cmd,
        env: [...env.values()].filter((entry) => entry.includes("=")),
        cwd,
        user: (config.User ?? "") === "" ? (record.config.User ?? "") : (config.User ?? ""),
        isPrivileged,
        consoleSize: options.consoleSize ?? config.ConsoleSize,
        apparmor: this.#deps.appArmor.profileOf(record.hostConfig),
      }),
      cgroups: this.#deps.cgroups.groups(record.id, groupOptions(record.hostConfig)),
      pid: record.state.pid,
      pidStartTicks: startTicks(record.state.pid),
      namespaces: namespacesOf(container) | (user.isOwn ? NamespaceFlag.user : 0),
      oomScoreAdj: record.hostConfig.OomScoreAdj ?? 0,
      uidMaps: user.uidMaps,
      gidMaps: user.gidMaps,
    };
    const runtime = this.#deps.runtimes.find(record.hostConfig.Runtime);
    return encodeExecJob(runtime === undefined ? job : await this.#delegated(exec, job, runtime));
  }

  /** For a container of another runtime: the process as a document in the container's state folder. */
  async #delegated(exec: Exec, job: ExecJob, runtime: OciRuntime): Promise<ExecJob> {
    const { id } = exec.container;
    const stateDir = path.join(this.#deps.execRoot, "c", id);
    const processFile = `exec-${exec.id}.json`;
    const account = resolveAccount(job.process.user, job.process.groups, await this.#deps.layersOf(id));
    const document = ociProcess(job.process, {
      account,
      isTty: (job.flags & JobFlag.tty) !== 0,
      hasNoNewPrivileges: (job.flags & JobFlag.noNewPrivileges) !== 0,
    });
    await fs.writeFile(path.join(stateDir, processFile), documentText(document), { mode: 0o600 });
    return { ...job, delegated: { runtime, containerId: id, stateDir, processFile } };
  }

  /** Resolves once the program runs; `onEnd` comes later, once, and not at all if this rejects. */
  async run(
    exec: Exec,
    options: {
      readonly isDiscarding: boolean;
      readonly consoleSize?: readonly number[] | undefined;
      readonly output?: (stream: "stdout" | "stderr", data: Buffer) => void;
      readonly onEnd?: () => void;
    },
  ): Promise<NativeConnection> {
    if (exec.isStarted) throw new ClusterError("conflict", `exec ${exec.id} has already been started`);
    if (!exec.container.isRunning)
      throw new ClusterError("conflict", `container ${exec.container.id} is not running`);
    exec.isStarted = true;
    const { container } = exec;
    // A short program's end may have come by the time that its start is told.
    const told = Promise.withResolvers<void>();
    let started: Promise<unknown> = Promise.resolve();
    let current: NativeConnection | undefined;
    let hasFailed = false;
    const sent = (connection: NativeConnection): void => {
      current = connection;
      connection.handle({
        ...(options.output === undefined ? {} : { output: options.output }),
        exit: (exit) => void told.promise.then(() => this.#exited(exec, exit)),
        closed: () =>
          void told.promise.then(() => {
            // The job was another process's in the end, or the caller is told by the error, maybe later than this.
            if (current !== connection || hasFailed) return;
            if (exec.isRunning) this.#exited(exec, undefined);
            options.onEnd?.();
          }),
      });
      // There when the process is ready for it.
      started = connection.ask(FrameType.start, u32(0));
      started.catch(() => undefined);
    };
    try {
      const job = await this.#job(exec, {
        isDiscarding: options.isDiscarding,
        consoleSize: options.consoleSize,
      });
      const { connection, pid } = await this.#deps.launcher.run("exec", job, { sent });
      exec.pid = pid;
      exec.connection = connection;
      await started;
      void this.#deps.launcher.prepareSpare("exec");
      exec.isRunning = exec.exitCode === null;
      this.#deps.events(container.record, `exec_start: ${commandText(exec.config)}`, { execID: exec.id });
      return connection;
    } catch (caught) {
      hasFailed = true;
      const { message } = ClusterError.from(caught);
      exec.exitCode = execExitCode(message);
      exec.connection?.close();
      exec.connection = undefined;
      this.#ended(exec);
      this.#deps.events(container.record, "exec_die", { execID: exec.id, exitCode: String(exec.exitCode) });
      throw new ClusterError("invalid_argument", execError(message), { cause: caught });
    } finally {
      told.resolve();
    }
  }

  #exited(exec: Exec, exit: NativeExit | undefined): void {
    // A program that could not be executed is told by start's error.
    if (exit?.isStarted === false) return;
    exec.isRunning = false;
    exec.exitCode = exit?.exitCode ?? 137;
    exec.connection = undefined;
    this.#ended(exec);
    this.#deps.events(exec.container.record, "exec_die", {
      execID: exec.id,
      exitCode: String(exec.exitCode),
    });
  }

  async start(
    id: string,
    options: { readonly detach: boolean; readonly tty: boolean; readonly consoleSize?: readonly number[] },
  ): Promise<AttachStreams | undefined> {
    const exec = this.get(id);
    if (options.detach) {
      await this.run(exec, { isDiscarding: true, consoleSize: options.consoleSize });
      return undefined;
    }
    const output = new OutputStream();
    const isTty = exec.config.Tty === true;
    const connection = await this.run(exec, {
      isDiscarding: false,
      consoleSize: options.consoleSize,
      output: (stream, data) => output.push(stream, data),
      onEnd: () => output.end(),
    }).catch((caught: unknown) => {
      const error = ClusterError.from(caught);
      if (error.code === "conflict") throw error;
      // The stream is open by the time Docker finds out: clients read the reason there, and the code from the exec.
      output.push("stdout", Buffer.from(`${error.message}\r\n`));
      output.end();
      return undefined;
    });
    if (connection === undefined) return { isTty, output, close: () => output.end() };
    output.source = connection;
    const detach = (): void => {
      output.end();
      this.#deps.events(exec.container.record, "exec_detach", { execID: exec.id });
    };
    const keys = parseDetachKeys(exec.config.DetachKeys);
    const stdin =
      exec.config.AttachStdin === true
        ? inputStream({
            connection: Promise.resolve(connection),
            scanner: isTty ? new DetachScanner(keys) : undefined,
            onDetach: detach,
            // A terminal has no half-close, and would take nothing from then on.
            onEnd: (native) => {
              if (!isTty) native.send(FrameType.closeStdin);
            },
          })
        : undefined;
    // The exec goes on without its client, and its end is still to be told: what it says until then is dropped.
    const close = (): void => {
      stdin?.end();
      output.end();
    };
    return { isTty, output, ...(stdin === undefined ? {} : { stdin }), close };
  }

  async resize(id: string, height: number, width: number): Promise<void> {
    const exec = this.get(id);
    if (exec.connection === undefined || !exec.isRunning) {
      throw new ClusterError("conflict", `exec ${id} is not running`);
    }
    await exec.connection.ask(FrameType.resize, u32((height & 0xffff) | ((width & 0xffff) << 16)));
  }

  inspect(id: string): JsonObject {
    const { config, container, isRunning, exitCode, pid, isStarted } = this.get(id);
    const [entrypoint = "", ...args] = config.Cmd;
    return {
      ID: id,
      Running: isRunning,
      ExitCode: exitCode,
      ProcessConfig: {
        tty: config.Tty === true,
        entrypoint,
        arguments: args,
        privileged: config.Privileged === true,
        ...((config.User ?? "") === "" ? {} : { user: config.User ?? "" }),
      },
      OpenStdin: config.AttachStdin === true,
      OpenStderr: config.AttachStderr === true,
      OpenStdout: config.AttachStdout === true,
      CanRemove: isStarted && !isRunning,
      ContainerID: container.id,
      DetachKeys: config.DetachKeys ?? "",
      Pid: pid,
    };
  }
}
