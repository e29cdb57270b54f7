/**
 * Lines of stages that are built at the same time, told in the order of the Dockerfile: the first unfinished stage's lines
 * go out as they come, those of later ones wait. A reader sees what a build one after the other would show.
 */
import type { ProgressLine } from "../../model/engine.ts";

/** Of one waiting stage; beyond, what more it says is dropped, and it says so. */
const WAITING_LINES_MAX = 100_000;
/** A line may be long; in characters. */
const WAITING_TEXT_MAX = 8 * 1024 * 1024;

export class StageOutputs {
  readonly #write: (line: ProgressLine) => void;
  readonly #waiting: ProgressLine[][];
  readonly #textLengths: number[];
  readonly #isDone: boolean[];
  #current = 0;

  constructor(stageCount: number, write: (line: ProgressLine) => void) {
    this.#write = write;
    this.#waiting = Array.from({ length: stageCount }, () => []);
    this.#textLengths = Array.from({ length: stageCount }, () => 0);
    this.#isDone = Array.from({ length: stageCount }, () => false);
  }

  write(stage: number, line: ProgressLine): void {
    if (stage === this.#current) {
      this.#write(line);
      return;
    }
    const waiting = this.#waiting[stage];
    const before = this.#textLengths[stage] ?? Infinity;
    if (waiting === undefined || before === Infinity) return;
    const { stream } = line;
    const after = before + (typeof stream === "string" ? stream.length : 0);
    const isTooLong = waiting.length >= WAITING_LINES_MAX || after > WAITING_TEXT_MAX;
    this.#textLengths[stage] = isTooLong ? Infinity : after;
    waiting.push(isTooLong ? { stream: "[output of this stage is too long to keep]\n" } : line);
  }

  /** The stage says no more. */
  end(stage: number): void {
    this.#isDone[stage] = true;
    while (this.#isDone[this.#current] === true) {
      this.#current++;
      for (const line of this.#waiting[this.#current]?.splice(0) ?? []) this.#write(line);
    }
  }
}
