/**
 * `docker rmi` and `docker image prune`, by Docker's rules: a name goes first; the image goes with its last name unless a
 * container or a child needs it; parents without name follow. Conflicts in Docker's words, because scripts match them.
 */
import { ClusterError, hasCode } from "../../common/errors.ts";
import type { ContainerEngine, Filters, JsonObject } from "../../model/engine.ts";
import { checkFilterKeys, filterFlag, IMAGE_PRUNE_FILTERS } from "../../model/filters.ts";
import { canonicalName, DEFAULT_TAG, familiarForm, parseReference } from "../../model/image-reference.ts";
import { collectGarbage } from "./garbage.ts";
import { imageEvent } from "./image-events.ts";
import type { ImageRecord } from "./image-records.ts";
import { isKept, type ImageStorage } from "./image-storage.ts";
import { imageMatcher } from "./image-queries.ts";
import { shortId } from "./progress.ts";

const KEPT_MESSAGE =
  "image is kept for the cluster on this node; `shoal image rm --cluster NAME` takes it out of the cluster";

/** What removal asks of containers. */
export interface ImageUser {
  readonly containerId: string;
  readonly imageId: string;
  readonly isRunning: boolean;
}

export type ContainersOf = () => Pick<ContainerEngine, "list"> | undefined;

export async function imageUsers(containers: ContainersOf): Promise<readonly ImageUser[]> {
  const list = await containers()?.list({ all: true, size: false, filters: new Map() });
  return (list ?? []).map((container) => {
    const { Id: containerId, ImageID: imageId, State: state } = container;
    return {
      containerId: typeof containerId === "string" ? containerId : "",
      imageId: typeof imageId === "string" ? imageId : "",
      isRunning: state === "running" || state === "paused" || state === "restarting",
    };
  });
}

interface Conflict {
  readonly isHard: boolean;
  readonly isUse: boolean;
  readonly message: string;
}

function conflictError(id: string, conflict: Conflict): ClusterError {
  const force = conflict.isHard ? "cannot be forced" : "must be forced";
  return new ClusterError(
    "conflict",
    `conflict: unable to delete ${shortId(id)} (${force}) - ${conflict.message}`,
  );
}

class Remover {
  readonly #storage: ImageStorage;
  readonly #users: readonly ImageUser[];
  readonly #answers: JsonObject[] = [];
  /** Layers of the images that were removed here. */
  readonly #layers = new Set<string>();

  constructor(storage: ImageStorage, users: readonly ImageUser[]) {
    this.#storage = storage;
    this.#users = users;
  }

  get answers(): readonly JsonObject[] {
    return this.#answers;
  }

  #names(id: string): readonly string[] {
    const { records } = this.#storage;
    return [...records.tagsOf(id), ...records.digestsOf(id)];
  }

  /** At most one tag, and digests only of the same repository. */
  #isSingleReference(id: string): boolean {
    const { records } = this.#storage;
    const repositories = new Set(this.#names(id).map((name) => canonicalName(parseReference(name))));
    return records.tagsOf(id).length <= 1 && repositories.size <= 1;
  }

  async #untag(id: string, names: readonly string[]): Promise<void> {
    await this.#storage.records.removeNames(names);
    for (const name of names) {
      const familiar = familiarForm(parseReference(name));
      this.#answers.push({ Untagged: familiar });
      imageEvent(this.#storage, "untag", id, id);
    }
  }

  #conflict(id: string, force: boolean, ignoresReferences: boolean): Conflict | undefined {
    const { records } = this.#storage;
    if (records.childrenOf(id).length > 0) {
      return { isHard: true, isUse: false, message: "image has dependent child images" };
    }
    const users = this.#users.filter((user) => user.imageId === id);
    const running = users.find((user) => user.isRunning);
    if (running !== undefined) {
      const message = `image is being used by running container ${shortId(running.containerId)}`;
      return { isHard: true, isUse: true, message };
    }
    const record = records.image(id);
    if (record !== undefined && isKept(this.#storage, record)) {
      return { isHard: true, isUse: true, message: KEPT_MESSAGE };
    }
    if (this.#storage.leases.has(id)) {
      // It is just being named, built on or sent; what was promised to that work must not go away under it.
      return {
        isHard: true,
        isUse: true,
        message: "image is being used by a running load, build, pull or push",
      };
    }
    if (force) return undefined;
    if (!ignoresReferences && this.#names(id).length > 0) {
      return { isHard: false, isUse: false, message: "image is referenced in multiple repositories" };
    }
    const stopped = users[0];
    if (stopped === undefined) return undefined;
    const message = `image is being used by stopped container ${shortId(stopped.containerId)}`;
    return { isHard: false, isUse: true, message };
  }

  async byName(reference: string, record: ImageRecord, options: RemoveImageOptions): Promise<void> {
    const user = this.#users.find((each) => each.imageId === record.id);
    if (!options.force && user !== undefined && this.#isSingleReference(record.id)) {
      throw new ClusterError(
        "conflict",
        `conflict: unable to remove repository reference "${reference}" (must force) - container ` +
          `${shortId(user.containerId)} is using its referenced image ${shortId(record.id)}`,
      );
    }
    const parsed = parseReference(reference);
    const name = canonicalName(parsed);
    const suffix = parsed.digest === undefined ? `:${parsed.tag ?? DEFAULT_TAG}` : `@${parsed.digest}`;
    await this.#untag(record.id, [name + suffix]);
    await this.#dropOrphanedDigests(record.id, name, parsed.digest !== undefined);
    if (this.#names(record.id).length > 0) return;
    await this.#delete(record.id, { ...options, isQuiet: true });
  }

  /** With a repository's last tag its digests go too. */
  async #dropOrphanedDigests(id: string, name: string, wasDigest: boolean): Promise<void> {
    const { records } = this.#storage;
    const isOfRepository = (each: string): boolean => canonicalName(parseReference(each)) === name;
    if (wasDigest || records.tagsOf(id).some(isOfRepository)) return;
    const digests = records.digestsOf(id).filter(isOfRepository);
    if (digests.length > 0) await this.#untag(id, digests);
  }

  async byId(record: ImageRecord, options: RemoveImageOptions): Promise<void> {
    if (this.#isSingleReference(record.id)) {
      const conflict = this.#conflict(record.id, options.force, true);
      if (conflict !== undefined) throw conflictError(record.id, conflict);
      const names = this.#names(record.id);
      if (names.length > 0) await this.#untag(record.id, names);
    }
    await this.#delete(record.id, { ...options, isQuiet: false });
  }

  async #delete(id: string, options: RemoveImageOptions & { readonly isQuiet: boolean }): Promise<void> {
    const { records } = this.#storage;
    const record = records.image(id);
    if (record === undefined) return;
    const conflict = this.#conflict(id, options.force, false);
    if (conflict !== undefined) {
      const isDangling = this.#names(id).length === 0 && records.childrenOf(id).length === 0;
      if (options.isQuiet && (!isDangling || conflict.isUse)) return;
      throw conflictError(id, conflict);
    }
    const names = this.#names(id);
    if (names.length > 0) await this.#untag(id, names);
    // Somebody took hold of it meanwhile: without a name it waits for theirs, or for a prune.
    if (this.#storage.leases.has(id)) return;
    imageEvent(this.#storage, "delete", id, id);
    await records.remove(id);
    for (const { chainId } of record.layers) this.#layers.add(chainId);
    this.#answers.push({ Deleted: id });
    if (!options.noPrune && record.parentId !== "") {
      // Only what nobody names or needs, and without a word otherwise.
      if (this.#names(record.parentId).length === 0) {
        await this.#delete(record.parentId, { force: false, noPrune: false, isQuiet: true });
      }
    }
  }

  /** Takes whatever nobody needs, and tells of what these images left. */
  sweep(): number {
    const swept = collectGarbage(this.#storage);
    for (const chainId of swept.layers)
      if (this.#layers.has(chainId)) this.#answers.push({ Deleted: chainId });
    return swept.bytes;
  }
}

export interface RemoveImageOptions {
  readonly force: boolean;
  readonly noPrune: boolean;
}

export async function removeImage(
  storage: ImageStorage,
  reference: string,
  options: RemoveImageOptions & { readonly containers: ContainersOf },
): Promise<readonly JsonObject[]> {
  const record = storage.records.get(reference);
  const remover = new Remover(storage, await imageUsers(options.containers));
  if (storage.records.isById(reference, record)) await remover.byId(record, options);
  else await remover.byName(reference, record, options);
  remover.sweep();
  return remover.answers;
}

async function pruneOne(
  storage: ImageStorage,
  remover: Remover,
  record: ImageRecord,
  isStill: () => boolean,
): Promise<void> {
  for (const name of storage.records.tagsOf(record.id))
    await remover.byName(name, record, { force: false, noPrune: false });
  if (isStill()) await remover.byId(record, { force: false, noPrune: false });
}

/** An image that came into use in the last moment stays; the others still go. */
async function skipConflict(work: Promise<void>): Promise<void> {
  try {
    await work;
  } catch (caught) {
    if (!hasCode(caught, "conflict", "not_found")) throw caught;
  }
}

export async function pruneImages(
  storage: ImageStorage,
  filters: Filters,
  containers: ContainersOf,
): Promise<{ readonly ImagesDeleted: readonly JsonObject[] | null; readonly SpaceReclaimed: number }> {
  checkFilterKeys(filters, IMAGE_PRUNE_FILTERS);
  const onlyDangling = filterFlag(filters, "dangling") ?? true;
  const matches = imageMatcher(storage, filters);
  const { records } = storage;
  const users = await imageUsers(containers);
  const used = new Set(users.map((user) => user.imageId));
  const remover = new Remover(storage, users);
  const isCandidate = (record: ImageRecord): boolean => {
    const isNamed = records.tagsOf(record.id).length > 0;
    if (isKept(storage, record)) return false;
    if (used.has(record.id) || storage.leases.has(record.id) || (onlyDangling && isNamed)) return false;
    // One that others are built on loses its names, and goes with the last of them.
    if (!isNamed && records.childrenOf(record.id).length > 0) return false;
    return matches({ record, document: storage.document(record) });
  };
  for (const record of [...records.images()].filter(isCandidate)) {
    // Gone meanwhile with a child, or named, held or built on by somebody while others were removed.
    const isStill = (): boolean => records.image(record.id) !== undefined && isCandidate(record);
    if (isStill()) await skipConflict(pruneOne(storage, remover, record, isStill));
  }
  const bytes = remover.sweep() + storage.unfinished.clear();
  storage.events.emit({
    Type: "image",
    Action: "prune",
    Actor: { ID: "", Attributes: { reclaimed: String(bytes) } },
    status: "prune",
  });
  const deleted = remover.answers;
  return { ImagesDeleted: deleted.length === 0 ? null : deleted, SpaceReclaimed: bytes };
}
