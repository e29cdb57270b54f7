/** The help page of a command, rendered by commander from its declaration. Loaded only when help is asked for. */
import { Command, Option } from "commander";
import type { CommandDefinition, FlagDefinition } from "./command.ts";

function optionOf(flag: FlagDefinition): Option {
  const value = flag.kind === "bool" ? "" : ` <${flag.value ?? "value"}>`;
  const option = new Option(
    `${flag.short === undefined ? "" : `-${flag.short}, `}--${flag.name}${value}`,
    flag.help,
  );
  // commander reads "--no-x" as the negation of "--x"; docker's "--no-trunc" is a flag of its own.
  option.negate = false;
  return option.hideHelp(flag.isHidden === true);
}

function buildCommand(definition: CommandDefinition): Command {
  const command = new Command(definition.name)
    .description(definition.summary)
    .usage(definition.usage)
    .helpOption("-h, --help", "Show help")
    .helpCommand(false);
  for (const flag of definition.flags) {
    // `-h` belongs to the command where it declares one (run --hostname).
    if (flag.short === "h") command.helpOption("--help", "Show help");
    command.addOption(optionOf(flag));
  }
  for (const alias of definition.aliases ?? []) command.alias(alias);
  for (const inner of definition.commands ?? []) {
    command.addCommand(buildCommand(inner), { hidden: inner.isHidden === true });
  }
  return command;
}

/** `fullName`: the words that call it, "shoal service ls". */
export function helpText(definition: CommandDefinition, fullName: string): string {
  return buildCommand(definition)
    .name(fullName)
    .configureHelp({ visibleArguments: () => [] })
    .helpInformation();
}
