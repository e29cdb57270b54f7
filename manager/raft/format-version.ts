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

/** The JSON in `bytes`, undefined if it is none. Throws unimplemented where its `version` is above the highest one known. */
export function parseVersioned(
  bytes: Uint8Array,
  { what, known }: { readonly what: string; readonly known: number },
): unknown {
  let parsed: unknown;
  try {
    parsed = JSON.parse(Buffer.from(bytes).toString());
  } catch {
    return undefined;
  }
  if (typeof parsed === "object" && parsed !== null && "version" in parsed)
    refuseNewerFormat(what, parsed.version, known);
  return parsed;
}

export function isNewerFormat(caught: unknown): boolean {
  return hasCode(caught, "unimplemented");
}
