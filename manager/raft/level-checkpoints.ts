/**
 * Checkpoints in `level`. Each is one chained batch with sync, since LevelDB doesn't promise that a later unsynced
 * write survives only together with earlier ones: an applied index without its changes would be silent corruption.
 *
 * Keys: "m" holds the format's version, index, term, configuration, the generation and a digest; "s<generation>/<key>"
 * the state. A snapshot is written under the next generation, piece by piece, and comes into force with the batch that
 * names it.
 *
 * LevelDB passes over damaged records of its log in silence, a whole batch at a time, and reads blocks unchecked. The
 * digest, a sum over all keys and values, tells whether what is there is what was written; before LevelDB opens its
 * tables their checksums are looked at (level-tables.ts), since damage in one may end the process. What is damaged is
 * put aside, and the store begins anew, empty: the member fetches the state from its peers. After a full disk LevelDB
 * is opened again before the next write: it no longer knows what of the last one is in its log.
 */
import { hkdfSync } from "node:crypto";
import { rename, rm } from "node:fs/promises";
import { crc32 } from "node:zlib";
import { ClassicLevel } from "classic-level";
import type { Random } from "../../common/env.ts";
import { ClusterError, hasNodeCode } from "../../common/errors.ts";
import type { CheckpointStore, LoadedCheckpoint, StateEntry } from "./checkpoint-store.ts";
import type { SnapshotMeta } from "./core/messages.ts";
import { isNewerFormat, parseVersioned } from "./format-version.ts";
import { findTableDamage } from "./level-tables.ts";
import type { Checkpoint } from "./replicated-log.ts";
import { seal, unseal } from "./wal-format.ts";

const META_KEY = "m";
/** 1: without version and digest. 2: with a digest; the first programs that wrote it named no version. */
const FORMAT_VERSION = 2;
/** A snapshot is written in synced batches of about this size. */
const PIECE_BYTES = 4 * 1024 * 1024;
const GENERATION_DIGITS = 12;
const DIGEST_MODULUS = 2 ** 48;

export interface LevelCheckpointOptions {
  readonly folder: string;
  readonly encryptionKey: Uint8Array | undefined;
  readonly random: Pick<Random, "bytes">;
}

interface StoredMeta extends SnapshotMeta {
  readonly generation: number;
  /** Undefined in version 1. */
  readonly digest?: number;
}

/** Checksums of the state's keys with their values, and their sum: it changes with each of them, in any order. */
class Sums {
  readonly #sums = new Map<string, number>();
  digest = 0;

  put(key: string, value: Uint8Array): void {
    this.remove(key);
    const sum = crc32(value, crc32(key));
    this.#sums.set(key, sum);
    this.digest = (this.digest + sum) % DIGEST_MODULUS;
  }

  remove(key: string): void {
    this.digest = (this.digest - (this.#sums.get(key) ?? 0) + DIGEST_MODULUS) % DIGEST_MODULUS;
    this.#sums.delete(key);
  }
}

function isStoredMeta(value: unknown): value is StoredMeta {
  return (
    typeof value === "object" &&
    value !== null &&
    "index" in value &&
    Number.isSafeInteger(value.index) &&
    "term" in value &&
    Number.isSafeInteger(value.term) &&
    "configIndex" in value &&
    Number.isSafeInteger(value.configIndex) &&
    "config" in value &&
    Array.isArray(value.config) &&
    "generation" in value &&
    Number.isSafeInteger(value.generation) &&
    ("digest" in value ? Number.isSafeInteger(value.digest) : !("version" in value))
  );
}

type Database = ClassicLevel<string, Uint8Array>;

function makeDatabase(folder: string): Database {
  // Of compressed tables the checksums of all blocks could not be found without decompressing.
  return new ClassicLevel(folder, { keyEncoding: "utf8", valueEncoding: "view", compression: false });
}

/** LevelDB's word for ENOSPC is in its text alone. */
function isNoSpace(caught: unknown): boolean {
  if (!(caught instanceof Error)) return false;
  return caught.message.includes("No space left on device") || isNoSpace(caught.cause);
}

function isLocked(caught: unknown): boolean {
  if (!(caught instanceof Error)) return false;
  return hasNodeCode(caught, "LEVEL_LOCKED") || isLocked(caught.cause);
}

function noSpace(folder: string, cause: unknown): Error {
  return Object.assign(new Error(`Cannot write the state to "${folder}": the disk is full`, { cause }), {
    code: "ENOSPC",
  });
}

function asideOf(folder: string): string {
  return `${folder}.damaged`;
}

/** Takes the place of what was put aside before. */
async function putAside(folder: string): Promise<void> {
  await rm(asideOf(folder), { recursive: true, force: true });
  await rename(folder, asideOf(folder));
}

function damageError(folder: string, cause: unknown): ClusterError {
  const why = cause instanceof Error ? cause.message : String(cause);
  const text = `Cannot load the state: ${why}; it was put aside as "${asideOf(folder)}"`;
  return new ClusterError("failed_precondition", text, { cause });
}

export class LevelCheckpoints implements CheckpointStore {
  readonly #folder: string;
  readonly #key: Uint8Array | undefined;
  readonly #random: Pick<Random, "bytes">;
  #db: Database;
  #mustReopen = false;
  #generation = 0;
  #sums = new Sums();
  /** Why there is nothing here any more; undefined if all is well. */
  #damage: ClusterError | undefined;

  private constructor(options: LevelCheckpointOptions) {
    this.#folder = options.folder;
    this.#db = makeDatabase(options.folder);
    this.#random = options.random;
    const { encryptionKey } = options;
    this.#key =
      encryptionKey === undefined
        ? undefined
        : new Uint8Array(hkdfSync("sha256", encryptionKey, "", "shoal raft checkpoints", 32));
  }

  /** Rejects if another process has it open, or with ENOSPC; damage is told by load(). */
  static async open(options: LevelCheckpointOptions): Promise<LevelCheckpoints> {
    // Before there is a database object: it opens itself.
    const damage = await findTableDamage(options.folder);
    if (damage !== undefined) await putAside(options.folder);
    const checkpoints = new LevelCheckpoints(options);
    if (damage !== undefined) checkpoints.#damage = damageError(options.folder, new Error(damage));
    try {
      await checkpoints.#db.open();
    } catch (caught) {
      if (isNoSpace(caught)) throw noSpace(options.folder, caught);
      if (isLocked(caught)) {
        const text = `Cannot open the state in "${options.folder}": another process has it open`;
        throw new ClusterError("failed_precondition", text, { cause: caught });
      }
      await checkpoints.#startOver(caught);
    }
    return checkpoints;
  }

  async load(): Promise<LoadedCheckpoint | undefined> {
    if (this.#damage !== undefined) throw this.#damage;
    try {
      return await this.#read();
    } catch (caught) {
      if (isNewerFormat(caught)) throw caught;
      throw await this.#startOver(caught);
    }
  }

  async write(meta: SnapshotMeta, changes: Checkpoint): Promise<void> {
    const prefix = this.#prefix(this.#generation);
    for (const [key, value] of changes.puts) this.#sums.put(key, value);
    for (const key of changes.removes) this.#sums.remove(key);
    await this.#attempt(async () => {
      // Chained, not an array of operations: three times cheaper.
      const batch = this.#db.batch();
      for (const [key, value] of changes.puts) batch.put(prefix + key, this.#seal(value));
      for (const key of changes.removes) batch.del(prefix + key);
      batch.put(
        META_KEY,
        this.#encodeMeta(meta, { generation: this.#generation, digest: this.#sums.digest }),
      );
      await batch.write({ sync: true });
    });
  }

  async replace(meta: SnapshotMeta, entries: Iterable<StateEntry>): Promise<void> {
    const generation = this.#generation + 1;
    const sums = new Sums();
    await this.#attempt(() => this.#writeAll(meta, { entries, generation, sums }));
    this.#generation = generation;
    this.#sums = sums;
    await this.#attempt(() => this.#clearOthers());
  }

  async close(): Promise<void> {
    await this.#db.close();
  }

  async #read(): Promise<LoadedCheckpoint | undefined> {
    const bytes = await this.#db.get(META_KEY);
    if (bytes === undefined) return undefined;
    const what = `the state in "${this.#folder}"`;
    const parsed = parseVersioned(this.#open(bytes), { what, known: FORMAT_VERSION });
    if (!isStoredMeta(parsed)) throw new ClusterError("failed_precondition", "its description is damaged");
    const prefix = this.#prefix(parsed.generation);
    const entries: StateEntry[] = [];
    const sums = new Sums();
    for await (const [key, value] of this.#db.iterator({ gte: prefix, lt: `${prefix}\u{10ffff}` })) {
      const entry = [key.slice(prefix.length), this.#open(value)] as const;
      sums.put(...entry);
      entries.push(entry);
    }
    if (parsed.digest !== undefined && sums.digest !== parsed.digest)
      throw new ClusterError("failed_precondition", "keys or values of it are not those that were written");
    this.#generation = parsed.generation;
    this.#sums = sums;
    const { index, term, config, configIndex } = parsed;
    const meta = { index, term, config, configIndex };
    if (parsed.digest === undefined) await this.#upgrade(meta);
    await this.#attempt(() => this.#clearOthers()).catch((caught: unknown) => {
      // What an unfinished snapshot left takes room, no more; the next one removes it.
      if (!isNoSpace(caught)) throw caught;
    });
    return { meta, entries };
  }

  /** From now on damage is found. On a full disk the next checkpoint does it. */
  async #upgrade(meta: SnapshotMeta): Promise<void> {
    await this.write(meta, { puts: [], removes: [] }).catch((caught: unknown) => {
      if (!isNoSpace(caught)) throw caught;
    });
  }

  async #writeAll(
    meta: SnapshotMeta,
    next: {
      readonly entries: Iterable<StateEntry>;
      readonly generation: number;
      readonly sums: Sums;
    },
  ): Promise<void> {
    const { entries, generation, sums } = next;
    const prefix = this.#prefix(generation);
    // Left by an earlier try.
    await this.#db.clear({ gte: prefix, lt: `${prefix}\u{10ffff}` });
    let batch = this.#db.batch();
    let bytes = 0;
    for (const [key, value] of entries) {
      sums.put(key, value);
      batch.put(prefix + key, this.#seal(value));
      bytes += key.length + value.byteLength;
      if (bytes < PIECE_BYTES) continue;
      await batch.write({ sync: true });
      batch = this.#db.batch();
      bytes = 0;
    }
    batch.put(META_KEY, this.#encodeMeta(meta, { generation, digest: sums.digest }));
    await batch.write({ sync: true });
  }

  /** Runs a write. On a full disk it rejects with ENOSPC, and the same may be tried again. */
  async #attempt(work: () => Promise<void>): Promise<void> {
    try {
      if (this.#mustReopen) {
        await this.#db.close();
        await this.#db.open();
        this.#mustReopen = false;
      }
      await work();
    } catch (caught) {
      if (!isNoSpace(caught)) throw caught;
      this.#mustReopen = true;
      throw noSpace(this.#folder, caught);
    }
  }

  /** Puts what is here aside and begins with nothing; why, in words. */
  async #startOver(cause: unknown): Promise<ClusterError> {
    this.#damage = damageError(this.#folder, cause);
    await this.#db.close();
    await putAside(this.#folder);
    this.#db = makeDatabase(this.#folder);
    await this.#db.open();
    return this.#damage;
  }

  async #clearOthers(): Promise<void> {
    const prefix = this.#prefix(this.#generation);
    await this.#db.clear({ gte: "s", lt: prefix });
    await this.#db.clear({ gte: `${prefix}\u{10ffff}`, lt: "t" });
  }

  #prefix(generation: number): string {
    return `s${generation.toString().padStart(GENERATION_DIGITS, "0")}/`;
  }

  #encodeMeta(meta: SnapshotMeta, own: { readonly generation: number; readonly digest: number }): Uint8Array {
    const { index, term, config, configIndex } = meta;
    const stored = { version: FORMAT_VERSION, index, term, config, configIndex, ...own };
    return this.#seal(Buffer.from(JSON.stringify(stored)));
  }

  #seal(plain: Uint8Array): Uint8Array {
    return this.#key === undefined ? plain : seal(plain, this.#key, this.#random.bytes(12));
  }

  #open(bytes: Uint8Array): Uint8Array {
    return this.#key === undefined ? bytes : unseal(bytes, this.#key);
  }
}
