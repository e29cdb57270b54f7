/**
 * A few worker threads for the heavy work on images: each runs one job at a time, more wait in a bounded line. Threads
 * start when first needed and end after a quiet spell, because each costs memory that an idle machine should not pay.
 */
import { fileURLToPath } from "node:url";
import { MessageChannel, Worker, type MessagePort } from "node:worker_threads";
import { assert, must } from "../../common/assert.ts";
import type { Cancel, Timers } from "../../common/env.ts";
import { ClusterError, ERROR_CODES, type ErrorCode } from "../../common/errors.ts";
import type {
  AnswerOf,
  JobMessage,
  LayerAnswer,
  LayerJob,
  PieceMessage,
  SplitMember,
  UsedMessage,
  WorkerMessage,
} from "./layer-jobs.ts";

const IDLE_MS = 5_000;
/** Bytes on their way to a worker before the source is made to wait. */
const WINDOW_BYTES = 4 * 1024 * 1024;
const WAITING_JOBS_MAX = 100_000;

export interface JobOptions {
  /** Pieces for a job whose input is "stream". */
  readonly source?: AsyncIterable<Uint8Array>;
  readonly onMember?: (member: SplitMember) => void;
  /** More bytes of the input were used. */
  readonly onProgress?: (bytes: number) => void;
}

interface WaitingJob {
  readonly jobId: number;
  readonly job: LayerJob;
  readonly options: JobOptions;
  readonly resolve: (answer: LayerAnswer) => void;
  readonly reject: (error: Error) => void;
}

interface Slot {
  readonly worker: Worker;
  running: WaitingJob | undefined;
  cancelIdle: Cancel | undefined;
}

/** TypeScript when run unbuilt, JavaScript in dist/. */
function workerFile(): string {
  const isSource = import.meta.url.endsWith(".ts");
  return fileURLToPath(new URL(isSource ? "./layer-worker.ts" : "./layer-worker.js", import.meta.url));
}

function isErrorCode(code: string): code is ErrorCode {
  return code in ERROR_CODES;
}

export class WorkerPool {
  readonly #timers: Timers;
  readonly #threadCount: number;
  readonly #slots = new Set<Slot>();
  readonly #waiting: WaitingJob[] = [];
  #nextJobId = 1;
  #isStopped = false;

  constructor(timers: Timers, threadCount: number) {
    assert(threadCount > 0, "a pool has threads");
    this.#timers = timers;
    this.#threadCount = threadCount;
  }

  run<J extends LayerJob>(job: J, options: JobOptions = {}): Promise<AnswerOf<J>> {
    if (this.#isStopped) return Promise.reject(new ClusterError("unavailable", "Image store is stopping"));
    if (this.#waiting.length >= WAITING_JOBS_MAX) {
      return Promise.reject(new ClusterError("resource_exhausted", "Too many image jobs are waiting"));
    }
    return new Promise((resolve, reject) => {
      this.#waiting.push({
        jobId: this.#nextJobId++,
        job,
        options,
        resolve: (answer) => resolve(answer as AnswerOf<J>),
        reject,
      });
      this.#dispatch();
    });
  }

  async stop(): Promise<void> {
    this.#isStopped = true;
    for (const waiting of this.#waiting.splice(0)) {
      waiting.reject(new ClusterError("cancelled", "Image store is stopping"));
    }
    const slots = [...this.#slots];
    for (const slot of slots) slot.cancelIdle?.();
    await Promise.all(slots.map((slot) => slot.worker.terminate()));
  }

  #dispatch(): void {
    while (this.#waiting.length > 0) {
      const slot = [...this.#slots].find((each) => each.running === undefined) ?? this.#grow();
      if (slot === undefined) return;
      this.#start(slot, must(this.#waiting.shift(), "a job waits"));
    }
  }

  #grow(): Slot | undefined {
    if (this.#slots.size >= this.#threadCount) return undefined;
    const worker = new Worker(workerFile(), { name: "shoal-layers" });
    const slot: Slot = { worker, running: undefined, cancelIdle: undefined };
    this.#slots.add(slot);
    worker.on("message", (message: WorkerMessage) => this.#onMessage(slot, message));
    worker.on("error", (error: Error) => this.#onGone(slot, error));
    worker.on("exit", () => this.#onGone(slot, new Error("worker thread ended")));
    // Only running jobs keep the process alive.
    worker.unref();
    return slot;
  }

  #start(slot: Slot, waiting: WaitingJob): void {
    slot.cancelIdle?.();
    slot.cancelIdle = undefined;
    slot.running = waiting;
    slot.worker.ref();
    const message: JobMessage = { jobId: waiting.jobId, job: waiting.job };
    const { source } = waiting.options;
    if (source === undefined) {
      slot.worker.postMessage(message);
      return;
    }
    const { port1, port2 } = new MessageChannel();
    slot.worker.postMessage({ ...message, port: port2 }, [port2]);
    void sendPieces(source, port1);
  }

  #onMessage(slot: Slot, message: WorkerMessage): void {
    const running = slot.running;
    if (running?.jobId !== message.jobId) return;
    switch (message.kind) {
      case "member":
        running.options.onMember?.(message.member);
        return;
      case "progress":
        running.options.onProgress?.(message.bytes);
        return;
      case "done":
        this.#free(slot);
        running.resolve(message.answer);
        return;
      case "failed": {
        this.#free(slot);
        const code = isErrorCode(message.code) ? message.code : "internal";
        running.reject(new ClusterError(code, message.message));
      }
    }
  }

  #free(slot: Slot): void {
    slot.running = undefined;
    slot.worker.unref();
    this.#dispatch();
    if (slot.running !== undefined || this.#isStopped) return;
    slot.cancelIdle = this.#timers.after(IDLE_MS, () => {
      this.#slots.delete(slot);
      void slot.worker.terminate();
    });
  }

  /** A worker ended by itself: its job fails, the pool goes on. */
  #onGone(slot: Slot, error: Error): void {
    if (!this.#slots.delete(slot)) return;
    slot.cancelIdle?.();
    slot.running?.reject(new ClusterError("internal", "Image worker ended", { cause: error }));
    slot.running = undefined;
    if (!this.#isStopped) this.#dispatch();
  }
}

/** Sends all of `source` over `port`, waiting while the worker lags; stops when the worker closes it. */
async function sendPieces(source: AsyncIterable<Uint8Array>, port: MessagePort): Promise<void> {
  let onTheWay = 0;
  let isClosed = false;
  let wake: (() => void) | undefined;
  port.on("message", (used: UsedMessage) => {
    onTheWay -= used.bytes;
    wake?.();
  });
  port.on("close", () => {
    isClosed = true;
    wake?.();
  });
  const send = (message: PieceMessage, transfer: readonly ArrayBuffer[] = []): void => {
    if (!isClosed) port.postMessage(message, [...transfer]);
  };
  try {
    for await (const piece of source) {
      // A copy of its own, because the piece may be a part of a pool's buffer and those can't change hands.
      const bytes = new Uint8Array(piece);
      onTheWay += bytes.byteLength;
      send({ kind: "piece", bytes }, [bytes.buffer]);
      while (onTheWay > WINDOW_BYTES && !isClosed) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
      if (isClosed) return;
    }
    send({ kind: "end" });
  } catch (caught) {
    send({ kind: "error", message: caught instanceof Error ? caught.message : String(caught) });
  }
}
