/**
 * What each Dockerfile instruction says, as exact shapes, variables not yet put in. The words of errors are Docker's where
 * people search for them. Pure.
 */
import { ClusterError } from "../../common/errors.ts";
import type { Heredoc, RawInstruction } from "./dockerfile-parser.ts";
import { dockerfileError, parseInstruction } from "./dockerfile-parser.ts";
import { parseRunMount, type WrittenMount } from "./run-mounts.ts";
import { splitWords } from "./shell-words.ts";

/** Exec form: `args` is the program's argv. Shell form: one element, for the shell. */
export interface CommandLine {
  readonly isShell: boolean;
  readonly args: readonly string[];
}

interface Base {
  readonly raw: RawInstruction;
}

export interface FromInstruction extends Base {
  readonly kind: "FROM";
  readonly image: string;
  /** Lower case, "" if unnamed. */
  readonly stageName: string;
  readonly platform: string;
}

export interface PairsInstruction extends Base {
  readonly kind: "ENV" | "LABEL";
  readonly pairs: readonly (readonly [string, string])[];
}

export interface ArgInstruction extends Base {
  readonly kind: "ARG";
  /** Value undefined: declared without a default. */
  readonly pairs: readonly (readonly [string, string | undefined])[];
}

/** A document that names its own interpreter: a file that the command runs. */
export interface RunScript {
  readonly name: string;
  readonly content: string;
}

export interface RunInstruction extends Base {
  readonly kind: "RUN";
  readonly command: CommandLine;
  readonly script: RunScript | undefined;
  /** "" for the build's own. */
  readonly network: string;
  readonly mounts: readonly WrittenMount[];
}

export interface CommandInstruction extends Base {
  readonly kind: "CMD" | "ENTRYPOINT";
  readonly command: CommandLine;
}

export interface CopyInstruction extends Base {
  readonly kind: "COPY" | "ADD";
  readonly sources: readonly string[];
  readonly destination: string;
  readonly from: string;
  readonly chown: string;
  readonly chmod: string;
  readonly excludes: readonly string[];
  /** Of COPY: the folders above a source come too. */
  readonly keepsParents: boolean;
  /** Of ADD: the digest that the download has to have; "" for any. */
  readonly checksum: string;
}

export interface TextInstruction extends Base {
  readonly kind: "WORKDIR" | "USER" | "STOPSIGNAL";
  readonly text: string;
}

export interface MaintainerInstruction extends Base {
  readonly kind: "MAINTAINER";
  readonly text: string;
}

export interface WordsInstruction extends Base {
  readonly kind: "EXPOSE" | "VOLUME";
  readonly words: readonly string[];
}

export interface ShellInstruction extends Base {
  readonly kind: "SHELL";
  readonly shell: readonly string[];
}

export interface HealthcheckInstruction extends Base {
  readonly kind: "HEALTHCHECK";
  /** undefined: NONE. */
  readonly command: CommandLine | undefined;
  readonly intervals: Readonly<Record<"interval" | "timeout" | "start-period" | "start-interval", number>>;
  readonly retries: number;
}

export interface OnbuildInstruction extends Base {
  readonly kind: "ONBUILD";
  readonly trigger: string;
}

export type Instruction =
  | FromInstruction
  | PairsInstruction
  | ArgInstruction
  | RunInstruction
  | CommandInstruction
  | CopyInstruction
  | TextInstruction
  | MaintainerInstruction
  | WordsInstruction
  | ShellInstruction
  | HealthcheckInstruction
  | OnbuildInstruction;

function needsArguments(
  raw: RawInstruction,
  count: "exactly one" | "at least one" | "at least two",
): ClusterError {
  const nouns = { "exactly one": "argument", "at least one": "argument", "at least two": "arguments" };
  return dockerfileError(`${raw.name} requires ${count} ${nouns[count]}`, raw.line);
}

const REPEATED_FLAGS: ReadonlySet<string> = new Set(["exclude", "mount"]);

function takeFlags(raw: RawInstruction, known: readonly string[]): ReadonlyMap<string, readonly string[]> {
  const flags = new Map<string, string[]>();
  for (const [key, value] of raw.flags) {
    if (!known.includes(key)) throw dockerfileError(`unknown flag: --${key}`, raw.line);
    const values = flags.get(key) ?? [];
    if (values.length > 0 && !REPEATED_FLAGS.has(key))
      throw dockerfileError(`duplicate flag specified: ${key}`, raw.line);
    flags.set(key, [...values, value]);
  }
  return flags;
}

/** A JSON list of strings, or undefined: then the text is for the shell. */
function parseJsonList(text: string): readonly string[] | undefined {
  if (!text.trimStart().startsWith("[")) return undefined;
  try {
    const value: unknown = JSON.parse(text);
    if (Array.isArray(value) && value.every((each) => typeof each === "string"))
      return value as readonly string[];
    return undefined;
  } catch {
    return undefined;
  }
}

function commandLine(text: string): CommandLine {
  const list = parseJsonList(text);
  return list === undefined ? { isShell: true, args: [text] } : { isShell: false, args: list };
}

/** `k=v k2="v 2"`, or the old form `k the rest`. */
function parsePairs(raw: RawInstruction, escape: string): readonly (readonly [string, string])[] {
  if (raw.args === "") throw needsArguments(raw, "at least one");
  const words = splitWords(raw.args, escape);
  const first = words[0] ?? "";
  if (!first.includes("=")) {
    const value = raw.args.slice(first.length).trim();
    if (value === "") throw dockerfileError(`${raw.name} must have two arguments`, raw.line);
    return [[first, value]];
  }
  return words.map((word) => {
    const equals = word.indexOf("=");
    if (equals < 0) {
      throw dockerfileError(
        `Syntax error - can't find = in ${JSON.stringify(word)}. Must be of the form: name=value`,
        raw.line,
      );
    }
    if (equals === 0) throw dockerfileError(`${raw.name} names can not be blank`, raw.line);
    return [word.slice(0, equals), word.slice(equals + 1)];
  });
}

const STAGE_NAME = /^[a-z][a-z0-9-_.]*$/;

function parseFrom(raw: RawInstruction): FromInstruction {
  const flags = takeFlags(raw, ["platform"]);
  const words = raw.args.split(/\s+/).filter((word) => word !== "");
  const [image = "", as = "", name = ""] = words;
  const isNamed = words.length === 3 && as.toUpperCase() === "AS";
  if (words.length !== 1 && !isNamed) {
    throw dockerfileError("FROM requires either one or three arguments", raw.line);
  }
  if (isNamed && !STAGE_NAME.test(name.toLowerCase())) {
    throw dockerfileError(
      `invalid name for build stage: "${name}", name can't start with a number or contain symbols`,
      raw.line,
    );
  }
  return {
    kind: "FROM",
    raw,
    image,
    stageName: name.toLowerCase(),
    platform: flags.get("platform")?.[0] ?? "",
  };
}

function parseArg(raw: RawInstruction, escape: string): ArgInstruction {
  const words = splitWords(raw.args, escape);
  if (words.length === 0) throw needsArguments(raw, "at least one");
  const pairs = words.map((word) => {
    const equals = word.indexOf("=");
    if (equals === 0) throw dockerfileError("ARG names can not be blank", raw.line);
    return equals < 0
      ? ([word, undefined] as const)
      : ([word.slice(0, equals), word.slice(equals + 1)] as const);
  });
  return { kind: "ARG", raw, pairs };
}

/** Where BuildKit puts a document that is a program of its own, too. */
export const SCRIPT_FOLDER = "/dev/pipes";

/**
 * The command of a RUN with its heredocs: a body alone is the script, run by what its first line names if it names something;
 * else the shell gets it as it was written.
 */
function runCommand(raw: RawInstruction): Pick<RunInstruction, "command" | "script"> {
  if (raw.heredocs.length === 0) return { command: commandLine(raw.args), script: undefined };
  const isAlone = raw.heredocs.length === 1 && /^<<-?["']?[\w.-]+["']?$/.test(raw.args.trim());
  const only = raw.heredocs[0];
  if (isAlone && only !== undefined) {
    const { name, content } = only;
    if (!content.startsWith("#!")) return { command: { isShell: true, args: [content] }, script: undefined };
    return { command: { isShell: true, args: [`${SCRIPT_FOLDER}/${name}`] }, script: { name, content } };
  }
  const bodies = raw.heredocs.map((each: Heredoc) => `\n${each.content}${each.name}`).join("");
  const args = [raw.args.replace(/<<-/g, "<<") + bodies];
  return { command: { isShell: true, args }, script: undefined };
}

function parseRun(raw: RawInstruction): RunInstruction {
  const flags = takeFlags(raw, ["network", "mount", "security"]);
  if ((flags.get("security")?.[0] ?? "sandbox") !== "sandbox") {
    throw new ClusterError(
      "invalid_argument",
      "the --security option requires BuildKit. Refer to https://docs.docker.com/go/buildkit/ to learn how to " +
        "build images with BuildKit enabled",
    );
  }
  const mounts = (flags.get("mount") ?? []).map((text) => parseRunMount(text, raw.line));
  if (raw.args === "") throw needsArguments(raw, "at least one");
  const network = flags.get("network")?.[0] ?? "";
  if (!["", "default", "none", "host"].includes(network)) {
    throw dockerfileError(`unsupported network mode "${network}"`, raw.line);
  }
  return { kind: "RUN", raw, ...runCommand(raw), network, mounts };
}

/** A flag that needs no value: "--parents", "--parents=false". */
function isSet(raw: RawInstruction, flags: ReadonlyMap<string, readonly string[]>, key: string): boolean {
  const value = flags.get(key)?.[0];
  if (value === undefined || value === "false") return false;
  if (value === "" || value === "true") return true;
  throw dockerfileError(`expecting boolean value for flag ${key}, not: ${value}`, raw.line);
}

function parseCopy(raw: RawInstruction, escape: string, kind: "COPY" | "ADD"): CopyInstruction {
  const known =
    kind === "COPY"
      ? ["from", "chown", "chmod", "link", "exclude", "parents"]
      : ["chown", "chmod", "link", "exclude", "checksum"];
  const flags = takeFlags(raw, known);
  const words = parseJsonList(raw.args) ?? splitWords(raw.args, escape);
  if (words.length === 0) throw needsArguments(raw, "at least two");
  if (words.length === 1) {
    const why =
      "requires at least two arguments, but only one was provided. Destination could not be determined";
    throw dockerfileError(`${raw.name} ${why}`, raw.line);
  }
  return {
    kind,
    raw,
    sources: words.slice(0, -1),
    destination: words.at(-1) ?? "",
    from: flags.get("from")?.[0] ?? "",
    chown: flags.get("chown")?.[0] ?? "",
    chmod: flags.get("chmod")?.[0] ?? "",
    excludes: flags.get("exclude") ?? [],
    keepsParents: isSet(raw, flags, "parents"),
    checksum: flags.get("checksum")?.[0] ?? "",
  };
}

const DURATION_NS: Readonly<Record<string, number>> = {
  ns: 1,
  us: 1e3,
  µs: 1e3,
  ms: 1e6,
  s: 1e9,
  m: 60e9,
  h: 3600e9,
};

/** Go's duration text in nanoseconds. */
export function parseDuration(text: string): number | undefined {
  if (text === "0") return 0;
  if (!/^(?:\d+(?:\.\d*)?(?:ns|us|µs|ms|s|m|h))+$/.test(text)) return undefined;
  let total = 0;
  for (const [, count = "", unit = ""] of text.matchAll(/(\d+(?:\.\d*)?)(ns|us|µs|ms|s|m|h)/g)) {
    total += Number(count) * (DURATION_NS[unit] ?? 0);
  }
  return Math.round(total);
}

function healthDuration(
  raw: RawInstruction,
  flags: ReadonlyMap<string, readonly string[]>,
  key: string,
): number {
  const text = flags.get(key)?.[0];
  if (text === undefined) return 0;
  const duration = parseDuration(text);
  if (duration === undefined)
    throw dockerfileError(`time: invalid duration "${text}" for --${key}`, raw.line);
  if (duration !== 0 && duration < 1e6)
    throw dockerfileError(`Interval "${key}" cannot be less than 1ms`, raw.line);
  return duration;
}

function parseHealthcheck(raw: RawInstruction): HealthcheckInstruction {
  const flags = takeFlags(raw, ["interval", "timeout", "start-period", "start-interval", "retries"]);
  const [, type = "", rest = ""] = /^(\S*)\s*([\s\S]*)$/.exec(raw.args) ?? [];
  const retriesText = flags.get("retries")?.[0] ?? "0";
  const retries = Number(retriesText);
  if (!Number.isInteger(retries) || retries < 0) {
    throw dockerfileError(`--retries must be at least 1 (not ${retriesText})`, raw.line);
  }
  const base = {
    kind: "HEALTHCHECK",
    raw,
    retries,
    intervals: {
      interval: healthDuration(raw, flags, "interval"),
      timeout: healthDuration(raw, flags, "timeout"),
      "start-period": healthDuration(raw, flags, "start-period"),
      "start-interval": healthDuration(raw, flags, "start-interval"),
    },
  } as const;
  switch (type.toUpperCase()) {
    case "NONE":
      if (rest !== "") throw dockerfileError("HEALTHCHECK NONE takes no arguments", raw.line);
      return { ...base, command: undefined };
    case "CMD":
      if (rest === "") throw dockerfileError("Missing command after HEALTHCHECK CMD", raw.line);
      return { ...base, command: commandLine(rest) };
    case "":
      throw needsArguments(raw, "at least one");
    default:
      throw dockerfileError(`Unknown type ${JSON.stringify(type)} in HEALTHCHECK (try CMD)`, raw.line);
  }
}

function parseOnbuild(raw: RawInstruction, escape: string): OnbuildInstruction {
  if (raw.args === "") throw needsArguments(raw, "at least one");
  const trigger = parseInstruction(raw.args, raw.heredocs, raw.line);
  if (trigger.name === "ONBUILD") {
    throw dockerfileError("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed", raw.line);
  }
  if (trigger.name === "FROM" || trigger.name === "MAINTAINER") {
    throw dockerfileError(`${trigger.name} isn't allowed as an ONBUILD trigger`, raw.line);
  }
  // Must make sense now, not only when it runs.
  toInstruction(trigger, escape);
  return { kind: "ONBUILD", raw, trigger: raw.args };
}

function oneText(raw: RawInstruction): string {
  if (raw.args === "") throw needsArguments(raw, "exactly one");
  return raw.args;
}

export function toInstruction(raw: RawInstruction, escape: string): Instruction {
  switch (raw.name) {
    case "FROM":
      return parseFrom(raw);
    case "ENV":
    case "LABEL":
      return { kind: raw.name, raw, pairs: parsePairs(raw, escape) };
    case "ARG":
      return parseArg(raw, escape);
    case "RUN":
      return parseRun(raw);
    case "CMD":
    case "ENTRYPOINT":
      return {
        kind: raw.name,
        raw,
        command: raw.args === "" ? { isShell: false, args: [] } : commandLine(raw.args),
      };
    case "COPY":
    case "ADD":
      return parseCopy(raw, escape, raw.name);
    case "WORKDIR":
    case "USER":
    case "STOPSIGNAL":
      return { kind: raw.name, raw, text: oneText(raw) };
    case "MAINTAINER":
      return { kind: "MAINTAINER", raw, text: oneText(raw) };
    case "EXPOSE":
    case "VOLUME": {
      const list = raw.name === "VOLUME" ? parseJsonList(raw.args) : undefined;
      const words = list ?? splitWords(raw.args, escape);
      if (words.length === 0) throw needsArguments(raw, "at least one");
      return { kind: raw.name, raw, words };
    }
    case "SHELL": {
      const shell = parseJsonList(raw.args);
      if (shell === undefined)
        throw dockerfileError("SHELL requires the arguments to be in JSON form", raw.line);
      if (shell.length === 0) throw needsArguments(raw, "at least one");
      return { kind: "SHELL", raw, shell };
    }
    case "HEALTHCHECK":
      return parseHealthcheck(raw);
    case "ONBUILD":
      return parseOnbuild(raw, escape);
    default:
      throw dockerfileError(`unknown instruction: ${raw.name}`, raw.line);
  }
}
