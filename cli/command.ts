/**
 * How a command is declared: name, arguments, flags and what it runs. program.ts runs declarations;
 * completion and help are made from the same data. Flags follow pflag: `--bool=false`, repeated lists, `-it`, `--` ends.
 */
import type { ApiClient } from "./client/api-client.ts";

export interface FlagDefinition {
  /** Without the dashes. */
  readonly name: string;
  readonly short?: string;
  /** `list` may be given often; `csv` too, and each value is cut at commas. */
  readonly kind: "bool" | "string" | "list" | "csv";
  /** Name of the value in help. */
  readonly value?: string;
  readonly help: string;
  readonly isHidden?: boolean;
}

/** Values that were given; a flag that was not given is absent, so that updates change only what was asked. */
export class Flags {
  readonly #values: ReadonlyMap<string, boolean | string | readonly string[]>;

  constructor(values: ReadonlyMap<string, boolean | string | readonly string[]>) {
    this.#values = values;
  }

  has(name: string): boolean {
    return this.#values.has(name);
  }

  /** True if any of the names was given. */
  hasAny(...names: readonly string[]): boolean {
    return names.some((name) => this.#values.has(name));
  }

  bool(name: string): boolean {
    return this.#values.get(name) === true;
  }

  string(name: string): string | undefined {
    const value = this.#values.get(name);
    return typeof value === "string" ? value : undefined;
  }

  list(name: string): readonly string[] {
    const value = this.#values.get(name);
    return Array.isArray(value) ? (value as readonly string[]) : [];
  }
}

export interface Output {
  write(text: string): void;
  readonly isTty: boolean;
  readonly columns: number;
}

export interface CommandContext {
  readonly client: ApiClient;
  readonly flags: Flags;
  readonly args: readonly string[];
  readonly out: Output;
  readonly err: Output;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Aborted by SIGINT or SIGTERM. */
  readonly signal: AbortSignal;
  /** Options before the command, for those that hand them on. */
  readonly rootFlags: Flags;
}

export interface CommandDefinition {
  readonly name: string;
  readonly aliases?: readonly string[];
  /** What stands behind the name in the usage line: "[OPTIONS] SERVICE [SERVICE...]". */
  readonly usage: string;
  readonly summary: string;
  readonly argsMin: number;
  /** Absent: no upper bound. */
  readonly argsMax?: number;
  /** Everything from the first argument on belongs to the arguments (`run IMAGE ls -l`). */
  readonly stopsAtArgument?: boolean;
  readonly flags: readonly FlagDefinition[];
  /** Subcommands; then `run` is absent. */
  readonly commands?: readonly CommandDefinition[];
  /** The exit status; nothing is 0. */
  readonly run?: (context: CommandContext) => Promise<number | void>;
  readonly isHidden?: boolean;
}

/** Ends the program with `status`; the text, if any, goes to stderr as it is. */
export class ExitError extends Error {
  override readonly name = "ExitError";
  readonly status: number;

  constructor(status: number, message = "") {
    super(message);
    this.status = status;
  }
}

export const bool = (name: string, help: string, short?: string): FlagDefinition => ({
  name,
  kind: "bool",
  help,
  ...(short === undefined ? {} : { short }),
});
export const text = (name: string, value: string, help: string, short?: string): FlagDefinition => ({
  name,
  kind: "string",
  value,
  help,
  ...(short === undefined ? {} : { short }),
});
export const list = (name: string, value: string, help: string, short?: string): FlagDefinition => ({
  name,
  kind: "list",
  value,
  help,
  ...(short === undefined ? {} : { short }),
});

export const csv = (name: string, value: string, help: string, short?: string): FlagDefinition => ({
  ...list(name, value, help, short),
  kind: "csv",
});

export const FORMAT_FLAG: FlagDefinition = text(
  "format",
  "string",
  "Print with a Go template, 'table TEMPLATE', 'table' or 'json'",
);
export const INSPECT_FORMAT_FLAG: FlagDefinition = text(
  "format",
  "string",
  "Print with a Go template or 'json'",
  "f",
);
export const FILTER_FLAG: FlagDefinition = list("filter", "key=value", "Show only what matches", "f");
export const QUIET_FLAG: FlagDefinition = bool("quiet", "Only show IDs", "q");
export const NO_TRUNC_FLAG: FlagDefinition = bool("no-trunc", "Don't cut long values");
export const DETACH_FLAG: FlagDefinition = bool("detach", "Return at once instead of waiting", "d");
