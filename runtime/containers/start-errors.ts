/** What a failed start says and which exit code it leaves: clients read 126 and 127 out of these words. Pure. */
import { ClusterError } from "../../common/errors.ts";

const PREFIX =
  "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: ";

const EXIT_CANNOT_INVOKE = 126;
const EXIT_NOT_FOUND = 127;
const EXIT_START_FAILED = 128;

export function startExitCode(text: string): number {
  if (!text.startsWith("exec: ")) return EXIT_START_FAILED;
  if (/executable file not found|no such file or directory/.test(text)) return EXIT_NOT_FOUND;
  if (/permission denied|is a directory|not a directory/.test(text)) return EXIT_CANNOT_INVOKE;
  return EXIT_START_FAILED;
}

/** Of an exec that did not start: anything that was not there is 127, the folder to start in as well. */
export function execExitCode(text: string): number {
  return /executable file not found|no such file or directory/i.test(text)
    ? EXIT_NOT_FOUND
    : EXIT_CANNOT_INVOKE;
}

/** Docker's daemon looks accounts up before it calls its runtime, so these stand without the runtime's preface. */
function isAboutAccount(text: string): boolean {
  return /^unable to find (user|group) /.test(text);
}

/** `text` as the native side gave it. */
export function startError(text: string): { readonly exitCode: number; readonly error: ClusterError } {
  const exitCode = startExitCode(text);
  if (isAboutAccount(text)) return { exitCode, error: new ClusterError("invalid_argument", text) };
  const isOurs = exitCode === EXIT_START_FAILED;
  const words = text.startsWith("exec: ") ? text : `error during container init: ${text}`;
  const message = `${PREFIX}${words}: unknown`;
  return { exitCode, error: new ClusterError(isOurs ? "internal" : "invalid_argument", message) };
}

/** The words of a failed exec. */
export function execError(text: string): string {
  if (isAboutAccount(text)) return text;
  return `OCI runtime exec failed: exec failed: unable to start container process: ${text}: unknown`;
}
