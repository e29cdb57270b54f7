/** What the main thread asks of the layer workers and what they answer: plain values that cross threads. */
import type { CopyRequest } from "../build/copy-request.ts";
import type { CopiedThings } from "../build/history-text.ts";
import type { UnpackedLayer } from "./layer-unpack.ts";

/** What registries know. */
export type LayerCompression = "none" | "gzip" | "zstd";
export type ArchiveCompression = LayerCompression | "xz" | "bzip2";

/** Where bytes come from. "stream": pieces through the job's port. */
export type JobInput =
  | { readonly kind: "file"; readonly path: string }
  | { readonly kind: "stream" }
  | { readonly kind: "folder"; readonly path: string; readonly mtimeMax?: number }
  /** What a build step copies. */
  | { readonly kind: "copy"; readonly request: CopyRequest };

/** Reads a layer once: hashes it as it is and unpacked, keeps it as a blob and writes its files, whichever are asked for. */
export interface ApplyJob {
  readonly kind: "apply";
  readonly input: JobInput;
  /** File that gets the bytes as they come; must not exist. */
  readonly blobPath?: string;
  /** Empty folder that gets the layer's files. */
  readonly folder?: string;
  /** Refused (and nothing kept) if it is something else. */
  readonly expectedDigest?: string;
  /** What was written of the blob stays after a failure: the caller goes on with it, or removes it. */
  readonly leavesBroken?: boolean;
  /** Of bytes that were hashed before: not hashed again. "" for bytes whose digests nobody asks for. */
  readonly knownDigest?: string;
  readonly expectedDiffId?: string;
  /** The blob of a layer in xz or bzip2, which registries don't know, is its plain tar. */
  readonly keepsPlain?: boolean;
  /** Not a layer but somebody's files: names like whiteouts' are names like others. */
  readonly isPlain?: boolean;
}

export interface AppliedLayer {
  readonly kind: "apply";
  /** sha256 of the bytes as they came. */
  readonly digest: string;
  readonly sizeBytes: number;
  /** sha256 of the uncompressed tar. */
  readonly diffId: string;
  readonly tarBytes: number;
  readonly compression: ArchiveCompression;
  readonly layer: UnpackedLayer | undefined;
}

/** Takes an archive of images apart into one file for each member. */
export interface SplitJob {
  readonly kind: "split";
  readonly input: JobInput;
  /** Folder for the members; they are named 0, 1, 2… in order. */
  readonly folder: string;
}

export interface SplitMember {
  readonly name: string;
  /** The target, for links inside the archive; then there is no file. */
  readonly linkName: string | undefined;
  readonly path: string;
  readonly sizeBytes: number;
  readonly digest: string;
  /** Of what looks like a layer; undefined for documents and links. */
  readonly compression: ArchiveCompression | undefined;
}

export interface SplitArchive {
  readonly kind: "split";
  readonly members: readonly SplitMember[];
}

/** Copies a stream to a file, checked; compressed or plain where that is asked for. */
export interface StoreJob {
  readonly kind: "store";
  readonly input: JobInput;
  readonly blobPath: string;
  readonly expectedDigest?: string;
  /** As for ApplyJob. */
  readonly leavesBroken?: boolean;
  readonly compress?: "gzip";
  readonly decompresses?: boolean;
}

export interface StoredBlob {
  readonly kind: "store";
  readonly digest: string;
  readonly sizeBytes: number;
}

export interface RemoveJob {
  readonly kind: "remove";
  readonly path: string;
}

export interface Removed {
  readonly kind: "remove";
}

/** Adds up the bytes of a tree. */
export interface UsageJob {
  readonly kind: "usage";
  readonly path: string;
}

export interface TreeUsage {
  readonly kind: "usage";
  readonly bytes: number;
}

/** Finishes an unpacked layer with what it takes from those below it. */
export interface SettleJob {
  readonly kind: "settle";
  readonly folder: string;
  /** Folders of the layers below, newest first. */
  readonly lower: readonly string[];
  readonly impliedFolders: readonly string[];
  readonly pendingLinks: UnpackedLayer["pendingLinks"];
}

export interface Settled {
  readonly kind: "settle";
}

/** Lists what an upper folder changes against the layers below. */
export interface ChangesJob {
  readonly kind: "changes";
  readonly upper: string;
  readonly lower: readonly string[];
}

export interface LayerChange {
  readonly Path: string;
  readonly Kind: 0 | 1 | 2;
}

export interface ListedChanges {
  readonly kind: "changes";
  readonly changes: readonly LayerChange[];
}

/** Digest of what a build step would copy. */
export interface HashCopyJob {
  readonly kind: "hashCopy";
  readonly request: CopyRequest;
}

export interface HashedCopy {
  readonly kind: "hashCopy";
  readonly things: CopiedThings;
}

/** Archives among the sources of an ADD. */
export interface FindArchivesJob {
  readonly kind: "findArchives";
  readonly request: CopyRequest;
}

export interface FoundArchives {
  readonly kind: "findArchives";
  readonly files: readonly string[];
}

/** Makes the files of a file system durable. */
export interface SyncJob {
  readonly kind: "sync";
  readonly path: string;
}

/** Makes files and folders durable. */
export interface SyncFilesJob {
  readonly kind: "syncFiles";
  readonly paths: readonly string[];
}

export interface SyncedFiles {
  readonly kind: "syncFiles";
}

export interface Synced {
  readonly kind: "sync";
}

export type LayerJob =
  | ApplyJob
  | SplitJob
  | StoreJob
  | RemoveJob
  | UsageJob
  | SettleJob
  | ChangesJob
  | HashCopyJob
  | FindArchivesJob
  | SyncJob
  | SyncFilesJob;
export type LayerAnswer =
  | AppliedLayer
  | SplitArchive
  | StoredBlob
  | Removed
  | TreeUsage
  | Settled
  | ListedChanges
  | HashedCopy
  | FoundArchives
  | Synced
  | SyncedFiles;
export type AnswerOf<J extends LayerJob> = Extract<LayerAnswer, { readonly kind: J["kind"] }>;

/** To a worker. */
export interface JobMessage {
  readonly jobId: number;
  readonly job: LayerJob;
}

/** From a worker. */
export type WorkerMessage =
  /** First of all: the thread's modules are there. */
  | { readonly kind: "loaded" }
  | { readonly jobId: number; readonly kind: "done"; readonly answer: LayerAnswer }
  | { readonly jobId: number; readonly kind: "failed"; readonly code: string; readonly message: string }
  /** A member of an archive is whole. */
  | { readonly jobId: number; readonly kind: "member"; readonly member: SplitMember }
  | { readonly jobId: number; readonly kind: "progress"; readonly bytes: number };

/** Over a job's port, towards the worker. */
export type PieceMessage =
  | { readonly kind: "piece"; readonly bytes: Uint8Array }
  | { readonly kind: "end" }
  | { readonly kind: "error"; readonly message: string };

/** Over a job's port, towards the main thread: so many bytes were used up. */
export interface UsedMessage {
  readonly bytes: number;
}
