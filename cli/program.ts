/**
 * Runs one declared command: parses its flags, calls it with a client and prints failures as one clear line. Exit
 * statuses: what the command returns, 1 for errors, 125 for bad flags (as docker), 130 when interrupted.
 */
import { ApiClient, ApiError, ConnectError } from "./client/api-client.ts";
import { resolveEndpoint } from "./client/endpoint.ts";
import type { CommandContext, CommandDefinition, Flags } from "./command.ts";
import { ExitError } from "./command.ts";
import { parseArguments } from "./arguments.ts";
import { createOutput } from "./output/stream.ts";
import { endpointOptions } from "./root-flags.ts";

const PROGRAM = "shoal";
const STATUS_BAD_FLAG = 125;
const STATUS_INTERRUPTED = 130;
const STDOUT = 1;
const STDERR = 2;

function usageLine(path: readonly string[], definition: CommandDefinition): string {
  return `Usage:  ${PROGRAM} ${path.join(" ")} ${definition.usage}\n\n${definition.summary}`;
}

function checkCount(definition: CommandDefinition, path: readonly string[], count: number): void {
  const { argsMin, argsMax } = definition;
  if (count >= argsMin && (argsMax === undefined || count <= argsMax)) return;
  const plural = (number: number): string => `${number} argument${number === 1 ? "" : "s"}`;
  const wanted =
    argsMin === argsMax
      ? argsMax === 0
        ? "accepts no arguments"
        : `requires exactly ${plural(argsMin)}`
      : count < argsMin
        ? `requires at least ${plural(argsMin)}`
        : `accepts at most ${plural(argsMax ?? 0)}`;
  const name = `${PROGRAM} ${path.join(" ")}`;
  throw new ExitError(1, `"${name}" ${wanted}.\nSee '${name} --help'.\n\n${usageLine(path, definition)}\n`);
}

interface Target {
  readonly definition: CommandDefinition;
  readonly path: readonly string[];
  readonly rest: readonly string[];
}

/** Walks down to the command that the words name. */
async function findTarget(root: CommandDefinition, argv: readonly string[]): Promise<Target> {
  let target: Target = { definition: root, path: [root.name], rest: argv };
  for (;;) {
    const { definition, path, rest } = target;
    const word = rest[0];
    if (definition.commands === undefined || word === undefined || word.startsWith("-")) return target;
    const inner = definition.commands.find(
      (each) => each.name === word || each.aliases?.includes(word) === true,
    );
    if (inner === undefined) {
      const name = `${PROGRAM} ${path.join(" ")}`;
      const { didYouMean } = await import("./suggestion.ts");
      const verbs = definition.commands.map((each) => each.name);
      throw new ExitError(
        1,
        `${PROGRAM}: '${path.join(" ")} ${word}' is not a command.\n${didYouMean(word, verbs, `${name} `)}See '${name} --help'.\n`,
      );
    }
    target = { definition: inner, path: [...path, inner.name], rest: rest.slice(1) };
  }
}

/** Undefined: help was printed. */
async function parse(target: Target): Promise<{ flags: Flags; args: readonly string[] } | undefined> {
  const { definition, path, rest } = target;
  const name = `${PROGRAM} ${path.join(" ")}`;
  const parsed = parseArguments(definition, rest);
  if (parsed.kind === "refused") {
    const { didYouMean } = await import("./suggestion.ts");
    const flags = definition.flags.map((flag) => flag.name);
    const meant = parsed.unknown === undefined ? "" : didYouMean(parsed.unknown, flags, "--");
    throw new ExitError(STATUS_BAD_FLAG, `${parsed.message}\n${meant}See '${name} --help'.\n`);
  }
  if (parsed.kind === "help" || (definition.commands !== undefined && rest.length === 0)) {
    const { helpText } = await import("./command-help.ts");
    createOutput(STDOUT).write(helpText(definition, name));
    return undefined;
  }
  return parsed;
}

/** The line(s) for stderr and the exit status of anything thrown. */
function describeFailure(caught: unknown, isDebug: boolean): { text: string; status: number } {
  if (caught instanceof ExitError) return { text: caught.message, status: caught.status };
  if (caught instanceof ApiError)
    return { text: `Error response from daemon: ${caught.message}\n`, status: 1 };
  if (caught instanceof ConnectError) return { text: `${caught.message}\n`, status: 1 };
  if (caught instanceof Error && caught.name === "AbortError")
    return { text: "", status: STATUS_INTERRUPTED };
  const message =
    caught instanceof Error ? (isDebug ? (caught.stack ?? caught.message) : caught.message) : String(caught);
  return { text: `${PROGRAM}: ${message}\n`, status: 1 };
}

/** Aborted by the first SIGINT or SIGTERM; the second ends the program. Until a command asks for it, the first does. */
function interruptSignal(): AbortSignal {
  const interrupt = new AbortController();
  const onSignal = (): void => {
    if (interrupt.signal.aborted) process.exit(STATUS_INTERRUPTED);
    interrupt.abort();
  };
  process.on("SIGINT", onSignal).on("SIGTERM", onSignal);
  return interrupt.signal;
}

/** Runs `argv` (what stands behind the group's name) and resolves with the exit status. */
export async function runProgram(
  root: CommandDefinition,
  argv: readonly string[],
  rootFlags: Flags,
): Promise<number> {
  try {
    const target = await findTarget(root, argv);
    const parsed = await parse(target);
    if (parsed === undefined) return 0;
    const { definition, path } = target;
    if (definition.run === undefined) {
      throw new ExitError(1, `${usageLine(path, definition)}\n`);
    }
    checkCount(definition, path, parsed.args.length);
    let client: ApiClient | undefined;
    let interrupt: AbortSignal | undefined;
    const context: CommandContext = {
      get client() {
        client ??= new ApiClient(resolveEndpoint(endpointOptions(rootFlags, process.env)));
        return client;
      },
      flags: parsed.flags,
      args: parsed.args,
      out: createOutput(STDOUT),
      err: createOutput(STDERR),
      env: process.env,
      get signal() {
        interrupt ??= interruptSignal();
        return interrupt;
      },
      rootFlags,
    };
    return (await definition.run(context)) ?? 0;
  } catch (caught) {
    const { text, status } = describeFailure(caught, rootFlags.bool("debug"));
    createOutput(STDERR).write(text);
    return status;
  }
}
