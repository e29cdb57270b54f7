/** Removes from dist/ what was compiled of sources that are gone: the compiler leaves it, and tests of it would still run. */
import { existsSync, readdirSync, rmSync } from "node:fs";
import path from "node:path";

const root = path.resolve(import.meta.dirname, "..");
const dist = path.join(root, "dist");
const GENERATED = path.join("proto", "gen");

if (existsSync(dist)) {
  for (const entry of readdirSync(dist, { recursive: true, encoding: "utf8" })) {
    // Only the compiler writes declarations; bundles have none.
    if (!entry.endsWith(".d.ts") || path.dirname(entry) === GENERATED) continue;
    const stem = entry.slice(0, -".d.ts".length);
    if (existsSync(path.join(root, `${stem}.ts`))) continue;
    for (const suffix of [".d.ts", ".d.ts.map", ".js", ".js.map"])
      rmSync(path.join(dist, stem + suffix), { force: true });
  }
}
