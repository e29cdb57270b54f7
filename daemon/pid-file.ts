/**
 * The daemon's process id in a file, for people and scripts: a line with the number and nothing else, as `kill $(cat
 * FILE)` wants it.
 */
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { ClusterError } from "../common/errors.ts";

/** Whether `pid` is a daemon, and not a later process with the number of one. */
async function isDaemon(pid: number): Promise<boolean> {
  const commandLine = await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "");
  return commandLine.split("\0").includes("daemon");
}

export class PidFile {
  readonly #file: string;

  private constructor(file: string) {
    this.#file = file;
  }

  /** Rejects with failed_precondition while the daemon lives that wrote it; a left-over one is replaced. */
  static async claim(file: string): Promise<PidFile> {
    await mkdir(path.dirname(file), { recursive: true, mode: 0o711 });
    const pid = Number((await readFile(file, "utf8").catch(() => "")).trim().split("\n", 1)[0]);
    if (Number.isInteger(pid) && pid > 0 && pid !== process.pid && (await isDaemon(pid))) {
      throw new ClusterError(
        "failed_precondition",
        `Cannot start the daemon: process ${pid} runs with pid file "${file}"`,
      );
    }
    await writeFile(file, `${process.pid}\n`, { mode: 0o644 });
    return new PidFile(file);
  }

  async release(): Promise<void> {
    await rm(this.#file, { force: true });
  }
}
