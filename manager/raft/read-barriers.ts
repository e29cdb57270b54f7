/**
 * Callers of readBarrier(): gathers those of one turn into one question to the leader, asks again when an answer is
 * lost or the leader changed, and releases them once the confirmed index is applied here. Driven by node.ts.
 */
import { ClusterError } from "../../common/errors.ts";
import type { ReadResult } from "./core/options.ts";

interface Caller {
  readonly resolve: () => void;
  readonly reject: (error: ClusterError) => void;
  readonly deadlineMs: number;
  isDone: boolean;
}

interface Question {
  readonly callers: readonly Caller[];
  readonly askedMs: number;
}

export interface ReadBarriersOptions {
  readonly nowMs: () => number;
  readonly timeoutMs: number;
  /** After which an unanswered question is put again. */
  readonly retryMs: number;
  readonly countMax: number;
  /** False: can't be asked now. */
  readonly ask: (readId: number) => boolean;
  /** Never a number that an earlier life of this member may have used: an old answer would serve a stale read. */
  readonly firstReadId: number;
}

export class ReadBarriers {
  readonly #options: ReadBarriersOptions;
  #nextReadId: number;
  #unasked: Caller[] = [];
  readonly #asked = new Map<number, Question>();
  /** Confirmed, waiting for the index to be applied. */
  #confirmed: { readonly index: number; readonly callers: readonly Caller[] }[] = [];
  #count = 0;

  constructor(options: ReadBarriersOptions) {
    this.#options = options;
    this.#nextReadId = options.firstReadId;
  }

  add(signal: AbortSignal | undefined): Promise<void> {
    if (this.#count >= this.#options.countMax) {
      const text = `Cannot read: want at most ${this.#options.countMax} reads waiting, got one more`;
      return Promise.reject(new ClusterError("resource_exhausted", text, { retryable: true }));
    }
    if (signal?.aborted === true)
      return Promise.reject(new ClusterError("cancelled", "The read was given up"));
    return new Promise((resolve, reject) => {
      const settle = (run: () => void): void => {
        if (caller.isDone) return;
        caller.isDone = true;
        this.#count -= 1;
        signal?.removeEventListener("abort", onAbort);
        run();
      };
      const caller: Caller = {
        resolve: () => settle(resolve),
        reject: (error) => settle(() => reject(error)),
        deadlineMs: this.#options.nowMs() + this.#options.timeoutMs,
        isDone: false,
      };
      const onAbort = (): void => caller.reject(new ClusterError("cancelled", "The read was given up"));
      signal?.addEventListener("abort", onAbort);
      this.#count += 1;
      this.#unasked.push(caller);
    });
  }

  /** Once per turn. */
  askPending(): void {
    if (this.#unasked.length === 0) return;
    const callers = this.#unasked;
    this.#nextReadId += 1;
    if (!this.#options.ask(this.#nextReadId)) return;
    this.#unasked = [];
    this.#asked.set(this.#nextReadId, { callers, askedMs: this.#options.nowMs() });
  }

  answered(results: readonly ReadResult[], appliedIndex: number): void {
    for (const { readId, index } of results) {
      const question = this.#asked.get(readId);
      if (question === undefined) continue;
      this.#asked.delete(readId);
      if (index === undefined) this.#unasked.push(...question.callers);
      else this.#confirmed.push({ index, callers: question.callers });
    }
    this.applied(appliedIndex);
  }

  /** Whoever was asked leads no more and may never answer: all that is open is asked of the next leader. */
  leaderChanged(): void {
    for (const { callers } of this.#asked.values()) this.#unasked.push(...callers);
    this.#asked.clear();
  }

  applied(appliedIndex: number): void {
    if (this.#confirmed.length === 0) return;
    const ready = this.#confirmed.filter((each) => each.index <= appliedIndex);
    if (ready.length === 0) return;
    this.#confirmed = this.#confirmed.filter((each) => each.index > appliedIndex);
    for (const { callers } of ready) for (const caller of callers) caller.resolve();
  }

  /** Once per tick: puts unanswered questions again and ends those that waited too long. */
  tick(): void {
    if (this.#asked.size === 0 && this.#unasked.length === 0 && this.#confirmed.length === 0) return;
    const nowMs = this.#options.nowMs();
    for (const [readId, question] of this.#asked) {
      if (nowMs - question.askedMs < this.#options.retryMs) continue;
      this.#asked.delete(readId);
      this.#unasked.push(...question.callers);
    }
    const expire = (caller: Caller): boolean => {
      if (caller.deadlineMs > nowMs) return !caller.isDone;
      caller.reject(noQuorum());
      return false;
    };
    if (this.#unasked.length > 0) this.#unasked = this.#unasked.filter(expire);
    for (const { callers } of this.#confirmed) callers.forEach(expire);
    this.#confirmed = this.#confirmed.filter(({ callers }) => callers.some((caller) => !caller.isDone));
  }

  stop(): void {
    const questions = [...this.#asked.values(), ...this.#confirmed, { callers: this.#unasked }];
    for (const { callers } of questions) for (const caller of callers) caller.reject(noQuorum());
    this.#asked.clear();
    this.#confirmed = [];
    this.#unasked = [];
  }
}

function noQuorum(): ClusterError {
  return new ClusterError("unavailable", "Cannot read: no leader with a quorum of managers answered", {
    retryable: true,
  });
}
