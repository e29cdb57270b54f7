/** The folder of the package, from dist/bench as well as from bench/. */
import { existsSync } from "node:fs";
import path from "node:path";

function find(folder: string): string {
  return existsSync(path.join(folder, "package.json")) ? folder : find(path.dirname(folder));
}

export const packageRoot: string = find(import.meta.dirname);
