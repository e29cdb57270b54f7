/**
 * Dockerfile text to instructions: directives, continued lines, comments, flags and heredocs. Says nothing about what an
 * instruction means (instructions.ts). Pure.
 */
import { ClusterError } from "../../common/errors.ts";

export interface Heredoc {
  readonly name: string;
  readonly content: string;
  /** False when the name was quoted: variables stay as they are. */
  readonly expands: boolean;
}

export interface RawInstruction {
  /** Upper case. */
  readonly name: string;
  /** `--key=value` (or `--key`) in front of the arguments, in order. */
  readonly flags: readonly (readonly [string, string])[];
  /** What follows name and flags, continued lines joined. */
  readonly args: string;
  /** Name, flags and arguments as written, joined to one line. */
  readonly original: string;
  readonly heredocs: readonly Heredoc[];
  /** 1-based. */
  readonly line: number;
  /** Of its continued lines and heredocs; absent: the same. */
  readonly lastLine?: number;
}

export interface ParsedDockerfile {
  readonly escape: string;
  readonly instructions: readonly RawInstruction[];
  /** Docker's words about what it takes for now. */
  readonly warnings: readonly string[];
}

const DIRECTIVE = /^#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(.+?)\s*$/;
const DIRECTIVES: ReadonlySet<string> = new Set(["escape", "syntax", "check"]);
const HEREDOC_NAMES: ReadonlySet<string> = new Set(["RUN", "COPY", "ADD"]);
const HEREDOC = /(?:^|\s)\d*<<(-?)(["']?)([A-Za-z_][\w.-]*)\2(?=\s|$|[;&|)>])/g;
/** Longer lines are an attack or an accident. */
const DOCKERFILE_BYTES_MAX = 1024 * 1024;

export function dockerfileError(message: string, line?: number): ClusterError {
  const where = line === undefined ? "" : ` line ${line}:`;
  return new ClusterError("invalid_argument", `dockerfile parse error${where} ${message}`, {
    details: line === undefined ? {} : { line },
  });
}

class Lines {
  readonly #lines: readonly string[];
  #next = 0;

  constructor(text: string) {
    this.#lines = text.split(/\r?\n/);
  }

  /** Number of the line that take() returned last. */
  get number(): number {
    return this.#next;
  }

  take(): string | undefined {
    const line = this.#lines[this.#next];
    if (line !== undefined) this.#next++;
    return line;
  }

  peek(): string | undefined {
    return this.#lines[this.#next];
  }
}

function readDirectives(lines: Lines): string {
  let escape = "\\";
  const seen = new Set<string>();
  for (let line = lines.peek(); line !== undefined; line = lines.peek()) {
    const [, key = "", value = ""] = DIRECTIVE.exec(line.trim()) ?? [];
    if (!DIRECTIVES.has(key.toLowerCase())) return escape;
    lines.take();
    if (seen.has(key.toLowerCase()))
      throw dockerfileError(`only one ${key} parser directive can be used`, lines.number);
    seen.add(key.toLowerCase());
    if (key.toLowerCase() !== "escape") continue;
    if (value !== "\\" && value !== "`") {
      throw dockerfileError(`invalid escape token '${value}' does not match \` or \\`, lines.number);
    }
    escape = value;
  }
  return escape;
}

function isComment(line: string): boolean {
  return line.trimStart().startsWith("#");
}

interface LogicalLine {
  readonly text: string;
  readonly hasEmptyLine: boolean;
}

/** One logical line: continued lines joined, comments and empty lines inside left out. */
function readLogicalLine(first: string, lines: Lines, escape: string): LogicalLine {
  const isContinued = (line: string): boolean => line.trimEnd().endsWith(escape);
  const cut = (line: string): string => line.trimEnd().slice(0, -1);
  let text = "";
  let hasEmptyLine = false;
  let line: string | undefined = first.trimStart();
  while (line !== undefined) {
    if (text !== "" && (isComment(line) || line.trim() === "")) {
      hasEmptyLine ||= line.trim() === "";
      line = lines.take();
      continue;
    }
    if (!isContinued(line)) return { text: text + line.trimEnd(), hasEmptyLine };
    text += cut(line);
    line = lines.take();
  }
  return { text, hasEmptyLine };
}

function readHeredocs(text: string, lines: Lines): readonly Heredoc[] {
  const heredocs: Heredoc[] = [];
  for (const [, dash, quote, name = ""] of text.matchAll(HEREDOC)) {
    const start = lines.number;
    const content: string[] = [];
    for (;;) {
      const line = lines.take();
      if (line === undefined) throw dockerfileError(`unterminated heredoc "${name}"`, start);
      const plain = dash === "-" ? line.replace(/^\t+/, "") : line;
      if (plain === name) break;
      content.push(`${plain}\n`);
    }
    heredocs.push({ name, content: content.join(""), expands: quote === "" });
  }
  return heredocs;
}

/** Cuts `--key=value` words off the front. */
function splitFlags(rest: string): Pick<RawInstruction, "flags" | "args"> {
  const flags: (readonly [string, string])[] = [];
  let args = rest;
  for (;;) {
    const match = /^--([a-z][a-z0-9-]*)(?:=((?:"[^"]*"|'[^']*'|[^\s])*))?(?:\s+|$)/i.exec(args);
    if (match === null) {
      // "--" alone ends the flags.
      return { flags, args: args.replace(/^--\s+/, "") };
    }
    const [whole, key = "", value = ""] = match;
    flags.push([key, value.replace(/^(["'])(.*)\1$/, "$2")]);
    args = args.slice(whole.length);
  }
}

export function parseInstruction(text: string, heredocs: readonly Heredoc[], line: number): RawInstruction {
  const [, name = "", rest = ""] = /^(\S+)\s*([\s\S]*)$/.exec(text) ?? [];
  const upper = name.toUpperCase();
  const canHaveFlags = ["ADD", "COPY", "FROM", "HEALTHCHECK", "RUN"].includes(upper);
  const { flags, args } = canHaveFlags ? splitFlags(rest) : { flags: [], args: rest };
  return { name: upper, flags, args: args.trim(), original: text, heredocs, line };
}

/** The name of the instruction that ONBUILD carries counts for heredocs. */
function takesHeredocs(text: string): boolean {
  const words = text.split(/\s+/, 2).map((word) => word.toUpperCase());
  const [first = "", second = ""] = words;
  return HEREDOC_NAMES.has(first === "ONBUILD" ? second : first);
}

function emptyLineWarning(text: string, index: number, all: readonly string[]): readonly string[] {
  return [
    `[WARNING]: Empty continuation line found in:\n    ${text}`,
    ...(index < all.length - 1
      ? []
      : ["[WARNING]: Empty continuation lines will become errors in a future release."]),
  ];
}

export function parseDockerfile(text: string): ParsedDockerfile {
  if (text.length > DOCKERFILE_BYTES_MAX) {
    throw dockerfileError(`file must have at most ${DOCKERFILE_BYTES_MAX} bytes, got ${text.length}`);
  }
  const lines = new Lines(text.replace(/^\uFEFF/, ""));
  const escape = readDirectives(lines);
  const instructions: RawInstruction[] = [];
  const emptyInside: string[] = [];
  for (let line = lines.take(); line !== undefined; line = lines.take()) {
    if (line.trim() === "" || isComment(line)) continue;
    const start = lines.number;
    const { text: joined, hasEmptyLine } = readLogicalLine(line, lines, escape);
    if (joined.trim() === "") continue;
    if (hasEmptyLine) emptyInside.push(joined.trim());
    const heredocs = takesHeredocs(joined) ? readHeredocs(joined, lines) : [];
    const instruction = parseInstruction(joined.trim(), heredocs, start);
    instructions.push(lines.number === start ? instruction : { ...instruction, lastLine: lines.number });
  }
  if (instructions.length === 0) throw new ClusterError("invalid_argument", "file with no instructions");
  return { escape, instructions, warnings: emptyInside.flatMap(emptyLineWarning) };
}
