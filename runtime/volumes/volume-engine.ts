/**
 * Volumes of this machine: names, labels and who uses them, in Docker's shapes, on the local driver and on plugins. Each
 * volume has a folder in the data root with a record that is written before the volume counts as made, so a crash leaves a
 * whole volume or none. Containers mount through VolumeSource, clients come through VolumeEngine.
 */
import * as fs from "node:fs";
import path from "node:path";
import type { Env } from "../../common/env.ts";
import { ClusterError, hasCode } from "../../common/errors.ts";
import { newHexId } from "../../common/ids.ts";
import type { Logger } from "../../common/log.ts";
import type { Filters, JsonObject, VolumeEngine } from "../../model/engine.ts";
import type { Labels } from "../../model/specs.ts";
import { asFullDisk } from "../full-disk.ts";
import { treeBytes } from "../images/tree-bytes.ts";
import type { EventSink, VolumeMount, VolumeSource } from "../ports.ts";
import { LocalDriver } from "./local-driver.ts";
import { type LookupOptions, PluginDrivers, type PluginLimits } from "./plugin-driver.ts";
import { Turns } from "./turns.ts";
import type { VolumeDriver } from "./volume-driver.ts";
import { ANONYMOUS_LABEL, type VolumeRecord } from "./volume-record.ts";
import { checkVolumeName, parseCreateRequest, volumeMatcher } from "./volume-requests.ts";

/** A plugin that did not answer is not asked about its other volumes for so long. */
const SILENT_MS = 2_000;
const DEFAULT_PLUGIN_FOLDERS: readonly string[] = ["/run/shoal/plugins", "/run/docker/plugins"];

export interface VolumeEngineOptions {
  readonly env: Env;
  readonly log: Logger;
  /** The data root of the daemon; volumes get a folder in it. */
  readonly dataRoot: string;
  readonly events: EventSink;
  /** Folders where plugins' sockets are looked for. */
  readonly pluginFolders?: readonly string[];
  /** For tests: how long plugins may take. */
  readonly pluginLimits?: PluginLimits;
  /** Managed plugins, which come first. */
  readonly managed?: ManagedDrivers;
}

/** Volume drivers among the managed plugins. */
export interface ManagedDrivers {
  /** Undefined if no plugin has that name; throws where it is disabled or something else. */
  find(name: string): VolumeDriver | undefined;
  /** Those that are enabled. */
  names(): readonly string[];
}

export interface VolumeUsage {
  readonly volume: JsonObject;
  /** -1 where it is not known. */
  readonly sizeBytes: number;
  readonly refCount: number;
}

function isRecord(value: unknown): value is VolumeRecord {
  if (typeof value !== "object" || value === null) return false;
  const record = value as Partial<Record<keyof VolumeRecord, unknown>>;
  return (
    typeof record.name === "string" &&
    typeof record.driver === "string" &&
    typeof record.options === "object" &&
    typeof record.labels === "object" &&
    typeof record.createdAt === "string"
  );
}

class LocalVolumeEngine implements VolumeEngine, VolumeSource {
  readonly #env: Env;
  readonly #log: Logger;
  readonly #events: EventSink;
  readonly #root: string;
  readonly #records = new Map<string, VolumeRecord>();
  readonly #references = new Map<string, Set<string>>();
  readonly #mounts = new Map<string, Set<string>>();
  readonly #local: LocalDriver;
  readonly #plugins: PluginDrivers;
  readonly #managed: ManagedDrivers | undefined;
  /**
   * Of creations and removals: their checks must hold until they are done. A plugin that hangs holds up its own volumes
   * only.
   */
  readonly #turns = new Turns();
  /** Drivers that did not answer, and until when they are not asked again by those who only look. */
  readonly #silentUntilMs = new Map<string, number>();

  constructor(options: VolumeEngineOptions) {
    this.#env = options.env;
    this.#log = options.log;
    this.#events = options.events;
    this.#root = path.join(options.dataRoot, "volumes");
    this.#plugins = new PluginDrivers(options.pluginFolders ?? DEFAULT_PLUGIN_FOLDERS, options.pluginLimits);
    this.#managed = options.managed;
    this.#local = new LocalDriver({
      root: this.#root,
      disk: options.env.disk,
      optionsOf: (name) => this.#records.get(name)?.options ?? {},
    });
  }

  async open(): Promise<void> {
    const { disk } = this.#env;
    await disk.makeFolder(this.#root, 0o711);
    for (const name of fs.readdirSync(this.#root)) {
      const file = path.join(this.#root, name, "volume.json");
      const record = name.startsWith(".") ? undefined : await this.#read(file);
      if (record?.name === name) this.#records.set(name, record);
      else if (name.startsWith(".")) await disk.removeTree(path.join(this.#root, name));
      // A folder with data but without a record is somebody's: it stays where it is.
      else this.#log.warn("volume folder without a record is left alone", { name });
    }
  }

  async #read(file: string): Promise<VolumeRecord | undefined> {
    try {
      const value: unknown = JSON.parse(Buffer.from(await this.#env.disk.readFile(file)).toString("utf8"));
      return isRecord(value) ? value : undefined;
    } catch {
      return undefined;
    }
  }

  #driver(name: string, options: LookupOptions = {}): Promise<VolumeDriver> {
    return Promise.resolve().then(() =>
      name === "local" ? this.#local : (this.#managed?.find(name) ?? this.#plugins.get(name, options)),
    );
  }

  /** As the driver calls itself: a managed plugin has its tag in its name. */
  async #driverName(name: string): Promise<string> {
    return name === "" || name === "local" ? "local" : (await this.#driver(name)).name;
  }

  /** Volumes that the driver has made. */
  countOf(driver: string): number {
    return [...this.#records.values()].filter((record) => record.driver === driver).length;
  }

  #event(action: string, record: VolumeRecord, attributes: Labels = {}): void {
    this.#events.emit({
      Type: "volume",
      Action: action,
      Actor: { ID: record.name, Attributes: { driver: record.driver, ...attributes } },
    });
  }

  #get(name: string): VolumeRecord {
    const record = this.#records.get(name);
    if (record === undefined) throw new ClusterError("not_found", `get ${name}: no such volume`);
    return record;
  }

  #usersOf(name: string): readonly string[] {
    return [...new Set([...(this.#references.get(name) ?? []), ...(this.#mounts.get(name) ?? [])])].sort();
  }

  async create(request: JsonObject): Promise<JsonObject> {
    const record = await this.#make(parseCreateRequest(request));
    return this.#describe(record);
  }

  async ensure(request: Parameters<VolumeSource["ensure"]>[0]): Promise<VolumeMount> {
    const record = await this.#make({
      name: request.name,
      ...(request.madeFor === undefined ? {} : { madeFor: request.madeFor }),
      driver: request.driver ?? "",
      options: request.options ?? {},
      labels: request.labels ?? {},
    });
    const mountpoint = record.driver === "local" ? this.#local.pathOf(record.name) : "";
    return { name: record.name, driver: record.driver, mountpoint };
  }

  #make(request: {
    readonly name: string | null;
    readonly madeFor?: string;
    readonly driver: string;
    readonly options: Readonly<Record<string, string>>;
    readonly labels: Labels;
  }): Promise<VolumeRecord> {
    const isAnonymous = request.name === null;
    const name = request.name ?? newHexId(this.#env.random);
    checkVolumeName(name);
    return this.#turns.take(name, async () => {
      const driver = await this.#driverName(request.driver).catch((caught: unknown) => {
        throw lookupError(name, request.driver, caught);
      });
      const known = this.#records.get(name);
      if (known !== undefined && request.driver !== "" && known.driver !== driver)
        throw new ClusterError(
          "conflict",
          `a volume named ${name} already exists with the ${known.driver} driver, wanted ${driver}`,
        );
      // In this turn: a removal that waits for its own is refused.
      if (request.madeFor !== undefined) this.reference(name, request.madeFor);
      if (known !== undefined) return known;
      const createdAt = new Date(this.#env.clock.wallMs()).toISOString().replace(/\.\d+Z$/, "Z");
      const labels = isAnonymous ? { ...request.labels, [ANONYMOUS_LABEL]: "" } : request.labels;
      const madeFor = isAnonymous && request.madeFor !== undefined ? { madeFor: request.madeFor } : {};
      const record = { name, driver, options: request.options, labels, createdAt, ...madeFor };
      await this.#write(record);
      this.#event("create", record);
      return record;
    });
  }

  /** The folder appears under its name only when the record and the data folder are in it. */
  async #write(record: VolumeRecord): Promise<void> {
    const { disk } = this.#env;
    if (record.driver === "local") LocalDriver.checkOptions(record.name, record.options);
    const driver = await this.#driver(record.driver);
    const staging = path.join(this.#root, `.new-${record.name}`);
    await disk.removeTree(staging);
    await disk.makeFolder(staging, 0o711);
    await disk
      .writeFileAtomic(path.join(staging, "volume.json"), Buffer.from(JSON.stringify(record)))
      .catch((caught: unknown) => {
        throw asFullDisk(caught, "volume", staging);
      });
    if (record.driver === "local") await LocalDriver.makeFolder(path.join(staging, "_data"), disk);
    else await driver.create(record.name, record.options);
    await disk.rename(staging, path.join(this.#root, record.name));
    await disk.syncFolder(this.#root);
    this.#records.set(record.name, record);
  }

  async #describe(record: VolumeRecord): Promise<JsonObject> {
    const isLocal = record.driver === "local";
    const found = isLocal ? undefined : await this.#pluginVolume(record);
    return {
      CreatedAt: found === undefined || found.createdAt === "" ? record.createdAt : found.createdAt,
      Driver: record.driver,
      Labels: Object.keys(record.labels).length === 0 ? null : record.labels,
      Mountpoint: isLocal ? this.#local.pathOf(record.name) : (found?.mountpoint ?? ""),
      Name: record.name,
      Options: Object.keys(record.options).length === 0 ? null : record.options,
      Scope: isLocal ? "local" : (found?.scope ?? "local"),
      ...(found === undefined || Object.keys(found.status).length === 0
        ? {}
        : { Status: found.status as JsonObject }),
    };
  }

  async #pluginVolume(record: VolumeRecord): Promise<
    | {
        readonly createdAt: string;
        readonly mountpoint: string;
        readonly scope: string;
        readonly status: Readonly<Record<string, unknown>>;
      }
    | undefined
  > {
    const { clock } = this.#env;
    if ((this.#silentUntilMs.get(record.driver) ?? 0) > clock.monotonicMs()) return undefined;
    try {
      const driver = await this.#driver(record.driver, { isReading: true });
      const volume = await driver.get(record.name);
      const { createdAt = "", mountpoint = "", status = {} } = volume ?? {};
      return { createdAt, mountpoint, status, scope: await driver.scope() };
    } catch (caught) {
      // A dead plugin must not hide the machine's other volumes.
      this.#log.warn("volume plugin does not answer", { driver: record.driver, error: caught });
      this.#silentUntilMs.set(record.driver, clock.monotonicMs() + SILENT_MS);
      return undefined;
    }
  }

  inspect(name: string): Promise<JsonObject> {
    return Promise.resolve().then(() => this.#describe(this.#get(name)));
  }

  async list(
    filters: Filters,
  ): Promise<{ readonly Volumes: readonly JsonObject[]; readonly Warnings: readonly string[] | null }> {
    const matches = volumeMatcher(filters, (name) => this.#usersOf(name).length > 0);
    const records = [...this.#records.values()].filter(matches);
    records.sort((left, right) => (left.name < right.name ? -1 : 1));
    return { Volumes: await Promise.all(records.map((record) => this.#describe(record))), Warnings: null };
  }

  remove(name: string, force: boolean): Promise<void> {
    return this.#turns.take(name, async () => {
      const record = this.#records.get(name);
      if (record === undefined) {
        if (force) return;
        throw new ClusterError("not_found", `get ${name}: no such volume`);
      }
      await this.#remove(record, force);
    });
  }

  async #remove(record: VolumeRecord, force: boolean): Promise<void> {
    const users = this.#usersOf(record.name);
    if (users.length > 0) {
      throw new ClusterError("conflict", `remove ${record.name}: volume is in use - [${users.join(", ")}]`);
    }
    try {
      await (await this.#driver(record.driver)).remove(record.name);
    } catch (caught) {
      // Force is for plugins that went away.
      if (!force) throw caught;
    }
    const { disk } = this.#env;
    const trash = path.join(this.#root, `.gone-${record.name}`);
    await disk.removeTree(trash);
    await disk.rename(path.join(this.#root, record.name), trash);
    await disk.syncFolder(this.#root);
    this.#records.delete(record.name);
    this.#event("destroy", record);
    await disk.removeTree(trash);
  }

  async prune(
    filters: Filters,
  ): Promise<{ readonly VolumesDeleted: readonly string[]; readonly SpaceReclaimed: number }> {
    const matches = volumeMatcher(filters, (name) => this.#usersOf(name).length > 0, "prune");
    const deleted: string[] = [];
    let bytes = 0;
    for (const record of [...this.#records.values()].filter(matches)) {
      const size = record.driver === "local" ? await treeBytes(this.#local.pathOf(record.name)) : 0;
      try {
        await this.remove(record.name, false);
        deleted.push(record.name);
        bytes += size;
      } catch (caught) {
        // Used since the list was made, or gone with somebody else.
        if (hasCode(caught, "conflict", "not_found")) continue;
        // One driver's trouble must not keep the volumes of others.
        this.#log.warn("volume not pruned", { name: record.name, driver: record.driver, error: caught });
      }
    }
    this.#events.emit({
      Type: "volume",
      Action: "prune",
      Actor: { ID: "", Attributes: { reclaimed: String(bytes) } },
    });
    return { VolumesDeleted: deleted, SpaceReclaimed: bytes };
  }

  async mount(name: string, userId: string, attributes: Labels = {}): Promise<VolumeMount> {
    const record = this.#get(name);
    const users = this.#mounts.get(name) ?? new Set();
    this.#mounts.set(name, users);
    const isNew = !users.has(userId);
    // Counted before the driver is asked, so that a removal meanwhile is refused.
    users.add(userId);
    try {
      const mountpoint = await (await this.#driver(record.driver)).mount(name, userId);
      if (isNew) this.#event("mount", record, { container: userId, ...attributes });
      return { name, driver: record.driver, mountpoint };
    } catch (caught) {
      if (isNew) users.delete(userId);
      throw caught;
    }
  }

  async unmount(name: string, userId: string): Promise<void> {
    const record = this.#records.get(name);
    const users = this.#mounts.get(name);
    if (record === undefined || users?.delete(userId) !== true) return;
    if (users.size === 0) this.#mounts.delete(name);
    await (await this.#driver(record.driver)).unmount(name, userId);
    this.#event("unmount", record, { container: userId });
  }

  reference(name: string, containerId: string): void {
    const users = this.#references.get(name) ?? new Set();
    users.add(containerId);
    this.#references.set(name, users);
  }

  unreference(name: string, containerId: string): void {
    const users = this.#references.get(name);
    users?.delete(containerId);
    if (users?.size === 0) this.#references.delete(name);
  }

  async removeAnonymous(name: string): Promise<void> {
    if (this.#records.get(name)?.labels[ANONYMOUS_LABEL] === undefined) return;
    try {
      await this.remove(name, true);
    } catch (caught) {
      // Another container still uses it; that one's removal takes it.
      if (!hasCode(caught, "conflict")) throw caught;
    }
  }

  async removeMadeFor(containerId: string): Promise<void> {
    for (const name of this.#references.keys()) this.unreference(name, containerId);
    const names = [...this.#records.values()]
      .filter((record) => record.madeFor === containerId)
      .map((record) => record.name);
    for (const name of names) await this.removeAnonymous(name);
  }

  /** For `system df`. */
  async usage(): Promise<readonly VolumeUsage[]> {
    const all: VolumeUsage[] = [];
    for (const record of this.#records.values()) {
      const isPlain = record.driver === "local" && record.options["type"] === undefined;
      all.push({
        volume: await this.#describe(record),
        sizeBytes: isPlain ? await treeBytes(this.#local.pathOf(record.name)) : -1,
        refCount: this.#usersOf(record.name).length,
      });
    }
    return all;
  }

  /** Drivers that /info lists. */
  driverNames(): readonly string[] {
    return ["local", ...this.#plugins.names(), ...(this.#managed?.names() ?? [])];
  }
}

/** In Docker's words. */
function lookupError(volume: string, driver: string, caught: unknown): ClusterError {
  const { code, message } = ClusterError.from(caught);
  const text = `create ${volume}: error looking up volume plugin ${driver}: ${message}`;
  return new ClusterError(code, text, { cause: caught });
}

export interface VolumeEngineParts {
  readonly volumes: VolumeEngine;
  readonly source: VolumeSource;
  readonly usage: () => Promise<readonly VolumeUsage[]>;
  readonly driverNames: () => readonly string[];
  /** How many volumes the driver has made. */
  readonly countOf: (driver: string) => number;
}

export async function createVolumeEngine(options: VolumeEngineOptions): Promise<VolumeEngineParts> {
  const engine = new LocalVolumeEngine(options);
  await engine.open();
  return {
    volumes: engine,
    source: engine,
    usage: () => engine.usage(),
    driverNames: () => engine.driverNames(),
    countOf: (driver) => engine.countOf(driver),
  };
}
