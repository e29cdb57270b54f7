/** What a failed start says and which exit code it leaves: clients read 126 and 127 out of these words. Pure. */
import { ClusterError } from "../../common/errors.ts";

const PREFIX =
  "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: error during container init: ";

/** Docker's advice, wherever the runtime found a file in a folder's place or the other way round. */
const KIND_ADVICE =
  ": Are you trying to mount a directory onto a file (or vice-versa)? Check if the specified host path exists and is the expected type";

const EXIT_CANNOT_INVOKE = 126;
const EXIT_NOT_FOUND = 127;
const EXIT_START_FAILED = 128;

/** As dockerd reads its runtime's words. */
export function startExitCode(text: string): number {
  if (/executable file not found|no such file or directory|not a directory/.test(text)) return EXIT_NOT_FOUND;
  if (/permission denied|is a directory/.test(text)) return EXIT_CANNOT_INVOKE;
  return EXIT_START_FAILED;
}

/** Docker's daemon looks accounts up before it calls its runtime, so these stand without the runtime's preface. */
function isAboutAccount(text: string): boolean {
  return /^(unable to find (user|group) |uids and gids must be in range )/.test(text);
}

/** Of an exec that did not start. */
export function execExitCode(text: string): number {
  return isAboutAccount(text) ? EXIT_CANNOT_INVOKE : startExitCode(text);
}

/** The runtime's words as dockerd hands them on. */
function withAdvice(text: string): string {
  return `${text}: unknown${text.includes("not a directory") ? KIND_ADVICE : ""}`;
}

/** `text` as the native side gave it. */
export function startError(text: string): { readonly exitCode: number; readonly error: ClusterError } {
  if (isAboutAccount(text)) return { exitCode: EXIT_START_FAILED, error: new ClusterError("internal", text) };
  // Docker's daemon makes the working folder itself, before its runtime runs.
  const [, folder] = /^chdir to cwd \("(.*)"\) set in config\.json failed: not a directory$/.exec(text) ?? [];
  if (folder !== undefined) {
    const error = new ClusterError("invalid_argument", `Cannot mkdir: ${folder} is not a directory`);
    return { exitCode: EXIT_START_FAILED, error };
  }
  const exitCode = startExitCode(text);
  const code = exitCode === EXIT_START_FAILED ? "internal" : "invalid_argument";
  return { exitCode, error: new ClusterError(code, withAdvice(`${PREFIX}${text}`)) };
}

/** The words of a failed exec. */
export function execError(text: string): string {
  if (isAboutAccount(text)) return text;
  // The runtime refuses what it is asked for before it makes a process.
  const process = text.startsWith("Cwd must be ") ? "" : "unable to start container process: ";
  return withAdvice(`OCI runtime exec failed: exec failed: ${process}${text}`);
}
