/**
 * Runs one declared command: mounts its declaration on commander, parses, calls it with a client and prints failures as one
 * clear line. Exit statuses: what the command returns, 1 for errors, 125 for bad flags (as docker), 130 when interrupted.
 */
import { Command, CommanderError, Option } from "commander";
import { ApiClient, ApiError, ConnectError } from "./client/api-client.ts";
import { resolveEndpoint } from "./client/endpoint.ts";
import type { CommandContext, CommandDefinition, FlagDefinition, Output } from "./command.ts";
import { ExitError, Flags } from "./command.ts";
import { normalizeArguments } from "./arguments.ts";
import { endpointOptions } from "./root-flags.ts";

const PROGRAM = "shoal";
const STATUS_BAD_FLAG = 125;
const STATUS_INTERRUPTED = 130;
const DEFAULT_COLUMNS = 80;

function outputOf(stream: NodeJS.WriteStream): Output {
  return {
    write: (text) => {
      stream.write(text);
    },
    isTty: stream.isTTY === true,
    columns: stream.columns ?? DEFAULT_COLUMNS,
  };
}

function optionOf(flag: FlagDefinition): Option {
  const value = flag.kind === "bool" ? "" : ` <${flag.value ?? "value"}>`;
  const option = new Option(
    `${flag.short === undefined ? "" : `-${flag.short}, `}--${flag.name}${value}`,
    flag.help,
  );
  // commander reads "--no-x" as the negation of "--x"; docker's "--no-trunc" is a flag of its own.
  option.negate = false;
  if (flag.kind === "list" || flag.kind === "csv") {
    option.argParser((given: string, before: readonly string[] | undefined) => [
      ...(before ?? []),
      ...(flag.kind === "csv" ? given.split(",") : [given]),
    ]);
  }
  return option.hideHelp(flag.isHidden === true);
}

function buildCommand(definition: CommandDefinition, path: readonly string[]): Command {
  const command = new Command(definition.name)
    .description(definition.summary)
    .usage(definition.usage)
    .helpOption("-h, --help", "Show help")
    .helpCommand(false)
    .allowExcessArguments(true)
    .exitOverride()
    .configureOutput({ outputError: () => {} });
  for (const flag of definition.flags) {
    // `-h` belongs to the command where it declares one (run --hostname).
    if (flag.short === "h") command.helpOption("--help", "Show help");
    command.addOption(optionOf(flag));
  }
  for (const alias of definition.aliases ?? []) command.alias(alias);
  for (const inner of definition.commands ?? []) {
    command.addCommand(buildCommand(inner, [...path, inner.name]), { hidden: inner.isHidden === true });
  }
  return command;
}

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
function findTarget(root: CommandDefinition, argv: readonly string[]): Target {
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
      throw new ExitError(
        1,
        `${PROGRAM}: '${path.join(" ")} ${word}' is not a command.\nSee '${name} --help'.\n`,
      );
    }
    target = { definition: inner, path: [...path, inner.name], rest: rest.slice(1) };
  }
}

function readFlags(definition: CommandDefinition, command: Command, falseFlags: readonly string[]): Flags {
  const given = command.opts<Record<string, unknown>>();
  const values = new Map<string, boolean | string | readonly string[]>();
  for (const flag of definition.flags) {
    const name = flag.name.replaceAll(/-(.)/g, (_, char: string) => char.toUpperCase());
    const value = given[name];
    if (value !== undefined) values.set(flag.name, value as boolean | string | readonly string[]);
  }
  for (const name of falseFlags) values.set(name, false);
  return new Flags(values);
}

/** Parses with commander. Undefined: help was printed. */
function parse(target: Target): { flags: Flags; args: readonly string[] } | undefined {
  const { definition, path } = target;
  const name = `${PROGRAM} ${path.join(" ")}`;
  const command = buildCommand(definition, path).name(name);
  command.argument("[args...]", "").usage(definition.usage);
  const { argv, falseFlags } = normalizeArguments(definition, target.rest);
  try {
    // Only this level is parsed here: the subcommands of a group are found by findTarget.
    if (definition.commands !== undefined) {
      if (argv.length === 0) {
        process.stdout.write(helpText(command));
        return undefined;
      }
    }
    command.action(() => {});
    command.configureHelp({ visibleArguments: () => [] });
    command.parse([...argv], { from: "user" });
  } catch (caught) {
    if (!(caught instanceof CommanderError)) throw caught;
    if (caught.code === "commander.helpDisplayed" || caught.code === "commander.help") return undefined;
    const message = caught.message
      .replace(/^error: /, "")
      .replace(/unknown option '([^']*)'/, "unknown flag: $1");
    throw new ExitError(STATUS_BAD_FLAG, `${message}\nSee '${name} --help'.\n`);
  }
  return { flags: readFlags(definition, command, falseFlags), args: command.args };
}

function helpText(command: Command): string {
  return command.configureHelp({ visibleArguments: () => [] }).helpInformation();
}

/** The line(s) for stderr and the exit status of anything thrown. */
export function describeFailure(caught: unknown, isDebug: boolean): { text: string; status: number } {
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

/** Runs `argv` (what stands behind the group's name) and resolves with the exit status. */
export async function runProgram(
  root: CommandDefinition,
  argv: readonly string[],
  rootFlags: Flags,
): Promise<number> {
  const interrupt = new AbortController();
  const onSignal = (): void => {
    if (interrupt.signal.aborted) process.exit(STATUS_INTERRUPTED);
    interrupt.abort();
  };
  process.once("SIGINT", onSignal).once("SIGTERM", onSignal);
  process.stdout.on("error", (caught: NodeJS.ErrnoException) =>
    process.exit(caught.code === "EPIPE" ? 0 : 1),
  );
  try {
    const target = findTarget(root, argv);
    const parsed = parse(target);
    if (parsed === undefined) return 0;
    const { definition, path } = target;
    if (definition.run === undefined) {
      throw new ExitError(1, `${usageLine(path, definition)}\n`);
    }
    checkCount(definition, path, parsed.args.length);
    let client: ApiClient | undefined;
    const context: CommandContext = {
      get client() {
        client ??= new ApiClient(resolveEndpoint(endpointOptions(rootFlags, process.env)));
        return client;
      },
      flags: parsed.flags,
      args: parsed.args,
      out: outputOf(process.stdout),
      err: outputOf(process.stderr),
      env: process.env,
      signal: interrupt.signal,
      rootFlags,
    };
    return (await definition.run(context)) ?? 0;
  } catch (caught) {
    const { text, status } = describeFailure(caught, rootFlags.bool("debug"));
    process.stderr.write(text);
    return status;
  }
}
