/** `docker cp` and `docker export`: file trees in and out of a container, running or not, by the native program. */
import type { Readable } from "node:stream";
import { ClusterError } from "../../common/errors.ts";
import type { JsonObject } from "../../model/engine.ts";
import type { RootfsSource } from "../ports.ts";
import type { LiveContainer } from "./live-container.ts";
import type { NativeLauncher } from "./native-launcher.ts";

export interface ArchiveDeps {
  readonly launcher: NativeLauncher;
  readonly rootfs: RootfsSource;
  readonly execRoot: string;
}

export class Archives {
  readonly #deps: ArchiveDeps;

  constructor(deps: ArchiveDeps) {
    this.#deps = deps;
  }

  async export(live: LiveContainer): Promise<Readable> {
    throw this.#missing(live);
  }

  async stat(live: LiveContainer, place: string): Promise<JsonObject> {
    throw this.#missing(live, place);
  }

  async get(
    live: LiveContainer,
    place: string,
  ): Promise<{ readonly stat: JsonObject; readonly tar: Readable }> {
    throw this.#missing(live, place);
  }

  async put(live: LiveContainer, place: string, tar: Readable, options: object): Promise<void> {
    tar.destroy();
    throw this.#missing(live, `${place}${Object.keys(options).length}`);
  }

  #missing(live: LiveContainer, place = ""): ClusterError {
    return new ClusterError("unimplemented", `Archives of ${live.id}${place} in ${this.#deps.execRoot}`);
  }
}
