/**
 * Images that this node keeps for the cluster, as managers tell it: fetches what is missing from other nodes, sees to it
 * that nothing prunes it, and lets go of what it only had for the cluster. What is kept is remembered on the disk, so that
 * after a restart nothing is lost before the first session.
 */
import { Backoff } from "../../common/backoff.ts";
import type { Cancel, Component, Disk, Random, Timers } from "../../common/env.ts";
import { hasCode } from "../../common/errors.ts";
import type { Logger } from "../../common/log.ts";
import type { ImageAssignment } from "../../model/dispatch.ts";
import type { ImageEngine } from "../../model/engine.ts";
import { canonicalName, isDigest, tryParseReference } from "../../model/image-reference.ts";
import { KEPT_IMAGE_CHECK_MS, KEPT_IMAGE_RETRY } from "../limits.ts";

export interface KeptImagesDeps {
  readonly images: Pick<ImageEngine, "resolve" | "ensure" | "remove" | "setKept">;
  readonly disk: Pick<Disk, "exists" | "readFile" | "writeFileAtomic">;
  readonly timers: Timers;
  readonly random: Random;
  readonly log: Logger;
  /** Where what is kept is remembered. */
  readonly file: string;
}

interface Kept {
  /** "repository@digest". */
  readonly reference: string;
  /** It was brought here for the cluster, and goes with the wish for it. */
  readonly isFetched: boolean;
}

export class KeptImages implements Component {
  readonly #deps: KeptImagesDeps;
  /** By digest. */
  readonly #kept = new Map<string, Kept>();
  readonly #backoff: Backoff;
  #stop = new AbortController();
  #cancelCheck: Cancel | undefined;
  /** Managers have said what they want since the start: other nodes can be asked by then. */
  #hasHeard = false;
  #isChecking = false;
  #hasMore = false;
  /** Digest that is being brought here for the cluster; "" for none. */
  #fetching = "";
  #saving: Promise<void> = Promise.resolve();

  constructor(deps: KeptImagesDeps) {
    this.#deps = deps;
    this.#backoff = new Backoff(deps.random, KEPT_IMAGE_RETRY);
  }

  /** Takes up what was kept before. */
  async start(): Promise<void> {
    const { disk, file, log } = this.#deps;
    this.#stop = new AbortController();
    this.#hasHeard = false;
    if (await disk.exists(file)) {
      const saved = parseSaved(await disk.readFile(file));
      if (saved === undefined) log.warn("list of kept images can't be read, managers will tell it anew");
      for (const [digest, kept] of saved ?? []) this.#kept.set(digest, kept);
    }
    this.#tellEngine();
  }

  stop(): void {
    this.#stop.abort();
    this.#cancelCheck?.();
    this.#cancelCheck = undefined;
  }

  /** What managers want kept, the whole list each time. */
  apply(assigned: ReadonlyMap<string, ImageAssignment>): void {
    const wanted = new Map<string, string>();
    for (const { name, digest } of assigned.values()) {
      const parsed = tryParseReference(name);
      if (parsed !== undefined && isDigest(digest)) wanted.set(digest, `${canonicalName(parsed)}@${digest}`);
    }
    const released = [...this.#kept].filter(([digest]) => !wanted.has(digest));
    const added = [...wanted].filter(([digest]) => !this.#kept.has(digest));
    if (released.length === 0 && added.length === 0 && this.#hasHeard) return;
    this.#hasHeard = true;
    for (const [digest] of released) this.#kept.delete(digest);
    for (const [digest, reference] of added)
      this.#kept.set(digest, { reference, isFetched: digest === this.#fetching });
    this.#tellEngine();
    void this.#save();
    for (const [, kept] of released) if (kept.isFetched) void this.#release(kept);
    this.#check();
  }

  /** The node leaves the cluster. */
  async releaseAll(): Promise<void> {
    this.stop();
    const all = [...this.#kept.values()];
    this.#kept.clear();
    this.#tellEngine();
    await this.#save();
    await Promise.all(all.filter((kept) => kept.isFetched).map((kept) => this.#release(kept)));
  }

  #tellEngine(): void {
    this.#deps.images.setKept(new Set(this.#kept.keys()));
  }

  #save(): Promise<void> {
    const { disk, file, log } = this.#deps;
    this.#saving = this.#saving
      .then(() => disk.writeFileAtomic(file, Buffer.from(JSON.stringify([...this.#kept]))))
      .catch((caught: unknown) => log.error("list of kept images could not be written", { error: caught }));
    return this.#saving;
  }

  /** Goes unless somebody here uses it or has given it a name of his own. */
  async #release({ reference }: Kept): Promise<void> {
    const { images, log } = this.#deps;
    try {
      await images.remove(reference, { force: false, noPrune: false });
      log.info("image is no longer kept for the cluster", { image: reference });
    } catch (caught) {
      if (!hasCode(caught, "conflict", "not_found")) {
        log.warn("image that is no longer kept could not be removed", { image: reference, error: caught });
      }
    }
  }

  /** Fetches what is missing, now and again after a failure; looks now and then whether all is still there. */
  #check(): void {
    this.#cancelCheck?.();
    this.#cancelCheck = undefined;
    this.#hasMore = true;
    if (this.#isChecking || this.#stop.signal.aborted) return;
    this.#isChecking = true;
    void this.#fetchMissing().then((isWhole) => {
      this.#isChecking = false;
      if (this.#stop.signal.aborted || this.#kept.size === 0) return;
      if (isWhole) this.#backoff.reset();
      const delayMs = isWhole ? KEPT_IMAGE_CHECK_MS : this.#backoff.nextMs();
      this.#cancelCheck = this.#deps.timers.after(delayMs, () => this.#check());
    });
  }

  /** One after the other: tasks that wait for their image come first. False if something is still missing. */
  async #fetchMissing(): Promise<boolean> {
    let isWhole = true;
    while (this.#hasMore && !this.#stop.signal.aborted) {
      this.#hasMore = false;
      isWhole = true;
      for (const [digest, kept] of this.#kept) {
        if (this.#deps.images.resolve(kept.reference) !== undefined) continue;
        isWhole = (await this.#fetch(digest, kept)) && isWhole;
      }
    }
    return isWhole;
  }

  async #fetch(digest: string, kept: Kept): Promise<boolean> {
    const { images, log } = this.#deps;
    const { reference } = kept;
    if (!kept.isFetched) {
      this.#kept.set(digest, { ...kept, isFetched: true });
      await this.#save();
    }
    this.#fetching = digest;
    try {
      await images.ensure(reference, { peersOnly: true }, this.#stop.signal);
      log.info("image is kept for the cluster", { image: reference });
      return true;
    } catch (caught) {
      if (!this.#stop.signal.aborted) {
        log.warn("image that is to be kept did not come", { image: reference, error: caught });
      }
      return false;
    } finally {
      this.#fetching = "";
      // Nobody wants it any more: it must not stay for ever.
      if (!this.#kept.has(digest)) void this.#release(kept);
    }
  }
}

function parseSaved(bytes: Uint8Array): readonly (readonly [string, Kept])[] | undefined {
  try {
    const list = JSON.parse(Buffer.from(bytes).toString("utf8")) as readonly (readonly [string, Kept])[];
    return list.map(([digest, { reference, isFetched }]) => [digest, { reference, isFetched }] as const);
  } catch {
    return undefined;
  }
}
