/**
 * Finds the folder of this package from any of its files: sources, dist/ or the bundled CLI. Used to start our own
 * programs.
 */
import { existsSync } from "node:fs";
import path from "node:path";
import { assert } from "./assert.ts";

/** The nearest folder upwards of `from` that holds bin/shoal. */
export function packageRoot(from: string): string {
  let folder = path.resolve(from);
  while (!existsSync(path.join(folder, "bin", "shoal"))) {
    const parent = path.dirname(folder);
    assert(parent !== folder, "the package's bin/shoal lies above its own files");
    folder = parent;
  }
  return folder;
}
