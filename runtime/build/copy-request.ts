/** What a COPY, ADD or WORKDIR step puts into a layer: plain data that crosses to a worker thread. Paths are byte strings. */

export interface CopySource {
  /** As written, variables put in; may be a pattern. */
  readonly pattern: string;
  /** Where it is looked up: the context, a stage's layers newest first, or a download. */
  readonly layers: readonly string[];
  readonly kind: "context" | "image" | "download";
}

export interface CopyRequest {
  /** "COPY" or "ADD", for errors. */
  readonly verb: string;
  readonly sources: readonly CopySource[];
  /** Files whose content stands in the Dockerfile. */
  readonly inlineFiles: readonly { readonly name: string; readonly content: string }[];
  /** Folders to make, for WORKDIR; made as they are named. */
  readonly folders: readonly string[];
  /** Absolute, with a slash at the end where it was written with one. */
  readonly destination: string;
  /** The image so far, newest first. */
  readonly destinationLayers: readonly string[];
  /** "user[:group]", names or numbers; "" is root, but for what comes from an image its own owner. */
  readonly chown: string;
  /** Octal; "" keeps the source's. */
  readonly chmod: string;
  /** --exclude. */
  readonly excludes: readonly string[];
  /** --parents: a source comes with the folders above it, from "/./" on where that stands in it. */
  readonly keepsParents: boolean;
  /** Archives that ADD takes apart: file to the folder with its content. */
  readonly unpacked: readonly { readonly file: string; readonly folder: string }[];
  /** Seconds since 1970; later times are put back to it. */
  readonly mtimeMax?: number;
}

/** Copies nothing: what a step does not ask for. */
export const NOTHING_ASKED: Omit<CopyRequest, "verb" | "destination" | "destinationLayers"> = {
  sources: [],
  inlineFiles: [],
  folders: [],
  chown: "",
  chmod: "",
  excludes: [],
  keepsParents: false,
  unpacked: [],
};
