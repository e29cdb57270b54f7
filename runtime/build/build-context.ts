/**
 * The context of one build: the client's files in a folder of their own, the Dockerfile in it. Unpacked in a worker thread
 * with all the care that layers get, and thrown away at the end. Clients leave out what .dockerignore names; here it only
 * decides whether the Dockerfile and the list itself can be copied, since clients have to send those.
 */
import { rmSync } from "node:fs";
import path from "node:path";
import type { Readable } from "node:stream";
import { ClusterError } from "../../common/errors.ts";
import type { ImageStorage } from "../images/image-storage.ts";
import { LayeredView } from "../images/layered-view.ts";
import { fromText, fsPath } from "../images/tar/byte-path.ts";
import { IGNORE_FILE, IgnorePatterns, readIgnoreFile } from "./ignore-patterns.ts";

const DOCKERFILE_BYTES_MAX = 1024 * 1024;

export class BuildContext {
  readonly #storage: ImageStorage;
  readonly #staging: string;
  readonly folder: string;

  private constructor(storage: ImageStorage, staging: string) {
    this.#storage = storage;
    this.#staging = staging;
    this.folder = path.join(staging, "fs");
  }

  static async receive(storage: ImageStorage, tar: Readable): Promise<BuildContext> {
    const { staging } = await storage.layers.stage((folder) =>
      storage.pool.run(
        { kind: "apply", input: { kind: "stream" }, folder, isPlain: true, knownDigest: "" },
        { source: tar },
      ),
    );
    return new BuildContext(storage, staging);
  }

  /** Undefined: there is no such file. */
  text(name: string): string | undefined {
    return new LayeredView([this.folder]).readFile(fromText(name), DOCKERFILE_BYTES_MAX)?.toString("utf8");
  }

  /** The Dockerfile's text; then it is taken out of the context if .dockerignore says so. */
  takeDockerfile(name: string): string {
    const clean = path.posix.normalize(name);
    if (clean.startsWith("../") || clean === "..") {
      throw new ClusterError("invalid_argument", `forbidden path outside the build context: ${name}`);
    }
    const text = this.text(clean);
    if (text === undefined) {
      throw new ClusterError("invalid_argument", `Cannot locate specified Dockerfile: ${name}`);
    }
    if (text === "") {
      throw new ClusterError("invalid_argument", `the Dockerfile (${name}) cannot be empty`);
    }
    const ignored = new IgnorePatterns(readIgnoreFile(this.text(IGNORE_FILE) ?? ""));
    for (const each of [IGNORE_FILE, clean]) if (ignored.ignores(each)) this.#remove(each);
    return text;
  }

  #remove(name: string): void {
    const view = new LayeredView([this.folder]);
    const found = view.find(view.resolve(fromText(name), true));
    if (found !== undefined) rmSync(fsPath(found.absolute), { force: true });
  }

  discard(): void {
    this.#storage.snapshots.discardStaging(this.#staging);
  }
}
