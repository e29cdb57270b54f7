/**
 * What a RUN's --mount options put before its command: folders of the context or an image, folders kept between builds,
 * memory. A source is looked up part by part in folders that nobody can change meanwhile; what a command may write to
 * is a copy. Places that were made to mount on are taken out of the new layer, by names that cannot lead anywhere else.
 */
import * as fs from "node:fs";
import path from "node:path";
import { must } from "../../common/assert.ts";
import { ClusterError } from "../../common/errors.ts";
import type { BuildClient } from "../../model/build.ts";
import type { InjectedFile } from "../../model/engine.ts";
import type { Mount } from "../../model/specs.ts";
import type { ImageRecord } from "../images/image-records.ts";
import type { ImageStorage } from "../images/image-storage.ts";
import { LayeredView } from "../images/layered-view.ts";
import { fromText, fsPath, toText } from "../images/tar/byte-path.ts";
import { type CopyRequest, NOTHING_ASKED } from "./copy-request.ts";
import { SCRIPT_FOLDER, type RunScript } from "./instructions.ts";
import { AgentSocket } from "./agent-socket.ts";
import type { BindMount, RunMount, SecretMount, SshMount } from "./run-mounts.ts";

export interface MountParts {
  readonly storage: ImageStorage;
  readonly contextFolder: () => Promise<string>;
  /** Folder of a context of that name; undefined: there is none. */
  readonly folderFor: (from: string) => Promise<string | undefined>;
  /** Image of a stage built before, or of a name; undefined for an empty one. */
  readonly imageFor: (from: string) => Promise<ImageRecord | undefined>;
  /** Unpacked layers of an image, newest first. */
  readonly foldersOf: (image: ImageRecord | undefined) => Promise<readonly string[]>;
  /** Who is asked for secrets; absent: nobody can be. */
  readonly client?: BuildClient;
  readonly warn: (text: string) => void;
  readonly signal: AbortSignal;
  /** Put in a file that can be run. */
  readonly script: RunScript | undefined;
}

/** Where BuildKit puts the socket of an agent that no place was named for. */
function agentPlace({ target, id }: SshMount): string {
  const isPlain = /^\w+$/.test(id) && id !== "default";
  return target === "" ? `/run/buildkit/ssh_agent.${isPlain ? id : "0"}` : target;
}

interface Source {
  readonly mount: BindMount;
  readonly layers: readonly string[];
  readonly kind: "context" | "image";
}

/** What the container of the step gets. */
export interface OpenedMounts {
  readonly mounts: readonly Mount[];
  readonly files: readonly InjectedFile[];
  /** "NAME=value". */
  readonly env: readonly string[];
  /** The same, for no record of the container. */
  readonly secretEnv: readonly string[];
}

export class StepMounts {
  readonly #parts: MountParts;
  readonly #mounts: readonly RunMount[];
  readonly #cleanUps: (() => void)[] = [];

  constructor(parts: MountParts, mounts: readonly RunMount[]) {
    this.#parts = parts;
    this.#mounts = mounts;
  }

  /** What the step depends on beside its text: where things are mounted, and the content of what it can read. */
  async key(): Promise<string> {
    const { script } = this.#parts;
    const keys: unknown[] = script === undefined ? [] : [script];
    for (const mount of this.#mounts) {
      if (mount.type !== "bind") keys.push(mount);
      else {
        const request = copyRequest(await this.#sourceOf(mount), "/");
        const { things } = await this.#parts.storage.pool.run({ kind: "hashCopy", request });
        keys.push({ ...mount, from: "", things });
      }
    }
    return keys.length === 0 ? "" : JSON.stringify(keys);
  }

  /** Mounts for the container, after key(). Whatever comes of them, release() is called at the end. */
  async open(): Promise<OpenedMounts> {
    const caches = await this.#takeCaches();
    const opened: Mount[] = this.#openScript();
    const files: InjectedFile[] = [];
    const env: string[] = [];
    const secretEnv: string[] = [];
    for (const mount of this.#mounts) {
      switch (mount.type) {
        case "bind":
          opened.push(await this.#bind(mount));
          break;
        case "cache": {
          const Source = must(caches.get(mount.id), "all were taken");
          opened.push({ Type: "bind", Source, Target: mount.target, ReadOnly: mount.isReadonly });
          break;
        }
        case "tmpfs": {
          const size = mount.sizeBytes === 0 ? {} : { TmpfsOptions: { SizeBytes: mount.sizeBytes } };
          opened.push({ Type: "tmpfs", Target: mount.target, ...size });
          break;
        }
        case "secret": {
          const data = await this.#secret(mount);
          if (data === undefined) break;
          if (mount.env !== "") secretEnv.push(`${mount.env}=${Buffer.from(data).toString("utf8")}`);
          const { target: path, mode, uid, gid } = mount;
          if (path !== "") files.push({ path, data, uid, gid, mode, isSecret: true });
          break;
        }
        case "ssh": {
          const place = agentPlace(mount);
          const socket = await this.#agent(mount, place);
          if (socket === undefined) break;
          opened.push(socket);
          env.push(`SSH_AUTH_SOCK=${place}`);
        }
      }
    }
    return { mounts: opened, files, env, secretEnv };
  }

  async #secret(mount: SecretMount): Promise<Uint8Array | undefined> {
    const { client, signal } = this.#parts;
    const data = await client?.secret(mount.id, signal);
    if (data === undefined) this.#tellMissing(mount);
    return data;
  }

  async #agent(mount: SshMount, target: string): Promise<Mount | undefined> {
    const { client, signal, storage } = this.#parts;
    const connect = await client?.sshAgent(mount.id, signal);
    if (connect === undefined) {
      this.#tellMissing(mount);
      return undefined;
    }
    const socket = await AgentSocket.open(storage.content.ingestPath(), mount, connect);
    this.#cleanUps.push(() => socket.close());
    return { Type: "bind", Source: socket.file, Target: target };
  }

  #openScript(): Mount[] {
    const { script, storage } = this.#parts;
    if (script === undefined) return [];
    const folder = storage.content.ingestPath();
    this.#cleanUps.push(() => fs.rmSync(folder, { recursive: true, force: true }));
    fs.mkdirSync(folder);
    const file = path.join(folder, script.name);
    fs.writeFileSync(file, script.content);
    // Whatever the daemon's umask: the step's user has to read and run it.
    for (const each of [folder, file]) fs.chmodSync(each, 0o755);
    return [{ Type: "bind", Source: folder, Target: SCRIPT_FOLDER, ReadOnly: true }];
  }

  /**
   * Folders by name: one for all mounts of a name, and in the names' order, so that no two commands wait for each other
   * for ever.
   */
  async #takeCaches(): Promise<ReadonlyMap<string, string>> {
    const { storage, signal } = this.#parts;
    const folders = new Map<string, string>();
    const mounts = this.#mounts.filter((mount) => mount.type === "cache");
    for (const mount of mounts.toSorted((left, right) => (left.id < right.id ? -1 : 1))) {
      if (folders.has(mount.id)) continue;
      const { folder, release } = await storage.cacheMounts.take(mount, signal);
      this.#cleanUps.push(release);
      folders.set(mount.id, folder);
    }
    return folders;
  }

  /** A client that was asked and has none knows that: only what it can't be asked for is warned of. */
  #tellMissing({ type, id, isRequired }: SecretMount | SshMount): void {
    const isAsked = this.#parts.client !== undefined;
    const why = isAsked
      ? `${type} "${id}" was not given: want --${type} ${type === "ssh" ? "" : "id="}${id}`
      : `${type} "${id}" was not given: this API has no way to send one, only BuildKit's has`;
    if (isRequired) throw new ClusterError("failed_precondition", `Cannot mount: ${why}`);
    if (!isAsked) this.#parts.warn(why);
  }

  async #sourceOf(mount: BindMount): Promise<Source> {
    const folder =
      mount.from === "" ? await this.#parts.contextFolder() : await this.#parts.folderFor(mount.from);
    if (folder !== undefined) return { mount, layers: [folder], kind: "context" };
    const image = await this.#parts.imageFor(mount.from);
    return { mount, layers: await this.#parts.foldersOf(image), kind: "image" };
  }

  async #bind(mount: BindMount): Promise<Mount> {
    const source = await this.#sourceOf(mount);
    const view = new LayeredView(source.layers);
    const found = must(view.find(view.resolve(fromText(mount.source))), "key() has seen it");
    const isFolder = found.stats.isDirectory();
    const isAsItIs = source.kind === "context" && mount.isReadonly;
    const Source = isAsItIs ? toText(found.absolute) : await this.#copied(source, isFolder);
    return { Type: "bind", Source, Target: mount.target, ReadOnly: mount.isReadonly };
  }

  async #copied(source: Source, isFolder: boolean): Promise<string> {
    const { storage } = this.#parts;
    const request = copyRequest(source, isFolder ? "/" : "/file");
    const { staging } = await storage.layers.stage((folder) =>
      storage.pool.run({
        kind: "apply",
        input: { kind: "copy", request },
        folder,
        isPlain: true,
        knownDigest: "",
      }),
    );
    this.#cleanUps.push(() => storage.snapshots.discardStaging(staging));
    return path.join(staging, "fs", isFolder ? "" : "file");
  }

  /**
   * Takes empty files and folders out of the stopped container's layer that were made only to mount on. Nothing is removed
   * through a link, and nothing that holds something.
   */
  async removeStubs(image: ImageRecord | undefined, upper: string): Promise<void> {
    const targets = this.#mounts
      .map((mount) => (mount.type === "ssh" ? agentPlace(mount) : mount.target))
      .filter((target) => target !== "");
    if (targets.length === 0) return;
    const below = new LayeredView(await this.#parts.foldersOf(image));
    const layer = new LayeredView([upper]);
    for (const target of targets) {
      for (let parts = below.resolve(fromText(target)); parts.length > 0; parts = parts.slice(0, -1)) {
        const stub = layer.find(parts);
        if (below.find(parts) !== undefined || stub === undefined || !removeEmpty(stub)) break;
      }
    }
  }

  release(): void {
    for (const cleanUp of this.#cleanUps.splice(0)) cleanUp();
  }
}

function removeEmpty({ absolute, stats }: { readonly absolute: string; readonly stats: fs.Stats }): boolean {
  const file = fsPath(absolute);
  if (stats.isDirectory()) {
    if (fs.readdirSync(file).length > 0) return false;
    fs.rmdirSync(file);
    return true;
  }
  if (!stats.isFile() || stats.size > 0) return false;
  fs.unlinkSync(file);
  return true;
}

function copyRequest({ mount, layers, kind }: Source, destination: string): CopyRequest {
  return {
    ...NOTHING_ASKED,
    verb: "RUN --mount",
    sources: [{ pattern: literal(mount.source), layers, kind }],
    destination,
    destinationLayers: [],
  };
}

/** A pattern that means just this name. */
function literal(name: string): string {
  return /[*?[]/.test(name) ? name.replace(/[*?[\\]/g, "\\$&") : name;
}
