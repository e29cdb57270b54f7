/**
 * Blobs by digest: manifests, configs and layers as they came. A blob is written aside, hashed and only then renamed to its
 * digest, so nothing unverified or half written is ever found under one. Knows nothing of images: what may be removed is
 * decided by garbage.ts.
 *
 * Blobs are not synced one by one, which would make every build step wait for the disk. Those of an image are made durable
 * before it is named (durable-images.ts), the others together now and then; after a loss of power those that were written
 * since are hashed again before anybody sees them.
 */
import { createHash } from "node:crypto";
import { createReadStream, readdirSync, readFileSync, renameSync, statSync } from "node:fs";
import * as fsp from "node:fs/promises";
import path from "node:path";
import type { Readable } from "node:stream";
import { assert } from "../../common/assert.ts";
import type { Disk, Random } from "../../common/env.ts";
import { ClusterError } from "../../common/errors.ts";
import { isDigest } from "../../model/image-reference.ts";

/** Manifests and configs; anything larger that claims to be one is refused (registries allow 4 MiB). */
export const DOCUMENT_BYTES_MAX: number = 8 * 1024 * 1024;
const READ_BYTES = 1024 * 1024;

export function sha256(bytes: Uint8Array): string {
  return `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
}

/** Whether `digest`, of any algorithm that isDigest() takes, is that of the bytes. */
export function hasDigest(bytes: Uint8Array, digest: string): boolean {
  const [algorithm = "", hex = ""] = digest.split(":");
  return createHash(algorithm).update(bytes).digest("hex") === hex;
}

export interface ContentStoreOptions {
  /** Folder of its own. */
  readonly root: string;
  /** Folder on the same file system for what is to be removed. */
  readonly trash: string;
  readonly disk: Disk;
  readonly random: Random;
  /** Set after a restart of the machine: blobs written since then (Unix time) may be damaged and are checked. */
  readonly suspectSinceMs: number | undefined;
  /** Blobs written since then (Unix time) in this boot, before a crash of the daemon, may not be on the disk yet. */
  readonly unsyncedSinceMs: number | undefined;
}

async function digestOfFile(file: string, algorithm: string): Promise<string> {
  const hash = createHash(algorithm);
  for await (const piece of createReadStream(file, { highWaterMark: READ_BYTES }))
    hash.update(piece as Buffer);
  return `${algorithm}:${hash.digest("hex")}`;
}

export class ContentStore {
  readonly #options: ContentStoreOptions;
  /** Digest to bytes. */
  readonly #sizes = new Map<string, number>();
  /** Whole, but maybe only in the kernel's memory. */
  readonly #unsynced = new Set<string>();

  private constructor(options: ContentStoreOptions) {
    this.#options = options;
  }

  /** Reads what is there and drops what an earlier life left half written. */
  static async open(options: ContentStoreOptions): Promise<ContentStore> {
    const store = new ContentStore(options);
    await options.disk.removeTree(path.join(options.root, "ingest"));
    await options.disk.makeFolder(path.join(options.root, "ingest"));
    for (const algorithm of ["sha256", "sha512"]) {
      const folder = path.join(options.root, "blobs", algorithm);
      await options.disk.makeFolder(folder);
      for (const name of readdirSync(folder)) {
        const digest = `${algorithm}:${name}`;
        if (isDigest(digest)) await store.#find(path.join(folder, name), digest, algorithm);
      }
    }
    return store;
  }

  async #find(file: string, digest: string, algorithm: string): Promise<void> {
    const { size, mtimeMs } = statSync(file);
    const since = this.#options.suspectSinceMs;
    if (since !== undefined && mtimeMs >= since && (await digestOfFile(file, algorithm)) !== digest) {
      await this.#options.disk.remove(file);
      return;
    }
    this.#sizes.set(digest, size);
    if (mtimeMs >= (this.#options.unsyncedSinceMs ?? Infinity)) this.#unsynced.add(digest);
  }

  /** Those of `digests`, or all, that a loss of power could still take. */
  unsynced(digests: Iterable<string> = this.#unsynced): readonly string[] {
    return [...digests].filter((digest) => this.#unsynced.has(digest));
  }

  /** After their files and the folder were synced, or the whole file system. */
  markSynced(digests: readonly string[]): void {
    for (const digest of digests) this.#unsynced.delete(digest);
  }

  has(digest: string): boolean {
    return this.#sizes.has(digest);
  }

  sizeBytes(digest: string): number | undefined {
    return this.#sizes.get(digest);
  }

  digests(): IterableIterator<string> {
    return this.#sizes.keys();
  }

  /** Where the blob lies; it need not exist. */
  pathOf(digest: string): string {
    assert(isDigest(digest), "a blob's name is a digest");
    const [algorithm = "", hex = ""] = digest.split(":");
    return path.join(this.#options.root, "blobs", algorithm, hex);
  }

  /** A new name for a file that is to become a blob (or holds things on the way there). */
  ingestPath(): string {
    const name = Buffer.from(this.#options.random.bytes(12)).toString("hex");
    return path.join(this.#options.root, "ingest", name);
  }

  /** Takes over a file whose content has that digest. */
  async commit(ingestPath: string, digest: string): Promise<void> {
    if (this.has(digest)) {
      await this.#options.disk.remove(ingestPath);
      return;
    }
    const target = this.pathOf(digest);
    const { size } = await fsp.stat(ingestPath);
    // Both in one turn, so that a sweep between them can't take the file away.
    renameSync(ingestPath, target);
    this.#sizes.set(digest, size);
    this.#unsynced.add(digest);
  }

  /** Stores a document; returns its digest. */
  async put(bytes: Uint8Array): Promise<string> {
    const digest = sha256(bytes);
    if (this.has(digest)) return digest;
    const ingest = this.ingestPath();
    await fsp.writeFile(ingest, bytes, { flag: "wx", mode: 0o600 });
    await this.commit(ingest, digest);
    return digest;
  }

  #missing(digest: string): ClusterError {
    return new ClusterError("not_found", `No such blob: ${digest}`, { details: { digest } });
  }

  /** A document's bytes, checked against the digest: disks do lie. */
  readDocument(digest: string): Buffer {
    const size = this.#sizes.get(digest);
    if (size === undefined) throw this.#missing(digest);
    if (size > DOCUMENT_BYTES_MAX) {
      throw new ClusterError(
        "failed_precondition",
        `Blob ${digest} is too large for a document: ${size} bytes`,
      );
    }
    const bytes = readFileSync(this.pathOf(digest));
    if (!hasDigest(bytes, digest)) {
      throw new ClusterError("internal", `Blob ${digest} is damaged on disk`);
    }
    return bytes;
  }

  open(digest: string, offset: number): { readonly sizeBytes: number; readonly content: Readable } {
    const sizeBytes = this.#sizes.get(digest);
    if (sizeBytes === undefined) throw this.#missing(digest);
    if (!Number.isSafeInteger(offset) || offset < 0 || offset > sizeBytes) {
      throw new ClusterError(
        "invalid_argument",
        `Cannot read blob ${digest}: offset must be 0 to ${sizeBytes}, got ${offset}`,
      );
    }
    const content = createReadStream(this.pathOf(digest), { start: offset, highWaterMark: READ_BYTES });
    return { sizeBytes, content };
  }

  /** Out of the store at once; the bytes go with the trash. Readers that have it open read on. */
  discard(digest: string): void {
    if (!this.#sizes.delete(digest)) return;
    this.#unsynced.delete(digest);
    const name = Buffer.from(this.#options.random.bytes(8)).toString("hex");
    renameSync(this.pathOf(digest), path.join(this.#options.trash, `blob-${name}`));
  }
}
