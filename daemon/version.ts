/** The product's version, from the package that this code was installed with. */
import { readFileSync } from "node:fs";
import path from "node:path";
import { packageRoot } from "../common/package-root.ts";

function packageVersion(): string {
  const file = path.join(packageRoot(import.meta.dirname), "package.json");
  const parsed = JSON.parse(readFileSync(file, "utf8")) as { readonly version?: string };
  return parsed.version ?? "0.0.0";
}

export const VERSION: string = packageVersion();
