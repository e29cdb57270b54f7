/**
 * Unpacked layers, by ChainID, and the writable layers of containers on top of them. A layer is unpacked aside and renamed
 * to its place when it is whole. Containers' overlays are mounted by the native helper: this gives the list of folders.
 *
 * Bytes of unpacked layers are not synced one by one (that costs seconds): each notes the boot it was made in until a sync
 * of the file system covered it, and one that was not covered when the machine went down is thrown away and made anew
 * from its blob, which is durable.
 */
import * as fs from "node:fs";
import path from "node:path";
import { assert, must } from "../../common/assert.ts";
import type { Disk, Random } from "../../common/env.ts";
import { ClusterError, hasNodeCode } from "../../common/errors.ts";
import { removeTornWrites } from "../../common/torn-writes.ts";
import { asFullDisk } from "../full-disk.ts";
import type { RootfsLayers } from "../ports.ts";
import { syncFile } from "../sync-file.ts";
import { buildInitLayer } from "./init-layer.ts";

export interface SnapshotRecord {
  readonly chainId: string;
  /** "" for the lowest layer. */
  readonly parentChainId: string;
  readonly diffId: string;
  readonly contentBytes: number;
  /** Short name under l/, because a mount's list of layers has a bound on its length. */
  readonly short: string;
  /** Boot in which it was made; "" once it is durable. */
  readonly bootId: string;
}

/** A container's writable layer. */
export interface WritableRecord {
  readonly key: string;
  readonly imageId: string;
  /** Lowest first. */
  readonly chainIds: readonly string[];
}

export interface SnapshotStoreOptions {
  readonly root: string;
  readonly trash: string;
  readonly disk: Disk;
  readonly random: Random;
}

const CHAIN_ID = /^sha256:[0-9a-f]{64}$/;
/** Container ids and the builder's names: nothing that could leave the folder. */
const KEY = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$/;

function readBootId(): string {
  try {
    return fs.readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
  } catch {
    // Not on such a kernel: every start counts as a new boot.
    return `unknown-${process.pid}-${Date.now()}`;
  }
}

function parseJson(file: string): unknown {
  try {
    return JSON.parse(fs.readFileSync(file, "utf8"));
  } catch {
    return undefined;
  }
}

function isSnapshotRecord(value: unknown): value is SnapshotRecord {
  if (typeof value !== "object" || value === null) return false;
  const record = value as Partial<Record<keyof SnapshotRecord, unknown>>;
  return (
    typeof record.chainId === "string" &&
    CHAIN_ID.test(record.chainId) &&
    typeof record.parentChainId === "string" &&
    typeof record.diffId === "string" &&
    typeof record.contentBytes === "number" &&
    typeof record.short === "string" &&
    typeof record.bootId === "string"
  );
}

function isWritableRecord(value: unknown): value is WritableRecord {
  if (typeof value !== "object" || value === null) return false;
  const record = value as Partial<Record<keyof WritableRecord, unknown>>;
  return (
    typeof record.key === "string" &&
    typeof record.imageId === "string" &&
    Array.isArray(record.chainIds) &&
    record.chainIds.every((each) => typeof each === "string")
  );
}

/** Mode without the file's kind. */
interface RootAttributes {
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
}

const EMPTY_ROOT: RootAttributes = { mode: 0o755, uid: 0, gid: 0 };

export class SnapshotStore {
  readonly #options: SnapshotStoreOptions;
  readonly #bootId = readBootId();
  readonly #layers = new Map<string, SnapshotRecord>();
  readonly #writable = new Map<string, WritableRecord>();
  /** Of "/" in layers that containers stand on; layers never change. */
  readonly #roots = new Map<string, RootAttributes>();
  /** Chains whose init layer is in place. */
  readonly #withInit = new Set<string>();
  #nextShort = 1;

  private constructor(options: SnapshotStoreOptions) {
    this.#options = options;
  }

  static async open(options: SnapshotStoreOptions): Promise<SnapshotStore> {
    const store = new SnapshotStore(options);
    const { disk, root } = options;
    for (const name of ["layers", "l", "writable"]) await disk.makeFolder(path.join(root, name), 0o711);
    // What was on its way is trash; removing it may take long, so it is only put there.
    await disk.makeFolder(path.join(root, "staging"), 0o711);
    for (const name of fs.readdirSync(path.join(root, "staging")))
      store.#toTrash(path.join(root, "staging", name));
    store.#readLayers();
    store.#readWritable();
    store.#cleanShortNames();
    return store;
  }

  #readLayers(): void {
    const folder = path.join(this.#options.root, "layers");
    for (const name of fs.readdirSync(folder)) {
      const record = parseJson(path.join(folder, name, "layer.json"));
      const isWhole =
        isSnapshotRecord(record) &&
        record.chainId === `sha256:${name}` &&
        (record.bootId === "" || record.bootId === this.#bootId);
      if (!isWhole) {
        this.#toTrash(path.join(folder, name));
        continue;
      }
      // Written once more when it became durable, which did not come to its end.
      if (record.bootId !== "") removeTornWrites(path.join(folder, name));
      this.#layers.set(record.chainId, record);
      this.#nextShort = Math.max(this.#nextShort, Number.parseInt(record.short, 36) + 1);
      if (fs.existsSync(path.join(folder, name, "init"))) this.#withInit.add(record.chainId);
    }
  }

  #readWritable(): void {
    const folder = path.join(this.#options.root, "writable");
    for (const name of fs.readdirSync(folder)) {
      const record = parseJson(path.join(folder, name, "writable.json"));
      if (isWritableRecord(record) && record.key === name) this.#writable.set(name, record);
      else this.#toTrash(path.join(folder, name));
    }
  }

  /** Links to layers that are gone; links that a crash prevented are made. */
  #cleanShortNames(): void {
    const folder = path.join(this.#options.root, "l");
    const wanted = new Map([...this.#layers.values()].map((record) => [record.short, record]));
    for (const name of fs.readdirSync(folder)) {
      if (!wanted.has(name.replace(/-init$/, ""))) fs.unlinkSync(path.join(folder, name));
    }
    for (const record of wanted.values()) {
      this.#linkShort(record, "fs", record.short);
      if (this.#withInit.has(record.chainId)) this.#linkShort(record, "init", `${record.short}-init`);
    }
  }

  #linkShort(record: SnapshotRecord, part: string, name: string): void {
    const link = path.join(this.#options.root, "l", name);
    try {
      fs.symlinkSync(path.join("..", "layers", record.chainId.slice("sha256:".length), part), link);
    } catch (caught) {
      if (!hasNodeCode(caught, "EEXIST")) throw caught;
    }
  }

  #toTrash(folder: string): string {
    const name = Buffer.from(this.#options.random.bytes(8)).toString("hex");
    const place = path.join(this.#options.trash, `tree-${name}`);
    fs.renameSync(folder, place);
    return place;
  }

  #layerFolder(chainId: string): string {
    assert(CHAIN_ID.test(chainId), "a chain id is a sha256 digest");
    return path.join(this.#options.root, "layers", chainId.slice("sha256:".length));
  }

  has(chainId: string): boolean {
    return this.#layers.has(chainId);
  }

  layer(chainId: string): SnapshotRecord | undefined {
    return this.#layers.get(chainId);
  }

  layers(): IterableIterator<SnapshotRecord> {
    return this.#layers.values();
  }

  writables(): IterableIterator<WritableRecord> {
    return this.#writable.values();
  }

  writable(key: string): WritableRecord | undefined {
    return this.#writable.get(key);
  }

  /** A new folder to unpack a layer into. */
  newStaging(): string {
    const name = Buffer.from(this.#options.random.bytes(12)).toString("hex");
    const folder = path.join(this.#options.root, "staging", name);
    fs.mkdirSync(path.join(folder, "fs"), { recursive: true, mode: 0o755 });
    // The umask must not decide the root's mode: it is "/" of containers.
    fs.chmodSync(path.join(folder, "fs"), 0o755);
    return folder;
  }

  discardStaging(folder: string): void {
    if (fs.existsSync(folder)) this.#toTrash(folder);
  }

  /** Folders of the unpacked layers, newest first. All must be there. */
  folders(chainIds: readonly string[]): readonly string[] {
    return chainIds.toReversed().map((chainId) => path.join(this.#layerFolder(chainId), "fs"));
  }

  /** Puts a whole layer (staging folder with fs/) in its place; fine if another was faster. */
  commitLayer(staging: string, layer: Omit<SnapshotRecord, "short" | "bootId">): void {
    if (this.#layers.has(layer.chainId)) {
      this.#toTrash(staging);
      return;
    }
    const record: SnapshotRecord = {
      ...layer,
      short: (this.#nextShort++).toString(36),
      bootId: this.#bootId,
    };
    fs.writeFileSync(path.join(staging, "layer.json"), JSON.stringify(record), { mode: 0o600 });
    fs.renameSync(staging, this.#layerFolder(layer.chainId));
    this.#linkShort(record, "fs", record.short);
    this.#layers.set(record.chainId, record);
  }

  /** Layers that a loss of power could still take. */
  undurable(): readonly string[] {
    return [...this.#layers.values()].filter((each) => each.bootId !== "").map((each) => each.chainId);
  }

  /** After the file system was synced. */
  async markDurable(chainIds: readonly string[]): Promise<void> {
    for (const chainId of chainIds) {
      const record = this.#layers.get(chainId);
      if (record === undefined) continue;
      const durable = { ...record, bootId: "" };
      const file = path.join(this.#layerFolder(chainId), "layer.json");
      await this.#options.disk.writeFileAtomic(file, Buffer.from(JSON.stringify(durable)));
      if (this.#layers.has(chainId)) this.#layers.set(chainId, durable);
    }
  }

  discardLayer(chainId: string): void {
    const record = this.#layers.get(chainId);
    if (record === undefined) return;
    this.#layers.delete(chainId);
    this.#withInit.delete(chainId);
    this.#roots.delete(chainId);
    for (const name of [record.short, `${record.short}-init`]) {
      fs.rmSync(path.join(this.#options.root, "l", name), { force: true });
    }
    this.#toTrash(this.#layerFolder(chainId));
  }

  /**
   * Makes the writable layer. Synchronous on purpose: it is on the way of every container start, and a handful of calls
   * costs less than one turn through a thread.
   */
  createWritable(record: WritableRecord): RootfsLayers {
    if (!KEY.test(record.key)) {
      throw new ClusterError("invalid_argument", `Cannot make layer: bad name "${record.key}"`);
    }
    if (!this.#writable.has(record.key)) {
      const folder = path.join(this.#options.root, "writable", record.key);
      try {
        fs.mkdirSync(folder, { mode: 0o711 });
        fs.mkdirSync(path.join(folder, "work"), { mode: 0o711 });
        this.#makeUpper(path.join(folder, "fs"), record.chainIds);
        // Last: a folder without it is what a crash left.
        fs.writeFileSync(path.join(folder, "writable.json"), JSON.stringify(record), { mode: 0o600 });
      } catch (caught) {
        // Nobody would look for it before the next daemon, and each try on a full disk would leave another.
        fs.rmSync(folder, { recursive: true, force: true });
        throw asFullDisk(caught, "layer of a container", folder);
      }
      this.#writable.set(record.key, record);
    }
    return this.layersOf(record.key);
  }

  /** A loss of power takes the layer of this name no more. What is written into it later is its container's affair. */
  syncWritable(key: string): Promise<void> {
    return syncFile(path.join(this.#options.root, "writable", key, "writable.json"));
  }

  /** The upper folder's owner and mode are those of the container's "/". */
  #makeUpper(folder: string, chainIds: readonly string[]): void {
    const top = chainIds.at(-1);
    const { mode, uid, gid } = top === undefined ? EMPTY_ROOT : this.#rootOf(top);
    fs.mkdirSync(folder, { mode });
    // The umask must not decide it.
    fs.chmodSync(folder, mode);
    if (uid !== 0 || gid !== 0) fs.chownSync(folder, uid, gid);
  }

  #rootOf(chainId: string): RootAttributes {
    const known = this.#roots.get(chainId);
    if (known !== undefined) return known;
    const { mode, uid, gid } = fs.lstatSync(path.join(this.#layerFolder(chainId), "fs"));
    const attributes = { mode: mode & 0o7777, uid, gid };
    this.#roots.set(chainId, attributes);
    return attributes;
  }

  layersOf(key: string): RootfsLayers {
    const record = this.#writable.get(key);
    if (record === undefined) {
      throw new ClusterError("not_found", `No such writable layer: ${key}`, { details: { key } });
    }
    const folder = path.join(this.#options.root, "writable", key);
    return {
      lower: this.#lower(record.chainIds),
      upper: path.join(folder, "fs"),
      work: path.join(folder, "work"),
    };
  }

  #lower(chainIds: readonly string[]): readonly string[] {
    const short = path.join(this.#options.root, "l");
    const top = chainIds.at(-1);
    if (top === undefined) return [this.#emptyInit()];
    this.#ensureInit(top, chainIds);
    const names = chainIds.toReversed().map((chainId) => {
      const record = must(this.#layers.get(chainId), "a writable layer's image is unpacked");
      return record.short;
    });
    return [`${names[0] ?? ""}-init`, ...names].map((name) => path.join(short, name));
  }

  /** Stubs for mount points, above the image: they then show neither in the writable layer nor in commits. */
  #ensureInit(top: string, chainIds: readonly string[]): void {
    if (this.#withInit.has(top)) return;
    const staging = this.newStaging();
    buildInitLayer(path.join(staging, "fs"), this.folders(chainIds));
    const record = must(this.#layers.get(top), "the image is unpacked");
    fs.renameSync(path.join(staging, "fs"), path.join(this.#layerFolder(top), "init"));
    fs.rmdirSync(staging);
    this.#linkShort(record, "init", `${record.short}-init`);
    this.#withInit.add(top);
  }

  /** For images without any layer. */
  #emptyInit(): string {
    const folder = path.join(this.#options.root, "empty-init");
    if (fs.existsSync(folder)) return folder;
    const staging = this.newStaging();
    buildInitLayer(path.join(staging, "fs"), []);
    fs.renameSync(path.join(staging, "fs"), folder);
    fs.rmdirSync(staging);
    return folder;
  }

  /** Puts it into the trash and returns its place there; undefined if there is none of that name. */
  removeWritable(key: string): string | undefined {
    if (!this.#writable.delete(key)) return undefined;
    return this.#toTrash(path.join(this.#options.root, "writable", key));
  }
}
