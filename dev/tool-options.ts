/**
 * The command line of a developer's tool (simulator, benches, chaos runs), on commander. `--help` prints what the tool
 * does and takes; a wrong option or value ends the process with status 2 and says which flag, what it wants and what it got.
 */
import { Command, InvalidArgumentError, Option } from "commander";

const WRONG_USE_STATUS = 2;

type Value = string | number | boolean | readonly (string | number)[] | undefined;

/** One option, of which the tool is given a T. */
export interface ToolOption<T> {
  /** What stands behind the flag in the usage: "<number>"; "" for a switch. */
  readonly placeholder: string;
  readonly about: string;
  /** Throws InvalidArgumentError. Of a switch it is not called. */
  readonly read: (text: string) => T;
  readonly fallback: T;
}

type ToolOptions = Readonly<Record<string, ToolOption<Value>>>;
type Values<Options extends ToolOptions> = {
  readonly [Name in keyof Options]: Options[Name] extends ToolOption<infer T> ? T : never;
};

/** commander puts the flag and what was given before it. */
function wanted(words: string): InvalidArgumentError {
  return new InvalidArgumentError(`Want ${words}.`);
}

/** A whole number of `min` or more. */
export function count<T extends number | undefined>(
  about: string,
  { fallback, min = 1 }: { readonly fallback: T; readonly min?: number },
): ToolOption<number | T> {
  const read = (text: string): number => {
    const value = Number(text);
    if (/^\d+$/.test(text) && Number.isSafeInteger(value) && value >= min) return value;
    throw wanted(`a whole number of ${min} or more`);
  };
  return { placeholder: "<number>", about, read, fallback };
}

/** A number of 0 or more. */
export function quantity<T extends number | undefined>(
  about: string,
  { fallback, unit }: { readonly fallback: T; readonly unit: string },
): ToolOption<number | T> {
  const read = (text: string): number => {
    const value = Number(text);
    if (/^\d/.test(text) && Number.isFinite(value)) return value;
    throw wanted("a number of 0 or more");
  };
  return { placeholder: `<${unit}>`, about, read, fallback };
}

export function text<T extends string | undefined>(
  about: string,
  { fallback, placeholder }: { readonly fallback: T; readonly placeholder: string },
): ToolOption<string | T> {
  return { placeholder, about, read: (value) => value, fallback };
}

/** One of `names`. */
export function choice<const Name extends string, T extends Name | undefined>(
  about: string,
  { fallback, names }: { readonly fallback: T; readonly names: readonly Name[] },
): ToolOption<Name | T> {
  const read = (value: string): Name => {
    const found = names.find((name) => name === value);
    if (found === undefined) throw wanted(`one of ${names.join(", ")}`);
    return found;
  };
  return { placeholder: "<name>", about: `${about}: ${names.join(", ")}`, read, fallback };
}

/** Some of `names`, with commas between them. */
export function choices<const Name extends string>(
  about: string,
  { fallback, names }: { readonly fallback: readonly Name[]; readonly names: readonly Name[] },
): ToolOption<readonly Name[]> {
  const one = choice("", { names, fallback: undefined });
  const read = (value: string): readonly Name[] => value.split(",").flatMap((part) => one.read(part) ?? []);
  return { placeholder: "<names>", about: `${about}, of ${names.join(", ")}`, read, fallback };
}

/** Whole numbers of 1 or more, with commas between them. */
export function counts(
  about: string,
  { fallback }: { readonly fallback: readonly number[] },
): ToolOption<readonly number[]> {
  const one = count("", { fallback: undefined });
  const read = (value: string): readonly number[] => value.split(",").flatMap((part) => one.read(part) ?? []);
  return { placeholder: "<numbers>", about, read, fallback };
}

/** True if it was given. */
export function toggle(about: string): ToolOption<boolean> {
  return { placeholder: "", about, read: () => true, fallback: false };
}

interface Tool {
  /** What is typed to run it. */
  readonly run: string;
  readonly about: string;
}

function commandOf({ about, run }: Tool, usage: string): Command {
  return new Command(run)
    .description(about)
    .usage(usage)
    .allowExcessArguments(false)
    .exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : WRONG_USE_STATUS));
}

/** The words behind a tool that takes no options. `usage` names them: "<server> <name>", or "[runtime...]" for any number. */
export function toolWords(
  tool: Tool,
  usage: string,
  argv: readonly string[] = process.argv.slice(2),
): readonly string[] {
  return commandOf(tool, usage).arguments(usage).parse(argv, { from: "user" }).args;
}

/** The options of `argv`, which are named in camel case here and in kebab case on the command line. */
export function toolOptions<const Options extends ToolOptions>(
  tool: Tool,
  options: Options,
  argv: readonly string[] = process.argv.slice(2),
): Values<Options> {
  const command = commandOf(tool, "[options]");
  for (const [name, { about, fallback, placeholder, read }] of Object.entries(options)) {
    const flag = `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
    const option = new Option(`${flag} ${placeholder}`.trim(), about);
    // commander reads "--no-x" as the negation of "--x".
    option.negate = false;
    if (placeholder !== "" && fallback !== undefined) option.default(fallback, String(fallback));
    if (placeholder !== "") option.argParser(read);
    command.addOption(option);
  }
  const fallbacks = Object.entries(options).map(([name, { fallback }]) => [name, fallback] as const);
  return {
    ...Object.fromEntries(fallbacks),
    ...command.parse(argv, { from: "user" }).opts<Values<Options>>(),
  };
}
