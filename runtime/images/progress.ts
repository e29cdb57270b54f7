/** Progress lines from work that goes on by itself to a client that reads at its own pace. */
import type { ProgressLine } from "../../model/engine.ts";
import { humanSize } from "../../model/units.ts";

/** Lines that wait for a slow client; beyond, bars are dropped (the next one says more) and the rest is kept. */
const WAITING_LINES_MAX = 4096;
/** Characters of text that wait for a slow client before who prints it is held back. */
const WAITING_TEXT_MAX = 1024 * 1024;

function textLengthOf({ stream }: ProgressLine): number {
  return typeof stream === "string" ? stream.length : 0;
}

class ProgressQueue implements AsyncIterable<ProgressLine> {
  readonly #lines: ProgressLine[] = [];
  #state: "open" | "ended" | "failed" | "abandoned" = "open";
  #error: unknown;
  #wake: (() => void) | undefined;
  #textLength = 0;
  #roomWaiters: (() => void)[] = [];
  readonly #onAbandon: () => void;

  /** `onAbandon`: the reader went away before the end. */
  constructor(onAbandon: () => void = () => {}) {
    this.#onAbandon = onAbandon;
  }

  push(line: ProgressLine): void {
    if (this.#state !== "open") return;
    if (this.#lines.length >= WAITING_LINES_MAX && "progressDetail" in line) return;
    this.#lines.push(line);
    this.#textLength += textLengthOf(line);
    this.#wake?.();
  }

  /** Resolves when little text waits for the reader, or the reader is gone. */
  async room(): Promise<void> {
    while (this.#state === "open" && this.#textLength >= WAITING_TEXT_MAX) {
      await new Promise<void>((resolve) => void this.#roomWaiters.push(resolve));
    }
  }

  #wakeRoomWaiters(): void {
    for (const wake of this.#roomWaiters.splice(0)) wake();
  }

  end(): void {
    if (this.#state === "open") this.#state = "ended";
    this.#wake?.();
    this.#wakeRoomWaiters();
  }

  fail(error: unknown): void {
    if (this.#state === "open") {
      this.#state = "failed";
      this.#error = error;
    }
    this.#wake?.();
    this.#wakeRoomWaiters();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<ProgressLine> {
    try {
      for (;;) {
        const line = this.#lines.shift();
        if (line !== undefined) {
          this.#textLength -= textLengthOf(line);
          if (this.#textLength < WAITING_TEXT_MAX) this.#wakeRoomWaiters();
          yield line;
          continue;
        }
        if (this.#state === "ended" || this.#state === "abandoned") return;
        if (this.#state === "failed") throw this.#error;
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    } finally {
      if (this.#state === "open") {
        this.#state = "abandoned";
        this.#wakeRoomWaiters();
        this.#onAbandon();
      }
    }
  }
}

/**
 * Lines of `work` as they come; the iterator throws what the work throws. Work that may print without end awaits `room`
 * after each piece, so that a client that does not read it holds it back.
 */
export function progressOf(
  work: (report: (line: ProgressLine) => void, room: () => Promise<void>) => Promise<void>,
  onAbandon?: () => void,
): AsyncIterable<ProgressLine> {
  const queue = new ProgressQueue(onAbandon);
  work(
    (line) => queue.push(line),
    () => queue.room(),
  ).then(
    () => queue.end(),
    (caught: unknown) => queue.fail(caught),
  );
  return queue;
}

const BAR_CELLS = 50;

/** The bar that old clients show as it is and new ones draw from the numbers. */
function progressBar(current: number, total: number): string {
  if (total <= 0 || current > total) return humanSize(current).padStart(8);
  const cells = Math.floor((current / total) * BAR_CELLS);
  const bar = cells < BAR_CELLS ? `${"=".repeat(cells)}>`.padEnd(BAR_CELLS) : "=".repeat(BAR_CELLS);
  return `[${bar}]  ${humanSize(current).padStart(6)}/${humanSize(total)}`;
}

export function progressLine(id: string, status: string, current: number, total: number): ProgressLine {
  return {
    status,
    progressDetail: { current, ...(total > 0 ? { total } : {}) },
    progress: progressBar(current, total),
    id,
  };
}

/** A layer's name in progress lines. */
export function shortId(digest: string): string {
  return digest.replace(/^sha(?:256|512):/, "").slice(0, 12);
}
