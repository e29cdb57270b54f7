/**
 * What the leader's loops did since the process started, by loop, for /shoal/v1/metrics. One tally outlives the terms,
 * so that its counts only grow.
 */
export interface LoopCounts {
  readonly runCount: number;
  /** Runs that ended in an error; the loop then started over from a full scan. */
  readonly failureCount: number;
  /** From the start of a run to the end of its last write. */
  readonly busySeconds: number;
}

const NONE: LoopCounts = { runCount: 0, failureCount: 0, busySeconds: 0 };
const MS_PER_SECOND = 1000;

export class LoopTally {
  readonly #counts = new Map<string, LoopCounts>();

  get byLoop(): ReadonlyMap<string, LoopCounts> {
    return this.#counts;
  }

  ran(loop: string, durationMs: number, isFailed: boolean): void {
    const { runCount, failureCount, busySeconds } = this.#counts.get(loop) ?? NONE;
    this.#counts.set(loop, {
      runCount: runCount + 1,
      failureCount: failureCount + (isFailed ? 1 : 0),
      busySeconds: busySeconds + durationMs / MS_PER_SECOND,
    });
  }
}
