/** Small verbs that many kinds of object share: inspect and remove by name, with all problems told at the end. */
import { ApiError } from "../client/api-client.ts";
import type { ApiClient } from "../client/api-client.ts";
import type { CommandContext, CommandDefinition, FlagDefinition } from "../command.ts";
import { ExitError, INSPECT_FORMAT_FLAG } from "../command.ts";
import { formatInspect } from "../output/table.ts";

/** Runs `each` for every argument; goes on after API errors and fails at the end with all of them. */
export async function forEachArgument(
  context: CommandContext,
  each: (name: string) => Promise<void>,
): Promise<void> {
  const problems: string[] = [];
  for (const name of context.args) {
    try {
      await each(name);
    } catch (caught) {
      if (!(caught instanceof ApiError)) throw caught;
      problems.push(`Error response from daemon: ${caught.message}`);
    }
  }
  if (problems.length > 0) throw new ExitError(1, `${problems.join("\n")}\n`);
}

export function inspectCommand(
  noun: string,
  load: (client: ApiClient, name: string, context: CommandContext) => Promise<unknown>,
  extraFlags: readonly FlagDefinition[] = [],
): CommandDefinition {
  return {
    name: "inspect",
    usage: `[OPTIONS] ${noun} [${noun}...]`,
    summary: `Show ${noun.toLowerCase()}s as JSON`,
    argsMin: 1,
    flags: [INSPECT_FORMAT_FLAG, ...extraFlags],
    run: async (context) => {
      const found: unknown[] = [];
      let problem: unknown;
      try {
        await forEachArgument(context, async (name) => {
          found.push(await load(context.client, name, context));
        });
      } catch (caught) {
        problem = caught;
      }
      context.out.write(formatInspect(found, context.flags.string("format")));
      if (problem !== undefined) throw problem;
    },
  };
}

export function removeCommand(
  noun: string,
  remove: (client: ApiClient, name: string, context: CommandContext) => Promise<unknown>,
  flags: readonly FlagDefinition[] = [],
): CommandDefinition {
  return {
    name: "rm",
    aliases: ["remove"],
    usage: `[OPTIONS] ${noun} [${noun}...]`,
    summary: `Remove ${noun.toLowerCase()}s`,
    argsMin: 1,
    flags,
    run: async (context) => {
      await forEachArgument(context, async (name) => {
        const answer = await remove(context.client, name, context);
        // False: the user was asked and said no.
        if (answer !== false) context.out.write(`${name}\n`);
      });
    },
  };
}

/** Asks on a terminal; without one the answer is no. */
export async function confirm(context: CommandContext, question: string): Promise<boolean> {
  if (context.flags.bool("force")) return true;
  context.out.write(`${question} [y/N] `);
  if (process.stdin.isTTY !== true) {
    context.out.write("\n");
    return false;
  }
  const { createInterface } = await import("node:readline/promises");
  const reader = createInterface({ input: process.stdin });
  try {
    for await (const answer of reader) return /^y(es)?$/i.test(answer.trim());
    return false;
  } finally {
    reader.close();
  }
}
