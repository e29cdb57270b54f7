/**
 * Structured logs: a fixed text and fields, one JSON object or one readable line each. Never secrets,
 * never raw network bytes above debug. The daemon makes one root logger; parts get a child with their name.
 */
export type LogLevel = "debug" | "info" | "warn" | "error";
export type LogFields = Readonly<Record<string, unknown>>;

export interface Logger {
  debug(text: string, fields?: LogFields): void;
  info(text: string, fields?: LogFields): void;
  warn(text: string, fields?: LogFields): void;
  error(text: string, fields?: LogFields): void;
  /** A logger whose lines carry `fields` too. */
  child(fields: LogFields): Logger;
}

const RANK: Readonly<Record<LogLevel, number>> = { debug: 0, info: 1, warn: 2, error: 3 };

export interface LogOptions {
  readonly level: LogLevel;
  readonly format: "json" | "text";
  readonly wallMs: () => number;
  /** Takes one line without its newline. */
  readonly write: (line: string) => void;
}

function printable(value: unknown): unknown {
  if (value instanceof Error) {
    return "code" in value ? { message: value.message, code: value.code } : value.message;
  }
  return value;
}

function textValue(value: unknown): string {
  const plain = printable(value);
  const text = typeof plain === "string" ? plain : JSON.stringify(plain);
  return typeof plain === "string" && /[\s"=]/.test(plain) ? JSON.stringify(plain) : (text ?? "undefined");
}

export function createLogger(options: LogOptions, base: LogFields = {}): Logger {
  const emit = (level: LogLevel, text: string, fields: LogFields = {}): void => {
    if (RANK[level] < RANK[options.level]) return;
    const time = new Date(options.wallMs()).toISOString();
    const all = { ...base, ...fields };
    if (options.format === "json") {
      const plain = Object.fromEntries(Object.entries(all).map(([key, value]) => [key, printable(value)]));
      options.write(JSON.stringify({ time, level, text, ...plain }));
      return;
    }
    const tail = Object.entries(all)
      .filter(([, value]) => value !== undefined)
      .map(([key, value]) => ` ${key}=${textValue(value)}`)
      .join("");
    options.write(`${time} ${level.toUpperCase().padEnd(5)} ${text}${tail}`);
  };
  return {
    debug: (text, fields) => emit("debug", text, fields),
    info: (text, fields) => emit("info", text, fields),
    warn: (text, fields) => emit("warn", text, fields),
    error: (text, fields) => emit("error", text, fields),
    child: (fields) => createLogger(options, { ...base, ...fields }),
  };
}

/** Drops everything; for tests and tools. */
export const silentLogger: Logger = {
  debug: () => {},
  info: () => {},
  warn: () => {},
  error: () => {},
  child: () => silentLogger,
};
