/**
 * Remembers up to when everything in the image store is known to be on the disk, and in which boot of the machine: after a
 * loss of power what was written later is looked at again, after a mere crash of the daemon nothing needs to be.
 */
import { readFileSync } from "node:fs";
import path from "node:path";
import type { Env } from "../../common/env.ts";

/** The clock may have been set back a little between the boots. */
const MARGIN_MS = 60_000;

interface SyncFile {
  readonly bootId: string;
  readonly syncedAtMs: number;
}

function isSyncFile(value: unknown): value is SyncFile {
  if (typeof value !== "object" || value === null) return false;
  const file = value as Partial<Record<keyof SyncFile, unknown>>;
  return typeof file.bootId === "string" && typeof file.syncedAtMs === "number";
}

function read(file: string): SyncFile | undefined {
  try {
    const value: unknown = JSON.parse(readFileSync(file, "utf8"));
    return isSyncFile(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

export class Durability {
  readonly #file: string;
  readonly #env: Env;
  readonly #bootId: string;
  /** undefined when the machine has not been down since: all is as it was written. */
  readonly suspectSinceMs: number | undefined;
  /** What was written since then in this boot may not be on the disk yet; undefined after a new boot. */
  readonly unsyncedSinceMs: number | undefined;

  private constructor(file: string, env: Env, bootId: string) {
    this.#file = file;
    this.#env = env;
    this.#bootId = bootId;
    const known = read(file);
    if (known?.bootId !== bootId)
      this.suspectSinceMs = known === undefined ? 0 : known.syncedAtMs - MARGIN_MS;
    else this.unsyncedSinceMs = known.syncedAtMs - MARGIN_MS;
  }

  static open(root: string, env: Env): Durability {
    const bootId = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
    return new Durability(path.join(root, "synced.json"), env, bootId);
  }

  /** Everything written before `atMs` (Unix time) is durable. */
  async synced(atMs: number): Promise<void> {
    const content: SyncFile = { bootId: this.#bootId, syncedAtMs: atMs };
    await this.#env.disk.writeFileAtomic(this.#file, Buffer.from(JSON.stringify(content)));
  }

  /** The suspects of this start were looked at and nothing newer is known to be durable. */
  async checked(): Promise<void> {
    if (this.suspectSinceMs === undefined) return;
    await this.synced(this.#env.clock.wallMs());
  }
}
