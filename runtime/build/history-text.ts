/**
 * How a step is told in an image's history, in the words of Docker's classic builder: variables put in, lists as Go
 * prints them. People and scanners read these lines, so the same Dockerfile should give the same. Pure.
 */
import type { ContainerConfig } from "../../model/engine.ts";
import { argvOf, type ConfigInstruction, DEFAULT_SHELL } from "./config-changes.ts";
import type { CopyInstruction } from "./instructions.ts";
import { expandWord, expandWords, type WordOptions } from "./shell-words.ts";

/** What a COPY or ADD takes, with its digest. */
export interface CopiedThings {
  readonly kind: "file" | "dir" | "multi";
  readonly hash: string;
}

/** Go's %q of a list of strings. */
function quoted(words: readonly string[]): string {
  return `[${words.map((word) => JSON.stringify(word)).join(" ")}]`;
}

function plain(words: readonly string[]): string {
  return `[${words.join(" ")}]`;
}

/** `before`: the config that the step starts from. */
export function stepText(
  instruction: ConfigInstruction,
  before: ContainerConfig,
  words: WordOptions,
): string {
  const { kind } = instruction;
  switch (kind) {
    case "ENV":
    case "LABEL": {
      const pairs = instruction.pairs.map((pair) => pair.map((each) => expandWord(each, words)).join("="));
      return [kind, ...pairs].join(" ");
    }
    case "CMD":
    case "ENTRYPOINT":
      return `${kind} ${quoted(argvOf(instruction.command, before))}`;
    case "EXPOSE":
      // In the order of what was written.
      return `EXPOSE ${[...instruction.words]
        .sort()
        .flatMap((word) => expandWords(word, words))
        .join(" ")}`;
    case "VOLUME":
      return `VOLUME ${plain(instruction.words.map((word) => expandWord(word, words)))}`;
    case "SHELL":
      return `SHELL ${plain(instruction.shell)}`;
    case "USER":
    case "STOPSIGNAL":
    case "WORKDIR":
      return `${kind} ${expandWord(instruction.text, words)}`;
    // Docker prints a structure of its program for this one; what was written says more.
    case "HEALTHCHECK":
    case "ONBUILD":
      return instruction.raw.original;
  }
}

export function copyText(instruction: CopyInstruction, things: CopiedThings, words: WordOptions): string {
  const { kind, chown, destination } = instruction;
  // Without a space, as Docker has it.
  const owner = chown === "" ? "" : `--chown=${expandWord(chown, words)}`;
  return `${kind} ${owner}${things.kind}:${things.hash} in ${expandWord(destination, words)} `;
}

/** A step that runs nothing. Docker puts two spaces before most instructions, one where files or folders are made. */
export function nopText(config: ContainerConfig, text: string): string {
  const space = /^(?:COPY|ADD|WORKDIR) /.test(text) ? " " : "  ";
  return `${(config.Shell ?? DEFAULT_SHELL).join(" ")} #(nop)${space}${text}`;
}
