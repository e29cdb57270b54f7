/** `shoal builder …`: the cache of builds on this machine. */
import { humanSize } from "../../model/units.ts";
import type { CommandContext, CommandDefinition } from "../command.ts";
import { bool, list, text } from "../command.ts";
import { bytesFlag, parseFilters } from "../flag-values.ts";
import { buildCommand } from "./build.ts";
import { confirm } from "./verbs.ts";

export { runProgram } from "../program.ts";

async function runPrune(context: CommandContext): Promise<void> {
  const { client, flags, out } = context;
  if (!(await confirm(context, "This removes the build cache that is not in use. Go on?"))) return;
  const answer = await client.post<{ CachesDeleted?: readonly string[] | null; SpaceReclaimed?: number }>(
    "/build/prune",
    {
      query: { all: flags.bool("all"), "keep-storage": bytesFlag(flags, "keep-storage") },
      filters: parseFilters(flags.list("filter")),
    },
  );
  const deleted = answer.CachesDeleted ?? [];
  if (deleted.length > 0) out.write(`Deleted build cache objects:\n${deleted.join("\n")}\n\n`);
  out.write(`Total reclaimed space: ${humanSize(answer.SpaceReclaimed ?? 0)}\n`);
}

export const definitions: readonly CommandDefinition[] = [
  {
    name: "builder",
    usage: "COMMAND",
    summary: "Build images, and clean the cache of builds",
    argsMin: 0,
    flags: [],
    commands: [
      buildCommand,
      {
        name: "prune",
        usage: "[OPTIONS]",
        summary: "Remove build cache",
        argsMin: 0,
        argsMax: 0,
        flags: [
          bool("all", "As without: all that is not in use goes", "a"),
          list("filter", "key=value", "Only what matches, as until=24h"),
          bool("force", "Don't ask", "f"),
          text("keep-storage", "bytes", "Leave as much of it"),
        ],
        run: runPrune,
      },
    ],
  },
];
