/** `docker top`: the processes of a container as the host's ps shows them, kept to those in the container's cgroup. */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { ClusterError } from "../../common/errors.ts";

const OUTPUT_BYTES_MAX = 16 * 1024 * 1024;
/** Columns are named by what ps prints; PID must be among them to tell whose line it is. */
const PID_TITLE = "PID";

export interface TopResult {
  readonly Titles: readonly string[];
  readonly Processes: readonly (readonly string[])[];
}

/** Keeps the lines whose process is one of `pids`. The last column holds what is left, spaces and all. */
export function parsePs(output: string, pids: ReadonlySet<number>): TopResult {
  const [head = "", ...lines] = output.split("\n").filter((line) => line.trim() !== "");
  const titles = head.trim().split(/\s+/);
  const pidColumn = titles.indexOf(PID_TITLE);
  if (pidColumn < 0) throw new ClusterError("invalid_argument", "Couldn't find PID field in ps output");
  const processes = lines.flatMap((line) => {
    const words = line.trim().split(/\s+/);
    if (!pids.has(Number(words[pidColumn]))) return [];
    const last = titles.length - 1;
    return [[...words.slice(0, last), words.slice(last).join(" ")]];
  });
  return { Titles: titles, Processes: processes };
}

export async function top(pids: readonly number[], psArgs: string): Promise<TopResult> {
  const args = psArgs.split(/\s+/).filter((each) => each !== "");
  if (args.some((each) => !/^[\w,=:+-]+$/.test(each))) {
    throw new ClusterError("invalid_argument", `Invalid ps arguments: ${psArgs}`);
  }
  try {
    const { stdout } = await promisify(execFile)("ps", args.length === 0 ? ["-ef"] : args, {
      maxBuffer: OUTPUT_BYTES_MAX,
    });
    return parsePs(stdout, new Set(pids));
  } catch (caught) {
    if (caught instanceof ClusterError) throw caught;
    const words = caught instanceof Error && "stderr" in caught ? String(caught.stderr).trim() : "";
    throw new ClusterError("internal", `ps: ${words === "" ? "cannot be run" : words}`, { cause: caught });
  }
}
