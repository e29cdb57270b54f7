/**
 * Checkpoints in `level`. Each is one chained batch with sync, since LevelDB doesn't promise that a later unsynced write
 * survives only together with earlier ones: an applied index without its changes would be silent corruption.
 *
 * Keys: "m" holds index, term, configuration and the generation; "s<generation>/<key>" the state. A snapshot is written
 * under the next generation, piece by piece, and comes into force with the batch that names it.
 */
import { hkdfSync } from "node:crypto";
import { ClassicLevel } from "classic-level";
import type { Random } from "../../common/env.ts";
import { ClusterError } from "../../common/errors.ts";
import type { CheckpointStore, LoadedCheckpoint, StateEntry } from "./checkpoint-store.ts";
import type { SnapshotMeta } from "./core/messages.ts";
import type { Checkpoint } from "./replicated-log.ts";
import { seal, unseal } from "./wal-format.ts";

const META_KEY = "m";
/** A snapshot is written in synced batches of about this size. */
const PIECE_BYTES = 4 * 1024 * 1024;
const GENERATION_DIGITS = 12;

export interface LevelCheckpointOptions {
  readonly folder: string;
  readonly encryptionKey: Uint8Array | undefined;
  readonly random: Pick<Random, "bytes">;
}

interface StoredMeta extends SnapshotMeta {
  readonly generation: number;
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
    Number.isSafeInteger(value.generation)
  );
}

type Database = ClassicLevel<string, Uint8Array>;

export class LevelCheckpoints implements CheckpointStore {
  readonly #db: Database;
  readonly #key: Uint8Array | undefined;
  readonly #random: Pick<Random, "bytes">;
  #generation = 0;

  private constructor(db: Database, options: LevelCheckpointOptions) {
    this.#db = db;
    this.#random = options.random;
    const { encryptionKey } = options;
    this.#key =
      encryptionKey === undefined
        ? undefined
        : new Uint8Array(hkdfSync("sha256", encryptionKey, "", "shoal raft checkpoints", 32));
  }

  static async open(options: LevelCheckpointOptions): Promise<LevelCheckpoints> {
    const db: Database = new ClassicLevel(options.folder, { keyEncoding: "utf8", valueEncoding: "view" });
    try {
      await db.open();
    } catch (caught) {
      throw new ClusterError("failed_precondition", `Cannot open the state in "${options.folder}"`, {
        cause: caught,
      });
    }
    return new LevelCheckpoints(db, options);
  }

  async load(): Promise<LoadedCheckpoint | undefined> {
    const bytes = await this.#db.get(META_KEY);
    if (bytes === undefined) return undefined;
    const parsed: unknown = JSON.parse(Buffer.from(this.#open(bytes)).toString());
    if (!isStoredMeta(parsed)) {
      throw new ClusterError("failed_precondition", "Cannot load the state: its description is damaged");
    }
    this.#generation = parsed.generation;
    await this.#clearOthers();
    const prefix = this.#prefix(parsed.generation);
    const entries: StateEntry[] = [];
    for await (const [key, value] of this.#db.iterator({ gte: prefix, lt: `${prefix}\u{10ffff}` })) {
      entries.push([key.slice(prefix.length), this.#open(value)]);
    }
    const { index, term, config, configIndex } = parsed;
    return { meta: { index, term, config, configIndex }, entries };
  }

  async write(meta: SnapshotMeta, changes: Checkpoint): Promise<void> {
    const prefix = this.#prefix(this.#generation);
    // Chained, not an array of operations: three times cheaper.
    const batch = this.#db.batch();
    for (const [key, value] of changes.puts) batch.put(prefix + key, this.#seal(value));
    for (const key of changes.removes) batch.del(prefix + key);
    batch.put(META_KEY, this.#encodeMeta(meta, this.#generation));
    await batch.write({ sync: true });
  }

  async replace(meta: SnapshotMeta, entries: Iterable<StateEntry>): Promise<void> {
    const generation = this.#generation + 1;
    const prefix = this.#prefix(generation);
    // Left by an earlier try.
    await this.#db.clear({ gte: prefix, lt: `${prefix}\u{10ffff}` });
    let batch = this.#db.batch();
    let bytes = 0;
    for (const [key, value] of entries) {
      batch.put(prefix + key, this.#seal(value));
      bytes += key.length + value.byteLength;
      if (bytes < PIECE_BYTES) continue;
      await batch.write({ sync: true });
      batch = this.#db.batch();
      bytes = 0;
    }
    batch.put(META_KEY, this.#encodeMeta(meta, generation));
    await batch.write({ sync: true });
    this.#generation = generation;
    await this.#clearOthers();
  }

  async close(): Promise<void> {
    await this.#db.close();
  }

  async #clearOthers(): Promise<void> {
    const prefix = this.#prefix(this.#generation);
    await this.#db.clear({ gte: "s", lt: prefix });
    await this.#db.clear({ gte: `${prefix}\u{10ffff}`, lt: "t" });
  }

  #prefix(generation: number): string {
    return `s${generation.toString().padStart(GENERATION_DIGITS, "0")}/`;
  }

  #encodeMeta(meta: SnapshotMeta, generation: number): Uint8Array {
    const { index, term, config, configIndex } = meta;
    return this.#seal(Buffer.from(JSON.stringify({ index, term, config, configIndex, generation })));
  }

  #seal(plain: Uint8Array): Uint8Array {
    return this.#key === undefined ? plain : seal(plain, this.#key, this.#random.bytes(12));
  }

  #open(bytes: Uint8Array): Uint8Array {
    return this.#key === undefined ? bytes : unseal(bytes, this.#key);
  }
}
