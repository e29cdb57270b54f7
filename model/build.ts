/**
 * A build whose client answers questions while it runs: what BuildKit's clients ask for and are told, without their protocol.
 * The API turns requests into these and the builder carries them out; neither knows how the other does it.
 */
import type { Duplex, Readable } from "node:stream";
import type { Ulimit } from "./specs.ts";

/** A part of one of the folders that the client offers by name. */
export interface ClientFolder {
  readonly name: string;
  /** Only these, with what they link to and what is below; absent: everything. */
  readonly paths?: readonly string[];
  /** As in .dockerignore. */
  readonly excludes?: readonly string[];
}

/** What the builder asks while it builds. Every answer may take as long as a person or a slow line takes. */
export interface BuildClient {
  /** The files as a tar, owned by root as in every context. `onBytes` is told how much has come in all. */
  readonly folder: (part: ClientFolder, onBytes: (bytes: number) => void, signal: AbortSignal) => Readable;
  /** Credentials for a registry as X-Registry-Auth has them; undefined: the client has none. */
  readonly registryAuth: (domain: string, signal: AbortSignal) => Promise<string | undefined>;
  /** Undefined: the client has none of that name. */
  readonly secret: (id: string, signal: AbortSignal) => Promise<Uint8Array | undefined>;
  /** Opens connections to an SSH agent of the client; undefined: it offers none of that name. */
  readonly sshAgent: (id: string, signal: AbortSignal) => Promise<(() => Duplex) | undefined>;
}

export type NamedContext =
  | { readonly kind: "folder"; readonly name: string }
  | { readonly kind: "image"; readonly reference: string };

/** What the containers of RUN get. */
export interface RunSurroundings {
  /** "default", "none" or "host". */
  readonly networkMode: string;
  /** "name:address". */
  readonly extraHosts: readonly string[];
  /** 0: as every container has it. */
  readonly shmBytes: number;
  readonly ulimits: readonly Ulimit[];
  readonly cgroupParent: string;
}

export interface SolveOptions {
  readonly client: BuildClient;
  /** A folder of the client, or a tar (possibly compressed) that it sends when asked. */
  readonly context:
    | { readonly kind: "folder"; readonly name: string }
    | { readonly kind: "tar"; readonly open: (signal: AbortSignal) => Readable };
  /** Path of the Dockerfile in a folder of the client, or (undefined) in the context. */
  readonly dockerfile: { readonly path: string; readonly folder: string | undefined };
  /** What `FROM name` and `--from=name` mean before stages and images are looked at; names in lower case. */
  readonly namedContexts: ReadonlyMap<string, NamedContext>;
  readonly args: ReadonlyMap<string, string>;
  readonly labels: ReadonlyMap<string, string>;
  readonly target: string;
  /** "os/arch"; "" is this machine's. */
  readonly platform: string;
  /** Which stages are built anew. */
  readonly noCache: "none" | "all" | readonly string[];
  /** Base images are asked for at their registry even if they are here. */
  readonly pulls: boolean;
  readonly run: RunSurroundings;
  readonly report: (event: BuildEvent) => void;
}

/** A step as it is shown. Told whole each time that something of it changes. */
export interface BuildVertex {
  /** "sha256:…", one for each step of one build. */
  readonly digest: string;
  readonly name: string;
  /** Digests of the steps that it needs. */
  readonly inputs: readonly string[];
  readonly isCached: boolean;
  /** Milliseconds since 1970; undefined: not yet. */
  readonly startedMs: number | undefined;
  readonly completedMs: number | undefined;
  /** "" unless it failed. */
  readonly error: string;
}

/** A part of a step with a progress of its own. */
export interface BuildTransfer {
  readonly vertex: string;
  readonly id: string;
  readonly name: string;
  /** Bytes; a total of 0 is not known. */
  readonly current: number;
  readonly total: number;
  readonly startedMs: number;
  readonly completedMs: number | undefined;
}

export type BuildEvent =
  | { readonly kind: "vertex"; readonly vertex: BuildVertex }
  | { readonly kind: "transfer"; readonly transfer: BuildTransfer }
  | {
      readonly kind: "log";
      readonly vertex: string;
      readonly stream: "stdout" | "stderr";
      readonly content: Uint8Array;
    }
  | {
      readonly kind: "warning";
      readonly vertex: string;
      readonly text: string;
      readonly source: BuildSource | undefined;
    }
  /** Comes before solve() rejects, if it is known where in the Dockerfile the reason is. */
  | { readonly kind: "failure"; readonly vertex: string; readonly source: BuildSource };

/** Lines of the Dockerfile. */
export interface BuildSource {
  readonly filename: string;
  readonly content: string;
  /** 1-based, both included. */
  readonly firstLine: number;
  readonly lastLine: number;
}

/** What a build made. It is kept from removal until release(), by which time it should have a name. */
export interface SolvedBuild {
  readonly imageId: string;
  /** All files as a tar, as a container would see them. */
  readonly files: () => Promise<Readable>;
  readonly release: () => void;
}
