/**
 * `volume-subpath` and `image-subpath`: looked at on the host before a start, for Docker's words when it is not there. Who
 * shares the volume may change it right after: what mounts it never leaves the volume, whatever this found.
 */
import * as fs from "node:fs/promises";
import path from "node:path";
import { ClusterError, hasNodeCode } from "../../common/errors.ts";

/** The first part of the way to `whole` that is missing. */
async function missingPart(base: string, whole: string): Promise<string> {
  let current = base;
  for (const part of path.relative(base, whole).split("/")) {
    current = path.join(current, part);
    const isThere = await fs.lstat(current).then(
      () => true,
      () => false,
    );
    if (!isThere) return current;
  }
  return whole;
}

/** Where `subpath` of the folder `source` is, with all links followed. Throws if it is missing, or a link leads out. */
export async function resolveSubpath(source: string, subpath: string): Promise<string> {
  const base = await fs.realpath(source);
  const whole = path.join(base, subpath);
  let found: string;
  try {
    found = await fs.realpath(whole);
  } catch (caught) {
    if (hasNodeCode(caught, "ENOENT")) {
      const missing = await missingPart(base, whole);
      throw new ClusterError(
        "not_found",
        `cannot access path ${whole}: lstat ${missing}: no such file or directory`,
        { cause: caught },
      );
    }
    const [, why = String(caught)] = /^\w+: ([^,]*)/.exec(ClusterError.from(caught).message) ?? [];
    throw new ClusterError("internal", `error while resolving symlinks in combined path "${whole}": ${why}`, {
      cause: caught,
    });
  }
  if (found !== base && !found.startsWith(`${base}/`)) {
    throw new ClusterError(
      "invalid_argument",
      `path concatenation escapes the base directory, base: ${base}, subpath: ${subpath}`,
    );
  }
  return found;
}
