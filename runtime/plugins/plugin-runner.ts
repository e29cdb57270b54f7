/**
 * Runs enabled plugins as containers, apart from everybody else's: a container engine of its own with folders of its
 * own, so that no client sees them. Like other containers they go on without the daemon and are taken over by the next.
 * Opened when first needed: a machine without plugins pays nothing.
 */
import { rmSync } from "node:fs";
import * as fs from "node:fs/promises";
import path from "node:path";
import { ClusterError } from "../../common/errors.ts";
import type { CreateContainerRequest, EngineEvent } from "../../model/engine.ts";
import type { Mount } from "../../model/specs.ts";
import { LocalContainerEngine, type ContainerEngineOptions } from "../containers/container-engine.ts";
import { NativeLauncher } from "../containers/native-launcher.ts";
import type { EventSink, RootfsSource } from "../ports.ts";
import type { PluginRecord, PluginRecords } from "./plugin-records.ts";

/** Where a plugin makes its socket, as every Docker plugin expects it. */
const SOCKET_FOLDER = "/run/docker/plugins";
const STOP_TIMEOUT_SECONDS = 10;
const LOG_TAIL_LINES = 5;
const PROPAGATIONS: readonly string[] = ["private", "rprivate", "slave", "rslave", "shared", "rshared"];

export type RunnerOptions = Omit<
  ContainerEngineOptions,
  "dataRoot" | "execRoot" | "launcher" | "rootfs" | "events" | "idMaps"
> & {
  /** Folder of the managed plugins. */
  readonly root: string;
  /** In memory; gets sockets, and what runs. */
  readonly execRoot: string;
  readonly records: PluginRecords;
};

/** Why a plugin's program is not running any more, with its last words. */
export interface PluginEnd {
  readonly exitCode: number;
  readonly lastWords: string;
}

export class PluginRunner {
  readonly #options: RunnerOptions;
  #opening: Promise<LocalContainerEngine> | undefined;
  #launcher: NativeLauncher | undefined;
  #engine: LocalContainerEngine | undefined;

  constructor(options: RunnerOptions) {
    this.#options = options;
  }

  socketPath(record: PluginRecord): string {
    return path.join(this.#socketFolder(record), record.config.Interface.Socket);
  }

  #socketFolder(record: PluginRecord): string {
    return path.join(this.#options.execRoot, "s", record.id);
  }

  /** Takes over what runs since a former daemon, and starts again what ended meanwhile. */
  open(): Promise<LocalContainerEngine> {
    this.#opening ??= this.#open().catch(async (caught: unknown) => {
      // The next that needs it tries anew.
      await this.close();
      this.#opening = undefined;
      throw caught;
    });
    return this.#opening;
  }

  async #open(): Promise<LocalContainerEngine> {
    const { execRoot, nativeBinary, log, root, records } = this.#options;
    await fs.mkdir(execRoot, { recursive: true, mode: 0o711 });
    for (const record of records.all) if (record.isEnabled) await this.#makeSocketFolder(record);
    const launcher = new NativeLauncher({ execRoot, nativeBinary, log });
    this.#launcher = launcher;
    await launcher.start();
    const engine = new LocalContainerEngine({
      ...this.#options,
      dataRoot: root,
      execRoot,
      launcher,
      rootfs: this.#rootfs(),
      events: this.#events(),
      idMaps: undefined,
    });
    this.#engine = engine;
    await engine.open();
    // Of plugins that were disabled or removed when the daemon was killed.
    const known = new Set(records.all.filter((each) => each.isEnabled).map((each) => each.containerId));
    for (const { id } of engine.summaries({}))
      if (!known.has(id)) await engine.remove(id, { force: true, volumes: false, link: false });
    return engine;
  }

  /** Plugins go on. */
  async close(): Promise<void> {
    await this.#engine?.close();
    this.#launcher?.stop();
  }

  /** A plugin that died left its socket, on which no other can listen. */
  #events(): EventSink {
    const onEnd = ({ Action, Actor }: Pick<EngineEvent, "Action" | "Actor">): void => {
      if (Action !== "die") return;
      const record = this.#options.records.all.find((each) => each.containerId === Actor.ID);
      if (record === undefined) return;
      rmSync(this.socketPath(record), { force: true });
      const exitCode = Actor.Attributes["exitCode"] ?? "";
      this.#options.log.warn("plugin ended", { plugin: record.name, exitCode });
    };
    return { emit: onEnd };
  }

  /** A plugin's files are its root as they are: what it writes, and volumes it keeps there, the host finds. */
  #rootfs(): RootfsSource {
    const { records } = this.#options;
    const made = new Map<string, PluginRecord>();
    const layersOf = (key: string): Promise<{ lower: readonly string[]; upper: string; work: string }> => {
      const record = made.get(key) ?? records.all.find((each) => each.containerId === key);
      if (record === undefined)
        return Promise.reject(new ClusterError("not_found", `No such plugin container: ${key}`));
      return Promise.resolve({ lower: [], upper: records.rootfs(record), work: "" });
    };
    const unavailable = (): Promise<never> =>
      Promise.reject(new ClusterError("unimplemented", "Plugins have no layers"));
    return {
      imageConfig: (id) =>
        Promise.resolve({
          imageId: records.get(id).id,
          architecture: "",
          os: "linux",
          created: "",
          config: {},
          diffIds: [],
        }),
      prepare: (key, id) => {
        made.set(key, records.get(id));
        return layersOf(key);
      },
      layers: layersOf,
      // Their files are as durable as the plugin is.
      synced: () => Promise.resolve(),
      remove: (key) => Promise.resolve(void made.delete(key)),
      usage: () => Promise.resolve({ writable: 0, total: 0 }),
      changes: unavailable,
      commit: unavailable,
      tagImage: unavailable,
    };
  }

  async #makeSocketFolder(record: PluginRecord): Promise<void> {
    const folder = this.#socketFolder(record);
    await fs.mkdir(folder, { recursive: true, mode: 0o700 });
  }

  /** Starts the plugin's program; resolves with its container's id. Whether it listens is another matter. */
  async start(record: PluginRecord): Promise<string> {
    const { records } = this.#options;
    const request = containerRequest(record, {
      socketFolder: this.#socketFolder(record),
      propagated: records.propagated(record.id),
    });
    const engine = await this.open();
    await this.#makeSocketFolder(record);
    rmSync(this.socketPath(record), { force: true });
    await records.sharePropagated(record);
    // Of a run before this daemon that could not be taken up again.
    await this.#removeContainer(engine, record.containerId);
    const { Id } = await engine.create(request);
    try {
      await engine.start(Id);
      return Id;
    } catch (caught) {
      await this.stop(record, Id);
      throw caught;
    }
  }

  async #removeContainer(engine: LocalContainerEngine, containerId: string): Promise<void> {
    if (!engine.summaries({}).some(({ id }) => id === containerId)) return;
    await engine.stop(containerId, { timeoutSeconds: STOP_TIMEOUT_SECONDS });
    await engine.remove(containerId, { force: true, volumes: false, link: false });
  }

  /** Undefined while it runs. */
  async ended(containerId: string): Promise<PluginEnd | undefined> {
    const engine = await this.open();
    const { state } = engine.summary(containerId);
    if (state.status === "running") return undefined;
    let lastWords = "";
    const options = { follow: false, stdout: true, stderr: true, tail: LOG_TAIL_LINES };
    for await (const line of engine.logs(containerId, options, new AbortController().signal))
      lastWords += Buffer.from(line.data).toString("utf8");
    return { exitCode: state.exitCode, lastWords: lastWords.trim() };
  }

  /** Whether the plugin has a container that runs or will be started again by its policy. */
  async isKept(record: PluginRecord): Promise<boolean> {
    const engine = await this.open();
    return engine.summaries({}).some(({ id, state }) => {
      return id === record.containerId && (state.status === "running" || state.status === "restarting");
    });
  }

  /** Ends the program and takes away what its run needed. Fine if it does not run. */
  async stop(record: PluginRecord, containerId: string = record.containerId): Promise<void> {
    await this.#removeContainer(await this.open(), containerId);
    await this.#options.records.unshare(record);
    await fs.rm(this.#socketFolder(record), { recursive: true, force: true });
  }
}

function refuse(record: PluginRecord, why: string): never {
  throw new ClusterError("invalid_argument", `Cannot enable plugin ${record.name}: ${why}`);
}

function mountOf(record: PluginRecord, mount: PluginRecord["settings"]["Mounts"][number]): Mount | undefined {
  const options = mount.Options ?? [];
  const { Source, Destination, Type, Name } = mount;
  if (Type === "tmpfs") return { Type: "tmpfs", Target: Destination, ReadOnly: options.includes("ro") };
  if (Type !== "bind" && Type !== "")
    refuse(
      record,
      `mount ${JSON.stringify(Name)} must be of type "bind" or "tmpfs", got ${JSON.stringify(Type)}`,
    );
  if (Source === null) refuse(record, `mount source of ${JSON.stringify(Name)} is not specified`);
  // Offered, and nobody has set it.
  if (Source === "") return undefined;
  const propagation = options.find((each) => PROPAGATIONS.includes(each));
  return {
    Type: "bind",
    Source,
    Target: Destination,
    ReadOnly: options.includes("ro"),
    BindOptions: {
      NonRecursive: !options.includes("rbind"),
      ...(propagation === undefined ? {} : { Propagation: propagation as "rshared" }),
    },
  };
}

function mountsOf(
  record: PluginRecord,
  places: { readonly socketFolder: string; readonly propagated: string },
): readonly Mount[] {
  const { PropagatedMount } = record.config;
  const shared = (Source: string, Target: string): Mount => ({
    Type: "bind",
    Source,
    Target,
    BindOptions: { Propagation: "rshared" },
  });
  return [
    ...(PropagatedMount === "" ? [] : [shared(places.propagated, PropagatedMount)]),
    ...record.settings.Mounts.flatMap((mount) => mountOf(record, mount) ?? []),
    { Type: "bind", Source: places.socketFolder, Target: SOCKET_FOLDER },
  ];
}

/** The plugin as a container. Throws where its config asks for what is not to be had. */
function containerRequest(
  record: PluginRecord,
  places: { readonly socketFolder: string; readonly propagated: string },
): CreateContainerRequest {
  const { config, settings } = record;
  if (config.Entrypoint.length === 0) refuse(record, "its config must have an entrypoint");
  return {
    name: record.id,
    config: {
      Image: record.id,
      Entrypoint: config.Entrypoint,
      Cmd: settings.Args,
      Env: settings.Env,
      WorkingDir: config.WorkDir,
    },
    hostConfig: {
      // Docker's plugins have an empty network where they don't ask for the host's.
      NetworkMode: config.Network.Type === "host" ? "host" : "none",
      PidMode: config.PidHost ? "host" : "",
      IpcMode: config.IpcHost ? "host" : "",
      CapAdd: config.Linux.Capabilities ?? [],
      DeviceCgroupRules: config.Linux.AllowAllDevices ? ["a *:* rwm"] : [],
      Devices: settings.Devices.flatMap(({ Path }) =>
        Path === null || Path === ""
          ? []
          : [{ PathOnHost: Path, PathInContainer: Path, CgroupPermissions: "rwm" }],
      ),
      Mounts: mountsOf(record, places),
      RestartPolicy: { Name: "always" },
      LogConfig: { Type: "json-file", Config: { "max-size": "1m", "max-file": "2" } },
    },
  };
}
