/**
 * A Dockerfile as stages with their steps, numbered as Docker numbers them, and which stage needs which: independent ones are
 * built at the same time. Pure.
 */
import { ClusterError } from "../../common/errors.ts";
import { dockerfileError, parseDockerfile, parseInstruction } from "./dockerfile-parser.ts";
import {
  toInstruction,
  type ArgInstruction,
  type FromInstruction,
  type Instruction,
} from "./instructions.ts";
import { expandWord, type Variables } from "./shell-words.ts";

export interface Step {
  readonly instruction: Exclude<Instruction, FromInstruction>;
  /** 1-based, over all stages. */
  readonly number: number;
}

export interface Stage {
  readonly index: number;
  readonly name: string;
  readonly from: FromInstruction;
  /** Number of the FROM step. */
  readonly number: number;
  /** Variables put in. */
  readonly baseName: string;
  /** Index of the stage that it starts from, or undefined: an image. */
  readonly baseStage: number | undefined;
  readonly platform: string;
  readonly steps: readonly Step[];
  /** Stages that must be built before it. */
  readonly needs: readonly number[];
}

export interface BuildPlan {
  readonly escape: string;
  /** Lines to be told before the first step. */
  readonly warnings: readonly string[];
  /** ARG steps in front of the first FROM. */
  readonly globals: readonly { readonly instruction: ArgInstruction; readonly number: number }[];
  /** Values of the global arguments. */
  readonly globalArgs: Variables;
  readonly stages: readonly Stage[];
  /** Of the whole file, those after the target too. */
  readonly writtenStageCount: number;
  readonly stepCount: number;
}

export interface PlanOptions {
  readonly args: Variables;
  readonly labels: Variables;
  readonly target: string;
  /** Values that every build has: TARGETARCH and the like. */
  readonly platformArgs: Variables;
}

interface OpenStage {
  readonly from: FromInstruction;
  readonly instructions: Exclude<Instruction, FromInstruction>[];
}

function split(instructions: readonly Instruction[]): {
  readonly globals: readonly ArgInstruction[];
  readonly stages: readonly OpenStage[];
} {
  const globals: ArgInstruction[] = [];
  const stages: OpenStage[] = [];
  for (const instruction of instructions) {
    const stage = stages.at(-1);
    if (instruction.kind === "FROM") stages.push({ from: instruction, instructions: [] });
    else if (stage !== undefined) stage.instructions.push(instruction);
    else if (instruction.kind === "ARG") globals.push(instruction);
    else throw dockerfileError("no build stage in current context", instruction.raw.line);
  }
  if (stages.length === 0) throw new ClusterError("invalid_argument", "no build stage in current context");
  return { globals, stages };
}

/** Stages up to the target; the target's name is a stage's name or number. */
function upToTarget(stages: readonly OpenStage[], target: string): readonly OpenStage[] {
  if (target === "") return stages;
  const byName = stages.findLastIndex((stage) => stage.from.stageName === target);
  const index = byName >= 0 ? byName : /^\d+$/.test(target) ? Number(target) : -1;
  if (index < 0 || index >= stages.length) {
    throw new ClusterError("invalid_argument", `failed to reach build target ${target} in Dockerfile`);
  }
  return stages.slice(0, index + 1);
}

function globalArguments(
  globals: readonly ArgInstruction[],
  options: PlanOptions,
  escape: string,
): Map<string, string> {
  const values = new Map(options.platformArgs);
  for (const { pairs } of globals) {
    for (const [key, fallback] of pairs) {
      const given = options.args.get(key);
      if (given !== undefined) values.set(key, given);
      else if (fallback !== undefined) values.set(key, expandWord(fallback, { escape, variables: values }));
    }
  }
  return values;
}

/** The stage that a COPY --from means, if it is one. */
export function stageOf(
  from: string,
  stages: readonly { readonly name: string }[],
  before: number,
): number | undefined {
  const byName = stages.findLastIndex((stage, index) => index < before && stage.name === from.toLowerCase());
  if (byName >= 0) return byName;
  if (!/^\d+$/.test(from)) return undefined;
  const index = Number(from);
  if (index >= before) {
    const why = index === before ? "refers to current build stage" : "index out of bounds";
    throw new ClusterError("invalid_argument", `invalid from flag value ${from}: ${why}`);
  }
  return index;
}

/** Stages and images that an instruction reads. */
function sourcesOf(instruction: Instruction): readonly string[] {
  if (instruction.kind === "COPY") return instruction.from === "" ? [] : [instruction.from];
  if (instruction.kind !== "RUN") return [];
  return instruction.mounts.map(({ values }) => values.get("from") ?? "").filter((from) => from !== "");
}

/** A step for each, as the classic builder has them. */
function labelSteps(labels: Variables, escape: string): readonly Exclude<Instruction, FromInstruction>[] {
  const sorted = [...labels].sort(([left], [right]) => (left < right ? -1 : 1));
  const quote = (text: string): string => `"${text.replace(/["$\\]/g, (each) => escape + each)}"`;
  return sorted
    .map(([key, value]) => ({
      ...parseInstruction(`LABEL ${quote(key)}=${quote(value)}`, [], 0),
      original: `LABEL ${key}=${value}`,
    }))
    .map((raw) => toInstruction(raw, escape))
    .filter((instruction) => instruction.kind !== "FROM");
}

/** The plan of a whole Dockerfile. Throws on whatever is wrong with it before anything runs. */
export function planBuild(text: string, options: PlanOptions): BuildPlan {
  const { escape, instructions: raw, warnings } = parseDockerfile(text);
  const { globals, stages: all } = split(raw.map((each) => toInstruction(each, escape)));
  const opened = upToTarget(all, options.target);
  opened.at(-1)?.instructions.push(...labelSteps(options.labels, escape));
  const globalArgs = globalArguments(globals, options, escape);
  let number = globals.length;
  const stages: Stage[] = [];
  for (const [index, { from, instructions }] of opened.entries()) {
    const words = { escape, variables: globalArgs };
    const baseName = expandWord(from.image, words);
    if (baseName === "")
      throw dockerfileError(`base name (${from.image}) should not be blank`, from.raw.line);
    const baseIndex = stages.findLastIndex(
      (stage) => stage.name !== "" && stage.name === baseName.toLowerCase(),
    );
    const baseStage = baseIndex < 0 ? undefined : baseIndex;
    const sources = instructions.flatMap(sourcesOf).map((from) => stageOf(from, stages, index));
    stages.push({
      index,
      name: from.stageName,
      from,
      number: ++number,
      baseName,
      baseStage,
      platform: expandWord(from.platform, words),
      steps: instructions.map((instruction) => ({ instruction, number: ++number })),
      needs: [...new Set([baseStage, ...sources].filter((each) => each !== undefined))],
    });
  }
  return {
    escape,
    warnings,
    globals: globals.map((instruction, index) => ({ instruction, number: index + 1 })),
    globalArgs,
    stages,
    writtenStageCount: all.length,
    stepCount: number,
  };
}
