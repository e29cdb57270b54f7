/** Imports every test file of a folder of dist/, so that one process runs many: node:test starts one for each file it is given. */
import { readdirSync } from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";

const dist = path.dirname(import.meta.dirname);

/** `folder` is relative to dist/; names are imported in order. */
export async function importTests(folder: string): Promise<void> {
  const root = path.join(dist, folder);
  const names = readdirSync(root, { recursive: true, encoding: "utf8" });
  for (const name of names.filter((each) => each.endsWith(".test.js")).sort()) {
    await import(pathToFileURL(path.join(root, name)).href);
  }
}
