/**
 * Start, stop, exit, restart and removal of containers, and taking over those that a former daemon started. Every change of a
 * container's state is made here, one at a time for each container; the native side is told what to do and reports ends.
 */
import { existsSync, mkdirSync, renameSync, rmdirSync, rmSync, unlinkSync } from "node:fs";
import * as fs from "node:fs/promises";
import { availableParallelism } from "node:os";
import path from "node:path";
import type { Env } from "../../common/env.ts";
import { ClusterError } from "../../common/errors.ts";
import type { Logger } from "../../common/log.ts";
import { Semaphore } from "../../common/semaphore.ts";
import { parseNanoseconds, rfc3339OfNanoseconds, ZERO_TIME } from "../../common/time.ts";
import type { ExitStatus } from "../../model/engine.ts";
import type { LaterRemoval } from "../later-removal.ts";
import { addressBytes } from "../network/addresses.ts";
import type {
  ContainerNetworkRequest,
  ContainerNetworks,
  NameServers,
  RootfsLayers,
  RootfsSource,
  VolumeMount,
  VolumeSource,
} from "../ports.ts";
import type { AppArmor } from "./apparmor.ts";
import type { Cgroups } from "./cgroups.ts";
import { DEFAULT_STOP_TIMEOUT_SECONDS } from "./container-defaults.ts";
import {
  REMOVED_SUFFIX,
  REMOVED_WITH_VOLUMES_SUFFIX,
  type ContainerRecord,
  type MountPoint,
  type PersistedState,
} from "./container-record.ts";
import { GENERATED_FILES } from "./container-files.ts";
import { copyUp } from "./copy-up.ts";
import type { ContainerEvents } from "./events-of.ts";
import type { IdMaps } from "./id-ranges.ts";
import { mountImage } from "./image-mounts.ts";
import type { LaunchSpec } from "./launch-spec.ts";
import type { LiveContainer } from "./live-container.ts";
import { FrameType, u32, type NativeConnection, type NativeExit } from "./native-frames.ts";
import { encodeCreateJob, JobFlag } from "./native-job.ts";
import type { NativeLauncher } from "./native-launcher.ts";
import type { LogForwarders } from "../logging/log-forwarders.ts";
import { delegatedSpec } from "./oci-bundle.ts";
import type { OciRuntime, OciRuntimes } from "./oci-runtimes.ts";
import { resourceLimits } from "./resource-limits.ts";
import { nextRestartDelayMs, shouldRestart } from "./restart-policy.ts";
import { parseSignal } from "./signals.ts";
import { deviceRulesOf, groupOptions, hostnameOf, launchSpec, monitorSocket, sharedWith } from "./spec.ts";
import { unmountBelow } from "../volumes/mount-calls.ts";
import { startError } from "./start-errors.ts";
import { resolveSubpath } from "./subpaths.ts";

const SIGKILL = 9;
/** Where Docker's networks have their name server: configurations (nginx's "resolver") spell it out. */
const NAME_SERVER_ADDRESS = "127.0.0.11";
/** After SIGKILL an end comes at once, unless the kernel holds the process in a call that can't be broken off. */
const KILL_WAIT_MS = 10_000;

/**
 * Containers that are being started at once: enough to keep the CPUs busy while some wait for the kernel; more only queue for
 * its locks, and all of them are up late instead of most of them early.
 */
const START_COUNT_MAX = Math.max(8, Math.min(64, 4 * availableParallelism()));
/** A start that hangs (a bind from a server that is gone) gives its place to the next after this. */
const START_PLACE_MS = 500;

export interface LifecycleDeps {
  readonly env: Env;
  readonly log: Logger;
  readonly execRoot: string;
  readonly nativeBinary: string;
  readonly launcher: NativeLauncher;
  readonly cgroups: Cgroups;
  readonly rootfs: RootfsSource;
  readonly volumes: VolumeSource;
  readonly networks: ContainerNetworks;
  readonly events: ContainerEvents;
  /** Undefined: containers have the host's ids. */
  readonly idMaps: IdMaps | undefined;
  readonly appArmor: AppArmor;
  readonly runtimes: OciRuntimes;
  readonly find: (id: string) => LiveContainer;
  /** After a record's disappearance: names are free again. */
  readonly forget: (live: LiveContainer) => void;
  /** For folders of removed containers. */
  readonly removal: LaterRemoval;
  readonly healthStarted: (live: LiveContainer) => void;
  /** For logs that go to collectors. */
  readonly logs: Pick<LogForwarders, "prepare" | "follow">;
}

export class Lifecycle {
  readonly #deps: LifecycleDeps;
  readonly #places = new Semaphore(START_COUNT_MAX);
  #isStopped = false;

  constructor(deps: LifecycleDeps) {
    this.#deps = deps;
  }

  /** No more restarts by policy; containers go on. */
  stop(): void {
    this.#isStopped = true;
  }

  start(live: LiveContainer): Promise<boolean> {
    live.cancelRestart?.();
    live.cancelRestart = undefined;
    return live.exclusive(async () => {
      const { status } = live.record.state;
      if (live.isRemoving || live.isRemovalWanted)
        throw new ClusterError("conflict", "container is marked for removal and cannot be started");
      if (status === "paused") {
        throw new ClusterError("conflict", "cannot start a paused container, try unpause instead");
      }
      if (status === "running") return false;
      live.isStopping = false;
      live.restartDelayMs = 0;
      live.change({ isStoppedByUser: false, restartCount: 0 });
      await this.#launch(live);
      return true;
    });
  }

  /** Called with the container's line held. */
  async #launch(live: LiveContainer): Promise<void> {
    const { events } = this.#deps;
    const done: (() => Promise<unknown>)[] = [];
    try {
      await this.#prepare(live, done);
    } catch (caught) {
      await this.#startFailed(live, done, ClusterError.from(caught));
    }
    events(live.record, "start");
    this.#deps.healthStarted(live);
    this.#deps.logs.follow(live);
    for (const wake of live.changed) wake();
  }

  async #prepare(live: LiveContainer, undo: (() => Promise<unknown>)[]): Promise<void> {
    const { rootfs, cgroups, execRoot } = this.#deps;
    const { record } = live;
    const stateDir = path.join(execRoot, "c", live.id);
    this.#checkShared(live);
    makeStateDir(stateDir);
    this.#deps.logs.prepare(live);
    const layers = await rootfs.layers(live.id);
    const { CgroupParent: parent = "" } = record.hostConfig;
    if (parent !== "") await cgroups.prepare(parent);
    if (record.hostConfig.IpcMode === "shareable") await makeSharedMemory(stateDir);
    await this.#mountVolumes(live, [layers.upper, ...layers.lower], undo);
    await this.#bounded(() => this.#run(live, layers, undo));
  }

  /** Runs `work` when it has a place among the starts. */
  async #bounded(work: () => Promise<void>): Promise<void> {
    const release = await this.#places.acquire();
    const cancel = this.#deps.env.timers.after(START_PLACE_MS, release);
    try {
      await work();
    } finally {
      cancel();
      release();
    }
  }

  #job(live: LiveContainer, layers: RootfsLayers): Buffer | Promise<Buffer> {
    const { cgroups, execRoot, nativeBinary } = this.#deps;
    const owner = sharedWith(live.record.hostConfig.NetworkMode);
    const plain = launchSpec({
      record: live.record,
      layers,
      folder: live.folder,
      networkFolder: (owner === undefined ? live : this.#deps.find(owner)).files.folder,
      execRoot,
      nativeBinary,
      cgroups,
      idMaps: this.#deps.idMaps,
      appArmor: this.#deps.appArmor,
      files: live.task?.files ?? [],
      environment: live.task?.genericResourceEnv ?? [],
      pidOf: (id) => this.#runningPid(id),
      shmOf: (id) => this.#sharedMemory(id),
    });
    const spec = isAttachedEarly(live) ? { ...plain, flags: plain.flags | JobFlag.tellBorn } : plain;
    const runtime = this.#deps.runtimes.find(live.record.hostConfig.Runtime);
    return runtime === undefined
      ? encodeCreateJob(spec)
      : this.#delegatedJob(live, { spec, layers, runtime });
  }

  /** For another runtime: its bundle is written, and the monitor told to let it make the container. */
  async #delegatedJob(
    live: LiveContainer,
    made: { readonly spec: LaunchSpec; readonly layers: RootfsLayers; readonly runtime: OciRuntime },
  ): Promise<Buffer> {
    const { execRoot, cgroups, runtimes } = this.#deps;
    const { hostConfig } = live.record;
    const spec = await delegatedSpec(runtimes, made.runtime, {
      spec: made.spec,
      hostConfig,
      layers: made.layers,
      rootPath: path.join(execRoot, "rootfs"),
      cgroupsPath: cgroups.folder("/", live.id, groupParent(live.record).parent),
      limits: resourceLimits(hostConfig),
      deviceRules: deviceRulesOf(hostConfig),
    });
    return encodeCreateJob(spec);
  }

  async #run(live: LiveContainer, layers: RootfsLayers, undo: (() => Promise<unknown>)[]): Promise<void> {
    live.files.prepare(hostnameOf(live.record), live.record.hostConfig, {
      isNamedLater: isConnectedLater(live),
    });
    let started: Promise<unknown> | undefined;
    let attached: Promise<void> | undefined;
    // The word is there when the container is ready for it.
    const start = (to: NativeConnection): void => {
      started = live.pendingAttachments.size === 0 ? to.ask(FrameType.start, u32(0)) : undefined;
      started?.catch(() => undefined);
    };
    // While it builds its file system.
    const attach = async (connection: NativeConnection, pid: number): Promise<void> => {
      // Noted before the program runs: the next daemon finds it should this one be killed, and what is connected from here on stays.
      live.change(await this.#attachNetwork(live, { connection, pid }, undo));
      start(connection);
    };
    const sent = (to: NativeConnection): void => {
      this.#watch(live, to, (pid) => {
        attached = attach(to, pid);
        attached.catch(() => undefined);
      });
      if (isOnItsOwn(live)) start(to);
    };
    const mayRepeat = (): boolean => attached === undefined;
    const job = await this.#job(live, layers);
    const { connection, pid } = await this.#deps.launcher
      .run("create", job, { sent, mayRepeat })
      .catch(async (caught: unknown) => {
        // What has begun ends before it is undone; that it has failed with this is no news.
        await attached?.catch(() => undefined);
        throw caught;
      });
    undo.push(async () => {
      connection.send(FrameType.signal, u32(SIGKILL));
      await connection.closed;
    });
    await (attached ?? (isOnItsOwn(live) ? undefined : attach(connection, pid)));
    for (const pending of live.pendingAttachments) {
      await pending.connected(await this.#deps.launcher.connectMonitor(monitorSocket(live.id)));
    }
    live.pendingAttachments.clear();
    this.#adoptConnection(live, connection);
    await (started ?? connection.ask(FrameType.start, u32(0)));
    void this.#deps.launcher.prepareSpare("create");
    live.changeState({
      status: "running",
      pid,
      exitCode: 0,
      error: "",
      isOomKilled: false,
      startedAt: rfc3339OfNanoseconds(BigInt(Math.round(this.#deps.env.clock.wallMs() * 1000)) * 1000n),
    });
    if (mayRestart(live.record)) await live.synced();
  }

  /** From here on the container can be told things. */
  #adoptConnection(live: LiveContainer, connection: NativeConnection): void {
    live.connection = connection;
    live.ended = new Promise((resolve) => {
      live.resolveEnded = resolve;
    });
  }

  /** The monitor's exit frame ends the run, when what goes on with the container by then has ended. */
  #watch(live: LiveContainer, connection: NativeConnection, born?: (pid: number) => void): void {
    let isReported = false;
    connection.handle({
      ...(born === undefined ? {} : { born }),
      exit: (exit) => {
        isReported = true;
        // A start that failed is cleaned up by the one who tried.
        if (exit.isStarted) this.#endSoon(live, exit);
      },
      oom: () => this.#deps.events(live.record, "oom"),
      closed: () => {
        // The monitor was killed: its file may still say how it ended.
        if (!isReported && !this.#isStopped) this.#endSoon(live, undefined, connection);
      },
    });
  }

  #endSoon(live: LiveContainer, exit: NativeExit | undefined, of?: NativeConnection): void {
    live
      .exclusive(async () => {
        if (of === undefined || live.connection === of) await this.#end(live, exit);
      })
      .catch((caught: unknown) => {
        this.#deps.log.error("end of container not handled", { containerId: live.id, error: caught });
      });
  }

  async #startFailed(
    live: LiveContainer,
    undo: (() => Promise<unknown>)[],
    caught: ClusterError,
  ): Promise<never> {
    live.connection = undefined;
    for (const each of undo.toReversed()) {
      await each().catch((error: unknown) => {
        this.#deps.log.warn("clean-up after a failed start", { containerId: live.id, error });
      });
    }
    for (const pending of live.pendingAttachments) pending.failed();
    live.pendingAttachments.clear();
    const isNative = caught.code === "internal" && caught.cause === undefined;
    const { state } = live.record;
    const { exitCode, error } = isNative
      ? startError(caught.message)
      : { exitCode: state.exitCode === 0 ? 128 : state.exitCode, error: caught };
    live.change({
      network: null,
      state: { ...state, status: idle(state), pid: 0, exitCode, error: error.message },
    });
    this.#deps.log.info("container start failed", { containerId: live.id, error: error.message });
    // Whoever waits learns that it is over; the words go to the one who started it.
    const exit = { ...live.exitStatus(), error: "" };
    for (const waiter of live.exitWaiters) waiter(exit);
    live.exitWaiters.clear();
    if (live.record.hostConfig.AutoRemove === true) void this.#autoRemove(live);
    throw error;
  }

  /** Whose namespaces a container shares must run, and share its memory where that is asked for. */
  #checkShared({ record }: LiveContainer): void {
    const { NetworkMode, PidMode, IpcMode } = record.hostConfig;
    const find = (mode: string | undefined): LiveContainer | undefined => {
      const id = sharedWith(mode);
      return id === undefined ? undefined : this.#deps.find(id);
    };
    const network = find(NetworkMode);
    if (network !== undefined && !network.isRunning) {
      const { name, state } = network.record;
      throw new ClusterError(
        "conflict",
        `cannot join network namespace of a non running container: container ${name} is ${state.status}`,
      );
    }
    const ipc = find(IpcMode);
    for (const [kind, other] of [["PID", find(PidMode)] as const, ["IPC", ipc] as const]) {
      if (other !== undefined && !other.isRunning)
        throw new ClusterError(
          "conflict",
          `failed to join ${kind} namespace: container ${other.id} is not running`,
        );
    }
    if (ipc !== undefined && !existsSync(this.#sharedMemory(ipc.id)))
      throw new ClusterError(
        "invalid_argument",
        `failed to join IPC namespace: container ${ipc.id}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)`,
      );
  }

  #sharedMemory(id: string): string {
    return path.join(this.#deps.execRoot, "c", this.#deps.find(id).id, "shm");
  }

  #runningPid(id: string): number {
    const other = this.#deps.find(id);
    if (!other.isRunning) {
      throw new ClusterError("conflict", `cannot join network of a non running container: ${other.id}`);
    }
    return other.record.state.pid;
  }

  async #mountVolumes(
    live: LiveContainer,
    layers: readonly string[],
    undo: (() => Promise<unknown>)[],
  ): Promise<void> {
    const { volumes } = this.#deps;
    for (const point of live.record.mounts) {
      if (point.Type === "bind" && !existsSync(point.Source)) {
        throw new ClusterError(
          "invalid_argument",
          `invalid mount config for type "bind": bind source path does not exist: ${point.Source}`,
        );
      }
      if (point.Type === "image") await this.#mountImage(live, point, undo);
      if (point.Type !== "volume" || point.Name === undefined) continue;
      const name = point.Name;
      const volume = await volumes.mount(name, live.id, {
        destination: point.Destination,
        propagation: point.Propagation,
        "read/write": String(point.RW),
      });
      undo.push(() => volumes.unmount(name, live.id));
      // Plugins say where only now, and maybe another place each time.
      if (volume.mountpoint !== point.Source) live.change({ mounts: withSource(live, point, volume) });
      if (point.subpath !== "") await resolveSubpath(volume.mountpoint, point.subpath);
      else if (point.isCopied) await copyUp(layers, point.Destination, volume.mountpoint);
    }
  }

  /** Stays mounted on the host until the container ends, so that the next daemon finds it. */
  async #mountImage(live: LiveContainer, point: MountPoint, undo: (() => Promise<unknown>)[]): Promise<void> {
    const { rootfs, execRoot } = this.#deps;
    const { layerKey = "" } = point;
    const mountpoint = path.join(execRoot, "c", live.id, path.basename(layerKey));
    await mountImage(rootfs, point, mountpoint);
    undo.push(() => unmountBelow(mountpoint));
    if (point.subpath !== "") await resolveSubpath(mountpoint, point.subpath);
    live.change({ mounts: withSource(live, point, { mountpoint }) });
  }

  /** Returns what that changes in the record. */
  async #attachNetwork(
    live: LiveContainer,
    process: { readonly connection: NativeConnection; readonly pid: number },
    undo: (() => Promise<unknown>)[],
  ): Promise<Partial<ContainerRecord>> {
    const { connection, pid } = process;
    const { record, task } = live;
    const target = { containerId: live.id, pid };
    if (task?.attachNetwork !== undefined) {
      undo.push(async () => task.detachNetwork?.());
      const attached = await task.attachNetwork(target);
      const named = { ...attached, ...(await this.#named(connection, attached)) };
      live.files.taskAttached(named, hostnameOf(record), record.hostConfig);
      return { network: { ...named, ports: {}, hosts: [], sandboxId: "" }, isNetworkOfTask: true };
    }
    const owner = sharedWith(record.hostConfig.NetworkMode);
    if (owner !== undefined) {
      // Its resolv.conf is the owner's, its group is not.
      const { network } = this.#deps.find(owner).record;
      if (network !== null) await this.#named(connection, network);
    }
    if (!isConnectedLater(live)) return {};
    undo.push(() => this.#deps.networks.detach(live.id));
    const attached = await this.#deps.networks
      .attach(networkRequest(live, pid))
      .catch((caught: unknown) => Promise.reject(networkingFailure(caught)));
    const result = { ...attached, ...(await this.#named(connection, attached)) };
    live.files.networkAttached(result);
    return { network: result, isNetworkOfTask: false };
  }

  /** Under 127.0.0.11 where the kernel can do that, else under the server's own address. */
  async #named(connection: NativeConnection, attached: NameServers): Promise<NameServers> {
    if (attached.nameService === undefined) return attached;
    return connection.ask(FrameType.names, addressBytes(attached.nameService)).then(
      () => ({ ...attached, nameservers: [NAME_SERVER_ADDRESS] }),
      (error: unknown) => {
        this.#deps.log.debug("names are served under the server's own address", { error });
        return attached;
      },
    );
  }

  /** A running container's networks changed. */
  async namesChanged(live: LiveContainer, names: NameServers): Promise<void> {
    const { network } = live.record;
    if (network === null || !live.isRunning) return;
    // A connection of its own: a monitor of an older build hangs up on a question that it doesn't know.
    const connection = await this.#deps.launcher.connectMonitor(monitorSocket(live.id));
    const { nameService: _, meshIp: __, ...kept } = network;
    const next = { ...kept, ...(await this.#named(connection, names)) };
    connection.close();
    live.files.namesChanged(next);
    live.change({ network: next });
  }

  /** With the line held. `exit` undefined: the monitor is gone without a word, its file decides. */
  async #end(live: LiveContainer, exit: NativeExit | undefined): Promise<void> {
    if (!live.isRunning) return;
    const last = exit ?? (await this.#exitFile(live.id));
    live.ending = live.connection;
    live.connection = undefined;
    live.stopHealth?.();
    await this.#release(live);
    const { parent, cpuset } = groupOptions(live.record.hostConfig);
    if (cpuset) await this.#deps.cgroups.leaveCpuset(live.id, parent);
    const startedAt = parseNanoseconds(live.record.state.startedAt);
    const finishedAt = last?.finishedAtNs ?? BigInt(Math.round(this.#deps.env.clock.wallMs() * 1000)) * 1000n;
    const exitCode = last?.exitCode ?? 255;
    const state: PersistedState = {
      ...live.record.state,
      status: "exited",
      pid: 0,
      exitCode,
      isOomKilled: (last?.oomKills ?? 0) > 0,
      finishedAt: rfc3339OfNanoseconds(finishedAt),
    };
    live.change({ network: null, state });
    const seconds = (finishedAt - startedAt) / 1_000_000_000n;
    this.#deps.events(live.record, "die", { exitCode: String(exitCode), execDuration: String(seconds) });
    this.#ended(live, Number(finishedAt - startedAt) / 1e6);
  }

  #ended(live: LiveContainer, ranMs: number): void {
    const exit = live.exitStatus();
    const isAgain = !this.#isStopped && shouldRestart(live.record, { isStopping: live.isStopping, exit });
    if (isAgain) {
      live.restartDelayMs = nextRestartDelayMs(live.restartDelayMs, ranMs);
      live.changeState({ status: "restarting" });
      live.cancelRestart = this.#deps.env.timers.after(live.restartDelayMs, () =>
        this.#restartByPolicy(live),
      );
    }
    live.resolveEnded?.(exit);
    for (const waiter of live.exitWaiters) waiter(exit);
    live.exitWaiters.clear();
    for (const wake of live.changed) wake();
    // A restart on request starts it again itself.
    if (!isAgain && live.record.hostConfig.AutoRemove === true && !live.isRestarting)
      void this.#autoRemove(live);
  }

  #restartByPolicy(live: LiveContainer): void {
    live.cancelRestart = undefined;
    live
      .exclusive(async () => {
        if (live.isStopping || live.isRemoving || live.record.state.status !== "restarting") return;
        live.change({ restartCount: live.record.restartCount + 1 });
        await this.#launch(live);
      })
      .catch((caught: unknown) => {
        this.#deps.log.warn("restart failed", { containerId: live.id, error: caught });
        if (live.isStopping || live.isRemoving || this.#isStopped) return;
        const exit = { ...live.exitStatus(), exitCode: live.record.state.exitCode || 128 };
        if (!shouldRestart(live.record, { isStopping: false, exit })) {
          live.changeState({ status: "exited" });
          return;
        }
        live.restartDelayMs = nextRestartDelayMs(live.restartDelayMs, 0);
        live.changeState({ status: "restarting" });
        live.cancelRestart = this.#deps.env.timers.after(live.restartDelayMs, () =>
          this.#restartByPolicy(live),
        );
      });
  }

  async #autoRemove(live: LiveContainer): Promise<void> {
    try {
      await this.remove(live, { force: true, volumes: true });
    } catch (caught) {
      this.#deps.log.warn("automatic removal failed", { containerId: live.id, error: caught });
    }
  }

  /** Network addresses and volumes are given back; the record is the caller's to change. Goes through to the end whatever fails. */
  async #release(live: LiveContainer): Promise<void> {
    const { record, task } = live;
    const failed = (what: string) => (error: unknown) => {
      this.#deps.log.warn(what, { containerId: live.id, error });
    };
    if (record.isNetworkOfTask) {
      if (record.network !== null)
        await task?.detachNetwork?.().catch(failed("network of task not detached"));
    } else if (record.network !== null || isConnectedLater(live)) {
      // Also where the record knows of no network: a daemon may have been killed between the two.
      await this.#deps.networks.detach(live.id).catch(failed("network not detached"));
    }
    for (const point of record.mounts) {
      if (point.Type === "image" && point.Source !== "")
        await unmountBelow(point.Source).catch(failed("image not unmounted"));
      if (point.Type === "volume" && point.Name !== undefined) {
        await this.#deps.volumes.unmount(point.Name, live.id).catch(failed("volume not unmounted"));
      }
    }
  }

  async #exitFile(id: string): Promise<NativeExit | undefined> {
    try {
      const file = path.join(this.#deps.execRoot, "c", id, "exit");
      const parsed = JSON.parse(await fs.readFile(file, "utf8")) as {
        readonly exitCode: number;
        readonly signal: number;
        readonly oomKills: number;
        readonly isStarted: boolean;
        readonly startedAt: string;
        readonly finishedAt: string;
      };
      return {
        ...parsed,
        startedAtNs: parseNanoseconds(parsed.startedAt),
        finishedAtNs: parseNanoseconds(parsed.finishedAt),
      };
    } catch {
      return undefined;
    }
  }

  /** Sends a signal to the first process. */
  async signal(live: LiveContainer, number: number): Promise<void> {
    if (live.connection === undefined) {
      throw new ClusterError("conflict", `container ${live.id} is not running`);
    }
    await live.connection.ask(FrameType.signal, u32(number));
  }

  async stopGracefully(
    live: LiveContainer,
    options: { timeoutSeconds?: number; signal?: string },
  ): Promise<boolean> {
    const signal = parseSignal(options.signal ?? live.record.config.StopSignal ?? "SIGTERM");
    const seconds = options.timeoutSeconds ?? live.record.config.StopTimeout ?? DEFAULT_STOP_TIMEOUT_SECONDS;
    live.isStopping = true;
    // A start that is under way is let finish first.
    await live.exclusive(async () => this.#cancelRestart(live));
    const { ended } = live;
    if (!live.isRunning || ended === undefined) return false;
    live.change({ isStoppedByUser: true });
    if (mayRestart(live.record)) await live.synced();
    if (live.record.state.status === "paused") await this.#thaw(live);
    await this.#tell(live, signal);
    this.#deps.events(live.record, "kill", { signal: String(signal) });
    const isEnded =
      seconds === 0 ? false : await this.#within(ended, seconds < 0 ? undefined : seconds * 1000);
    if (!isEnded) {
      this.#deps.events(live.record, "kill", { signal: String(SIGKILL) });
      await this.kill(live);
    }
    this.#deps.events(live.record, "stop");
    return true;
  }

  #cancelRestart(live: LiveContainer): Promise<void> {
    live.cancelRestart?.();
    live.cancelRestart = undefined;
    if (live.record.state.status === "restarting") live.changeState({ status: "exited" });
    return Promise.resolve();
  }

  async #tell(live: LiveContainer, signal: number): Promise<void> {
    // It may have ended by itself meanwhile.
    await this.signal(live, signal).catch(() => undefined);
  }

  /** SIGKILL, and waits until it is gone. */
  async kill(live: LiveContainer): Promise<void> {
    live.isStopping = true;
    const { ended } = live;
    if (ended === undefined || !live.isRunning) return;
    if (live.record.state.status === "paused") await this.#thaw(live);
    await this.#tell(live, SIGKILL);
    if (!(await this.#within(ended, KILL_WAIT_MS))) {
      throw new ClusterError(
        "deadline_exceeded",
        `Cannot kill container ${live.id}: it must end within ${KILL_WAIT_MS} ms of SIGKILL, but it still runs`,
      );
    }
  }

  #within(ended: Promise<ExitStatus>, limitMs: number | undefined): Promise<boolean> {
    if (limitMs === undefined) return ended.then(() => true);
    return new Promise((resolve) => {
      const cancel = this.#deps.env.timers.after(limitMs, () => resolve(false));
      void ended.then(() => {
        cancel();
        resolve(true);
      });
    });
  }

  async restart(live: LiveContainer, options: { timeoutSeconds?: number; signal?: string }): Promise<void> {
    live.isRestarting = true;
    try {
      await this.stopGracefully(live, options);
      await this.start(live);
    } finally {
      live.isRestarting = false;
    }
    this.#deps.events(live.record, "restart");
  }

  async #freeze(live: LiveContainer, isFrozen: boolean): Promise<void> {
    const { runtimes, cgroups } = this.#deps;
    const runtime = runtimes.find(live.record.hostConfig.Runtime);
    if (runtime !== undefined) await runtimes.call(runtime, isFrozen ? "pause" : "resume", live.id);
    else await cgroups.freeze(live.id, isFrozen, groupParent(live.record).parent);
  }

  async #thaw(live: LiveContainer): Promise<void> {
    await this.#freeze(live, false);
    live.changeState({ status: "running" });
  }

  pause(live: LiveContainer): Promise<void> {
    return live.exclusive(async () => {
      if (live.record.state.status === "paused") {
        throw new ClusterError("conflict", `Container ${live.id} is already paused`);
      }
      if (!live.isRunning) throw new ClusterError("conflict", `container ${live.id} is not running`);
      await this.#freeze(live, true);
      live.changeState({ status: "paused" });
      this.#deps.events(live.record, "pause");
    });
  }

  unpause(live: LiveContainer): Promise<void> {
    return live.exclusive(async () => {
      if (live.record.state.status !== "paused") {
        throw new ClusterError("conflict", `Container ${live.id} is not paused`);
      }
      await this.#thaw(live);
      this.#deps.events(live.record, "unpause");
    });
  }

  async remove(live: LiveContainer, options: { force: boolean; volumes: boolean }): Promise<void> {
    if (live.isRemoving) {
      if (options.force) return new Promise((resolve) => live.removeWaiters.add(() => resolve()));
      throw new ClusterError("conflict", `removal of container ${live.id} is already in progress`);
    }
    if (!options.force) {
      refuseRunning(live);
      await live.exclusive(() => this.#eraseEnded(live, options));
      return;
    }
    live.isRemovalWanted = true;
    try {
      while (!(await live.exclusive(() => this.#eraseEnded(live, options)))) {
        this.#deps.events(live.record, "kill", { signal: String(SIGKILL) });
        await this.kill(live);
      }
    } finally {
      live.isRemovalWanted = false;
    }
  }

  /** False: it runs, and has to be ended first. */
  async #eraseEnded(
    live: LiveContainer,
    { force, volumes }: { readonly force: boolean; readonly volumes: boolean },
  ): Promise<boolean> {
    if (!force) refuseRunning(live);
    if (live.isRunning) return false;
    await this.#cancelRestart(live);
    await this.#erase(live, volumes);
    return true;
  }

  async #erase(live: LiveContainer, withVolumes: boolean): Promise<void> {
    if (live.isRemoving) return;
    live.isRemoving = true;
    const { rootfs, volumes, execRoot, log, removal } = this.#deps;
    const failed = (error: unknown): void =>
      log.warn("removal left something", { containerId: live.id, error });
    // The monitor tells of the end first, then takes the groups away, then unmounts, then hangs up.
    await live.ending?.gone;
    // From here on it is no container any more: a daemon that finds the folder under this name only clears up.
    const trash = `${live.folder}${withVolumes ? REMOVED_WITH_VOLUMES_SUFFIX : REMOVED_SUFFIX}`;
    try {
      renameSync(live.folder, trash);
    } catch (caught) {
      failed(caught);
    }
    await rootfs.remove(live.id).catch(failed);
    await removeStateDir(path.join(execRoot, "c", live.id)).catch(failed);
    for (const point of live.record.mounts) {
      if (point.Type !== "volume" || point.Name === undefined) continue;
      volumes.unreference(point.Name, live.id);
      if (withVolumes && point.isAnonymous) await volumes.removeAnonymous(point.Name).catch(failed);
    }
    removal.add(trash);
    this.#deps.forget(live);
    this.#deps.events(live.record, "destroy");
    const exit = { ...live.exitStatus(), error: "" };
    for (const waiter of [...live.removeWaiters, ...live.exitWaiters]) waiter(exit);
    live.removeWaiters.clear();
    live.exitWaiters.clear();
    for (const wake of live.changed) wake();
  }

  /**
   * After a restart of the daemon: finds out by the monitor's socket, else by the exit file, where the container stands. Then the
   * restart policy has its say.
   */
  async adopt(live: LiveContainer): Promise<void> {
    const { launcher, networks, log } = this.#deps;
    for (const point of live.record.mounts) {
      if (point.Type === "volume" && point.Name !== undefined)
        this.#deps.volumes.reference(point.Name, live.id);
    }
    const connection = await launcher.connectMonitor(monitorSocket(live.id)).catch(() => undefined);
    if (connection === undefined) return this.#adoptEnded(live);
    const found = await launcher.watch(connection).catch(() => undefined);
    if (found === undefined) return this.#adoptEnded(live);
    if (!found.isStarted) {
      const gone = new Promise<void>((resolve) => {
        connection.handle({ closed: resolve });
      });
      connection.send(FrameType.signal, u32(SIGKILL));
      await gone;
      await this.#release(live);
      live.change({
        network: null,
        state: { ...live.record.state, status: idle(live.record.state), pid: 0 },
      });
      return;
    }
    this.#adoptConnection(live, connection);
    this.#watch(live, connection);
    const wasPaused = live.record.state.status === "paused";
    live.changeState({
      status: wasPaused ? "paused" : "running",
      pid: found.pid,
      startedAt: rfc3339OfNanoseconds(found.startedAtNs),
    });
    for (const point of live.record.mounts) {
      if (point.Type === "volume" && point.Name !== undefined) {
        await this.#deps.volumes.mount(point.Name, live.id).catch((error: unknown) => {
          log.warn("volume of a running container", { containerId: live.id, error });
        });
      }
    }
    const { network, isNetworkOfTask } = live.record;
    if (network !== null && !isNetworkOfTask) {
      const dns = live.record.hostConfig.Dns ?? [];
      await networks.adopt({ containerId: live.id, pid: found.pid, dns }, network);
    }
    this.#deps.healthStarted(live);
    log.info("container adopted", { containerId: live.id, pid: found.pid });
  }

  async #adoptEnded(live: LiveContainer): Promise<void> {
    const exit = await this.#exitFile(live.id);
    const { status } = live.record.state;
    const wasRunning = status === "running" || status === "paused";
    if (exit?.isStarted === true && exit.finishedAtNs > parseNanoseconds(live.record.state.finishedAt)) {
      live.changeState({ status: "running", startedAt: rfc3339OfNanoseconds(exit.startedAtNs) });
      return live.exclusive(() => this.#end(live, exit));
    }
    if (wasRunning) return live.exclusive(() => this.#end(live, exit));
    // A start that was cut off.
    if (live.record.network !== null) {
      await this.#release(live);
      live.change({ network: null });
    }
    if (status === "restarting") this.#ended(live, 0);
  }

  /** Those whose policy says that they run whenever the daemon does, and which ended with the machine. */
  revive(live: LiveContainer): void {
    const { Name } = live.record.hostConfig.RestartPolicy ?? {};
    const isWanted = Name === "always" || (Name === "unless-stopped" && !live.record.isStoppedByUser);
    if (!isWanted || live.record.state.status !== "exited") return;
    live.changeState({ status: "restarting" });
    this.#restartByPolicy(live);
  }
}

function refuseRunning({ record, isRunning }: LiveContainer): void {
  const { status } = record.state;
  if (!isRunning && status !== "restarting") return;
  const reason =
    status === "paused"
      ? "container is paused and must be unpaused first"
      : `container is ${status}: stop the container before removing or force remove`;
  throw new ClusterError("conflict", `cannot remove container "${record.name}": ${reason}`);
}

function withSource(
  live: LiveContainer,
  point: MountPoint,
  volume: Pick<VolumeMount, "mountpoint">,
): readonly MountPoint[] {
  const isSame = (each: MountPoint): boolean => each.Destination === point.Destination;
  return live.record.mounts.map((each) => (isSame(each) ? { ...each, Source: volume.mountpoint } : each));
}

/** Whether a network of this machine or of the cluster is attached to its namespace once that is there. */
function isConnectedLater({ record, task }: LiveContainer): boolean {
  const { NetworkMode: mode } = record.hostConfig;
  if (task?.attachNetwork !== undefined) return true;
  return mode !== "host" && mode !== "none" && sharedWith(mode) === undefined;
}

/** Whether no network has to be attached to it between its making and its start. */
function isOnItsOwn(live: LiveContainer): boolean {
  return sharedWith(live.record.hostConfig.NetworkMode) === undefined && !isConnectedLater(live);
}

/** Whether its network may be attached while it builds its file system. What it sets for interfaces to come is set at that time, too. */
function isAttachedEarly(live: LiveContainer): boolean {
  const { Sysctls } = live.record.hostConfig;
  return isConnectedLater(live) && !Object.keys(Sysctls ?? {}).some((key) => key.startsWith("net."));
}

/** A loss of power must not change whether it runs afterwards. */
export function mayRestart({ hostConfig }: ContainerRecord): boolean {
  const { Name = "" } = hostConfig.RestartPolicy ?? {};
  return Name !== "" && Name !== "no";
}

/** For a new run: no word of how the last one ended is left. In memory: a call into the kernel is shorter than a trip to a thread. */
/** In Docker's sentence, with what else is known of it. */
function networkingFailure(caught: unknown): ClusterError {
  const error = ClusterError.from(caught);
  const message = `failed to set up container networking: ${error.message}`;
  const { code, details, retryable } = error;
  return new ClusterError(code, message, { cause: caught, details, retryable });
}

function makeStateDir(folder: string): void {
  if (existsSync(folder)) rmSync(path.join(folder, "exit"), { force: true });
  else mkdirSync(folder, { mode: 0o711 });
}

/** Holds the exit file and the generated ones, as a rule. */
async function removeStateDir(folder: string): Promise<void> {
  try {
    for (const name of ["exit", ...GENERATED_FILES]) unlinkSync(path.join(folder, name));
    rmdirSync(folder);
  } catch {
    await fs.rm(folder, { recursive: true, force: true });
  }
}

/** Of one that does not run because a start did not work out: what its last run left, as with dockerd. */
function idle(state: PersistedState): "created" | "exited" {
  return state.finishedAt === ZERO_TIME ? "created" : "exited";
}

/** Shared memory that other containers may join: a folder of the exec root, which is memory itself. */
async function makeSharedMemory(stateDir: string): Promise<void> {
  const folder = path.join(stateDir, "shm");
  await fs.mkdir(folder, { recursive: true });
  await fs.chmod(folder, 0o1777);
}

export function groupParent(record: ContainerRecord): { readonly parent?: string } {
  const parent = record.hostConfig.CgroupParent ?? "";
  return parent === "" ? {} : { parent };
}

function networkRequest(live: LiveContainer, pid: number): ContainerNetworkRequest {
  const { record } = live;
  return {
    target: { containerId: live.id, pid },
    name: record.name,
    hostname: hostnameOf(record),
    hostConfig: record.hostConfig,
    config: record.config,
    networkingConfig: record.networkingConfig ?? undefined,
  };
}
