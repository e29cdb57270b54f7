/**
 * Brings task statuses to the manager: the newest of each task, in batches, until a commit is acknowledged. What a broken
 * session has not acknowledged is sent again on the next one; the manager ignores what it knows. It never drops a status
 * and holds at most one for each task.
 */
import type { Cancel, Timers } from "../../common/env.ts";
import type { TaskStatus } from "../../model/objects.ts";
import type { shoal } from "../../proto/messages.ts";
import { STATUS_BATCH_COUNT_MAX, STATUS_COALESCE_MS } from "../limits.ts";

type Batch = shoal.v1.TaskStatusBatch.$Properties;

export interface StatusReporterDeps {
  readonly timers: Timers;
  /** Called when the manager has committed this status. */
  readonly committed: (taskId: string, status: TaskStatus) => void;
}

const encoder = new TextEncoder();

export class StatusReporter {
  readonly #deps: StatusReporterDeps;
  readonly #pending = new Map<string, TaskStatus>();
  readonly #inFlight = new Map<number, ReadonlyMap<string, TaskStatus>>();
  #send: ((batch: Batch) => void) | undefined;
  #nextBatchId = 1;
  #cancelFlush: Cancel | undefined;

  constructor(deps: StatusReporterDeps) {
    this.#deps = deps;
  }

  report(taskId: string, status: TaskStatus): void {
    this.#pending.set(taskId, status);
    this.#flushSoon();
  }

  /** The task is gone for good; nothing about it is to be said any more. */
  forget(taskId: string): void {
    this.#pending.delete(taskId);
  }

  /** A session is open: `send` takes batches until sessionClosed(). */
  sessionOpened(send: (batch: Batch) => void): void {
    this.#send = send;
    this.#flushSoon();
  }

  sessionClosed(): void {
    this.#send = undefined;
    this.#cancelFlush?.();
    this.#cancelFlush = undefined;
    // A status reported since then is newer and stays.
    for (const batch of this.#inFlight.values()) {
      for (const [taskId, status] of batch) {
        if (!this.#pending.has(taskId)) this.#pending.set(taskId, status);
      }
    }
    this.#inFlight.clear();
  }

  acknowledged(batchId: number): void {
    const batch = this.#inFlight.get(batchId);
    if (batch === undefined) return;
    this.#inFlight.delete(batchId);
    for (const [taskId, status] of batch) this.#deps.committed(taskId, status);
  }

  #flushSoon(): void {
    if (this.#send === undefined || this.#cancelFlush !== undefined || this.#pending.size === 0) return;
    this.#cancelFlush = this.#deps.timers.after(STATUS_COALESCE_MS, () => {
      this.#cancelFlush = undefined;
      this.#flush();
    });
  }

  #flush(): void {
    const send = this.#send;
    if (send === undefined || this.#pending.size === 0) return;
    const batch = new Map<string, TaskStatus>();
    for (const [taskId, status] of this.#pending) {
      if (batch.size >= STATUS_BATCH_COUNT_MAX) break;
      batch.set(taskId, status);
      this.#pending.delete(taskId);
    }
    const batchId = this.#nextBatchId;
    this.#nextBatchId += 1;
    this.#inFlight.set(batchId, batch);
    send({
      batchId,
      updates: [...batch].map(([taskId, status]) => ({
        taskId,
        statusJson: encoder.encode(JSON.stringify(status)),
      })),
    });
    this.#flushSoon();
  }
}
