/** Which files of the context the steps of a build read: no others have to travel. Pure. */
import path from "node:path";
import type { Stage } from "./build-plan.ts";
import { isRemote } from "./download.ts";
import type { Instruction } from "./instructions.ts";

/** Beyond, all of the context is asked for. */
const PATHS_MAX = 1000;

function writtenPaths(instruction: Instruction): readonly string[] {
  if (instruction.kind === "RUN") {
    return instruction.mounts
      .filter(({ type, values }) => type === "bind" && (values.get("from") ?? "") === "")
      .map(({ values }) => values.get("source") ?? "/");
  }
  if (instruction.kind !== "COPY" && instruction.kind !== "ADD") return [];
  if (instruction.from !== "") return [];
  return instruction.sources.filter(
    (source) => !source.startsWith("<<") && !(instruction.kind === "ADD" && isRemote(source)),
  );
}

/** Undefined: all of it, or nobody can say yet. */
export function contextPaths(stages: readonly Stage[]): readonly string[] | undefined {
  const paths = new Set<string>();
  for (const { steps } of stages) {
    for (const written of steps.flatMap(({ instruction }) => writtenPaths(instruction))) {
      // Variables have their values only once the base image is known.
      if (/[$\\]|\*\*/.test(written)) return undefined;
      const clean = path.posix.join("/", written).replace(/^\/+|\/+$/g, "");
      if (clean === "") return undefined;
      paths.add(clean);
    }
  }
  return paths.size > PATHS_MAX ? undefined : [...paths];
}
