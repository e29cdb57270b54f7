/**
 * Makes command lines written for docker's parser (pflag) fit commander: `--bool=false`, `-p=80:80`. Pure. Used by program.ts
 * for the command that is called and by main.ts for the options before it.
 */
import type { CommandDefinition, FlagDefinition } from "./command.ts";

const TRUE_WORDS = new Set(["1", "t", "T", "true", "TRUE", "True"]);
const FALSE_WORDS = new Set(["0", "f", "F", "false", "FALSE", "False"]);

export interface NormalizedArguments {
  readonly argv: readonly string[];
  /** Flags given as `--name=false`. */
  readonly falseFlags: readonly string[];
}

function findFlag(flags: readonly FlagDefinition[], token: string): FlagDefinition | undefined {
  if (token.startsWith("--")) return flags.find((flag) => flag.name === token.slice(2));
  return flags.find((flag) => flag.short === token.slice(1));
}

/** True if the token takes the next one as its value: `--env X`, `-e X`, `-ite X`. */
function takesNext(flags: readonly FlagDefinition[], token: string): boolean {
  if (token.startsWith("--"))
    return !token.includes("=") && (findFlag(flags, token)?.kind ?? "bool") !== "bool";
  for (const [index, char] of Array.from(token.slice(1)).entries()) {
    const flag = flags.find((each) => each.short === char);
    if (flag === undefined) return false;
    if (flag.kind !== "bool") return index === token.length - 2;
  }
  return false;
}

/** `argv` is what stands behind the command's name. */
export function normalizeArguments(
  definition: Pick<CommandDefinition, "flags" | "stopsAtArgument">,
  argv: readonly string[],
): NormalizedArguments {
  const result: string[] = [];
  const falseFlags: string[] = [];
  for (let index = 0; index < argv.length; index += 1) {
    const token = argv[index] ?? "";
    if (token === "--") return { argv: [...result, ...argv.slice(index)], falseFlags };
    if (!token.startsWith("-") || token === "-") {
      if (definition.stopsAtArgument === true)
        return { argv: [...result, "--", ...argv.slice(index)], falseFlags };
      result.push(token);
      continue;
    }
    const [, head = token, value] = /^(--?[^=]+)=(.*)$/s.exec(token) ?? [];
    const flag = findFlag(definition.flags, head);
    if (value !== undefined && flag !== undefined && (head.startsWith("--") || head.length === 2)) {
      if (flag.kind !== "bool") result.push(`--${flag.name}=${value}`);
      else if (TRUE_WORDS.has(value)) result.push(`--${flag.name}`);
      else if (FALSE_WORDS.has(value)) falseFlags.push(flag.name);
      else result.push(token);
      continue;
    }
    result.push(token);
    if (takesNext(definition.flags, token) && index + 1 < argv.length) {
      index += 1;
      result.push(argv[index] ?? "");
    }
  }
  return { argv: result, falseFlags };
}
