/** The table of seeded errors must not rot: each text that one replaces is there, once. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { MUTANTS } from "./mutants.ts";

/** Built files run from dist/test/sim; what is changed are the sources. */
const root = path.resolve(import.meta.dirname.replace(`${path.sep}dist${path.sep}`, path.sep), "..", "..");

test("every seeded error finds its text once, and each number is one error's", () => {
  assert.equal(new Set(MUTANTS.map(({ number }) => number)).size, MUTANTS.length);
  for (const { number, patches } of MUTANTS) {
    const sources = new Map<string, string>();
    for (const { file, find, replace } of patches) {
      const source = sources.get(file) ?? readFileSync(path.join(root, file), "utf8");
      assert.equal(source.split(find).length, 2, `mutant ${number} in ${file}`);
      sources.set(file, source.split(find).join(replace));
    }
  }
});
