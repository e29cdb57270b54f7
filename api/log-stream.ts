/** Sends log lines to a client: time and details before each line, one frame a line, headers at once. Knows no containers. */
import { ClusterError } from "../common/errors.ts";
import type { LogLine } from "../model/engine.ts";
import type { Exchange } from "./exchange.ts";
import { frame } from "./stdcopy.ts";

export interface LogStreamOptions {
  readonly contentType: string;
  /** A terminal's output has no frames. */
  readonly isRaw: boolean;
  readonly timestamps: boolean;
  readonly details: boolean;
}

/** "k=v,k=v " url-encoded and sorted, before the line and after the time. */
function detailText(attrs: Readonly<Record<string, string>> | undefined): string {
  const pairs = Object.entries(attrs ?? {}).map(
    ([key, value]) => `${encodeURIComponent(key)}=${encodeURIComponent(value)}`,
  );
  return `${pairs.sort().join(",")} `;
}

function lineBytes(line: LogLine, options: LogStreamOptions): Uint8Array {
  const time = options.timestamps ? `${line.timestamp} ` : "";
  const prefix = `${time}${options.details ? detailText(line.attrs) : ""}`;
  return prefix === "" ? line.data : Buffer.concat([Buffer.from(prefix, "utf8"), line.data]);
}

/**
 * Writes until the lines end or the client leaves. A failure before the first line that comes within the first turn is
 * an ordinary error; later ones are told in the stream.
 */
export async function writeLogLines(
  exchange: Exchange,
  lines: AsyncIterable<LogLine>,
  options: LogStreamOptions,
): Promise<void> {
  const sink = exchange.stream(options.contentType);
  try {
    for await (const line of lines) {
      const bytes = lineBytes(line, options);
      if (!(await sink.write(options.isRaw ? bytes : frame(line.stream, bytes)))) break;
    }
  } catch (error) {
    const { message, code } = ClusterError.from(error);
    if (code !== "cancelled") {
      const bytes = Buffer.from(`${message}\n`, "utf8");
      await sink.write(options.isRaw ? bytes : frame("engineError", bytes));
    }
  }
  sink.end();
}
