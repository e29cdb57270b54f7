/**
 * ContainerEngine of model/engine.ts: the containers of this machine. Finds what a request names and hands it to the part that
 * does it; keeps no state but the index. Composed by runtime/engine.ts.
 */
import { existsSync, mkdirSync } from "node:fs";
import * as fs from "node:fs/promises";
import path from "node:path";
import type { Readable } from "node:stream";
import { setImmediate as nextTurn } from "node:timers/promises";
import type { Cancel } from "../../common/env.ts";
import { ClusterError } from "../../common/errors.ts";
import { newHexId } from "../../common/ids.ts";
import { parseNanoseconds, rfc3339OfNanoseconds } from "../../common/time.ts";
import type {
  AttachOptions,
  AttachStreams,
  ContainerEngine,
  LogOptions,
  ContainerSummary,
  CreateContainerRequest,
  ExecConfig,
  ExitStatus,
  Filters,
  JsonObject,
  ListContainersOptions,
  LogLine,
} from "../../model/engine.ts";
import { checkFilterKeys, CONTAINER_PRUNE_FILTERS, labelsPass } from "../../model/filters.ts";
import type { Labels } from "../../model/specs.ts";
import { isCollectorDriver } from "../../model/log-drivers.ts";
import { LaterRemoval } from "../later-removal.ts";
import { untilOf } from "../until-filter.ts";
import { LogForwarders } from "../logging/log-forwarders.ts";
import {
  dependentKey,
  type ContainerDirectory,
  type ContainerNetworkRequest,
  type EventSink,
} from "../ports.ts";
import { Archives } from "./archives.ts";
import { attachContainer } from "./attach.ts";
import { commitContainer, committedName, type CommitRequest } from "./commit.ts";
import { checkedConfig, createWarnings, withNetworkNames } from "./container-create.ts";
import { checkListFilters, filterPatterns, matchesFilters } from "./container-filters.ts";
import { inspectContainer, listEntry } from "./container-inspect.ts";
import { ContainerIndex } from "./container-names.ts";
import {
  INITIAL_STATE,
  loadRecords,
  nowNanoseconds,
  REMOVED_SUFFIX,
  RecordFile,
  type ContainerRecord,
} from "./container-record.ts";
import { containerEvents, type ContainerEvents } from "./events-of.ts";
import { Execs } from "./execs.ts";
import { startHealth } from "./health.ts";
import { checkRuntime } from "./oci-runtimes.ts";
import { Lifecycle, groupParent, mayRestart, type LifecycleDeps } from "./lifecycle.ts";
import { LiveContainer } from "./live-container.ts";
import { compressRotated } from "./log-compression.ts";
import {
  isLogCompressed,
  isLogReadable,
  logFormat,
  logPath,
  withDefaultLog,
  type LogConfig,
} from "./log-options.ts";
import { readLog } from "./log-reader.ts";
import { resolveMountPoints } from "./mount-points.ts";
import { unmountBelow } from "../volumes/mount-calls.ts";
import { FrameType, u32 } from "./native-frames.ts";
import { rewriteHosts } from "./own-addresses.ts";
import { parseSignal } from "./signals.ts";
import { hostnameOf, monitorSocket, sharedWith } from "./spec.ts";
import { emptyStats, sampleStats, statsObject, type StatsTarget } from "./stats.ts";
import { top } from "./top.ts";
import { updateContainer } from "./update.ts";
import { checkUserNamespace } from "./user-namespace.ts";
import { warmUp } from "./warm-up.ts";

const STATS_INTERVAL_MS = 1000;
const SIGKILL = 9;
const JOURNAL_SOCKET = "/run/systemd/journal/socket";
const COMPRESS_INTERVAL_MS = 2000;
/** When the daemon has started, and takes requests. */
const WARM_UP_AFTER_MS = 50;

export interface ContainerEngineOptions extends Omit<
  LifecycleDeps,
  "events" | "find" | "forget" | "healthStarted" | "removal" | "logs"
> {
  readonly dataRoot: string;
  /** Of containers that ask for none. Default: json-file. */
  readonly defaultLog?: LogConfig;
  /** Of systemd's journal. Default: where systemd has it. */
  readonly journalSocket?: string;
  readonly events: EventSink;
}

export class LocalContainerEngine implements ContainerEngine {
  readonly #options: ContainerEngineOptions;
  readonly #root: string;
  readonly #index = new ContainerIndex();
  readonly #events: ContainerEvents;
  readonly #lifecycle: Lifecycle;
  readonly #execs: Execs;
  readonly #archives: Archives;
  readonly #logs: LogForwarders;
  readonly #removal: LaterRemoval;
  /** Containers that have ended and whose log is done with. */
  readonly #compressed = new WeakSet<LiveContainer>();
  #cancelCompression: Cancel | undefined;
  #cancelWarmUp: Cancel | undefined;
  #creations: Promise<void> = Promise.resolve();

  constructor(options: ContainerEngineOptions) {
    this.#options = options;
    this.#root = path.join(options.dataRoot, "containers");
    this.#events = containerEvents(options.events);
    const { launcher, cgroups, env, log, execRoot } = options;
    this.#execs = new Execs({
      launcher,
      cgroups,
      appArmor: options.appArmor,
      runtimes: options.runtimes,
      execRoot,
      layersOf: async (id) => options.rootfs.layers(id),
      random: env.random,
      events: this.#events,
    });
    this.#removal = new LaterRemoval({
      timers: env.timers,
      log,
      remove: (folders) => launcher.removeTrees(folders),
    });
    this.#logs = new LogForwarders({
      env,
      log,
      dataRoot: options.dataRoot,
      journalSocket: options.journalSocket ?? JOURNAL_SOCKET,
    });
    this.#lifecycle = new Lifecycle({
      ...options,
      logs: this.#logs,
      removal: this.#removal,
      events: this.#events,
      find: (id) => this.#index.find(id),
      forget: (live) => {
        this.#execs.forget(live);
        this.#index.remove(live);
        if (isCollectorDriver(live.record.hostConfig.LogConfig?.Type ?? ""))
          void this.#logs.released(live.id);
      },
      healthStarted: (live) => startHealth(live, { env, log, execs: this.#execs, events: this.#events }),
    });
    this.#archives = new Archives({ launcher, rootfs: options.rootfs, execRoot });
  }

  /** Reads what is on disk and takes over what runs. */
  async open(): Promise<void> {
    await fs.mkdir(this.#root, { recursive: true, mode: 0o711 });
    const { loaded, broken } = loadRecords(this.#root);
    for (const name of broken) {
      await this.#options.rootfs.remove(name.split(".")[0] ?? name).catch(() => undefined);
    }
    const lives = loaded.map(({ record, bytes }) =>
      this.#add(record, new RecordFile(path.join(this.#root, record.id), bytes), undefined),
    );
    await this.#killUnknown(lives);
    for (const live of lives) {
      await this.#lifecycle.adopt(live).catch((error: unknown) => {
        this.#options.log.error("container not adopted", { containerId: live.id, error });
      });
    }
    await this.#archives.open();
    await this.#clearBroken(broken);
    await this.#logs.open((id) => lives.find((live) => live.id === id));
    this.#cancelWarmUp = this.#options.env.timers.after(WARM_UP_AFTER_MS, () => warmUp(this.#options));
    let isCompressing = false;
    this.#cancelCompression = this.#options.env.timers.every(COMPRESS_INTERVAL_MS, () => {
      if (isCompressing) return;
      isCompressing = true;
      void this.#compressLogs().finally(() => {
        isCompressing = false;
      });
    });
    for (const live of lives) {
      if (this.#isLeftover(live)) {
        await this.#lifecycle.remove(live, { force: true, volumes: true }).catch((error: unknown) => {
          this.#options.log.warn("leftover container not removed", { containerId: live.id, error });
        });
      } else {
        this.#lifecycle.revive(live);
      }
    }
  }

  /** Folders of containers that a former daemon had not finished making, or removing. Others' volumes are known by now. */
  async #clearBroken(broken: readonly string[]): Promise<void> {
    for (const name of broken) {
      const [id = name] = name.split(".");
      if (!name.endsWith(REMOVED_SUFFIX)) await this.#options.volumes.removeMadeFor(id);
      await fs.rm(path.join(this.#root, name), { recursive: true, force: true });
    }
  }

  /** `--rm` containers that ended while no daemon was there to remove them, but for those whose end was found just now: they go by themselves. */
  #isLeftover(live: LiveContainer): boolean {
    const { hostConfig, state } = live.record;
    return hostConfig.AutoRemove === true && state.status === "exited" && !live.isRemoving;
  }

  /** Monitors whose record never reached the disk, or is gone. */
  async #killUnknown(lives: readonly LiveContainer[]): Promise<void> {
    const known = new Set(lives.map((live) => path.basename(monitorSocket(live.id))));
    const sockets = await fs.readdir(path.join(this.#options.execRoot, "m")).catch(() => []);
    for (const name of sockets) {
      if (known.has(name)) continue;
      const connection = await this.#options.launcher.connectMonitor(`m/${name}`).catch(() => undefined);
      if (connection === undefined) {
        await fs.rm(path.join(this.#options.execRoot, "m", name), { force: true });
        continue;
      }
      await connection.ask(FrameType.signal, u32(SIGKILL)).catch(() => undefined);
      connection.close();
    }
    const ids = new Set(lives.map((live) => live.id));
    const states = path.join(this.#options.execRoot, "c");
    for (const name of await fs.readdir(states).catch(() => [])) {
      if (ids.has(name)) continue;
      await unmountBelow(path.join(states, name));
      await fs.rm(path.join(states, name), { recursive: true, force: true });
    }
  }

  /** Rotated log files of all that ask for it. Those that have ended are looked at once more. */
  async #compressLogs(): Promise<void> {
    for (const live of this.#index.all) {
      if (!isLogCompressed(live.record.hostConfig)) continue;
      if (live.isRunning) this.#compressed.delete(live);
      else if (this.#compressed.has(live)) continue;
      else this.#compressed.add(live);
      await compressRotated(logPath(live.record, live.folder)).catch((error: unknown) => {
        this.#options.log.debug("log not compressed", { containerId: live.id, error });
      });
    }
  }

  /** Containers go on; restarts, health checks and timers end. */
  async close(): Promise<void> {
    this.#lifecycle.stop();
    this.#cancelCompression?.();
    this.#cancelWarmUp?.();
    for (const live of this.#index.all) {
      live.cancelRestart?.();
      live.stopHealth?.();
      const { connection } = live;
      live.connection = undefined;
      connection?.close();
      live.ending?.close();
    }
    await this.#logs.close();
    await this.#removal.close();
  }

  #add(record: ContainerRecord, file: RecordFile, task: CreateContainerRequest["task"]): LiveContainer {
    const live = new LiveContainer(record, {
      root: this.#root,
      filesFolder: this.#filesFolder(record.id),
      file,
      task,
      onSaveFailed: (error) =>
        this.#options.log.error("container not saved", { containerId: record.id, error }),
    });
    this.#index.reserve(record.name, record.id);
    this.#index.add(live);
    return live;
  }

  /** One that an older daemon has started has them beside its record. */
  #filesFolder(id: string): string {
    const before = path.join(this.#root, id);
    return existsSync(path.join(before, "hosts")) ? before : path.join(this.#options.execRoot, "c", id);
  }

  #find(id: string): LiveContainer {
    return this.#index.find(id);
  }

  #withDefaults(given: CreateContainerRequest): CreateContainerRequest {
    const hostConfig = withDefaultLog(given.hostConfig, this.#options.defaultLog ?? {});
    return withNetworkNames({ ...given, hostConfig });
  }

  async create(
    given: CreateContainerRequest,
  ): Promise<{ readonly Id: string; readonly Warnings: readonly string[] }> {
    const request = this.#withDefaults(given);
    const { rootfs, volumes, env } = this.#options;
    const reference = request.config.Image ?? "";
    if (reference === "") throw new ClusterError("invalid_argument", "no image specified");
    await this.#turn();
    const image = await rootfs.imageConfig(reference);
    const config = checkedConfig(request, image);
    checkRuntime(request.hostConfig, this.#options.runtimes, this.#options.idMaps !== undefined);
    checkUserNamespace(request.hostConfig, this.#options.idMaps);
    const id = newHexId(env.random);
    const name =
      request.name === undefined || request.name === ""
        ? this.#index.makeName(env.random)
        : request.name.replace(/^\//, "");
    const hostConfig = this.#withFullIds(request.hostConfig);
    for (const link of hostConfig.Links ?? []) {
      const target = link.split(":")[0] ?? "";
      this.#findOther(target, `could not get container for ${target}: `);
    }
    this.#index.reserve(name, id);
    const folder = path.join(this.#root, id);
    try {
      await this.#validateNetworks(request, { name, hostname: config.Hostname ?? "", hostConfig, config });
      // First of all, so that a daemon that finds it without a record knows what else to clear.
      mkdirSync(folder, { mode: 0o710 });
      await rootfs.prepare(id, image.imageId);
      const mounts = await resolveMountPoints({
        containerId: id,
        config,
        hostConfig,
        volumes,
        holdImage: this.#imageHolder(id),
        mountsOf: (other) => this.#findOther(other).record.mounts,
      });
      for (const point of mounts)
        if (point.Type === "volume" && point.Name !== undefined) volumes.reference(point.Name, id);
      const record: ContainerRecord = {
        id,
        name,
        created: rfc3339OfNanoseconds(nowNanoseconds()),
        image: reference,
        imageId: image.imageId,
        config: { ...config, Image: reference },
        hostConfig,
        networkingConfig: request.networkingConfig ?? null,
        mounts,
        state: INITIAL_STATE,
        restartCount: 0,
        isStoppedByUser: false,
        network: null,
        isNetworkOfTask: request.task?.attachNetwork !== undefined,
      };
      const file = RecordFile.create(folder, record);
      // Of a task, managers know: they would not take up one that a loss of power has interrupted. After that one that removes itself goes, too.
      if (request.task === undefined && hostConfig.AutoRemove !== true)
        await Promise.all([file.synced(), rootfs.synced(id)]);
      this.#add(record, file, request.task);
      this.#events(record, "create");
      return { Id: id, Warnings: createWarnings(request, image, this.#options.cgroups) };
    } catch (caught) {
      this.#index.release(name, id);
      await rootfs.remove(id).catch(() => undefined);
      await volumes.removeMadeFor(id).catch((error: unknown) => {
        this.#options.log.warn("volume of a container that was not made", { containerId: id, error });
      });
      await fs.rm(folder, { recursive: true, force: true });
      throw caught;
    }
  }

  /** For the images that the container mounts beside its own. */
  #imageHolder(id: string): (reference: string) => Promise<string> {
    const { rootfs } = this.#options;
    let count = 0;
    return async (reference) => {
      const key = dependentKey(id, `image${count++}`);
      try {
        await rootfs.prepare(key, (await rootfs.imageConfig(reference)).imageId);
      } catch (caught) {
        // Clients take a 404 of creation for the container's own image, and pull that.
        const { message } = ClusterError.from(caught);
        throw new ClusterError("invalid_argument", `invalid mount config for type "image": ${message}`);
      }
      return key;
    };
  }

  /** Rejects what its networks would refuse at the start. Nothing to ask where the container has none of this machine's. */
  async #validateNetworks(
    { networkingConfig, task }: CreateContainerRequest,
    wanted: Omit<ContainerNetworkRequest, "target" | "networkingConfig">,
  ): Promise<void> {
    const mode = wanted.hostConfig.NetworkMode ?? "default";
    const hasOurs =
      task?.attachNetwork === undefined &&
      sharedWith(mode) === undefined &&
      mode !== "host" &&
      mode !== "none";
    if (!hasOurs) return;
    await this.#options.networks
      .validate({ ...wanted, networkingConfig })
      // Looked for at each start, as by Docker: clients take a 404 here for an image to be pulled.
      .catch((caught: unknown) => {
        if (ClusterError.from(caught).code !== "not_found") throw caught;
      });
  }

  /** A turn of the event loop for each creation: it is half a millisecond of calls into the kernel, and a hundred come at once. */
  #turn(): Promise<void> {
    const turn = this.#creations;
    this.#creations = turn.then(() => nextTurn());
    return turn;
  }

  /** Another container that a new one names. Clients take a 404 of creation for an image to be pulled, hence the other code. */
  #findOther(reference: string, preface = ""): LiveContainer {
    try {
      return this.#find(reference);
    } catch (caught) {
      throw new ClusterError("invalid_argument", `${preface}${ClusterError.from(caught).message}`);
    }
  }

  /** "container:NAME" modes keep the full id, so that a rename changes nothing. */
  #withFullIds(hostConfig: CreateContainerRequest["hostConfig"]): CreateContainerRequest["hostConfig"] {
    const full = (mode: string | undefined, preface = ""): string | undefined => {
      const other = sharedWith(mode);
      return other === undefined ? mode : `container:${this.#findOther(other, preface).id}`;
    };
    const changed: Record<string, string> = {};
    for (const key of ["NetworkMode", "PidMode", "IpcMode"] as const) {
      const preface = key === "NetworkMode" ? "joining network namespace of container: " : "";
      const mode = full(hostConfig[key], preface);
      if (mode !== undefined) changed[key] = mode;
    }
    return { ...hostConfig, ...changed };
  }

  start(id: string): Promise<boolean> {
    return this.#attempt(() => this.#lifecycle.start(this.#find(id)));
  }

  /** Errors of finding come as rejections too. */
  async #attempt<T>(work: () => Promise<T>): Promise<T> {
    return work();
  }

  stop(
    id: string,
    options: { readonly timeoutSeconds?: number; readonly signal?: string },
  ): Promise<boolean> {
    return this.#attempt(() => this.#lifecycle.stopGracefully(this.#find(id), options));
  }

  restart(
    id: string,
    options: { readonly timeoutSeconds?: number; readonly signal?: string },
  ): Promise<void> {
    return this.#attempt(() => this.#lifecycle.restart(this.#find(id), options));
  }

  /** Refusals say what was asked for, as Docker's do. */
  #toKill(id: string, signal: string): { readonly live: LiveContainer; readonly number: number } {
    try {
      const live = this.#find(id);
      const number = parseSignal(signal === "" ? "KILL" : signal);
      if (live.isRunning || live.record.state.status === "restarting") return { live, number };
      throw new ClusterError("conflict", `container ${live.id} is not running`);
    } catch (caught) {
      const { code, message } = ClusterError.from(caught);
      throw new ClusterError(code, `cannot kill container: ${id}: ${message}`, { cause: caught });
    }
  }

  async kill(id: string, signal: string): Promise<void> {
    const { live, number } = this.#toKill(id, signal);
    const own = live.record.config.StopSignal ?? "";
    if (own === "" || number === SIGKILL || parseSignal(own) === number) {
      live.isStopping = true;
      live.change({ isStoppedByUser: true });
      if (mayRestart(live.record)) await live.synced();
    }
    if (number === SIGKILL) await this.#lifecycle.kill(live);
    else await this.#lifecycle.signal(live, number);
    this.#events(live.record, "kill", { signal: String(number) });
  }

  pause(id: string): Promise<void> {
    return this.#attempt(() => this.#lifecycle.pause(this.#find(id)));
  }

  unpause(id: string): Promise<void> {
    return this.#attempt(() => this.#lifecycle.unpause(this.#find(id)));
  }

  async rename(id: string, name: string): Promise<void> {
    const live = this.#find(id);
    const wanted = name.replace(/^\//, "");
    if (wanted === "") throw new ClusterError("invalid_argument", "Neither old nor new names may be empty");
    const oldName = live.record.name;
    if (wanted === oldName) {
      throw new ClusterError(
        "invalid_argument",
        "Renaming a container with the same name as its current name",
      );
    }
    this.#index.reserve(wanted, live.id);
    this.#index.release(oldName, live.id);
    live.change({ name: wanted });
    await live.synced();
    this.#events(live.record, "rename", { oldName: `/${oldName}` });
  }

  async update(id: string, config: JsonObject): Promise<{ readonly Warnings: readonly string[] }> {
    const live = this.#find(id);
    await live.exclusive(() => updateContainer(live, config, this.#options));
    await live.synced();
    this.#events(live.record, "update");
    return { Warnings: [] };
  }

  async remove(
    id: string,
    options: { readonly force: boolean; readonly volumes: boolean; readonly link: boolean },
  ): Promise<void> {
    if (options.link) throw new ClusterError("unimplemented", "Links of containers are not supported");
    await this.#lifecycle.remove(this.#find(id), options);
  }

  async wait(
    id: string,
    condition: "not-running" | "next-exit" | "removed",
    options: { readonly signal?: AbortSignal; readonly registered?: () => void },
  ): Promise<ExitStatus> {
    const live = this.#find(id);
    const { isRunning } = live.state();
    if (condition === "not-running" && !isRunning) {
      options.registered?.();
      return live.exitStatus();
    }
    const waiters = condition === "removed" ? live.removeWaiters : live.exitWaiters;
    return new Promise((resolve, reject) => {
      const done = (exit: ExitStatus): void => {
        options.signal?.removeEventListener("abort", aborted);
        resolve(exit);
      };
      const aborted = (): void => {
        waiters.delete(done);
        reject(new ClusterError("cancelled", "Wait was cancelled"));
      };
      if (options.signal?.aborted === true) return aborted();
      options.signal?.addEventListener("abort", aborted, { once: true });
      waiters.add(done);
      options.registered?.();
    });
  }

  async inspect(id: string, options: { readonly size: boolean }): Promise<JsonObject> {
    const live = this.#find(id);
    const { rootfs } = this.#options;
    const layers = await rootfs.layers(live.id).catch(() => undefined);
    const size = options.size ? await rootfs.usage(live.id) : undefined;
    return inspectContainer(live, {
      execIds: this.#execs.idsOf(live),
      size,
      layers,
      appArmorProfile: this.#options.appArmor.shownFor(live.record.hostConfig),
    });
  }

  async list(options: ListContainersOptions): Promise<readonly JsonObject[]> {
    checkListFilters(options.filters);
    const { rootfs, env } = this.#options;
    const ids = new Map<string, string | undefined>();
    const resolve = async (reference: string): Promise<void> => {
      if (ids.has(reference)) return;
      ids.set(
        reference,
        await rootfs.imageConfig(reference).then(
          (image) => image.imageId,
          () => undefined,
        ),
      );
    };
    for (const reference of options.filters.get("ancestor") ?? []) await resolve(reference);
    const context = {
      find: (id: string) => this.#find(id),
      imageId: (reference: string) => ids.get(reference),
      pattern: filterPatterns(),
    };
    const wantsAll =
      options.all ||
      (options.limit ?? 0) > 0 ||
      options.filters.has("status") ||
      options.filters.has("exited");
    const matching = this.#newestFirst().filter(
      (live) => (wantsAll || live.state().isRunning) && matchesFilters(live, options.filters, context),
    );
    const chosen = (options.limit ?? 0) > 0 ? matching.slice(0, options.limit) : matching;
    const entries: JsonObject[] = [];
    for (const live of chosen) {
      const { image, imageId } = live.record;
      await resolve(image);
      const size = options.size ? await rootfs.usage(live.id).catch(() => undefined) : undefined;
      entries.push(
        listEntry(live, {
          nowMs: env.clock.wallMs(),
          image: ids.get(image) === imageId ? image : imageId,
          size,
        }),
      );
    }
    return entries;
  }

  #newestFirst(): readonly LiveContainer[] {
    return this.#index.all.toSorted((a, b) => (a.record.created < b.record.created ? 1 : -1));
  }

  #summary(live: LiveContainer): ContainerSummary {
    return {
      id: live.id,
      name: live.record.name,
      labels: live.record.config.Labels ?? {},
      state: live.state(),
    };
  }

  summaries(labels: Labels): readonly ContainerSummary[] {
    const wanted = Object.entries(labels);
    return this.#index.all
      .filter((live) => wanted.every(([key, value]) => (live.record.config.Labels ?? {})[key] === value))
      .map((live) => this.#summary(live));
  }

  summary(id: string): ContainerSummary {
    return this.#summary(this.#find(id));
  }

  isTty(id: string): boolean {
    return this.#find(id).record.config.Tty === true;
  }

  #log(live: LiveContainer, options: LogOptions, signal: AbortSignal): AsyncIterable<LogLine> {
    if (!isLogReadable(live.record.hostConfig)) {
      throw new ClusterError("unimplemented", "configured logging driver does not support reading");
    }
    const source = {
      path: logPath(live.record, live.folder),
      format: logFormat(live.record),
      isRunning: () => live.state().isRunning,
      changed: live.changed,
      timers: this.#options.env.timers,
    };
    return readLog(source, options, signal);
  }

  logs(id: string, options: LogOptions, signal: AbortSignal): AsyncIterable<LogLine> {
    return this.#log(this.#find(id), options, signal);
  }

  async attach(id: string, options: AttachOptions): Promise<AttachStreams> {
    const live = this.#find(id);
    const streams = attachContainer(live, options, {
      connect: () => this.#options.launcher.connectMonitor(monitorSocket(live.id)),
      logs: () =>
        this.#log(
          live,
          { follow: false, stdout: options.stdout, stderr: options.stderr },
          new AbortController().signal,
        ),
      onDetach: () => this.#events(live.record, "detach"),
    });
    this.#events(live.record, "attach");
    return streams;
  }

  async resize(id: string, height: number, width: number): Promise<void> {
    const live = this.#find(id);
    if (live.connection === undefined || !live.isRunning) {
      throw new ClusterError("conflict", `cannot resize a stopped container: unknown`);
    }
    await live.connection.ask(FrameType.resize, u32((height & 0xffff) | ((width & 0xffff) << 16)));
    this.#events(live.record, "resize", { height: String(height), width: String(width) });
  }

  async top(
    id: string,
    psArgs: string,
  ): Promise<{ readonly Titles: readonly string[]; readonly Processes: readonly (readonly string[])[] }> {
    const live = this.#find(id);
    if (!live.isRunning) throw new ClusterError("conflict", `container ${live.id} is not running`);
    const [group] = this.#options.cgroups.groups(live.id, { cpuset: false, ...groupParent(live.record) });
    const procs =
      group === undefined ? "" : await fs.readFile(path.join(group.folder, "cgroup.procs"), "utf8");
    const result = await top(
      procs
        .split("\n")
        .filter((each) => each !== "")
        .map(Number),
      psArgs,
    );
    this.#events(live.record, "top");
    return result;
  }

  async *stats(
    id: string,
    options: { readonly stream: boolean; readonly oneShot: boolean },
    signal: AbortSignal,
  ): AsyncGenerator<JsonObject, void> {
    const live = this.#find(id);
    const target = (): StatsTarget => ({
      id: live.id,
      name: live.record.name,
      pid: live.record.state.pid,
      parent: groupParent(live.record).parent,
    });
    let before: Awaited<ReturnType<typeof sampleStats>> | undefined;
    while (!signal.aborted) {
      if (!live.isRunning) {
        yield emptyStats(live.id, live.record.name);
        before = undefined;
        if (!options.stream || live.isRemoving) return;
      } else {
        const now = await sampleStats(target(), this.#options.cgroups);
        const isWanted = options.stream || options.oneShot || before !== undefined;
        if (isWanted) yield statsObject(target(), now, before);
        if (isWanted && !options.stream) return;
        before = now;
      }
      await this.#pause(STATS_INTERVAL_MS, signal);
    }
  }

  #pause(durationMs: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        cancel();
        signal.removeEventListener("abort", done);
        resolve();
      };
      const cancel = this.#options.env.timers.after(durationMs, done);
      signal.addEventListener("abort", done, { once: true });
      if (signal.aborted) done();
    });
  }

  async changes(id: string): Promise<readonly { readonly Path: string; readonly Kind: 0 | 1 | 2 }[]> {
    return this.#options.rootfs.changes(this.#find(id).id);
  }

  async export(id: string): Promise<Readable> {
    const live = this.#find(id);
    const tar = await this.#archives.export(live);
    this.#events(live.record, "export");
    return tar;
  }

  async statPath(id: string, place: string): Promise<JsonObject> {
    return this.#archives.stat(this.#find(id), place);
  }

  async getArchive(
    id: string,
    place: string,
  ): Promise<{ readonly stat: JsonObject; readonly tar: Readable }> {
    const live = this.#find(id);
    const archive = await this.#archives.get(live, place);
    this.#events(live.record, "archive-path");
    return archive;
  }

  async putArchive(
    id: string,
    place: string,
    tar: Readable,
    options: { readonly noOverwriteDirNonDir: boolean; readonly copyUidGid: boolean },
  ): Promise<void> {
    const live = this.#find(id);
    await this.#archives.put(live, place, tar, options);
    this.#events(live.record, "extract-to-dir");
  }

  async commit(id: string, options: CommitRequest): Promise<{ readonly Id: string }> {
    const live = this.#find(id);
    const isPaused = options.pause && live.record.state.status === "running";
    if (isPaused) await this.#lifecycle.pause(live);
    try {
      const imageId = await commitContainer(live, options, this.#options.rootfs);
      this.#events(live.record, "commit", {
        comment: options.comment ?? "",
        imageID: imageId,
        imageRef: committedName(options),
      });
      return { Id: imageId };
    } finally {
      if (isPaused) await this.#lifecycle.unpause(live).catch(() => undefined);
    }
  }

  async prune(
    filters: Filters,
  ): Promise<{ readonly ContainersDeleted: readonly string[]; readonly SpaceReclaimed: number }> {
    checkFilterKeys(filters, CONTAINER_PRUNE_FILTERS);
    const untilMs = untilOf(filters, this.#options.env.clock.wallMs());
    const isWanted = ({ record }: LiveContainer): boolean => {
      const isOld = Number(parseNanoseconds(record.created) / 1_000_000n) <= untilMs;
      return isOld && labelsPass(filters, record.config.Labels ?? {});
    };
    const deleted: string[] = [];
    let reclaimed = 0;
    for (const live of this.#index.all) {
      const { status } = live.record.state;
      if (live.isRemoving || !["created", "exited", "dead"].includes(status) || !isWanted(live)) continue;
      const usage = await this.#options.rootfs.usage(live.id).catch(() => ({ writable: 0 }));
      try {
        await this.#lifecycle.remove(live, { force: false, volumes: false });
      } catch (caught) {
        this.#options.log.debug("not pruned", { containerId: live.id, error: caught });
        continue;
      }
      deleted.push(live.id);
      reclaimed += usage.writable;
    }
    this.#options.events.emit({
      Type: "container",
      Action: "prune",
      Actor: { ID: "", Attributes: { reclaimed: String(reclaimed) } },
      status: "prune",
    });
    return { ContainersDeleted: deleted, SpaceReclaimed: reclaimed };
  }

  async createExec(id: string, config: ExecConfig): Promise<{ readonly Id: string }> {
    const live = this.#find(id);
    await this.#execs.checkUser(live, config);
    return { Id: this.#execs.create(live, config).id };
  }

  startExec(
    execId: string,
    options: { readonly detach: boolean; readonly tty: boolean; readonly consoleSize?: readonly number[] },
  ): Promise<AttachStreams | undefined> {
    return this.#attempt(() => this.#execs.start(execId, options));
  }

  resizeExec(execId: string, height: number, width: number): Promise<void> {
    return this.#attempt(() => this.#execs.resize(execId, height, width));
  }

  async inspectExec(execId: string): Promise<JsonObject> {
    return this.#execs.inspect(execId);
  }

  /** For local networks. */
  directory(): ContainerDirectory {
    return {
      find: (reference) => {
        const { record, id } = this.#find(reference);
        const mode = record.hostConfig.NetworkMode ?? "default";
        const own =
          mode === "host" || mode === "none" || sharedWith(mode) !== undefined
            ? {}
            : { [mode === "default" ? "bridge" : mode]: {} };
        const endpoints = { ...own, ...record.networkingConfig?.EndpointsConfig };
        const { pid } = record.state;
        const isNetworked = record.network !== null && !record.isNetworkOfTask;
        const { name, hostConfig } = record;
        return {
          id,
          name,
          pid,
          hostname: hostnameOf(record),
          dns: hostConfig.Dns ?? [],
          mode,
          isNetworked,
          endpoints,
        };
      },
      networksChanged: async (containerId, endpoints, names) => {
        const live = this.#find(containerId);
        const { hostConfig, network } = live.record;
        const mode = hostConfig.NetworkMode ?? "default";
        const name = mode === "default" ? "bridge" : mode;
        // The network of the mode may have been left: another takes its place at the next start.
        const [first = "none"] = Object.keys(endpoints);
        rewriteHosts(live, endpoints);
        live.change({
          networkingConfig: { EndpointsConfig: endpoints },
          hostConfig: name in endpoints ? hostConfig : { ...hostConfig, NetworkMode: first },
          ...(network === null ? {} : { network: { ...network, endpoints } }),
        });
        if (names !== undefined && network !== null) await this.#lifecycle.namesChanged(live, names);
      },
    };
  }

  get counts(): { readonly running: number; readonly paused: number; readonly stopped: number } {
    const all = this.#index.all.map((live) => live.record.state.status);
    const paused = all.filter((status) => status === "paused").length;
    const running = all.filter((status) => status === "running" || status === "restarting").length;
    return { running, paused, stopped: all.length - running - paused };
  }
}
