/**
 * JSON progress of pull, push, load, import and build: one object a line, flushed one by one. What fails before the
 * first line is an ordinary status; what fails later is told in the last line.
 */
import { ClusterError } from "../common/errors.ts";
import type { ProgressLine } from "../model/engine.ts";
import { JSON_TYPE } from "./error-body.ts";
import type { Exchange, HeaderValues } from "./exchange.ts";

/** `code` is the exit status of a failed build step; it becomes the CLI's own. */
function errorLine(caught: unknown): ProgressLine {
  const error = ClusterError.from(caught);
  const exitCode = error.details["exitCode"];
  const code = typeof exitCode === "number" ? { code: exitCode } : {};
  return { errorDetail: { ...code, message: error.message }, error: error.message };
}

export async function writeProgress(
  exchange: Exchange,
  lines: AsyncIterable<ProgressLine>,
  headers: HeaderValues = {},
): Promise<void> {
  const iterator = lines[Symbol.asyncIterator]();
  const first = await iterator.next();
  const sink = exchange.stream(JSON_TYPE, headers);
  try {
    for (let item = first; item.done !== true; item = await iterator.next()) {
      if (!(await sink.line(item.value))) break;
    }
  } catch (error) {
    await sink.line(errorLine(error));
  } finally {
    await iterator.return?.();
    sink.end();
  }
}
