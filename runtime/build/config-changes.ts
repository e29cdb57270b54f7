/**
 * What instructions do to an image's config: ENV, CMD, LABEL and so on. The builder applies them step by step, `commit -c`
 * and `import -c` all at once. Pure.
 */
import path from "node:path";
import { ClusterError } from "../../common/errors.ts";
import type { ContainerConfig } from "../../model/engine.ts";
import type { HealthConfig } from "../../model/specs.ts";
import { parseSignal } from "../containers/signals.ts";
import { parseDockerfile } from "./dockerfile-parser.ts";
import {
  toInstruction,
  type CommandLine,
  type HealthcheckInstruction,
  type Instruction,
} from "./instructions.ts";
import { expandWord, expandWords, type WordOptions } from "./shell-words.ts";

export const DEFAULT_SHELL: readonly string[] = ["/bin/sh", "-c"];

/** Instructions that change nothing but the config. */
export type ConfigInstruction = Exclude<
  Instruction,
  { readonly kind: "FROM" | "ARG" | "RUN" | "COPY" | "ADD" | "MAINTAINER" }
>;

function isConfigInstruction(instruction: Instruction): instruction is ConfigInstruction {
  return !["FROM", "ARG", "RUN", "COPY", "ADD", "MAINTAINER"].includes(instruction.kind);
}

/** `list` of K=V with `key` set, in its old place if it had one. */
function withEnv(list: readonly string[], key: string, value: string): readonly string[] {
  const entry = `${key}=${value}`;
  const index = list.findIndex((each) => each.startsWith(`${key}=`));
  return index < 0 ? [...list, entry] : list.toSpliced(index, 1, entry);
}

export function argvOf(command: CommandLine, config: ContainerConfig): readonly string[] {
  return command.isShell ? [...(config.Shell ?? DEFAULT_SHELL), ...command.args] : command.args;
}

const PORT = /^(\d+)(?:-(\d+))?(?:\/(tcp|udp|sctp))?$/i;
const PORTS_MAX = 65_535;

/** "80", "53/udp", "8000-8002/tcp" as keys of ExposedPorts. */
export function exposedPorts(text: string): readonly string[] {
  const [, first = "", last = first, protocol = "tcp"] = PORT.exec(text) ?? [];
  const from = Number(first);
  const to = Number(last === "" ? first : last);
  if (first === "" || from > to || to > PORTS_MAX) {
    throw new ClusterError("invalid_argument", `invalid containerPort: ${text}`);
  }
  return Array.from({ length: to - from + 1 }, (_, index) => `${from + index}/${protocol.toLowerCase()}`);
}

function healthConfig(instruction: HealthcheckInstruction): HealthConfig {
  const { command, intervals, retries } = instruction;
  if (command === undefined) return { Test: ["NONE"] };
  const test = command.isShell ? ["CMD-SHELL", ...command.args] : ["CMD", ...command.args];
  const optional = {
    Interval: intervals.interval,
    Timeout: intervals.timeout,
    StartPeriod: intervals["start-period"],
    StartInterval: intervals["start-interval"],
    Retries: retries,
  };
  const set = Object.fromEntries(Object.entries(optional).filter(([, value]) => value !== 0));
  return { Test: test, ...set };
}

function workingDirectory(text: string, config: ContainerConfig): string {
  const joined = path.posix.isAbsolute(text) ? text : path.posix.join("/", config.WorkingDir ?? "", text);
  const clean = path.posix.normalize(joined);
  return clean.length > 1 ? clean.replace(/\/$/, "") : clean;
}

function stopSignal(text: string): string {
  parseSignal(text);
  return text;
}

function pairs(
  instruction: Extract<Instruction, { readonly kind: "ENV" | "LABEL" }>,
  words: WordOptions,
): readonly (readonly [string, string])[] {
  return instruction.pairs.map(([key, value]) => [expandWord(key, words), expandWord(value, words)]);
}

/** The config after `instruction`. `words` gives variables and escape. */
export function applyConfig(
  config: ContainerConfig,
  instruction: ConfigInstruction,
  words: WordOptions,
): ContainerConfig {
  switch (instruction.kind) {
    case "ENV": {
      let env = config.Env ?? [];
      for (const [key, value] of pairs(instruction, words)) env = withEnv(env, key, value);
      return { ...config, Env: env };
    }
    case "LABEL":
      return { ...config, Labels: { ...config.Labels, ...Object.fromEntries(pairs(instruction, words)) } };
    case "CMD":
      return { ...config, Cmd: argvOf(instruction.command, config) };
    case "ENTRYPOINT":
      return { ...config, Entrypoint: argvOf(instruction.command, config) };
    case "WORKDIR":
      return { ...config, WorkingDir: workingDirectory(expandWord(instruction.text, words), config) };
    case "USER":
      return { ...config, User: expandWord(instruction.text, words) };
    case "STOPSIGNAL":
      return { ...config, StopSignal: stopSignal(expandWord(instruction.text, words)) };
    case "EXPOSE": {
      const ports = instruction.words.flatMap((word) => expandWords(word, words)).flatMap(exposedPorts);
      return { ...config, ExposedPorts: { ...config.ExposedPorts, ...emptyObjects(ports) } };
    }
    case "VOLUME": {
      const paths = instruction.words.map((word) => expandWord(word, words));
      if (paths.includes(""))
        throw new ClusterError("invalid_argument", "VOLUME specified can not be an empty string");
      return { ...config, Volumes: { ...config.Volumes, ...emptyObjects(paths) } };
    }
    case "SHELL":
      return { ...config, Shell: instruction.shell };
    case "HEALTHCHECK":
      return { ...config, Healthcheck: healthConfig(instruction) };
    case "ONBUILD":
      return { ...config, OnBuild: [...(config.OnBuild ?? []), instruction.trigger] };
  }
}

function emptyObjects(keys: readonly string[]): Readonly<Record<string, object>> {
  return Object.fromEntries(keys.map((key) => [key, {}]));
}

const COMMIT_KINDS: ReadonlySet<string> = new Set([
  "CMD",
  "ENTRYPOINT",
  "ENV",
  "EXPOSE",
  "HEALTHCHECK",
  "LABEL",
  "ONBUILD",
  "SHELL",
  "STOPSIGNAL",
  "USER",
  "VOLUME",
  "WORKDIR",
]);

/** `-c` of commit and import: Dockerfile lines applied to `config`. Throws invalid_argument in Docker's words. */
export function applyChanges(config: ContainerConfig, changes: readonly string[]): ContainerConfig {
  const text = changes.join("\n");
  if (text.trim() === "") return config;
  const parsed = parseDockerfile(text);
  let result = config;
  for (const raw of parsed.instructions) {
    const instruction = toInstruction(raw, parsed.escape);
    if (!isConfigInstruction(instruction) || !COMMIT_KINDS.has(instruction.kind)) {
      throw new ClusterError("invalid_argument", `${raw.name.toLowerCase()} is not a valid change command`);
    }
    const variables = new Map((result.Env ?? []).map((each) => splitEnv(each)));
    result = applyConfig(result, instruction, { escape: parsed.escape, variables });
  }
  return result;
}

export function splitEnv(entry: string): readonly [string, string] {
  const equals = entry.indexOf("=");
  return equals < 0 ? [entry, ""] : [entry.slice(0, equals), entry.slice(equals + 1)];
}
