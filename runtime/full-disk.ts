/** Errors of full disks in an operator's words. Used wherever the runtime writes what it can't do without. */
import { ClusterError, hasNodeCode } from "../common/errors.ts";

/**
 * What is to be thrown for `caught`: for a full file system or quota (ENOSPC, EDQUOT) one that says where, since a write's
 * own error names no file and a machine has many file systems; anything else as it is.
 */
export function asFullDisk(caught: unknown, what: string, place: string | undefined): unknown {
  if (!hasNodeCode(caught, "ENOSPC", "EDQUOT")) return caught;
  const where = place === undefined ? "" : `: ${place}`;
  return new ClusterError("resource_exhausted", `Cannot write ${what}: no space left on device${where}`, {
    cause: caught,
  });
}
