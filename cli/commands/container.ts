/** Placeholder until its verbs land. */
import type { CommandDefinition } from "../command.ts";
export { runProgram } from "../program.ts";
export const definitions: readonly CommandDefinition[] = [];
