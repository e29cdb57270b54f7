/** Versions of what a manager keeps on disk: older ones are read, newer ones refused without touching anything. */
import { ClusterError, hasCode } from "../../common/errors.ts";

/** Throws unimplemented if the version that `what` says it has is above the highest one known. */
export function refuseNewerFormat(what: string, version: unknown, known: number): void {
  if (typeof version !== "number" || version <= known) return;
  throw new ClusterError(
    "unimplemented",
    `Cannot read ${what}: want format version ${known} or lower, got ${version}: a newer program wrote it`,
    { details: { version, known } },
  );
}

export function isNewerFormat(caught: unknown): boolean {
  return hasCode(caught, "unimplemented");
}
