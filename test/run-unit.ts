/** Imports every unit test (x.test.js beside its source in dist/), so that one process runs them all. */
import { readdirSync } from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";

const dist = path.dirname(import.meta.dirname);
const folders = [
  "common",
  "model",
  "proto",
  "manager",
  "worker",
  "runtime",
  "api",
  "daemon",
  "cli",
  "dev",
  "bench",
];
for (const folder of folders) {
  const root = path.join(dist, folder);
  const names = readdirSync(root, { recursive: true, encoding: "utf8" });
  for (const name of names.filter((each) => each.endsWith(".test.js")).sort()) {
    await import(pathToFileURL(path.join(root, name)).href);
  }
}
await import("./tidy.test.js");
