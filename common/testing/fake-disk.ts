/**
 * A disk in memory that behaves as badly as real ones: writes that were not synced may be lost or torn at a crash, names
 * that were not synced in their folder may vanish, writes take time, syncs fail, space runs out, bits rot. All of it
 * from the random source and timers it is given. Used by unit tests (no faults) and the simulator.
 */
import type { Disk, DiskFile, DiskOpenOptions, Random, Timers } from "../env.ts";

/** What a crash may tear: the unit that a disk writes whole. */
const SECTOR_BYTES = 512;

export interface DiskFaults {
  /** How long an operation takes, drawn each time. */
  latencyMs: () => number;
  /** Chance that a sync (or synced write) fails with EIO. */
  syncFailureRate: number;
  /** Sum of all file lengths; beyond it ENOSPC. */
  capacityBytes: number;
  /** Operations that begin now end only when it is false again. */
  isStalled: boolean;
}

interface PendingWrite {
  readonly offset: number;
  readonly bytes: Uint8Array;
}

class Inode {
  /** What reads see. */
  content: Uint8Array = new Uint8Array(0);
  length = 0;
  /** What survives a crash. */
  durable: Uint8Array = new Uint8Array(0);
  durableLength = 0;
  pending: PendingWrite[] = [];

  grow(length: number): void {
    if (length > this.content.byteLength) {
      const larger = new Uint8Array(Math.max(length, this.content.byteLength * 2));
      larger.set(this.content);
      this.content = larger;
    }
    this.length = Math.max(this.length, length);
  }

  growDurable(length: number): void {
    if (length > this.durable.byteLength) {
      const larger = new Uint8Array(Math.max(length, this.durable.byteLength * 2));
      larger.set(this.durable);
      this.durable = larger;
    }
    this.durableLength = Math.max(this.durableLength, length);
  }
}

type NameOperation =
  | { readonly kind: "link"; readonly path: string; readonly inode: Inode }
  | { readonly kind: "unlink"; readonly path: string }
  | { readonly kind: "rename"; readonly from: string; readonly to: string; readonly inode: Inode };

function errno(code: string, path: string): Error {
  return Object.assign(new Error(`${code}: "${path}"`), { code });
}

function folderOf(path: string): string {
  return path.slice(0, Math.max(0, path.lastIndexOf("/")));
}

export function noFaults(): DiskFaults {
  return { latencyMs: () => 0, syncFailureRate: 0, capacityBytes: Number.MAX_SAFE_INTEGER, isStalled: false };
}

export class FakeDisk implements Disk {
  readonly faults: DiskFaults;
  readonly #timers: Pick<Timers, "after">;
  readonly #random: Pick<Random, "float" | "below">;
  readonly #names = new Map<string, Inode>();
  readonly #durableNames = new Map<string, Inode>();
  readonly #folders = new Set<string>();
  #nameOperations: NameOperation[] = [];
  #stalled: (() => void)[] = [];
  /** Grows at each crash: what an earlier life waits for never comes. */
  #life = 0;

  constructor(
    timers: Pick<Timers, "after">,
    random: Pick<Random, "float" | "below">,
    faults: DiskFaults = noFaults(),
  ) {
    this.#timers = timers;
    this.#random = random;
    this.faults = faults;
  }

  get usedBytes(): number {
    let bytes = 0;
    for (const inode of this.#names.values()) bytes += inode.length;
    return bytes;
  }

  async open(path: string, options: DiskOpenOptions = {}): Promise<DiskFile> {
    await this.#io();
    let inode = this.#names.get(path);
    if (inode !== undefined && options.exclusive === true) throw errno("EEXIST", path);
    if (inode === undefined) {
      if (options.create !== true) throw errno("ENOENT", path);
      inode = new Inode();
      this.#names.set(path, inode);
      this.#nameOperations.push({ kind: "link", path, inode });
    }
    return this.#file(path, inode, options.synced === true);
  }

  async readFile(path: string): Promise<Uint8Array> {
    await this.#io();
    const inode = this.#inode(path);
    return inode.content.slice(0, inode.length);
  }

  async writeFileAtomic(path: string, bytes: Uint8Array): Promise<void> {
    const temporary = `${path}.tmp`;
    const file = await this.open(temporary, { create: true });
    await file.truncate(0);
    await file.write(0, bytes);
    await file.sync();
    await this.rename(temporary, path);
    await this.syncFolder(folderOf(path));
  }

  async list(path: string): Promise<readonly string[]> {
    await this.#io();
    const prefix = `${path}/`;
    return [...this.#names.keys()]
      .filter((name) => name.startsWith(prefix) && !name.slice(prefix.length).includes("/"))
      .map((name) => name.slice(prefix.length))
      .sort();
  }

  makeFolder(path: string): Promise<void> {
    this.#folders.add(path);
    return this.#io();
  }

  async rename(from: string, to: string): Promise<void> {
    await this.#io();
    const inode = this.#inode(from);
    this.#names.delete(from);
    this.#names.set(to, inode);
    this.#nameOperations.push({ kind: "rename", from, to, inode });
  }

  async remove(path: string): Promise<void> {
    await this.#io();
    if (this.#names.delete(path)) this.#nameOperations.push({ kind: "unlink", path });
  }

  async removeTree(path: string): Promise<void> {
    await this.#io();
    for (const name of this.#names.keys()) {
      if (name !== path && !name.startsWith(`${path}/`)) continue;
      this.#names.delete(name);
      this.#nameOperations.push({ kind: "unlink", path: name });
    }
  }

  async syncFolder(path: string): Promise<void> {
    const operations = [...this.#nameOperations];
    await this.#io();
    for (const operation of operations) {
      const at = operation.kind === "rename" ? operation.to : operation.path;
      if (folderOf(at) !== path && !(operation.kind === "rename" && folderOf(operation.from) === path))
        continue;
      this.#persistName(operation);
      this.#nameOperations = this.#nameOperations.filter((each) => each !== operation);
    }
  }

  exists(path: string): Promise<boolean> {
    const found =
      this.#names.has(path) || [...this.#names.keys()].some((name) => name.startsWith(`${path}/`));
    return Promise.resolve(found || this.#folders.has(path));
  }

  /** Releases what waited while `faults.isStalled` was set. */
  resume(): void {
    this.faults.isStalled = false;
    const stalled = this.#stalled;
    this.#stalled = [];
    for (const go of stalled) go();
  }

  /**
   * Power loss: nothing that is under way ever ends; unsynced writes are lost, kept or torn, each by chance; of unsynced
   * changes of names a random first part is kept (a file system's journal is in order).
   */
  crash(): void {
    this.#life += 1;
    this.#stalled = [];
    const kept = this.#random.below(this.#nameOperations.length + 1);
    for (const operation of this.#nameOperations.slice(0, kept)) this.#persistName(operation);
    this.#nameOperations = [];
    const inodes = new Set([...this.#names.values(), ...this.#durableNames.values()]);
    for (const inode of inodes) this.#crashInode(inode);
    this.#names.clear();
    for (const [path, inode] of this.#durableNames) this.#names.set(path, inode);
  }

  /** Paths of all files, sorted. */
  paths(): readonly string[] {
    return [...this.#names.keys()].sort();
  }

  /** Flips one bit, in memory and on disk. */
  rot(path: string, offset: number, bit: number): void {
    const inode = this.#inode(path);
    for (const bytes of [inode.content, inode.durable]) {
      const byte = bytes[offset];
      if (byte !== undefined) bytes[offset] = byte ^ (1 << bit);
    }
  }

  /** The bytes of a file now, without waiting. */
  peek(path: string): Uint8Array {
    const inode = this.#inode(path);
    return inode.content.subarray(0, inode.length);
  }

  #inode(path: string): Inode {
    const inode = this.#names.get(path);
    if (inode === undefined) throw errno("ENOENT", path);
    return inode;
  }

  #persistName(operation: NameOperation): void {
    switch (operation.kind) {
      case "link":
        this.#durableNames.set(operation.path, operation.inode);
        return;
      case "unlink":
        this.#durableNames.delete(operation.path);
        return;
      case "rename":
        this.#durableNames.delete(operation.from);
        this.#durableNames.set(operation.to, operation.inode);
    }
  }

  #crashInode(inode: Inode): void {
    for (const write of inode.pending) {
      for (let at = 0; at < write.bytes.byteLength; at += SECTOR_BYTES) {
        if (this.#random.float() < 0.5) continue;
        const sector = write.bytes.subarray(at, at + SECTOR_BYTES);
        inode.growDurable(write.offset + at + sector.byteLength);
        inode.durable.set(sector, write.offset + at);
      }
    }
    inode.pending = [];
    inode.content = inode.durable.slice();
    inode.length = inode.durableLength;
  }

  /** Waits as long as the disk takes. Of a life that ended, it never resolves. */
  async #io(): Promise<void> {
    const life = this.#life;
    if (this.faults.isStalled) {
      await new Promise<void>((resolve) => {
        this.#stalled.push(resolve);
      });
    }
    const latencyMs = this.faults.latencyMs();
    if (latencyMs > 0) {
      await new Promise<void>((resolve) => {
        this.#timers.after(latencyMs, resolve);
      });
    }
    if (life !== this.#life) await new Promise<never>(() => undefined);
  }

  #file(path: string, inode: Inode, synced: boolean): DiskFile {
    const persist = (writes: readonly PendingWrite[]): void => {
      for (const write of writes) {
        inode.growDurable(write.offset + write.bytes.byteLength);
        inode.durable.set(write.bytes, write.offset);
      }
      inode.pending = inode.pending.filter((each) => !writes.includes(each));
    };
    const sync = async (): Promise<void> => {
      const writes = [...inode.pending];
      await this.#io();
      if (this.faults.syncFailureRate > 0 && this.#random.float() < this.faults.syncFailureRate) {
        throw errno("EIO", path);
      }
      persist(writes);
    };
    return {
      read: async (offset, length) => {
        await this.#io();
        return inode.content.slice(offset, Math.min(offset + length, inode.length));
      },
      write: async (offset, bytes) => {
        const added = Math.max(0, offset + bytes.byteLength - inode.length);
        if (added > 0 && this.usedBytes + added > this.faults.capacityBytes) throw errno("ENOSPC", path);
        inode.grow(offset + bytes.byteLength);
        inode.content.set(bytes, offset);
        inode.pending.push({ offset, bytes: bytes.slice() });
        if (synced) await sync();
      },
      sync,
      truncate: async (length) => {
        await this.#io();
        inode.grow(length);
        inode.content.fill(0, length, inode.length);
        inode.length = length;
        inode.durableLength = Math.min(inode.durableLength, length);
        inode.durable.fill(0, length);
        inode.pending = [];
        inode.growDurable(length);
      },
      length: () => Promise.resolve(inode.length),
      close: () => Promise.resolve(),
    };
  }
}
