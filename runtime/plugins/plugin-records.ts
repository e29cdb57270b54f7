/**
 * The managed plugins of this machine: a folder each below DATA_ROOT/plugins with its record, its files and the mounts
 * that it shows the host. A record is whole on disk before the plugin counts as made.
 */
import { existsSync, readdirSync } from "node:fs";
import path from "node:path";
import type { Disk } from "../../common/env.ts";
import { ClusterError } from "../../common/errors.ts";
import type { Logger } from "../../common/log.ts";
import { familiarForm, tryParseReference, withDefaultTag } from "../../model/image-reference.ts";
import { isMounted, makeShared, mountVolume, unmountBelow } from "../volumes/mount-calls.ts";
import type { PluginConfig, PluginSettings } from "./plugin-config.ts";

export interface BlobRecord {
  readonly digest: string;
  readonly sizeBytes: number;
}

export interface PluginRecord {
  readonly id: string;
  /** With its tag: "folders:latest". */
  readonly name: string;
  /** Where it came from, in full. */
  readonly reference: string;
  readonly isEnabled: boolean;
  /** Of the container that runs it, "" for none. */
  readonly containerId: string;
  /** Folder of its files; an upgrade puts others beside them. */
  readonly rootfsName: string;
  /** How long it may take to listen, when it is started again. */
  readonly timeoutMs: number;
  readonly manifest: BlobRecord;
  readonly configBlob: BlobRecord;
  readonly layers: readonly BlobRecord[];
  readonly config: PluginConfig;
  readonly settings: PluginSettings;
}

const FULL_ID = /^[0-9a-f]{64}$/;
const RECORD_FILE = "plugin.json";
const STAGING_PREFIX = ".";

function notFound(name: string): ClusterError {
  return new ClusterError("not_found", `plugin ${JSON.stringify(name)} not found`);
}

function isRecord(value: unknown, id: string): value is PluginRecord {
  if (typeof value !== "object" || value === null) return false;
  const record = value as Partial<Record<keyof PluginRecord, unknown>>;
  return record.id === id && typeof record.name === "string" && typeof record.config === "object";
}

/** "folders" and "docker.io/library/folders:latest" are "folders:latest". */
export function pluginName(text: string): string | undefined {
  const reference = tryParseReference(text);
  return reference === undefined || reference.digest !== undefined
    ? undefined
    : familiarForm(withDefaultTag(reference));
}

export class PluginRecords {
  readonly #root: string;
  readonly #disk: Disk;
  readonly #records = new Map<string, PluginRecord>();
  #isWhole = true;

  private constructor(root: string, disk: Disk) {
    this.#root = root;
    this.#disk = disk;
  }

  /**
   * Reads what is there; what a crash left half made or half removed goes. A plugin that can't be read stays as it is,
   * and is none.
   */
  static async open(root: string, disk: Disk, log: Logger): Promise<PluginRecords> {
    const records = new PluginRecords(root, disk);
    if (!existsSync(root)) return records;
    for (const name of readdirSync(root)) {
      if (name.startsWith(STAGING_PREFIX)) await records.#drop(path.join(root, name));
      else if (FULL_ID.test(name))
        await records.#read(name).catch((caught: unknown) => {
          records.#isWhole = false;
          const error = ClusterError.from(caught);
          log.error("plugin can't be read, going on without it", { folder: records.folder(name), error });
        });
    }
    return records;
  }

  /** False if there are plugins that can't be read: whose blobs are on the disk is not known then. */
  get isWhole(): boolean {
    return this.#isWhole;
  }

  async #read(id: string): Promise<void> {
    const bytes = await this.#disk.readFile(path.join(this.folder(id), RECORD_FILE));
    const value: unknown = JSON.parse(Buffer.from(bytes).toString("utf8"));
    if (!isRecord(value, id))
      throw new ClusterError("internal", `Cannot read plugin ${id}: its record must be that of the plugin`);
    this.#records.set(id, value);
    await this.#dropOldFiles(value);
  }

  get all(): readonly PluginRecord[] {
    return [...this.#records.values()].sort((left, right) => (left.name < right.name ? -1 : 1));
  }

  folder(id: string): string {
    return path.join(this.#root, id);
  }

  rootfs(record: PluginRecord): string {
    return path.join(this.folder(record.id), record.rootfsName);
  }

  propagated(id: string): string {
    return path.join(this.folder(id), "propagated-mount");
  }

  /** A new folder on the same file system, gone after a restart. */
  async staging(name: string): Promise<string> {
    const folder = path.join(this.#root, `${STAGING_PREFIX}new-${name}`);
    await this.#disk.makeFolder(folder, 0o700);
    return folder;
  }

  /** By name, id or prefix of an id. Throws as Docker does. */
  get(text: string): PluginRecord {
    const found = this.find(text);
    if (found === undefined) throw notFound(text);
    return found;
  }

  find(text: string): PluginRecord | undefined {
    const byId = this.#records.get(text);
    if (byId !== undefined) return byId;
    const name = pluginName(text);
    const all = [...this.#records.values()];
    const byName = all.find((each) => each.name === name);
    if (byName !== undefined) return byName;
    const byPrefix = /^[0-9a-f]+$/.test(text) ? all.filter((each) => each.id.startsWith(text)) : [];
    if (byPrefix.length > 1)
      throw new ClusterError("invalid_argument", `multiple plugins found for ${JSON.stringify(text)}`);
    return byPrefix[0];
  }

  checkFree(name: string): void {
    if ([...this.#records.values()].some((each) => each.name === name))
      throw new ClusterError("conflict", `plugin ${name} already exists`);
  }

  /** A plugin whose files are in `staging`: it appears whole or not at all. */
  async add(record: PluginRecord, staging: string): Promise<void> {
    this.checkFree(record.name);
    await this.#disk.writeFileAtomic(path.join(staging, RECORD_FILE), encode(record), 0o600);
    this.checkFree(record.name);
    this.#records.set(record.id, record);
    try {
      await this.#disk.rename(staging, this.folder(record.id));
      await this.#disk.syncFolder(this.#root);
    } catch (caught) {
      this.#records.delete(record.id);
      throw caught;
    }
  }

  /** Changes a plugin; returns it as it is now. */
  async change(id: string, changes: Partial<PluginRecord>): Promise<PluginRecord> {
    const known = this.#records.get(id);
    if (known === undefined) throw notFound(id);
    const record = { ...known, ...changes };
    await this.#disk.writeFileAtomic(path.join(this.folder(id), RECORD_FILE), encode(record), 0o600);
    this.#records.set(id, record);
    return record;
  }

  async remove(record: PluginRecord): Promise<void> {
    const trash = path.join(this.#root, `${STAGING_PREFIX}gone-${record.id}`);
    await unmountBelow(this.folder(record.id));
    await this.#disk.rename(this.folder(record.id), trash);
    await this.#disk.syncFolder(this.#root);
    this.#records.delete(record.id);
    await this.#drop(trash);
  }

  async #drop(folder: string): Promise<void> {
    // Never into what a plugin mounted there.
    await unmountBelow(folder);
    await this.#disk.removeTree(folder);
  }

  /** Takes over files of a newer version from `staging`, which count from the change of the record on. */
  async upgrade(id: string, staging: string, changes: Partial<PluginRecord>): Promise<PluginRecord> {
    const rootfsName = path.basename(staging).replace(/^[.]/, "rootfs-");
    await this.#disk.rename(path.join(staging, "rootfs"), path.join(this.folder(id), rootfsName));
    const record = await this.change(id, { ...changes, rootfsName });
    await this.#dropOldFiles(record);
    return record;
  }

  async #dropOldFiles(record: PluginRecord): Promise<void> {
    for (const name of readdirSync(this.folder(record.id))) {
      if (name.startsWith("rootfs") && name !== record.rootfsName)
        await this.#drop(path.join(this.folder(record.id), name));
    }
  }

  /** The folder whose mounts the host sees is a mount that passes mounts on. */
  async sharePropagated(record: PluginRecord): Promise<void> {
    if (record.config.PropagatedMount === "") return;
    const folder = this.propagated(record.id);
    await this.#disk.makeFolder(folder, 0o755);
    if (!isMounted(folder))
      await mountVolume({ source: folder, target: folder, type: "none", options: "bind" });
    await makeShared(folder);
  }

  async unshare(record: PluginRecord): Promise<void> {
    await unmountBelow(this.propagated(record.id));
  }
}

function encode(record: PluginRecord): Buffer {
  return Buffer.from(JSON.stringify(record));
}
