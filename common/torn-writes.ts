/**
 * What a process that was killed in the middle of an atomic write left: the temporary file, under the name real-env.ts
 * gives it.
 */
import { readdirSync, unlinkSync } from "node:fs";
import path from "node:path";

const TEMPORARY_NAME = /\.\d+\.tmp$/;

/** Removes them from a folder that no other process writes to. Fine if there is no such folder. */
export function removeTornWrites(folder: string): void {
  let names: readonly string[] = [];
  try {
    names = readdirSync(folder);
  } catch {
    // Nothing was ever written there.
  }
  for (const name of names) if (TEMPORARY_NAME.test(name)) unlinkSync(path.join(folder, name));
}
