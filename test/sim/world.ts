/**
 * Virtual time for one run: a queue of events, run one by one in order of time, then of creation. Everything a run does
 * comes from its seed, so the same seed gives the same run. Real time passes only for the work itself.
 */
import type { Cancel, Clock, Env, Timers } from "../../common/env.ts";
import type { FakeDisk } from "../../common/testing/fake-disk.ts";
import { SeededRandom } from "../../common/testing/seeded-random.ts";

/** More events at one moment than any turn needs: something runs in a circle. */
const IDLE_EVENT_COUNT_MAX = 50_000;
/** A virtual second has a few thousand events. More than this, and messages beget messages. */
const EVENTS_PER_SECOND_MAX = 100_000;
/** After so many events the real event loop has its turn, for signals and time-outs of the process. */
const YIELD_EVENT_COUNT = 2_000;

interface Event {
  readonly dueMs: number;
  readonly sequence: number;
  run: (() => void) | undefined;
  /** The life that it is part of, if it is one machine's. */
  readonly life: Life | undefined;
}

/** Stops a run: an invariant is broken. */
export class Violation extends Error {
  override readonly name = "Violation";
  readonly check: string;

  constructor(check: string, text: string) {
    super(`${check}: ${text}`);
    this.check = check;
  }
}

/** Runs the promise callbacks and ticks that are queued, and those that they queue, until there are none. */
const runPromiseCallbacks = tickCallback();

function tickCallback(): () => void {
  const found: unknown = Reflect.get(process, "_tickCallback");
  if (typeof found !== "function")
    throw new Error(`the simulator wants process._tickCallback, got ${typeof found}`);
  return found as () => void;
}

function isBefore(a: Event, b: Event): boolean {
  return a.dueMs < b.dueMs || (a.dueMs === b.dueMs && a.sequence < b.sequence);
}

export class World {
  readonly random: SeededRandom;
  readonly timeline: string[] = [];
  readonly #keepsTimeline: boolean;
  /** True while something works outside of virtual time, which then stands still until `resume` is called. */
  waitsOutside: (resume: () => void) => boolean = () => false;
  #nowMs = 0;
  #sequence = 0;
  readonly #heap: Event[] = [];
  /** Events that were due when they were made, in order: most of all, and no heap need sort them. */
  #dueNow: Event[] = [];
  #dueNowAt = 0;
  #eventCount = 0;
  #digest = 0;
  #failure: unknown;
  #idleEvents = 0;
  #second = 0;
  #eventsOfSecond = 0;

  constructor(seed: number, keepsTimeline: boolean) {
    this.random = new SeededRandom(seed);
    this.#keepsTimeline = keepsTimeline;
  }

  get nowMs(): number {
    return this.#nowMs;
  }

  get eventCount(): number {
    return this.#eventCount;
  }

  /** Equal for equal runs. */
  get digest(): number {
    return this.#digest >>> 0;
  }

  get failure(): unknown {
    return this.#failure;
  }

  /** A fact of the run: part of the digest, and of the timeline when it is kept. `text` is called only for the latter. */
  note(kind: number, value: number, text: () => string): void {
    this.#digest = Math.imul(this.#digest ^ (kind * 31 + value), 0x01000193) ^ (this.#nowMs * 1000);
    if (this.#keepsTimeline) this.timeline.push(`${(this.#nowMs / 1000).toFixed(3).padStart(9)} ${text()}`);
  }

  fail(error: unknown): void {
    this.#failure ??= error;
  }

  /** With a `life` it runs when that is not paused, and never once it is over. */
  after(delayMs: number, run: () => void, life?: Life): Cancel {
    const event = this.#add(delayMs, run, life);
    return () => {
      event.run = undefined;
    };
  }

  /** The same for what is never cancelled. */
  post(delayMs: number, run: () => void, life?: Life): void {
    this.#add(delayMs, run, life);
  }

  #add(delayMs: number, run: () => void, life: Life | undefined): Event {
    this.#sequence += 1;
    const isNow = !(delayMs > 0);
    const event: Event = {
      dueMs: isNow ? this.#nowMs : this.#nowMs + delayMs,
      sequence: this.#sequence,
      run,
      life,
    };
    if (isNow) this.#dueNow.push(event);
    else this.#push(event);
    return event;
  }

  /**
   * Runs until `untilMs` or the first failure. Promise callbacks run to their end between events: Node is told to run
   * them, as it does itself after each callback of the event loop, of which this takes no turn.
   */
  run(untilMs: number, afterEach: () => void): Promise<void> {
    return new Promise((resolve) => {
      const goOn = (): void => {
        while (!this.waitsOutside(goOn)) {
          if (!this.#step(untilMs, afterEach)) {
            resolve();
            return;
          }
          if (this.#eventCount % YIELD_EVENT_COUNT === 0) {
            setImmediate(goOn);
            return;
          }
          runPromiseCallbacks();
        }
      };
      // The caller is a promise callback, from within which no others can be run.
      if (this.#step(untilMs, afterEach)) setImmediate(goOn);
      else resolve();
    });
  }

  /** Runs the next event; false if there is none until then, or something failed. */
  #step(untilMs: number, afterEach: () => void): boolean {
    const event = this.#nextEvent();
    if (this.#failure !== undefined || event === undefined || event.dueMs > untilMs) {
      this.#nowMs = Math.max(this.#nowMs, untilMs);
      return false;
    }
    this.#take(event);
    this.#runEvent(event, afterEach);
    return true;
  }

  /** The earliest that was not cancelled. It stays in the queue. */
  #nextEvent(): Event | undefined {
    for (;;) {
      const [later] = this.#heap;
      const now = this.#dueNow[this.#dueNowAt];
      const event = now === undefined || (later !== undefined && isBefore(later, now)) ? later : now;
      if (event === undefined || event.run !== undefined) return event;
      this.#take(event);
    }
  }

  /** Takes the earliest out. */
  #take(event: Event): void {
    if (event !== this.#dueNow[this.#dueNowAt]) {
      this.#pop();
      return;
    }
    this.#dueNowAt += 1;
    if (this.#dueNowAt < this.#dueNow.length) return;
    this.#dueNow = [];
    this.#dueNowAt = 0;
  }

  #runEvent(event: Event, afterEach: () => void): void {
    this.#idleEvents = event.dueMs > this.#nowMs ? 0 : this.#idleEvents + 1;
    this.#nowMs = event.dueMs;
    this.#eventCount += 1;
    if (this.#idleEvents > IDLE_EVENT_COUNT_MAX)
      this.fail(new Violation("O10", "events run, but no time passes"));
    const second = Math.floor(this.#nowMs / 1000);
    this.#eventsOfSecond = second === this.#second ? this.#eventsOfSecond + 1 : 1;
    this.#second = second;
    if (this.#eventsOfSecond > EVENTS_PER_SECOND_MAX) {
      this.fail(new Violation("O15", `more than ${EVENTS_PER_SECOND_MAX} events in a second`));
    }
    try {
      const { life, run } = event;
      if (run !== undefined && life === undefined) run();
      else if (run !== undefined) life?.runAlive(run);
      afterEach();
    } catch (caught) {
      this.fail(caught);
    }
  }

  #push(event: Event): void {
    const heap = this.#heap;
    const { dueMs } = event;
    let at = heap.length;
    heap.push(event);
    while (at > 0) {
      const parentAt = (at - 1) >> 1;
      const parent = heap[parentAt];
      // The newest of all: where two are due together it comes last.
      if (parent === undefined || parent.dueMs <= dueMs) break;
      heap[at] = parent;
      at = parentAt;
    }
    heap[at] = event;
  }

  #pop(): void {
    const heap = this.#heap;
    const last = heap.pop();
    if (last === undefined || heap.length === 0) return;
    let at = 0;
    while (true) {
      let childAt = 2 * at + 1;
      const left = heap[childAt];
      if (left === undefined) break;
      const right = heap[childAt + 1];
      let child = left;
      if (right !== undefined && isBefore(right, left)) {
        childAt += 1;
        child = right;
      }
      if (!isBefore(child, last)) break;
      heap[at] = child;
      at = childAt;
    }
    heap[at] = last;
  }
}

/** The doors of one life of one machine. After end() none of its timers runs. */
export class Life implements Clock, Timers {
  readonly #world: World;
  readonly #rate: number;
  readonly #startMs: number;
  readonly #wallOffsetMs: number;
  #isOver = false;
  /** Until then timers of this machine wait: the process is paused. */
  pausedUntilMs = 0;

  /** `rate`: real milliseconds per millisecond of this machine's clock. */
  constructor(world: World, clock: { readonly rate: number; readonly wallOffsetMs: number }) {
    this.#world = world;
    this.#rate = clock.rate;
    this.#startMs = world.nowMs;
    this.#wallOffsetMs = clock.wallOffsetMs;
  }

  get isOver(): boolean {
    return this.#isOver;
  }

  end(): void {
    this.#isOver = true;
  }

  monotonicMs(): number {
    return (this.#world.nowMs - this.#startMs) / this.#rate;
  }

  wallMs(): number {
    return 1_700_000_000_000 + this.#world.nowMs + this.#wallOffsetMs;
  }

  /** At least a millisecond, as Node's timers take: less could vanish in the rounding of a large time. */
  after(delayMs: number, run: () => void): Cancel {
    return this.exactly(Math.max(1, delayMs), run);
  }

  /** For what is no timer of the process: its disk. */
  exactly(delayMs: number, run: () => void): Cancel {
    return this.#world.after(delayMs * this.#rate, run, this);
  }

  soon(run: () => void): Cancel {
    return this.#world.after(0, run, this);
  }

  every(intervalMs: number, run: () => void): Cancel {
    let isCancelled = false;
    const again = (): void => {
      this.after(intervalMs, () => {
        if (isCancelled) return;
        again();
        run();
      });
    };
    again();
    return () => {
      isCancelled = true;
    };
  }

  env(disk: FakeDisk): Env {
    return { clock: this, timers: this, random: this.#world.random.fork(), disk };
  }

  /** Runs it now, or when the pause is over, or never if the machine died. */
  runAlive(run: () => void): void {
    if (this.#isOver) return;
    if (this.pausedUntilMs > this.#world.nowMs) {
      this.#world.post(this.pausedUntilMs - this.#world.nowMs, run, this);
      return;
    }
    run();
  }
}
