/**
 * Variables in Compose files: $NAME, ${NAME}, ${NAME:-default}, ${NAME-default}, ${NAME:?error}, ${NAME?error},
 * ${NAME:+value}, ${NAME+value}, nested in their defaults, and $$ for a dollar sign. Also reads .env files. Pure.
 */

const NAME = /[A-Za-z_][A-Za-z0-9_]*/y;

interface Cursor {
  readonly text: string;
  index: number;
}

function readName(cursor: Cursor): string {
  NAME.lastIndex = cursor.index;
  const name = NAME.exec(cursor.text)?.[0] ?? "";
  cursor.index += name.length;
  return name;
}

function bad(text: string): Error {
  return new Error(
    `invalid variable in "${text}": expected \${NAME}, \${NAME:-default}, or $$ for a dollar sign`,
  );
}

/** Reads up to the end, or up to the brace that closes the one the caller opened. */
function readText(cursor: Cursor, variables: ReadonlyMap<string, string>, isNested: boolean): string {
  let result = "";
  while (cursor.index < cursor.text.length) {
    const char = cursor.text[cursor.index] ?? "";
    if (isNested && char === "}") return result;
    cursor.index += 1;
    if (char !== "$") {
      result += char;
      continue;
    }
    const next = cursor.text[cursor.index] ?? "";
    if (next === "$") {
      cursor.index += 1;
      result += "$";
    } else if (next === "{") {
      cursor.index += 1;
      result += readBraced(cursor, variables);
    } else {
      const name = readName(cursor);
      if (name === "") throw bad(cursor.text);
      result += variables.get(name) ?? "";
    }
  }
  if (isNested) throw bad(cursor.text);
  return result;
}

function readBraced(cursor: Cursor, variables: ReadonlyMap<string, string>): string {
  const name = readName(cursor);
  const operator = /^(:?[-?+])/.exec(cursor.text.slice(cursor.index))?.[1] ?? "";
  cursor.index += operator.length;
  if (name === "" || (operator === "" && cursor.text[cursor.index] !== "}")) throw bad(cursor.text);
  // The word is read in any case to find its end; what is wrong in a default that isn't used is still wrong.
  const word = operator === "" ? "" : readText(cursor, variables, true);
  if (cursor.text[cursor.index] !== "}") throw bad(cursor.text);
  cursor.index += 1;
  const value = variables.get(name);
  const isSet = value !== undefined && (!operator.startsWith(":") || value !== "");
  switch (operator.replace(":", "")) {
    case "-":
      return isSet ? (value ?? "") : word;
    case "+":
      return isSet ? word : "";
    case "?":
      if (!isSet)
        throw new Error(`required variable ${name} is missing a value${word === "" ? "" : `: ${word}`}`);
      return value ?? "";
    default:
      return value ?? "";
  }
}

/** Throws an Error with a plain text if the syntax is wrong or a required variable is missing. */
export function interpolate(text: string, variables: ReadonlyMap<string, string>): string {
  return readText({ text, index: 0 }, variables, false);
}

const ESCAPES: Readonly<Record<string, string>> = { n: "\n", r: "\r", t: "\t", '"': '"', "\\": "\\", $: "$" };

/**
 * Lines of a .env file: NAME=value, `export`, comments, quotes. Later lines see earlier ones. Throws with the line
 * number.
 */
export function parseEnvFile(content: string, variables: ReadonlyMap<string, string>): Map<string, string> {
  const result = new Map<string, string>();
  const lines = content.replace(/^\uFEFF/, "").split(/\r?\n/);
  for (let index = 0; index < lines.length; index += 1) {
    const line = (lines[index] ?? "").trim();
    if (line === "" || line.startsWith("#")) continue;
    const match = /^(?:export\s+)?([A-Za-z_][\w.-]*)\s*(?:=\s*(.*))?$/s.exec(line);
    if (match === null) throw new Error(`line ${index + 1}: expected NAME=value, got "${line}"`);
    const [, name = "", raw] = match;
    const known = new Map([...variables, ...result]);
    if (raw === undefined) {
      const inherited = variables.get(name);
      if (inherited !== undefined) result.set(name, inherited);
      continue;
    }
    const quote = raw[0];
    if (quote !== '"' && quote !== "'") {
      result.set(name, interpolate(raw.replace(/\s+#.*$/, "").trim(), known));
      continue;
    }
    // A quoted value may go on over several lines.
    let body = raw.slice(1);
    const end = quote === '"' ? /(?<!\\)(?:\\\\)*"/ : /'/;
    while (!end.test(body) && index + 1 < lines.length) {
      index += 1;
      body += `\n${lines[index] ?? ""}`;
    }
    const close = quote === "'" ? body.indexOf("'") : closingQuote(body);
    if (close < 0) throw new Error(`line ${index + 1}: the quote of ${name} is not closed`);
    const inner = body.slice(0, close);
    if (quote === "'") result.set(name, inner);
    else {
      const escaped = interpolate(inner.replaceAll("\\$", "$$$$"), known);
      result.set(
        name,
        escaped.replaceAll(/\\([nrt"\\$])/g, (_, char: string) => ESCAPES[char] ?? char),
      );
    }
  }
  return result;
}

function closingQuote(body: string): number {
  for (let index = 0; index < body.length; index += 1) {
    if (body[index] === "\\") index += 1;
    else if (body[index] === '"') return index;
  }
  return -1;
}
