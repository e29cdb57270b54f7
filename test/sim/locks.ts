/**
 * C5: each manager's member file is sealed by the cluster's unlock key. When a manager starts, whoever keeps the keys can
 * open its file with one that the cluster has or had; once all is calm, with the present one.
 */
import type { Env } from "../../common/env.ts";
import { silentLogger } from "../../common/log.ts";
import { Autolock } from "../../manager/autolock.ts";
import type { RaftNode } from "../../manager/raft/node.ts";
import { MemberFile, type MemberSecrets, newMember } from "../../manager/member-file.ts";
import type { MemoryStore } from "../../manager/store/memory-store.ts";
import { Violation } from "./world.ts";

const FOLDER = "/manager";

export class Locks {
  /** All that the cluster ever had, newest last. "": open. */
  readonly #keys: string[] = [""];

  noteKey(unlockKey: string): void {
    if (this.#keys.at(-1) !== unlockKey) this.#keys.push(unlockKey);
  }

  /** For one life of a manager. */
  async start(
    env: Env,
    life: { readonly store: MemoryStore; readonly raft: RaftNode; readonly nodeId: string },
  ): Promise<void> {
    const { store, raft, nodeId } = life;
    const file = new MemberFile(env, FOLDER);
    let sealedBy = "";
    let member: MemberSecrets;
    if (await file.exists()) {
      const opened = await this.#open(file, nodeId);
      ({ member, sealedBy } = opened);
    } else {
      member = newMember(env.random, nodeId);
      await file.write(member, "");
    }
    new Autolock({ store, raft, file, member, sealedBy, timers: env.timers, log: silentLogger }).start();
  }

  /** The newest key that opens it. */
  async #open(
    file: MemberFile,
    nodeId: string,
  ): Promise<{ readonly member: MemberSecrets; readonly sealedBy: string }> {
    if (!(await file.isLocked())) return { member: await file.read(undefined), sealedBy: "" };
    for (const key of this.#keys.toReversed()) {
      if (key === "") continue;
      const member = await file.read(key).catch(() => undefined);
      if (member !== undefined) return { member, sealedBy: key };
    }
    throw new Violation("C5", `the member file of ${nodeId} is sealed by no key that the cluster ever had`);
  }

  /** True if the file of this manager is sealed by the present key. */
  async isCurrent(env: Env, unlockKey: string): Promise<boolean> {
    const file = new MemberFile(env, FOLDER);
    if (!(await file.exists())) return false;
    if (!(await file.isLocked())) return unlockKey === "";
    return file.read(unlockKey).then(
      () => true,
      () => false,
    );
  }
}
