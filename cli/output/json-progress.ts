/**
 * Shows the streams of pull, push, load, import and build: status lines by layer (redrawn on a terminal), build output as it
 * is. The last line may be an error in a 200 answer; then it throws, with the exit status that a build's RUN had.
 */
import type { Output } from "../command.ts";
import { ExitError } from "../command.ts";

export interface ProgressLine {
  readonly status?: string;
  readonly id?: string;
  readonly progress?: string;
  readonly stream?: string;
  readonly error?: string;
  readonly errorDetail?: { readonly code?: number; readonly message?: string };
  readonly aux?: { readonly ID?: string; readonly Digest?: string };
}

/** The id that `aux` named last, or "". */
export async function showProgress(
  lines: AsyncIterable<ProgressLine>,
  out: Output,
  isQuiet: boolean,
): Promise<string> {
  const rows = new Map<string, number>();
  let auxId = "";
  for await (const line of lines) {
    if (line.error !== undefined || line.errorDetail !== undefined) {
      const code = line.errorDetail?.code ?? 1;
      throw new ExitError(
        code > 0 && code < 256 ? code : 1,
        `${line.errorDetail?.message ?? line.error ?? "unknown error"}\n`,
      );
    }
    auxId = line.aux?.ID ?? auxId;
    if (isQuiet) continue;
    if (line.stream !== undefined) out.write(line.stream);
    else if (line.status !== undefined) writeStatus(line, out, rows);
  }
  return auxId;
}

function writeStatus(line: ProgressLine, out: Output, rows: Map<string, number>): void {
  const id = line.id ?? "";
  const text = `${id === "" ? "" : `${id}: `}${line.status ?? ""}`;
  if (id === "" || !out.isTty) {
    // Off a terminal the many steps of a bar are noise.
    if (line.progress === undefined || line.progress === "") out.write(`${text}\n`);
    if (id === "") rows.clear();
    return;
  }
  const known = rows.get(id);
  const up = known === undefined ? 0 : rows.size - known;
  if (known === undefined) rows.set(id, rows.size);
  out.write(
    `${up > 0 ? `\x1b[${up}A` : ""}\x1b[2K\r${text} ${line.progress ?? ""}\n${up > 1 ? `\x1b[${up - 1}B` : ""}`,
  );
}
