/**
 * Docker's managed plugins: a program with its files, installed from a folder or a registry, run by us in a container,
 * and used as a volume driver. One change at a time for all of them: they are few, and what one change checks must hold
 * until it is done.
 */
import { realpathSync } from "node:fs";
import path from "node:path";
import type { Readable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import type { Env } from "../../common/env.ts";
import { ClusterError } from "../../common/errors.ts";
import { newHexId } from "../../common/ids.ts";
import type { Logger } from "../../common/log.ts";
import type {
  Filters,
  Json,
  JsonObject,
  PluginEngine,
  ProgressLine,
  PullPluginOptions,
} from "../../model/engine.ts";
import { canonicalForm, familiarForm, parseReference, withDefaultTag } from "../../model/image-reference.ts";
import { progressOf } from "../images/progress.ts";
import type { EventSink } from "../ports.ts";
import { HttpCaller } from "../registry/http-call.ts";
import { parseRegistryAuth } from "../registry/registry-auth.ts";
import type { RegistryConfig } from "../registry/registry-config.ts";
import { PluginDriver } from "../volumes/plugin-driver.ts";
import type { ManagedDrivers } from "../volumes/volume-engine.ts";
import { PluginBundles, type StagedBundle } from "./plugin-bundles.ts";
import {
  applySettings,
  asJson,
  capabilityOf,
  checkPrivileges,
  defaultSettings,
  privilegesOf,
  type PluginConfig,
} from "./plugin-config.ts";
import { pluginName, PluginRecords, type PluginRecord } from "./plugin-records.ts";
import { PluginRegistry, type PluginTransfer } from "./plugin-registry.ts";
import { PluginRunner, type RunnerOptions } from "./plugin-runner.ts";

const DEFAULT_TIMEOUT_MS = 30_000;
const LISTEN_POLL_MS = 20;
const VOLUME_DRIVER = "volumedriver";
const FILTERS: ReadonlySet<string> = new Set(["enabled", "capability"]);

export interface PluginEngineOptions {
  readonly env: Env;
  readonly log: Logger;
  readonly dataRoot: string;
  readonly events: EventSink;
  readonly registry: RegistryConfig;
  /** How many volumes a driver has. */
  readonly volumeCount: (driver: string) => number;
  readonly runner: Omit<RunnerOptions, "root" | "records" | "env" | "log">;
}

export class ManagedPlugins implements PluginEngine, ManagedDrivers {
  readonly #options: PluginEngineOptions;
  readonly #records: PluginRecords;
  readonly #runner: PluginRunner;
  readonly #caller = new HttpCaller();
  readonly #drivers = new Map<string, PluginDriver>();
  /** Why enabled plugins could not be started with the daemon, by id: they count as disabled until somebody enables them. */
  readonly #failures = new Map<string, ClusterError>();
  #bundles: Promise<PluginBundles> | undefined;
  #turn: Promise<unknown> = Promise.resolve();

  private constructor(options: PluginEngineOptions, records: PluginRecords) {
    this.#options = options;
    this.#records = records;
    const { env, log } = options;
    this.#runner = new PluginRunner({ ...options.runner, root: rootOf(options), records, env, log });
  }

  static async open(options: PluginEngineOptions): Promise<ManagedPlugins> {
    const records = await PluginRecords.open(rootOf(options), options.env.disk, options.log);
    return new ManagedPlugins(options, records);
  }

  /**
   * Those that run since a former daemon are taken over, the others that are enabled are started. What fails is theirs
   * alone.
   */
  async start(): Promise<void> {
    const enabled = this.#records.all.filter((each) => each.isEnabled);
    if (enabled.length === 0) return;
    for (const record of enabled)
      await this.#records.sharePropagated(record).catch((caught: unknown) => this.#failed(record, caught));
    try {
      await this.#runner.open();
    } catch (caught) {
      for (const record of enabled) this.#failed(record, caught);
      return;
    }
    for (const record of enabled) {
      if (this.#failures.has(record.id) || (await this.#runner.isKept(record))) continue;
      // The machine was down. Whoever needs one waits for it, the daemon doesn't.
      this.#inTurn(() => this.#run(record)).catch((caught: unknown) => this.#failed(record, caught));
    }
  }

  #failed(record: PluginRecord, caught: unknown): void {
    const error = ClusterError.from(caught);
    this.#options.log.error("plugin not started", { plugin: record.name, error });
    this.#failures.set(record.id, error);
  }

  #isEnabled(record: PluginRecord): boolean {
    return record.isEnabled && !this.#failures.has(record.id);
  }

  async stop(): Promise<void> {
    await this.#turn;
    await this.#runner.close();
    await (await this.#bundles)?.stop();
    this.#caller.close();
  }

  #inTurn<T>(run: () => Promise<T>): Promise<T> {
    const turn = this.#turn.then(run, run);
    this.#turn = turn.catch(() => {});
    return turn;
  }

  /** One for all, however many ask at once: each knows what is on its way into it, and clears away what is nobody's. */
  #opened(): Promise<PluginBundles> {
    this.#bundles ??= this.#open().catch((caught: unknown) => {
      this.#bundles = undefined;
      throw caught;
    });
    return this.#bundles;
  }

  async #open(): Promise<PluginBundles> {
    const { env } = this.#options;
    await env.disk.makeFolder(rootOf(this.#options), 0o711);
    return PluginBundles.open({ env, root: rootOf(this.#options) });
  }

  #event(action: string, id: string, name: string): void {
    this.#options.events.emit({ Type: "plugin", Action: action, Actor: { ID: id, Attributes: { name } } });
  }

  async list(filters: Filters): Promise<readonly JsonObject[]> {
    for (const key of filters.keys())
      if (!FILTERS.has(key)) throw new ClusterError("invalid_argument", `Invalid filter '${key}'`);
    const enabled = filters.get("enabled");
    const wantsEnabled = enabled?.some((each) => ["1", "true", "t"].includes(each.toLowerCase()));
    const capabilities = filters.get("capability") ?? [];
    return this.#records.all
      .filter((each) => wantsEnabled === undefined || this.#isEnabled(each) === wantsEnabled)
      .filter((each) => capabilities.every((capability) => hasCapability(each, capability)))
      .map((each) => describe(each, this.#isEnabled(each)));
  }

  async inspect(name: string): Promise<JsonObject> {
    const record = this.#records.get(name);
    return describe(record, this.#isEnabled(record));
  }

  async create(name: string, tar: Readable): Promise<void> {
    const reference = parseReference(name);
    if (reference.digest !== undefined)
      throw new ClusterError("invalid_argument", "canonical references are not permitted");
    const full = familiarForm(withDefaultTag(reference));
    this.#records.checkFree(full);
    const record = await this.#add(full, full, (bundles, staging) => bundles.fromFolder(tar, staging));
    this.#event("create", record.id, full);
  }

  /** A new plugin from the files and blobs that `make` brings. */
  async #add(
    name: string,
    reference: string,
    make: (bundles: PluginBundles, staging: string) => Promise<StagedBundle>,
  ): Promise<PluginRecord> {
    return this.#staged(async (bundles, staging) => {
      const bundle = await make(bundles, staging);
      const { manifest, configBlob, layers, config } = bundle;
      const record: PluginRecord = {
        id: newHexId(this.#options.env.random),
        name,
        reference,
        isEnabled: false,
        containerId: "",
        rootfsName: "rootfs",
        timeoutMs: DEFAULT_TIMEOUT_MS,
        manifest,
        configBlob,
        layers,
        config,
        settings: defaultSettings(config),
      };
      await bundles.makeDurable();
      await this.#records.add(record, staging);
      return record;
    });
  }

  async #staged<T>(work: (bundles: PluginBundles, staging: string) => Promise<T>): Promise<T> {
    const { env } = this.#options;
    const bundles = await this.#opened();
    const staging = await this.#records.staging(newHexId(env.random).slice(0, 16));
    try {
      return await bundles.adding(() => work(bundles, staging));
    } catch (caught) {
      await env.disk.removeTree(staging);
      await bundles.sweep(this.#records);
      throw caught;
    }
  }

  enable(name: string, timeoutSeconds: number): Promise<void> {
    return this.#inTurn(async () => {
      const record = this.#records.get(name);
      if (this.#isEnabled(record))
        throw new ClusterError("conflict", `plugin already enabled: plugin ${record.name} is enabled`);
      checkTypes(record);
      const timeoutMs = timeoutSeconds > 0 ? timeoutSeconds * 1000 : DEFAULT_TIMEOUT_MS;
      await this.#run(await this.#records.change(record.id, { timeoutMs }));
      this.#event("enable", record.id, name);
    });
  }

  /** Starts the program and waits until it has answered. */
  async #run(record: PluginRecord): Promise<void> {
    const containerId = await this.#runner.start(record);
    try {
      await this.#activate(record, containerId);
    } catch (caught) {
      await this.#runner.stop(record, containerId);
      throw caught;
    }
    // Counts from here on: a daemon that is killed before clears the container away.
    await this.#records.change(record.id, { isEnabled: true, containerId });
    this.#failures.delete(record.id);
  }

  async #activate(record: PluginRecord, containerId: string): Promise<void> {
    const { clock } = this.#options.env;
    const deadlineMs = clock.monotonicMs() + record.timeoutMs;
    const driver = this.#driverOf(record, 0);
    for (;;) {
      const end = await this.#runner.ended(containerId);
      if (end !== undefined)
        throw new ClusterError(
          "internal",
          `plugin ${record.name} ended with code ${end.exitCode} before it listened on its socket${end.lastWords === "" ? "" : `: ${end.lastWords}`}`,
        );
      try {
        await (hasCapability(record, VOLUME_DRIVER) ? driver.activate() : driver.reach());
        return;
      } catch (caught) {
        const error = ClusterError.from(caught);
        if (error.code !== "unavailable" || clock.monotonicMs() > deadlineMs) throw error;
      }
      await sleep(LISTEN_POLL_MS);
    }
  }

  disable(name: string, force: boolean): Promise<void> {
    return this.#inTurn(async () => {
      const record = this.#records.get(name);
      if (!record.isEnabled)
        throw new ClusterError(
          "conflict",
          `plugin is already disabled: plugin ${record.name} found but disabled`,
        );
      if (!force) this.#checkUnused(record);
      await this.#halt(record);
      this.#event("disable", record.id, name);
    });
  }

  #checkUnused(record: PluginRecord): void {
    if (this.#options.volumeCount(record.name) > 0)
      throw new ClusterError("conflict", `plugin ${record.name} is in use`);
  }

  /** Noted first: a daemon that is killed meanwhile ends the program when it comes back. */
  async #halt(record: PluginRecord): Promise<void> {
    await this.#records.change(record.id, { isEnabled: false, containerId: "" });
    // From here on nobody finds it, and the next that runs may have other settings.
    this.#drivers.delete(record.id);
    const hasFailed = this.#failures.delete(record.id);
    await this.#runner.stop(record).catch((caught: unknown) => {
      if (!hasFailed) throw caught;
    });
  }

  remove(name: string, force: boolean): Promise<void> {
    return this.#inTurn(async () => {
      const record = this.#records.get(name);
      if (!force) {
        this.#checkUnused(record);
        if (this.#isEnabled(record)) throw new ClusterError("conflict", `plugin ${record.name} is enabled`);
      }
      if (record.isEnabled) await this.#halt(record);
      await this.#records.remove(record);
      await (await this.#opened()).sweep(this.#records);
      this.#event("remove", record.id, name);
    });
  }

  set(name: string, settings: readonly string[]): Promise<void> {
    return this.#inTurn(async () => {
      const record = this.#records.get(name);
      if (this.#isEnabled(record))
        throw new ClusterError("internal", "cannot set on an active plugin, disable plugin before setting");
      await this.#records.change(record.id, {
        settings: applySettings(record.config, record.settings, settings),
      });
    });
  }

  async #registry(): Promise<PluginRegistry> {
    const { registry } = this.#options;
    return new PluginRegistry({ config: registry, caller: this.#caller, bundles: await this.#opened() });
  }

  async privileges(remote: string, registryAuth?: string): Promise<readonly JsonObject[]> {
    const registry = await this.#registry();
    const config = await registry.config({
      reference: withDefaultTag(parseReference(remote)),
      credentials: parseRegistryAuth(registryAuth),
      report: () => {},
      signal: AbortSignal.timeout(DEFAULT_TIMEOUT_MS),
    });
    return privilegesOf(config) as unknown as readonly JsonObject[];
  }

  /** Runs a transfer whose progress a client reads; it ends when the client goes away. */
  #transfer(
    remote: string,
    options: { readonly registryAuth?: string; readonly signal: AbortSignal },
    work: (transfer: PluginTransfer) => Promise<void>,
  ): AsyncIterable<ProgressLine> {
    const own = new AbortController();
    const run = async (report: (line: ProgressLine) => void): Promise<void> =>
      work({
        reference: withDefaultTag(parseReference(remote)),
        credentials: parseRegistryAuth(options.registryAuth),
        report,
        signal: AbortSignal.any([options.signal, own.signal]),
      });
    return progressOf(run, () => own.abort());
  }

  pull(options: PullPluginOptions, signal: AbortSignal): AsyncIterable<ProgressLine> {
    const { remote, privileges } = options;
    return this.#transfer(remote, { ...options, signal }, async (transfer) => {
      const name = pluginName(options.name === "" ? remote.replace(/@.*$/, "") : options.name);
      if (name === undefined)
        throw new ClusterError("invalid_argument", `failed to parse ${JSON.stringify(options.name)}`);
      this.#records.checkFree(name);
      const registry = await this.#registry();
      await this.#add(name, canonicalForm(transfer.reference), (_, staging) =>
        registry.pull(transfer, staging, (config) => checkPrivileges(config, privileges)),
      );
      const familiar = familiarForm(transfer.reference);
      this.#event("pull", familiar, name);
    });
  }

  upgrade(name: string, options: PullPluginOptions, signal: AbortSignal): AsyncIterable<ProgressLine> {
    const { remote, privileges } = options;
    return this.#transfer(remote, { ...options, signal }, async (transfer) => {
      const { id } = this.#disabled(name);
      const registry = await this.#registry();
      await this.#staged(async (bundles, staging) => {
        const bundle = await registry.pull(transfer, staging, (config) =>
          checkPrivileges(config, privileges),
        );
        const { manifest, configBlob, layers, config } = bundle;
        await bundles.makeDurable();
        await this.#inTurn(async () => {
          const record = this.#disabled(id);
          await this.#records.upgrade(id, staging, {
            manifest,
            configBlob,
            layers,
            config,
            reference: canonicalForm(transfer.reference),
            settings: carriedSettings(record, config),
          });
        });
        await this.#options.env.disk.removeTree(staging);
      });
      await (await this.#opened()).sweep(this.#records);
      const familiar = familiarForm(transfer.reference);
      this.#event("pull", familiar, this.#records.get(id).name);
    });
  }

  #disabled(name: string): PluginRecord {
    const record = this.#records.get(name);
    if (!this.#isEnabled(record)) return record;
    throw new ClusterError(
      "conflict",
      `plugin must be disabled before upgrading: plugin ${record.name} is enabled`,
    );
  }

  push(
    name: string,
    options: { readonly registryAuth?: string },
    signal: AbortSignal,
  ): AsyncIterable<ProgressLine> {
    return this.#transfer(name, { ...options, signal }, async (transfer) => {
      const record = this.#records.get(name);
      const registry = await this.#registry();
      await registry.push(record, { ...transfer, reference: parseReference(record.name) });
    });
  }

  /** For volumes. */
  find(name: string): PluginDriver | undefined {
    const record = this.#records.find(name);
    if (record === undefined) return undefined;
    if (!record.isEnabled) throw new ClusterError("conflict", `plugin ${name} found but disabled`);
    const failure = this.#failures.get(record.id);
    if (failure !== undefined)
      throw new ClusterError("conflict", `plugin ${name} found but not started: ${failure.message}`);
    if (!hasCapability(record, VOLUME_DRIVER))
      throw new ClusterError("not_found", `plugin does not provide "${VOLUME_DRIVER}" capability`);
    const driver = this.#drivers.get(record.id) ?? this.#driverOf(record, record.timeoutMs);
    this.#drivers.set(record.id, driver);
    return driver;
  }

  #driverOf(record: PluginRecord, waitMs: number): PluginDriver {
    return new PluginDriver({
      name: record.name,
      socketPath: this.#runner.socketPath(record),
      waitMs,
      hostPath: (inside) => this.#hostPath(record, inside),
    });
  }

  /** A path that the plugin gave, as the host finds it: among the mounts it shows, folders of the host it has, its files. */
  #hostPath(record: PluginRecord, inside: string): string {
    const clean = path.posix.normalize(inside);
    const bases = [
      ...record.settings.Mounts.filter((each) => each.Type === "bind" && (each.Source ?? "") !== "").map(
        (each) => ({ inside: each.Destination, base: each.Source ?? "" }),
      ),
      { inside: record.config.PropagatedMount, base: this.#records.propagated(record.id) },
    ].filter((each) => each.inside !== "" && (clean === each.inside || clean.startsWith(`${each.inside}/`)));
    // The deepest covers the others.
    const covering = bases.toSorted((left, right) => right.inside.length - left.inside.length)[0];
    const base = covering?.base ?? this.#records.rootfs(record);
    const below = path.join(base, clean.slice(covering?.inside.length ?? 0));
    return leadsOut(base, below) ? refusePath(record, inside) : below;
  }

  /** Enabled volume drivers. */
  names(): readonly string[] {
    return this.#records.all
      .filter((each) => this.#isEnabled(each) && hasCapability(each, VOLUME_DRIVER))
      .map((each) => each.name);
  }
}

function rootOf(options: Pick<PluginEngineOptions, "dataRoot">): string {
  return path.join(options.dataRoot, "plugins");
}

/** A plugin's links must not make the host mount something of its own. */
function leadsOut(base: string, below: string): boolean {
  try {
    const real = realpathSync(below);
    const root = realpathSync(base);
    return real !== root && !real.startsWith(`${root}/`);
  } catch {
    // Not there (yet): whoever mounts it fails.
    return false;
  }
}

function refusePath(record: PluginRecord, inside: string): never {
  throw new ClusterError(
    "permission_denied",
    `plugin ${record.name} must give paths among its own files, got ${JSON.stringify(inside)}`,
  );
}

function hasCapability(record: PluginRecord, capability: string): boolean {
  return record.config.Interface.Types.some((type) => capabilityOf(type) === capability.toLowerCase());
}

/** Only volume drivers have a use here; another would run for nothing. */
function checkTypes(record: PluginRecord): void {
  const other = record.config.Interface.Types.find((type) => capabilityOf(type) !== VOLUME_DRIVER);
  if (other === undefined) return;
  throw new ClusterError(
    "unimplemented",
    `Cannot enable plugin ${record.name}: its type must be "docker.${VOLUME_DRIVER}/1.0", got ${JSON.stringify(other)}: other drivers can't be plugins here`,
  );
}

/** What was set stays in force where the new version still has it. */
function carriedSettings(record: PluginRecord, config: PluginConfig): PluginRecord["settings"] {
  const fresh = defaultSettings(config);
  const defaults = defaultSettings(record.config);
  const isSet = (entry: string): boolean => !defaults.Env.includes(entry);
  const known = new Set((config.Env ?? []).map(({ Name }) => Name));
  const kept = record.settings.Env.filter((entry) => isSet(entry) && known.has(entry.split("=", 1)[0] ?? ""));
  const names = new Set(kept.map((entry) => entry.split("=", 1)[0]));
  const sources = new Map(record.settings.Mounts.map(({ Name, Source }) => [Name, Source]));
  const paths = new Map(record.settings.Devices.map(({ Name, Path }) => [Name, Path]));
  return {
    Env: [...fresh.Env.filter((entry) => !names.has(entry.split("=", 1)[0])), ...kept],
    Args: fresh.Args,
    Mounts: fresh.Mounts.map((each) => ({ ...each, Source: sources.get(each.Name) ?? each.Source })),
    Devices: fresh.Devices.map((each) => ({ ...each, Path: paths.get(each.Name) ?? each.Path })),
  };
}

function describe(record: PluginRecord, isEnabled: boolean): JsonObject {
  return sorted({
    Config: asJson(record.config),
    Enabled: isEnabled,
    Id: record.id,
    Name: record.name,
    PluginReference: record.reference,
    Settings: asJson(record.settings),
  });
}

function sorted(object: JsonObject): JsonObject {
  const sort = (value: Json): Json => {
    if (isList(value)) return value.map(sort);
    return typeof value === "object" && value !== null ? sorted(value) : value;
  };
  const keys = Object.keys(object).sort();
  return Object.fromEntries(keys.map((key) => [key, sort(object[key] ?? null)]));
}

function isList(value: Json): value is readonly Json[] {
  return Array.isArray(value);
}
