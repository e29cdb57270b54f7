/**
 * Contexts that a build was given by name: images under another name, and more folders of the client, which are fetched
 * when a step first reads them.
 */
import { ClusterError } from "../../common/errors.ts";
import type { BuildClient, NamedContext } from "../../model/build.ts";
import type { ImageStorage } from "../images/image-storage.ts";
import { BuildContext } from "./build-context.ts";
import { IGNORE_FILE, readIgnoreFile } from "./ignore-patterns.ts";
import type { ShownBuild } from "./shown-build.ts";

export interface NamedContextsOptions {
  readonly contexts: ReadonlyMap<string, NamedContext>;
  readonly client: BuildClient;
  readonly storage: ImageStorage;
  readonly shown: ShownBuild;
}

export class NamedContexts {
  readonly #options: NamedContextsOptions;
  readonly #fetched = new Map<string, Promise<BuildContext>>();

  constructor(options: NamedContextsOptions) {
    this.#options = options;
  }

  /** The image that `name` stands for; undefined: it has no other meaning. */
  image(name: string): string | undefined {
    const found = this.#options.contexts.get(name.toLowerCase());
    return found?.kind === "image" ? found.reference : undefined;
  }

  /** The folder that `name` stands for, fetched; undefined: it is none. */
  async folder(name: string, signal: AbortSignal): Promise<string | undefined> {
    const found = this.#options.contexts.get(name.toLowerCase());
    if (found?.kind !== "folder") return undefined;
    const known = this.#fetched.get(found.name) ?? this.#fetch(name, found.name, signal);
    this.#fetched.set(found.name, known);
    return (await known).folder;
  }

  /** Refuses stages that start from a folder: it is not an image. */
  checkBase(name: string, line: number): void {
    if (this.#options.contexts.get(name.toLowerCase())?.kind !== "folder") return;
    throw new ClusterError(
      "invalid_argument",
      `Cannot build FROM ${name}: the build context of that name is a folder, want an image`,
      { details: { line } },
    );
  }

  async #fetch(shownName: string, name: string, signal: AbortSignal): Promise<BuildContext> {
    const { client, storage, shown } = this.#options;
    const vertex = shown.vertex(`[context ${shownName}] load from client`);
    return vertex.during(async () => {
      const lists = await BuildContext.receive(
        storage,
        client.folder({ name, paths: [IGNORE_FILE] }, () => undefined, signal),
      );
      const excludes = readIgnoreFile(lists.text(IGNORE_FILE) ?? "");
      lists.discard();
      const transfer = vertex.transfer(`transferring ${shownName}:`);
      return BuildContext.receive(
        storage,
        client.folder({ name, excludes }, (bytes) => transfer.moved(bytes), signal),
      );
    });
  }

  async discard(): Promise<void> {
    for (const result of await Promise.allSettled(this.#fetched.values()))
      if (result.status === "fulfilled") result.value.discard();
  }
}
