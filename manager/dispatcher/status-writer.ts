/**
 * Writes what agents report into the store: bursts of all sessions together, observed state only forwards,
 * acknowledged once committed. What a node says about tasks that are not its own is ignored.
 */
import { isInBlock } from "../../common/addresses.ts";
import type { Cancel, Timers } from "../../common/env.ts";
import type { Logger } from "../../common/log.ts";
import type { TaskStatus } from "../../model/objects.ts";
import { isTerminal } from "../../model/task-state.ts";
import { deepEqual } from "../../model/up-to-date.ts";
import type { Store, Transaction } from "../store/store.ts";
import { STATUS_COALESCE_MS } from "./limits.ts";

export interface StatusWriterDeps {
  readonly store: Store;
  readonly timers: Timers;
  readonly log: Logger;
  /** The store takes no writes here any more. */
  readonly failed: (error: unknown) => void;
}

interface Update {
  readonly nodeId: string;
  readonly taskId: string;
  readonly status: TaskStatus;
}

interface Batch {
  readonly updates: readonly Update[];
  readonly committed: () => void;
}

export class StatusWriter {
  readonly #deps: StatusWriterDeps;
  #waiting: Batch[] = [];
  #cancel: Cancel | undefined;
  #isStopped = false;

  constructor(deps: StatusWriterDeps) {
    this.#deps = deps;
  }

  stop(): void {
    this.#isStopped = true;
    this.#cancel?.();
    this.#waiting = [];
  }

  add(updates: readonly Update[], committed: () => void): void {
    if (this.#isStopped) return;
    this.#waiting.push({ updates, committed });
    this.#cancel ??= this.#deps.timers.after(STATUS_COALESCE_MS, () => {
      this.#cancel = undefined;
      void this.#write();
    });
  }

  /** Transactions of one burst, each of bounded size, are in flight together; the next burst doesn't wait for them. */
  async #write(): Promise<void> {
    const batches = this.#waiting;
    this.#waiting = [];
    const updates = batches.flatMap((batch) => batch.updates);
    try {
      const committedCount = await this.#deps.store.batch(updates, applyStatus);
      // What changed nothing is known only if this member still leads: one that was replaced may not have heard of the task.
      if (committedCount < updates.length) await this.#deps.store.update(() => undefined);
    } catch (caught) {
      if (!this.#isStopped) this.#deps.failed(caught);
      return;
    }
    if (this.#isStopped) return;
    for (const batch of batches) batch.committed();
  }
}

/** Nothing goes back, nothing is said for another node, and no traffic is drawn that is another's. */
function applyStatus(tx: Transaction, { nodeId, taskId, status: reported }: Update): void {
  const task = tx.get("task", taskId);
  if (task === undefined || task.nodeId !== nodeId) return;
  if (reported.state < task.status.state) return;
  const block = tx.get("node", nodeId)?.meshSubnet ?? "";
  const told = isOnMesh(reported, block) ? reported : { ...reported, meshIp: "" };
  const status = isTerminal(told.state) ? { ...told, appliedAt: task.status.appliedAt ?? tx.stamp } : told;
  // The same state again (a session was cut before its acknowledgement) may still bring facts that are new.
  if (status.state === task.status.state && sameFacts(status, task.status)) return;
  tx.update("task", { ...task, status });
}

function isOnMesh({ meshIp = "" }: TaskStatus, block: string): boolean {
  return meshIp === "" || isInBlock(meshIp, block);
}

/**
 * Equal but for when it was said. The first time counts: a node that says again how its task ended must neither put off the
 * restart, which is due a delay after that time, nor cost the cluster a write for each of its tasks with each session.
 */
function sameFacts(left: TaskStatus, right: TaskStatus): boolean {
  return deepEqual({ ...left, timestamp: "", appliedAt: "" }, { ...right, timestamp: "", appliedAt: "" });
}
