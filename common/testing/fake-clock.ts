/** A clock and timers that move only when told, for unit tests and the simulator. Same calls, same order, every run. */
import type { Cancel, Clock, Timers } from "../env.ts";

interface Entry {
  dueMs: number;
  readonly sequence: number;
  readonly run: () => void;
  readonly everyMs: number | undefined;
}

export class FakeClock implements Clock, Timers {
  #nowMs = 0;
  #sequence = 0;
  #wallStartMs: number;
  readonly #entries = new Map<number, Entry>();

  constructor(wallStartMs = 1_700_000_000_000) {
    this.#wallStartMs = wallStartMs;
  }

  monotonicMs(): number {
    return this.#nowMs;
  }

  wallMs(): number {
    return this.#wallStartMs + this.#nowMs;
  }

  /** The wall clock is set forward; what is due by the other one is not due earlier. */
  setWallForward(ms: number): void {
    this.#wallStartMs += ms;
  }

  after(delayMs: number, run: () => void): Cancel {
    return this.#add(delayMs, run, undefined);
  }

  every(intervalMs: number, run: () => void): Cancel {
    return this.#add(intervalMs, run, intervalMs);
  }

  soon(run: () => void): Cancel {
    return this.#add(0, run, undefined);
  }

  /** Due time of the next timer, or undefined. */
  nextDueMs(): number | undefined {
    return this.#next()?.dueMs;
  }

  /** Runs everything due in the next `ms`, in order of due time, then of creation. Promises settle only between calls. */
  advance(ms: number): void {
    const untilMs = this.#nowMs + ms;
    for (let entry = this.#next(); entry !== undefined && entry.dueMs <= untilMs; entry = this.#next()) {
      this.#fire(entry);
    }
    this.#nowMs = untilMs;
  }

  /** Like advance, but lets promise callbacks run after each timer. */
  async advanceAsync(ms: number): Promise<void> {
    const untilMs = this.#nowMs + ms;
    await settle();
    for (let entry = this.#next(); entry !== undefined && entry.dueMs <= untilMs; entry = this.#next()) {
      this.#fire(entry);
      await settle();
    }
    this.#nowMs = untilMs;
    await settle();
  }

  #add(delayMs: number, run: () => void, everyMs: number | undefined): Cancel {
    this.#sequence += 1;
    const sequence = this.#sequence;
    this.#entries.set(sequence, { dueMs: this.#nowMs + Math.max(0, delayMs), sequence, run, everyMs });
    return () => {
      this.#entries.delete(sequence);
    };
  }

  #next(): Entry | undefined {
    let first: Entry | undefined;
    for (const entry of this.#entries.values()) {
      if (first === undefined || entry.dueMs < first.dueMs) first = entry;
    }
    return first;
  }

  #fire(entry: Entry): void {
    this.#nowMs = Math.max(this.#nowMs, entry.dueMs);
    if (entry.everyMs === undefined) this.#entries.delete(entry.sequence);
    else entry.dueMs += entry.everyMs;
    entry.run();
  }
}

/** Lets every promise callback that is ready run, however deep the chain (bounded at 50 turns). */
export async function settle(): Promise<void> {
  for (let turn = 0; turn < 50; turn += 1) await Promise.resolve();
}
