/**
 * What downloads that broke off have left: the beginnings of blobs, by digest, so that the next pull goes on from there, also
 * after the daemon was killed. Nothing is believed of them: the whole is hashed as if it came from afar. They go when the
 * blob is whole, after some days, with `image prune`, and when the disk is full.
 */
import * as fs from "node:fs";
import path from "node:path";
import type { Clock, Random } from "../../common/env.ts";

const AGE_MAX_MS = 3 * 24 * 3_600_000;
/** Less is sooner fetched again than kept. */
const BYTES_MIN = 256 * 1024;

export interface Beginning {
  readonly file: string;
  readonly bytes: number;
}

/** One download under way. Ends with exactly one of keep() and forget(), after the file was closed. */
export interface Download {
  /** File to write to; it does not exist yet. */
  readonly file: string;
  /** Left by an earlier one, and nobody else's until this one ends. */
  readonly earlier: Beginning | undefined;
  /** Broken off: the longer of both beginnings stays. */
  keep(): void;
  /** Whole (the file is gone to its place), or of no use. */
  forget(): void;
}

export class UnfinishedBlobs {
  readonly #folder: string;
  readonly #random: Random;
  readonly #clock: Clock;
  /** By digest, none of those in use. */
  readonly #kept = new Map<string, Beginning>();

  constructor(root: string, parts: { readonly random: Random; readonly clock: Clock }) {
    this.#folder = path.join(root, "unfinished");
    this.#random = parts.random;
    this.#clock = parts.clock;
    fs.mkdirSync(this.#folder, { recursive: true, mode: 0o700 });
    for (const name of fs.readdirSync(this.#folder)) {
      const [digest = ""] = name.split(".");
      this.#keep(digest.replace("-", ":"), path.join(this.#folder, name));
    }
  }

  begin(digest: string): Download {
    const suffix = Buffer.from(this.#random.bytes(8)).toString("hex");
    const file = path.join(this.#folder, `${digest.replace(":", "-")}.${suffix}`);
    const earlier = this.#kept.get(digest);
    this.#kept.delete(digest);
    return {
      file,
      earlier,
      keep: () => {
        this.#dropOld();
        for (const each of [file, ...(earlier === undefined ? [] : [earlier.file])]) this.#keep(digest, each);
      },
      forget: () => {
        for (const each of [file, ...(earlier === undefined ? [] : [earlier.file])]) {
          fs.rmSync(each, { force: true });
        }
      },
    };
  }

  #keep(digest: string, file: string): void {
    const stats = fs.statSync(file, { throwIfNoEntry: false });
    if (stats === undefined) return;
    const other = this.#kept.get(digest);
    const isOld = this.#clock.wallMs() - stats.mtimeMs > AGE_MAX_MS;
    if (isOld || stats.size < BYTES_MIN || stats.size <= (other?.bytes ?? 0)) {
      fs.rmSync(file, { force: true });
      return;
    }
    if (other !== undefined) fs.rmSync(other.file, { force: true });
    this.#kept.set(digest, { file, bytes: stats.size });
  }

  #dropOld(): void {
    const all = [...this.#kept];
    this.#kept.clear();
    for (const [digest, { file }] of all) this.#keep(digest, file);
  }

  /** All that nobody is going on with. Returns their bytes. */
  clear(): number {
    let bytes = 0;
    for (const beginning of this.#kept.values()) {
      fs.rmSync(beginning.file, { force: true });
      bytes += beginning.bytes;
    }
    this.#kept.clear();
    return bytes;
  }
}
