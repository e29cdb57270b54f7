/**
 * Holds a task's end back from its worker until every other place that sends it traffic has stopped (network.md 2.1): first
 * the endpoint drains everywhere, then the task is told to stop. Bounded in time; nodes that went away are not waited for.
 */
import type { Task } from "../../model/objects.ts";

interface Drain {
  /** The task as its worker shall still see it. */
  readonly shown: Task;
  /** Sequence number that each session has to acknowledge. */
  readonly waiting: Map<string, number>;
  readonly deadlineMs: number;
  /** The sessions to wait for are not known before the change was sent to them. */
  isArmed: boolean;
}

export class DrainBarrier {
  readonly #drains = new Map<string, Drain>();

  /** Tasks held back, with what is told instead. */
  get held(): ReadonlyMap<string, Task> {
    return new Map([...this.#drains].map(([id, drain]) => [id, drain.shown]));
  }

  get isEmpty(): boolean {
    return this.#drains.size === 0;
  }

  /** Earliest deadline, or undefined. */
  get nextDeadlineMs(): number | undefined {
    let next: number | undefined;
    for (const { deadlineMs } of this.#drains.values()) {
      if (next === undefined || deadlineMs < next) next = deadlineMs;
    }
    return next;
  }

  /** `shown`: the task before it was to stop. A task that is held already stays so. */
  hold(shown: Task, deadlineMs: number): void {
    if (this.#drains.has(shown.id)) return;
    this.#drains.set(shown.id, { shown, waiting: new Map(), deadlineMs, isArmed: false });
  }

  /** The change has been sent: `unacknowledged` are the sessions that have yet to confirm, by what number. */
  arm(unacknowledged: ReadonlyMap<string, number>): void {
    for (const drain of this.#drains.values()) {
      if (drain.isArmed) continue;
      drain.isArmed = true;
      for (const [sessionId, sequence] of unacknowledged) drain.waiting.set(sessionId, sequence);
    }
  }

  acknowledged(sessionId: string, sequence: number): void {
    for (const drain of this.#drains.values()) {
      const wanted = drain.waiting.get(sessionId);
      if (wanted !== undefined && sequence >= wanted) drain.waiting.delete(sessionId);
    }
  }

  sessionEnded(sessionId: string): void {
    for (const drain of this.#drains.values()) drain.waiting.delete(sessionId);
  }

  /** Drops what is over, and returns the nodes whose workers may now be told. */
  release(nowMs: number): ReadonlySet<string> {
    const nodeIds = new Set<string>();
    for (const [id, drain] of this.#drains) {
      const isOver = (drain.isArmed && drain.waiting.size === 0) || nowMs >= drain.deadlineMs;
      if (!isOver) continue;
      this.#drains.delete(id);
      nodeIds.add(drain.shown.nodeId);
    }
    return nodeIds;
  }
}
