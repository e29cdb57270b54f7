/**
 * Folders that builds keep between commands (`RUN --mount=type=cache`): one for each name, made when it is first asked for,
 * taken away by `builder prune` while nobody uses it. Nothing of them gets into an image.
 */
import { createHash } from "node:crypto";
import * as fs from "node:fs";
import path from "node:path";
import type { Random } from "../../common/env.ts";
import { ClusterError } from "../../common/errors.ts";

export interface CacheFolderRequest {
  readonly id: string;
  /** shared: any number at a time; locked: one after the other; private: another folder if it is in use. */
  readonly sharing: "shared" | "private" | "locked";
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
}

export interface CacheFolder {
  readonly folder: string;
  readonly release: () => void;
}

export interface KnownCacheFolder {
  readonly name: string;
  readonly id: string;
  readonly folder: string;
  readonly createdMs: number;
  readonly isUsed: boolean;
}

/** Folders of one name that builds with sharing=private have at a time. */
const PRIVATE_MAX = 100;

export class CacheMounts {
  readonly #root: string;
  readonly #trash: string;
  readonly #random: Random;
  readonly #users = new Map<string, number>();
  /** Ends of those who have a locked folder, in turn. */
  readonly #locks = new Map<string, Promise<void>>();

  constructor(root: string, trash: string, random: Random) {
    this.#root = path.join(root, "cache-mounts");
    this.#trash = trash;
    this.#random = random;
    fs.mkdirSync(this.#root, { recursive: true, mode: 0o711 });
    for (const name of fs.readdirSync(this.#root)) {
      // Half made when an earlier daemon ended.
      if (name.startsWith(".new-")) fs.rmSync(path.join(this.#root, name), { recursive: true, force: true });
    }
  }

  /** Waits for its turn if the folder is locked; rejects when `signal` ends that. */
  async take(request: CacheFolderRequest, signal: AbortSignal): Promise<CacheFolder> {
    if (request.sharing === "locked") return this.#locked(request, signal);
    const count = request.sharing === "private" ? PRIVATE_MAX : 1;
    for (let number = 0; number < count; number++) {
      const name = nameOf(request.id, number);
      if (request.sharing === "shared" || !this.#users.has(name)) return this.#use(name, request);
    }
    throw new ClusterError(
      "resource_exhausted",
      `Cache mount "${request.id}" is in use ${PRIVATE_MAX} times`,
    );
  }

  async #locked(request: CacheFolderRequest, signal: AbortSignal): Promise<CacheFolder> {
    const name = nameOf(request.id, 0);
    const before = this.#locks.get(name) ?? Promise.resolve();
    const end = Promise.withResolvers<void>();
    const turn = before.then(() => end.promise);
    this.#locks.set(name, turn);
    void turn.then(() => {
      if (this.#locks.get(name) === turn) this.#locks.delete(name);
    });
    const leave = Promise.withResolvers<never>();
    const onAbort = (): void => leave.reject(signal.reason);
    signal.addEventListener("abort", onAbort, { once: true });
    try {
      signal.throwIfAborted();
      await Promise.race([before, leave.promise]);
      const { folder, release } = this.#use(name, request);
      return {
        folder,
        release: () => {
          release();
          end.resolve();
        },
      };
    } catch (caught) {
      end.resolve();
      throw caught;
    } finally {
      signal.removeEventListener("abort", onAbort);
    }
  }

  #use(name: string, request: CacheFolderRequest): CacheFolder {
    const own = path.join(this.#root, name);
    const folder = path.join(own, "data");
    if (!fs.existsSync(folder)) this.#make(own, request);
    this.#users.set(name, (this.#users.get(name) ?? 0) + 1);
    let isHeld = true;
    return {
      folder,
      release: () => {
        if (!isHeld) return;
        isHeld = false;
        const left = (this.#users.get(name) ?? 1) - 1;
        if (left === 0) this.#users.delete(name);
        else this.#users.set(name, left);
      },
    };
  }

  /** It appears whole or not at all. */
  #make(own: string, { id, mode, uid, gid }: CacheFolderRequest): void {
    const suffix = Buffer.from(this.#random.bytes(8)).toString("hex");
    const staging = path.join(this.#root, `.new-${suffix}`);
    const data = path.join(staging, "data");
    fs.mkdirSync(data, { recursive: true, mode: 0o711 });
    fs.chownSync(data, uid, gid);
    // After the owner, which takes special bits away; the umask must not decide it.
    fs.chmodSync(data, mode);
    fs.writeFileSync(path.join(staging, "id"), id, { mode: 0o600 });
    fs.rmSync(own, { recursive: true, force: true });
    fs.renameSync(staging, own);
  }

  list(): readonly KnownCacheFolder[] {
    return fs
      .readdirSync(this.#root)
      .filter((name) => !name.startsWith("."))
      .flatMap((name) => {
        const own = path.join(this.#root, name);
        const stats = fs.statSync(path.join(own, "id"), { throwIfNoEntry: false });
        if (stats === undefined) return [];
        const id = fs.readFileSync(path.join(own, "id"), "utf8");
        const isUsed = this.#users.has(name);
        return [{ name, id, folder: path.join(own, "data"), createdMs: stats.mtimeMs, isUsed }];
      });
  }

  /** To the trash, which the caller has emptied. False if somebody uses it, or has discarded it. */
  discard(name: string): boolean {
    const own = path.join(this.#root, name);
    if (this.#users.has(name) || !fs.existsSync(own)) return false;
    const suffix = Buffer.from(this.#random.bytes(8)).toString("hex");
    fs.renameSync(own, path.join(this.#trash, `cache-${suffix}`));
    return true;
  }
}

function nameOf(id: string, number: number): string {
  const hex = createHash("sha256").update(id).digest("hex").slice(0, 32);
  return number === 0 ? hex : `${hex}-${number}`;
}
