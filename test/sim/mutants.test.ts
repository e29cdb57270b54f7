/** The table of seeded errors must not rot: each text that one replaces is there, once, and what comes of it compiles. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { transformSync } from "esbuild";
import { MUTANTS } from "./mutants.ts";

/** Built files run from dist/test/sim; what is changed are the sources. */
const root = path.resolve(import.meta.dirname.replace(`${path.sep}dist${path.sep}`, path.sep), "..", "..");

test("every seeded error finds its text once and compiles, and each number is one error's", () => {
  assert.equal(new Set(MUTANTS.map(({ number }) => number)).size, MUTANTS.length);
  for (const { number, patches } of MUTANTS) {
    const sources = new Map<string, string>();
    for (const { file, find, replace } of patches) {
      const source = sources.get(file) ?? readFileSync(path.join(root, file), "utf8");
      assert.equal(source.split(find).length, 2, `mutant ${number} in ${file}`);
      sources.set(file, source.split(find).join(replace));
    }
    // Says what is wrong where: a name that is gone, a bracket too many.
    for (const source of sources.values()) transformSync(source, { loader: "ts", logLevel: "silent" });
  }
});
