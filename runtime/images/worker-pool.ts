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
const MESSAGE_BYTES = 512 * 1024;
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
  /** Its modules are there, or it is gone: a thread that is ended while it loads a native module takes the process along. */
  readonly loaded: Promise<void>;
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
    await Promise.all(slots.map((slot) => slot.loaded.then(() => slot.worker.terminate())));
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
    const { promise: loaded, resolve } = Promise.withResolvers<void>();
    worker.once("message", () => resolve());
    worker.once("exit", () => resolve());
    const slot: Slot = { worker, loaded, running: undefined, cancelIdle: undefined };
    this.#slots.add(slot);
    worker.on("message", (message: WorkerMessage) => this.#onMessage(slot, message));
    worker.on("error", (error: Error) => this.#onGone(slot, error));
    worker.on("exit", () => this.#onGone(slot, new Error("worker thread ended")));
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
    if (message.kind === "loaded") return;
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
    // stop() ends it, and the process must not end in the middle of that.
    if (this.#isStopped) return;
    this.#dispatch();
    if (slot.running !== undefined) return;
    // Only jobs keep the process alive.
    slot.worker.unref();
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

/**
 * Pieces on their way to a worker, gathered for one turn of the loop: a message costs the same for 4 KiB as for half a
 * megabyte, and sockets give small ones.
 */
class PieceSender {
  readonly #port: MessagePort;
  readonly #gathered: Uint8Array[] = [];
  #gatheredBytes = 0;
  #onTheWay = 0;
  #cancelFlush: Cancel | undefined;
  #wake: (() => void) | undefined;
  isClosed = false;

  constructor(port: MessagePort) {
    this.#port = port;
    port.on("message", (used: UsedMessage) => {
      this.#onTheWay -= used.bytes;
      this.#wake?.();
    });
    port.on("close", () => {
      this.isClosed = true;
      this.#wake?.();
    });
  }

  #post(message: PieceMessage, transfer: readonly ArrayBuffer[] = []): void {
    if (!this.isClosed) this.#port.postMessage(message, [...transfer]);
  }

  #flush(): void {
    this.#cancelFlush?.();
    this.#cancelFlush = undefined;
    if (this.#gatheredBytes === 0) return;
    // A copy of its own, because pieces may be parts of a pool's buffer and those can't change hands.
    const bytes = new Uint8Array(this.#gatheredBytes);
    let at = 0;
    for (const piece of this.#gathered.splice(0)) {
      bytes.set(piece, at);
      at += piece.byteLength;
    }
    this.#gatheredBytes = 0;
    this.#post({ kind: "piece", bytes }, [bytes.buffer]);
  }

  /** Waits while the worker lags. */
  async send(piece: Uint8Array): Promise<void> {
    this.#gathered.push(piece);
    this.#gatheredBytes += piece.byteLength;
    this.#onTheWay += piece.byteLength;
    if (this.#gatheredBytes >= MESSAGE_BYTES) this.#flush();
    else if (this.#cancelFlush === undefined) {
      const immediate = setImmediate(() => this.#flush());
      this.#cancelFlush = () => clearImmediate(immediate);
    }
    while (this.#onTheWay > WINDOW_BYTES && !this.isClosed) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  end(last: PieceMessage): void {
    this.#flush();
    this.#post(last);
  }
}

/** Sends all of `source` over `port`, waiting while the worker lags; stops when the worker closes it. */
async function sendPieces(source: AsyncIterable<Uint8Array>, port: MessagePort): Promise<void> {
  const sender = new PieceSender(port);
  try {
    for await (const piece of source) {
      await sender.send(piece);
      if (sender.isClosed) return;
    }
    sender.end({ kind: "end" });
  } catch (caught) {
    sender.end({ kind: "error", message: caught instanceof Error ? caught.message : String(caught) });
  }
}
