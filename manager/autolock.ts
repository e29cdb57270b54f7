/**
 * Keeps the member file sealed by the unlock key that the cluster has now. Runs on every manager: each seals its own
 * disk when it sees the key appear, change or go. A crash in between leaves the former seal, which the former key
 * opens. A member that starts knows an old state first, in which nothing may have been locked: it keeps the seal until
 * it has heard what the leader knows.
 */
import type { Cancel, Component, Timers } from "../common/env.ts";
import type { Logger } from "../common/log.ts";
import { AUTOLOCK_CONFIRM_MS, AUTOLOCK_RETRY_MS } from "./limits.ts";
import type { MemberFile, MemberSecrets } from "./member-file.ts";
import type { ReplicatedLog } from "./raft/replicated-log.ts";
import type { Store } from "./store/store.ts";

export interface AutolockDeps {
  readonly store: Store;
  readonly raft: Pick<ReplicatedLog, "readBarrier">;
  readonly file: Pick<MemberFile, "write">;
  readonly member: MemberSecrets;
  /** What the file is sealed by now; "": it is open. */
  readonly sealedBy: string;
  readonly timers: Pick<Timers, "after">;
  readonly log: Logger;
}

export class Autolock implements Component {
  readonly #deps: AutolockDeps;
  #sealedBy: string;
  #cancel: (() => void) | undefined;
  #writing: Promise<void> | undefined;
  #cancelRetry: Cancel | undefined;
  #isCurrent = false;

  constructor(deps: AutolockDeps) {
    this.#deps = deps;
    this.#sealedBy = deps.sealedBy;
  }

  /** What the file is sealed by; "": it is open. */
  get sealedBy(): string {
    return this.#sealedBy;
  }

  start(): void {
    const { watch } = this.#deps.store.viewAndWatch({ tables: ["cluster"] }, () => this.#check());
    this.#cancel = watch.cancel;
    void this.#becomeCurrent();
  }

  /** Resolves when the file is sealed by the newest key that is known here. */
  async stop(): Promise<void> {
    this.#cancelRetry?.();
    this.#check();
    while (this.#writing !== undefined) await this.#writing;
    this.#cancelRetry?.();
    this.#cancel?.();
    this.#cancel = undefined;
  }

  async #becomeCurrent(): Promise<void> {
    this.#isCurrent = await this.#deps.raft.readBarrier().then(
      () => true,
      () => false,
    );
    if (this.#cancel === undefined) return;
    if (this.#isCurrent) this.#check();
    else this.#retryLater(AUTOLOCK_CONFIRM_MS, () => void this.#becomeCurrent());
  }

  #check(): void {
    if (this.#writing !== undefined || this.#cancel === undefined || !this.#isCurrent) return;
    const wanted = this.#deps.store.view().list("cluster")[0]?.unlockKey;
    if (wanted === undefined || wanted === this.#sealedBy) return;
    this.#writing = this.#seal(wanted).then((isSealed) => {
      this.#writing = undefined;
      if (isSealed) this.#check();
      else this.#retryLater(AUTOLOCK_RETRY_MS, () => this.#check());
    });
  }

  /** A disk that is locked in the cluster's eyes only would be no secret to who steals it. */
  #retryLater(delayMs: number, work: () => void): void {
    this.#cancelRetry?.();
    this.#cancelRetry = this.#deps.timers.after(delayMs, work);
  }

  async #seal(unlockKey: string): Promise<boolean> {
    const { file, member, log } = this.#deps;
    try {
      await file.write(member, unlockKey);
      log.info(
        unlockKey === "" ? "this manager's state is no longer locked" : "this manager's state is locked",
      );
      this.#sealedBy = unlockKey;
      return true;
    } catch (error) {
      log.error("this manager's state could not be locked anew, trying again", { error });
      return false;
    }
  }
}
