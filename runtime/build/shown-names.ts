/** The names of steps as BuildKit writes them: "[stage 2/5] RUN make". Pure. */
import { canonicalForm, parseReference, withDefaultTag } from "../../model/image-reference.ts";
import type { BuildPlan, Stage } from "./build-plan.ts";
import type { Instruction } from "./instructions.ts";

/** Longer ones of heredocs are cut. */
const NAME_LENGTH_MAX = 1000;
const WORKING_KINDS: ReadonlySet<string> = new Set(["RUN", "COPY", "ADD", "WORKDIR"]);

export interface StepNames {
  /** Undefined: the stage goes on from another one, or from nothing. */
  readonly from: string | undefined;
  /** By number of the step: what its name begins with. Steps that only change the config have none. */
  readonly prefixes: ReadonlyMap<number, string>;
}

/** In full with its tag: what the reference means. As it was written if it is none. */
export function fullReference(name: string): string {
  try {
    return canonicalForm(withDefaultTag(parseReference(name)));
  } catch {
    return name;
  }
}

export function stepNames(plan: BuildPlan, stage: Stage): StepNames {
  const isOnly = plan.writtenStageCount === 1;
  const stageName = isOnly ? "" : `${stage.name === "" ? `stage-${stage.index}` : stage.name} `;
  const working = stage.steps.filter(({ instruction }) => WORKING_KINDS.has(instruction.kind));
  const hasFrom = stage.baseStage === undefined && stage.baseName !== "scratch";
  const count = working.length + (hasFrom ? 1 : 0);
  const width = String(count).length;
  let index = 0;
  const next = (): string => `[${stageName}${String(++index).padStart(width)}/${count}] `;
  const from = hasFrom ? `${next()}FROM ${fullReference(stage.baseName)}` : undefined;
  return { from, prefixes: new Map(working.map(({ number }) => [number, next()])) };
}

/** The instruction with those of its variables that are set. */
export function stepText(instruction: Instruction, variables: ReadonlyMap<string, string>): string {
  const { name, original, heredocs } = instruction.raw;
  const text = `${name}${original.slice(name.length)}`;
  const bodies = heredocs.map(({ content }) => content.trim()).join(" … ");
  return shown(text, variables) + (bodies === "" ? "" : ` (${shortened(bodies)})`);
}

function shortened(text: string): string {
  const line = text.replace(/\s*\n\s*/g, " ");
  return line.length > NAME_LENGTH_MAX ? `${line.slice(0, NAME_LENGTH_MAX)}...` : line;
}

function shown(text: string, variables: ReadonlyMap<string, string>): string {
  return text.replace(
    /'[^']*'|\\.|\$(?:\{(\w+)\}|(\w+))/g,
    (whole, braced?: string, bare?: string) => variables.get(braced ?? bare ?? "") ?? whole,
  );
}
