/**
 * A worker thread's main file: runs one job at a time for worker-pool.ts. Hashing, decompression, reading tar and
 * writing files happen here, so that the main thread's loop never waits for them. Holds no state between jobs.
 */
import { createHash, type Hash } from "node:crypto";
import * as fs from "node:fs";
import * as fsp from "node:fs/promises";
import { dirname } from "node:path";
import { pipeline } from "node:stream/promises";
import { parentPort, type MessagePort } from "node:worker_threads";
import { createGzip } from "node:zlib";
import { must } from "../../common/assert.ts";
import { ClusterError } from "../../common/errors.ts";
import { findArchives, hashCopy } from "../build/copy-plan.ts";
import { asFullDisk } from "../full-disk.ts";
import { compressionOf, decompressed, isForeign, peek } from "./decompression.ts";
import { inputPieces } from "./job-input.ts";
import type {
  AnswerOf,
  AppliedLayer,
  ApplyJob,
  ArchiveCompression,
  JobMessage,
  LayerAnswer,
  LayerJob,
  SplitJob,
  SplitMember,
  StoredBlob,
  StoreJob,
  WorkerMessage,
} from "./layer-jobs.ts";
import { layerChanges } from "./layer-changes.ts";
import { settleLayer } from "./layer-settle.ts";
import { LayerUnpacker } from "./layer-unpack.ts";
import { startWriting, syncFileSystem } from "./native-files.ts";
import { tarError, type TarEntry } from "./tar/tar-entry.ts";
import { TarReader, type TarSink } from "./tar/tar-reader.ts";
import { treeBytes } from "./tree-bytes.ts";
import { toText } from "./tar/byte-path.ts";

const ZLIB_CHUNK_BYTES = 512 * 1024;
const PROGRESS_BYTES = 512 * 1024;
const EARLY_WRITE_BYTES = 4 * 1024 * 1024;

type Emit = (message: { readonly kind: "progress"; readonly bytes: number }) => void;

function digestOf(hash: Hash): string {
  return `sha256:${hash.digest("hex")}`;
}

/** Hashes, counts and keeps what passes by. */
class BlobTee {
  readonly #hash: Hash | undefined;
  readonly #known: string;
  readonly #path: string | undefined;
  #fd: number | undefined;
  readonly #emit: Emit;
  #sinceProgress = 0;
  sizeBytes = 0;

  /** `knownDigest`: of bytes that need no hashing. */
  constructor(path: string | undefined, emit: Emit, knownDigest?: string) {
    this.#hash = knownDigest === undefined ? createHash("sha256") : undefined;
    this.#known = knownDigest ?? "";
    this.#path = path;
    this.#fd = path === undefined ? undefined : fs.openSync(path, "wx", 0o600);
    this.#emit = emit;
  }

  write(chunk: Buffer): void {
    this.#hash?.update(chunk);
    if (this.#fd !== undefined) {
      for (let at = 0; at < chunk.length;) at += fs.writeSync(this.#fd, chunk, at);
    }
    this.sizeBytes += chunk.length;
    this.#sinceProgress += chunk.length;
    if (this.#sinceProgress < PROGRESS_BYTES) return;
    this.#emit({ kind: "progress", bytes: this.#sinceProgress });
    this.#sinceProgress = 0;
  }

  /** The digest, which must be the expected one. */
  finish(expected: string | undefined): string {
    // It will be synced before the image is named: the disk may begin with it.
    if (this.#fd !== undefined && this.sizeBytes >= EARLY_WRITE_BYTES) startWriting(this.#fd);
    const digest = this.#hash === undefined ? this.#known : digestOf(this.#hash);
    if (expected !== undefined && digest !== expected) {
      throw new ClusterError(
        "failed_precondition",
        `Cannot store blob: content must have digest ${expected}, got ${digest}`,
      );
    }
    return digest;
  }

  close(): void {
    if (this.#fd !== undefined) fs.closeSync(this.#fd);
    this.#fd = undefined;
  }

  /** After a failure: nothing of it stays. */
  discard(): void {
    this.close();
    if (this.#path !== undefined) fs.rmSync(this.#path, { force: true });
  }
}

const NO_SINK: TarSink = { entry: () => {}, data: () => {}, entryEnd: () => {} };

/** Runs what passes through `tee`. */
async function* teed(pieces: AsyncIterable<Buffer>, tee: BlobTee): AsyncGenerator<Buffer> {
  for await (const piece of pieces) {
    tee.write(piece);
    yield piece;
  }
}

async function apply(job: ApplyJob, port: MessagePort | undefined, emit: Emit): Promise<AppliedLayer> {
  const tee = new BlobTee(job.blobPath, emit, job.knownDigest);
  const unpacker =
    job.folder === undefined ? undefined : new LayerUnpacker(job.folder, { isPlain: job.isPlain === true });
  const reader = new TarReader(unpacker ?? NO_SINK);
  let tarBytes = 0;
  try {
    const { head, all } = await peek(inputPieces(job.input, port));
    const found = compressionOf(head);
    const keepsPlain = job.keepsPlain === true && isForeign(found);
    const chunks = keepsPlain
      ? teed(decompressed({ head, all }), tee)
      : decompressed({ head, all: teed(all, tee) });
    const isPlainBlob = found === "none" || keepsPlain;
    // A plain blob is its own tar. One hashed before is hashed again only where a certain DiffID is asked for.
    const needsHash = isPlainBlob
      ? job.knownDigest !== undefined && job.expectedDiffId !== undefined
      : job.knownDigest !== "";
    const diffHash = needsHash ? createHash("sha256") : undefined;
    for await (const chunk of chunks) {
      diffHash?.update(chunk);
      tarBytes += chunk.length;
      reader.feed(chunk);
    }
    reader.finish();
    const layer = unpacker?.finish();
    const digest = tee.finish(job.expectedDigest);
    const diffId = diffHash === undefined ? digest : digestOf(diffHash);
    if (job.expectedDiffId !== undefined && diffId !== job.expectedDiffId) {
      throw new ClusterError(
        "failed_precondition",
        `Cannot unpack layer: uncompressed content must have digest ${job.expectedDiffId}, got ${diffId}`,
      );
    }
    const compression = keepsPlain ? "none" : found;
    return { kind: "apply", digest, sizeBytes: tee.sizeBytes, diffId, tarBytes, compression, layer };
  } catch (caught) {
    if (job.leavesBroken !== true) tee.discard();
    throw caught;
  } finally {
    unpacker?.abandon();
    tee.close();
  }
}

/** Writes each file of an archive to its own file in a folder. */
class Splitter implements TarSink {
  readonly #folder: string;
  readonly #onMember: (member: SplitMember) => void;
  #current:
    | { readonly entry: TarEntry; readonly tee: BlobTee; readonly path: string; head: Buffer }
    | undefined;
  readonly members: SplitMember[] = [];

  constructor(folder: string, onMember: (member: SplitMember) => void) {
    this.#folder = folder;
    this.#onMember = onMember;
  }

  entry(entry: TarEntry): void {
    if (this.members.length >= SPLIT_MEMBERS_MAX) {
      throw tarError(`Cannot read archive: more than ${SPLIT_MEMBERS_MAX} members`);
    }
    const path = `${this.#folder}/${this.members.length}`;
    if (entry.type === "file") {
      this.#current = { entry, tee: new BlobTee(path, () => {}), path, head: Buffer.alloc(0) };
    } else if (entry.type === "link" || entry.type === "symlink") {
      const base = {
        name: toText(entry.name),
        path: "",
        sizeBytes: 0,
        digest: "",
        compression: undefined,
      };
      this.members.push({ ...base, linkName: toText(entry.linkName) });
    }
  }

  data(chunk: Buffer): void {
    const current = must(this.#current, "data comes inside a file");
    current.tee.write(chunk);
    if (current.head.length < LAYER_HEAD_BYTES) {
      current.head = Buffer.concat([current.head, chunk.subarray(0, LAYER_HEAD_BYTES)]);
    }
  }

  entryEnd(): void {
    const current = this.#current;
    if (current === undefined) return;
    this.#current = undefined;
    const digest = current.tee.finish(undefined);
    current.tee.close();
    const member: SplitMember = {
      name: toText(current.entry.name),
      linkName: undefined,
      path: current.path,
      sizeBytes: current.tee.sizeBytes,
      digest,
      compression: layerCompression(current.head),
    };
    this.members.push(member);
    this.#onMember(member);
  }

  abandon(): void {
    this.#current?.tee.close();
  }
}

const SPLIT_MEMBERS_MAX = 100_000;
const LAYER_HEAD_BYTES = 263;

/** undefined for what is no layer. */
function layerCompression(head: Buffer): ArchiveCompression | undefined {
  if (head[0] === 0x7b) return undefined;
  const compression = compressionOf(head);
  if (compression !== "none") return compression;
  const isTar = head.length >= LAYER_HEAD_BYTES && head.toString("latin1", 257, 262) === "ustar";
  return isTar ? compression : undefined;
}

async function split(
  job: SplitJob,
  port: MessagePort | undefined,
  onMember: (member: SplitMember) => void,
): Promise<AnswerOf<SplitJob>> {
  const splitter = new Splitter(job.folder, onMember);
  const reader = new TarReader(splitter);
  try {
    for await (const chunk of decompressed(await peek(inputPieces(job.input, port)))) reader.feed(chunk);
    reader.finish();
    return { kind: "split", members: splitter.members };
  } finally {
    splitter.abandon();
  }
}

async function store(job: StoreJob, port: MessagePort | undefined, emit: Emit): Promise<StoredBlob> {
  const tee = new BlobTee(job.blobPath, emit);
  try {
    const pieces = inputPieces(job.input, port);
    if (job.compress === "gzip") {
      await pipeline(pieces, createGzip({ chunkSize: ZLIB_CHUNK_BYTES, level: 6 }), async (source) => {
        for await (const chunk of source as AsyncIterable<Buffer>) tee.write(chunk);
      });
    } else {
      const wanted = job.decompresses === true ? decompressed(await peek(pieces)) : pieces;
      for await (const piece of wanted) tee.write(piece);
    }
    return { kind: "store", digest: tee.finish(job.expectedDigest), sizeBytes: tee.sizeBytes };
  } catch (caught) {
    if (job.leavesBroken !== true) tee.discard();
    throw caught;
  } finally {
    tee.close();
  }
}

async function run(message: JobMessage & { readonly port?: MessagePort }): Promise<LayerAnswer> {
  const { jobId, job, port } = message;
  const emit: Emit = (progress) => post({ jobId, ...progress });
  switch (job.kind) {
    case "apply":
      return apply(job, port, emit);
    case "split":
      return split(job, port, (member) => post({ jobId, kind: "member", member }));
    case "store":
      return store(job, port, emit);
    case "remove":
      await fsp.rm(job.path, { recursive: true, force: true });
      return { kind: "remove" };
    case "usage":
      return { kind: "usage", bytes: await treeBytes(job.path) };
    case "settle":
      settleLayer(job.folder, job);
      return { kind: "settle" };
    case "changes":
      return { kind: "changes", changes: layerChanges(job.upper, job.lower) };
    case "hashCopy":
      return { kind: "hashCopy", things: hashCopy(job.request) };
    case "findArchives":
      return { kind: "findArchives", files: await findArchives(job.request) };
    case "sync":
      sync(job.path);
      return { kind: "sync" };
    case "syncFiles":
      syncFiles(job.paths);
      return { kind: "syncFiles" };
  }
}

function syncFiles(paths: readonly string[]): void {
  const fds = paths.map((path) => fs.openSync(path, "r"));
  try {
    // All on their way before the first is waited for.
    for (const fd of fds) startWriting(fd);
    for (const fd of fds) fs.fsyncSync(fd);
  } finally {
    for (const fd of fds) fs.closeSync(fd);
  }
}

function sync(path: string): void {
  const fd = fs.openSync(path, "r");
  try {
    syncFileSystem(fd);
  } finally {
    fs.closeSync(fd);
  }
}

function post(message: WorkerMessage): void {
  must(parentPort, "runs in a worker thread").postMessage(message);
}

function isLayerJob(job: LayerJob): boolean {
  return job.kind === "apply" || job.kind === "split" || job.kind === "store";
}

parentPort?.on("message", (message: JobMessage & { readonly port?: MessagePort }) => {
  run(message).then(
    (answer) => post({ jobId: message.jobId, kind: "done", answer }),
    (caught: unknown) => {
      // The sender may wait for room: closing tells it that nobody reads.
      if (isLayerJob(message.job)) message.port?.close();
      const failure = failureOf(caught, message.job);
      post({ jobId: message.jobId, kind: "failed", code: failure.code, message: failure.message });
    },
  );
});

function failureOf(caught: unknown, job: LayerJob): ClusterError {
  const folder = "folder" in job ? job.folder : undefined;
  const blob = "blobPath" in job && job.blobPath !== undefined ? dirname(job.blobPath) : undefined;
  return ClusterError.from(asFullDisk(caught, "layer", folder ?? blob));
}

parentPort?.postMessage({ kind: "loaded" } satisfies WorkerMessage);
