/**
 * Imports every test file of a folder, so that one process runs many: node:test starts one for each file it is given. From
 * dist/ those that were built, from the sources these themselves.
 */
import { readdirSync } from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";

const top = path.dirname(import.meta.dirname);
const suffix = `.test${path.extname(import.meta.filename)}`;

/** `folder` is relative to dist/, or to the tree; names are imported in order. Rejects if there is none. */
export async function importTests(folder: string): Promise<void> {
  const root = path.join(top, folder);
  const names = readdirSync(root, { recursive: true, encoding: "utf8" }).filter((name) =>
    name.endsWith(suffix),
  );
  if (names.length === 0) throw new Error(`no tests in ${root}: no name ends with "${suffix}"`);
  for (const name of names.sort()) await import(pathToFileURL(path.join(root, name)).href);
}
