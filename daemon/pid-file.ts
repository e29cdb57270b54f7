/** One daemon for one data root: a lock that the kernel drops with the process, and a pid file for people and scripts. */
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { ClusterError } from "../common/errors.ts";

/** Seconds since boot at which the process started, in clock ticks; undefined if there is no such process. */
async function startTime(pid: number): Promise<string | undefined> {
  try {
    const stat = await readFile(`/proc/${pid}/stat`, "utf8");
    // The command name may hold anything, so fields are counted after its closing bracket; start time is field 22.
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19];
  } catch {
    return undefined;
  }
}

export class PidFile {
  readonly #file: string;

  private constructor(file: string) {
    this.#file = file;
  }

  /**
   * Claims the file. Rejects with failed_precondition while the process that wrote it lives; a left-over one is replaced.
   * The start time beside the pid tells a process from a later one with the same number.
   */
  static async claim(file: string): Promise<PidFile> {
    await mkdir(path.dirname(file), { recursive: true, mode: 0o711 });
    const text = await readFile(file, "utf8").catch(() => "");
    const [pidText = "", startedText = ""] = text.trim().split("\n");
    const pid = Number(pidText);
    if (Number.isInteger(pid) && pid > 0 && pid !== process.pid) {
      const started = await startTime(pid);
      if (started !== undefined && started === startedText) {
        throw new ClusterError(
          "failed_precondition",
          `Cannot start the daemon: process ${pid} runs with pid file "${file}"`,
        );
      }
    }
    await writeFile(file, `${process.pid}\n${(await startTime(process.pid)) ?? ""}\n`, { mode: 0o644 });
    return new PidFile(file);
  }

  async release(): Promise<void> {
    await rm(this.#file, { force: true });
  }
}
