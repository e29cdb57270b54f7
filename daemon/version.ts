/** The product's version, from the package that this code was installed with. */
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { packageRoot } from "../common/package-root.ts";
import { ZERO_TIME } from "../common/time.ts";

export interface BuildInfo {
  /** Empty where it was not built from a checkout. */
  readonly gitCommit: string;
  /** RFC 3339; of the commit, so that equal sources give equal builds. */
  readonly buildTime: string;
}

function packageVersion(): string {
  const file = path.join(packageRoot(import.meta.dirname), "package.json");
  const parsed = JSON.parse(readFileSync(file, "utf8")) as { readonly version?: string };
  return parsed.version ?? "0.0.0";
}

export const VERSION: string = packageVersion();

/** What scripts/build.sh noted beside the compiled files. Sources that run unbuilt have none. */
function readBuildInfo(): BuildInfo {
  const file = path.join(packageRoot(import.meta.dirname), "dist", "build-info.json");
  const none = { gitCommit: "", buildTime: ZERO_TIME };
  if (!existsSync(file)) return none;
  return { ...none, ...(JSON.parse(readFileSync(file, "utf8")) as Partial<BuildInfo>) };
}

export const BUILD: BuildInfo = readBuildInfo();
