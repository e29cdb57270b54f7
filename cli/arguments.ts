/**
 * Reads a command's flags and arguments the way docker's parser (pflag) does: `--name=value`, `--name value`, `-n value`,
 * `-nvalue`, clusters (`-it`), `--bool=false`, `--` ends the flags, flags may stand behind arguments. Pure; used by
 * program.ts for the command that is called. Every start pays for it, so it loads nothing.
 */
import type { CommandDefinition, FlagDefinition } from "./command.ts";
import { Flags } from "./command.ts";

const TRUE_WORDS = new Set(["1", "t", "T", "true", "TRUE", "True"]);
const FALSE_WORDS = new Set(["0", "f", "F", "false", "FALSE", "False"]);

export type ParsedArguments =
  | { readonly kind: "command"; readonly flags: Flags; readonly args: readonly string[] }
  | { readonly kind: "help" }
  /** A flag that does not exist, lacks its value or has a bad one; the text is docker's. */
  | {
      readonly kind: "refused";
      readonly message: string;
      /** Name of a long flag that does not exist. */
      readonly unknown?: string;
    };

/** What one token asked for; thrown, so that the readers below stay straight. */
class Refusal extends Error {
  readonly unknown: string | undefined;

  constructor(message: string, unknown?: string) {
    super(message);
    this.unknown = unknown;
  }
}
class HelpRequest extends Error {}

class ArgumentReader {
  readonly #definition: Pick<CommandDefinition, "flags" | "stopsAtArgument">;
  readonly #argv: readonly string[];
  readonly #values = new Map<string, boolean | string | readonly string[]>();
  readonly #args: string[] = [];
  #index = 0;

  constructor(definition: Pick<CommandDefinition, "flags" | "stopsAtArgument">, argv: readonly string[]) {
    this.#definition = definition;
    this.#argv = argv;
  }

  read(): { flags: Flags; args: readonly string[] } {
    while (this.#index < this.#argv.length) {
      const token = this.#argv[this.#index] ?? "";
      this.#index += 1;
      if (token === "--") return this.#end(this.#argv.slice(this.#index));
      if (token.startsWith("--")) this.#readLong(token);
      else if (token.startsWith("-") && token !== "-") this.#readShort(token);
      else if (this.#definition.stopsAtArgument === true) return this.#end(this.#argv.slice(this.#index - 1));
      else this.#args.push(token);
    }
    return this.#end([]);
  }

  #end(rest: readonly string[]): { flags: Flags; args: readonly string[] } {
    return { flags: new Flags(this.#values), args: [...this.#args, ...rest] };
  }

  #readLong(token: string): void {
    const cut = token.indexOf("=");
    const name = cut < 0 ? token.slice(2) : token.slice(2, cut);
    const flag = this.#definition.flags.find((each) => each.name === name);
    if (flag === undefined) {
      if (token === "--help") throw new HelpRequest();
      throw new Refusal(`unknown flag: --${name}`, name);
    }
    this.#take(flag, cut < 0 ? undefined : token.slice(cut + 1), `--${name}`);
  }

  #readShort(token: string): void {
    for (let at = 1; at < token.length; at += 1) {
      const letter = token[at] ?? "";
      const flag = this.#definition.flags.find((each) => each.short === letter);
      if (flag === undefined) {
        if (letter === "h") throw new HelpRequest();
        throw new Refusal(`unknown shorthand flag: '${letter}' in ${token}`);
      }
      const glued = token.slice(at + 1);
      if (glued.startsWith("=")) return this.#take(flag, glued.slice(1), `-${letter}, --${flag.name}`);
      if (flag.kind !== "bool")
        return this.#take(flag, glued === "" ? undefined : glued, `'${letter}' in ${token}`);
      this.#values.set(flag.name, true);
    }
  }

  /** `shown`: how messages name the flag. */
  #take(flag: FlagDefinition, glued: string | undefined, shown: string): void {
    if (flag.kind === "bool") {
      const word = glued ?? "true";
      if (!TRUE_WORDS.has(word) && !FALSE_WORDS.has(word)) {
        throw new Refusal(`invalid argument "${word}" for "${shown}" flag: expected true or false`);
      }
      this.#values.set(flag.name, TRUE_WORDS.has(word));
      return;
    }
    const value = glued ?? this.#argv[this.#index];
    if (value === undefined) throw new Refusal(`flag needs an argument: ${shown}`);
    if (glued === undefined) this.#index += 1;
    if (flag.kind === "string") {
      this.#values.set(flag.name, value);
      return;
    }
    const before = this.#values.get(flag.name);
    const given = flag.kind === "csv" ? value.split(",") : [value];
    this.#values.set(flag.name, [...(Array.isArray(before) ? (before as readonly string[]) : []), ...given]);
  }
}

/** `argv` is what stands behind the command's name. */
export function parseArguments(
  definition: Pick<CommandDefinition, "flags" | "stopsAtArgument">,
  argv: readonly string[],
): ParsedArguments {
  try {
    return { kind: "command", ...new ArgumentReader(definition, argv).read() };
  } catch (caught) {
    if (caught instanceof HelpRequest) return { kind: "help" };
    if (caught instanceof Refusal) {
      const { message, unknown } = caught;
      return { kind: "refused", message, ...(unknown === undefined ? {} : { unknown }) };
    }
    throw caught;
  }
}
