/**
 * Keeps the member file sealed by the unlock key that the cluster has now. Runs on every manager: each seals its own disk
 * when it sees the key appear, change or go. A crash in between leaves the former seal, which the former key opens.
 */
import type { Component } from "../common/env.ts";
import type { Logger } from "../common/log.ts";
import type { MemberFile, MemberSecrets } from "./member-file.ts";
import type { Store } from "./store/store.ts";

export interface AutolockDeps {
  readonly store: Store;
  readonly file: MemberFile;
  readonly member: MemberSecrets;
  /** What the file is sealed by now; "": it is open. */
  readonly sealedBy: string;
  readonly log: Logger;
}

export class Autolock implements Component {
  readonly #deps: AutolockDeps;
  #sealedBy: string;
  #cancel: (() => void) | undefined;
  #writing: Promise<void> | undefined;

  constructor(deps: AutolockDeps) {
    this.#deps = deps;
    this.#sealedBy = deps.sealedBy;
  }

  start(): void {
    const { watch } = this.#deps.store.viewAndWatch({ tables: ["cluster"] }, () => this.#check());
    this.#cancel = watch.cancel;
    this.#check();
  }

  /** Resolves when the file is sealed by the newest key that is known here. */
  async stop(): Promise<void> {
    this.#check();
    while (this.#writing !== undefined) await this.#writing;
    this.#cancel?.();
    this.#cancel = undefined;
  }

  #check(): void {
    if (this.#writing !== undefined || this.#cancel === undefined) return;
    const wanted = this.#deps.store.view().list("cluster")[0]?.unlockKey;
    if (wanted === undefined || wanted === this.#sealedBy) return;
    this.#writing = this.#seal(wanted).finally(() => {
      this.#writing = undefined;
      this.#check();
    });
  }

  async #seal(unlockKey: string): Promise<void> {
    const { file, member, log } = this.#deps;
    try {
      await file.write(member, unlockKey);
      log.info(
        unlockKey === "" ? "this manager's state is no longer locked" : "this manager's state is locked",
      );
    } catch (error) {
      log.error("this manager's state could not be locked anew", { error });
    }
    // Not tried again at once: a full disk would make it spin. The next change of the cluster object tries again.
    this.#sealedBy = unlockKey;
  }
}
