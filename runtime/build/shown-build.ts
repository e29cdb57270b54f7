/**
 * How a build is shown to clients that draw steps: a vertex for each step that does something, named as BuildKit names them,
 * with its output, transfers and end. Told by the builder what happens; never decides anything. Text for the classic
 * builder's clients is made elsewhere.
 */
import { createHash, randomBytes } from "node:crypto";
import { ClusterError } from "../../common/errors.ts";
import type { BuildEvent, BuildSource, BuildVertex } from "../../model/build.ts";
import type { BuildPlan, Stage } from "./build-plan.ts";
import type { RawInstruction } from "./dockerfile-parser.ts";
import type { Instruction } from "./instructions.ts";
import { stepNames, stepText } from "./shown-names.ts";

/** Between two reports of how far a transfer is. */
const TRANSFER_REPORT_MS = 100;
/** How clients know a step that ended because of another one. */
const CANCELLED = "context canceled";

export interface ShownParts {
  readonly report: (event: BuildEvent) => void;
  readonly nowMs: () => number;
}

export interface Dockerfile {
  readonly filename: string;
  readonly content: string;
}

/** One bar of a step. */
export class ShownTransfer {
  readonly #parts: ShownParts;
  readonly #vertex: string;
  readonly #id: string;
  readonly #startedMs: number;
  #current = 0;
  #total = 0;
  #reportedMs = 0;
  #isDone = false;

  constructor(parts: ShownParts, vertex: string, id: string) {
    this.#parts = parts;
    this.#vertex = vertex;
    this.#id = id;
    this.#startedMs = parts.nowMs();
  }

  moved(current: number, total = 0): void {
    this.#current = current;
    this.#total = total;
    if (this.#parts.nowMs() - this.#reportedMs >= TRANSFER_REPORT_MS) this.#tell(undefined);
  }

  done(): void {
    if (this.#isDone) return;
    this.#isDone = true;
    this.#tell(this.#parts.nowMs());
  }

  #tell(completedMs: number | undefined): void {
    this.#reportedMs = this.#parts.nowMs();
    const transfer = {
      vertex: this.#vertex,
      id: this.#id,
      name: this.#id,
      current: this.#current,
      total: this.#total,
      startedMs: this.#startedMs,
      completedMs,
    };
    this.#parts.report({ kind: "transfer", transfer });
  }
}

export class ShownVertex {
  readonly #parts: ShownParts;
  readonly #transfers = new Map<string, ShownTransfer>();
  #vertex: BuildVertex;

  constructor(parts: ShownParts, name: string, inputs: readonly string[]) {
    this.#parts = parts;
    const digest = `sha256:${createHash("sha256").update(randomBytes(32)).digest("hex")}`;
    this.#vertex = {
      digest,
      name,
      inputs,
      isCached: false,
      startedMs: undefined,
      completedMs: undefined,
      error: "",
    };
    this.#tell({});
  }

  get digest(): string {
    return this.#vertex.digest;
  }

  #tell(change: Partial<BuildVertex>): void {
    this.#vertex = { ...this.#vertex, ...change };
    this.#parts.report({ kind: "vertex", vertex: this.#vertex });
  }

  /** Also with its variables put in, and what it turned out to need. */
  start(change: Partial<Pick<BuildVertex, "name" | "inputs">> = {}): void {
    if (this.#vertex.completedMs !== undefined) return;
    this.#tell({ ...change, startedMs: this.#vertex.startedMs ?? this.#parts.nowMs() });
  }

  cached(): void {
    this.#tell({ isCached: true });
  }

  output(stream: "stdout" | "stderr", content: Uint8Array): void {
    this.#parts.report({ kind: "log", vertex: this.digest, stream, content });
  }

  warn(text: string): void {
    this.#parts.report({ kind: "warning", vertex: this.digest, text, source: undefined });
  }

  transfer(id: string): ShownTransfer {
    const known = this.#transfers.get(id);
    if (known !== undefined) return known;
    const made = new ShownTransfer(this.#parts, this.digest, id);
    this.#transfers.set(id, made);
    return made;
  }

  done(): void {
    if (this.#vertex.completedMs !== undefined) return;
    for (const transfer of this.#transfers.values()) transfer.done();
    const nowMs = this.#parts.nowMs();
    this.#tell({ startedMs: this.#vertex.startedMs ?? nowMs, completedMs: nowMs });
  }

  fail(caught: unknown): void {
    if (this.#vertex.completedMs !== undefined) return;
    const nowMs = this.#parts.nowMs();
    const isCancelled = caught instanceof Error && caught.name === "AbortError";
    const error = isCancelled ? CANCELLED : ClusterError.from(caught).message || "failed";
    this.#tell({ startedMs: this.#vertex.startedMs ?? nowMs, completedMs: nowMs, error });
  }

  /** Shows that `work` goes on until it has ended. */
  async during<T>(work: () => Promise<T>): Promise<T> {
    this.start();
    try {
      const result = await work();
      this.done();
      return result;
    } catch (caught) {
      this.fail(caught);
      throw caught;
    }
  }
}

/** One step of a stage. Those that only change the config have no vertex. */
export class ShownStep {
  readonly vertex: ShownVertex | undefined;
  readonly #build: ShownBuild;
  readonly #raw: RawInstruction;

  constructor(build: ShownBuild, vertex: ShownVertex | undefined, raw: RawInstruction) {
    this.#build = build;
    this.vertex = vertex;
    this.#raw = raw;
  }

  async during(work: () => Promise<void>): Promise<void> {
    try {
      await work();
      this.vertex?.done();
    } catch (caught) {
      this.vertex?.fail(caught);
      this.#build.failedAt(this.#raw, this.vertex?.digest ?? "");
      throw caught;
    }
  }
}

export class ShownStage {
  readonly #build: ShownBuild;
  readonly #from: ShownVertex | undefined;
  readonly #steps: ReadonlyMap<number, { readonly vertex: ShownVertex; readonly prefix: string }>;
  readonly raw: RawInstruction;
  #last: string | undefined;

  constructor(build: ShownBuild, plan: BuildPlan, stage: Stage) {
    this.#build = build;
    this.raw = stage.from.raw;
    const names = stepNames(plan, stage);
    this.#from = names.from === undefined ? undefined : build.vertex(names.from);
    this.#last = this.#from?.digest;
    const steps = new Map<number, { readonly vertex: ShownVertex; readonly prefix: string }>();
    for (const { instruction, number } of stage.steps) {
      const prefix = names.prefixes.get(number);
      if (prefix === undefined) continue;
      const vertex = build.vertex(prefix + stepText(instruction, new Map()), this.#inputs());
      this.#last = vertex.digest;
      steps.set(number, { vertex, prefix });
    }
    this.#steps = steps;
  }

  #inputs(): readonly string[] {
    return this.#last === undefined ? [] : [this.#last];
  }

  /** Of its FROM; undefined if it goes on from another stage or from nothing. */
  get base(): ShownVertex | undefined {
    return this.#from;
  }

  /** `variables`: what is set where the step stands. `number` undefined: a step that the base image left. */
  step(
    instruction: Instruction,
    number: number | undefined,
    variables: ReadonlyMap<string, string>,
  ): ShownStep {
    if (number === undefined) {
      const vertex = this.#build.vertex(`ONBUILD ${stepText(instruction, variables)}`, this.#inputs());
      vertex.start();
      return new ShownStep(this.#build, vertex, this.raw);
    }
    const known = this.#steps.get(number);
    known?.vertex.start({ name: known.prefix + stepText(instruction, variables) });
    return new ShownStep(this.#build, known?.vertex, instruction.raw);
  }
}

export class ShownBuild {
  readonly #parts: ShownParts;
  readonly #dockerfile: Dockerfile;
  #hasFailed = false;

  constructor(parts: ShownParts, dockerfile: Dockerfile) {
    this.#parts = parts;
    this.#dockerfile = dockerfile;
  }

  vertex(name: string, inputs: readonly string[] = []): ShownVertex {
    return new ShownVertex(this.#parts, name, inputs);
  }

  stage(plan: BuildPlan, stage: Stage): ShownStage {
    return new ShownStage(this, plan, stage);
  }

  /** The first place is the reason; later ones were told to stop. */
  failedAt(raw: Pick<RawInstruction, "line" | "lastLine">, vertex: string): void {
    if (this.#hasFailed || raw.line === 0) return;
    this.#hasFailed = true;
    const source: BuildSource = {
      ...this.#dockerfile,
      firstLine: raw.line,
      lastLine: raw.lastLine ?? raw.line,
    };
    this.#parts.report({ kind: "failure", vertex, source });
  }
}
