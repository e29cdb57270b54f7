/**
 * One mutant in a process of its own: patches the sources as they are loaded, then runs seeds until a check fails.
 * Started by mutants-main.ts with the mutant's number and the most seeds and seconds to spend; prints one line of JSON.
 */
import { readFileSync } from "node:fs";
import { registerHooks } from "node:module";
import path from "node:path";
import { fileURLToPath } from "node:url";
import type { Patch } from "./mutant.ts";
import { MUTANTS } from "./mutants.ts";

const root = path.dirname(path.dirname(import.meta.dirname));
const [numberText = "", seedCountText = "", secondsText = "", fromText = "1"] = process.argv.slice(2);
const mutant = MUTANTS.find((each) => String(each.number) === numberText);
if (mutant === undefined) throw new Error(`No mutant ${numberText}`);

function apply(source: string, patch: Patch): string {
  const parts = source.split(patch.find);
  if (parts.length !== 2) {
    throw new Error(
      `mutant ${numberText}: want its text once in ${patch.file}, got ${parts.length - 1} times`,
    );
  }
  return parts.join(patch.replace);
}

const patched = new Map<string, string>();
for (const patch of mutant.patches) {
  const file = path.join(root, patch.file);
  patched.set(file, apply(patched.get(file) ?? readFileSync(file, "utf8"), patch));
}

registerHooks({
  load(url, context, nextLoad) {
    const source = url.startsWith("file:") ? patched.get(fileURLToPath(url)) : undefined;
    if (source === undefined) return nextLoad(url, context);
    return { format: "module-typescript", source, shortCircuit: true };
  },
});

const { runSeed } = await import("./run.ts");
const from = Number(fromText);
const endMs = performance.now() + Number(secondsText) * 1000;
let seed = from;
let found: { check: string; text: string } | undefined;
for (; seed < from + Number(seedCountText) && performance.now() < endMs; seed += 1) {
  const result = await runSeed({ seed, profile: mutant.profile, faultyMs: 30_000, keepsTimeline: false });
  found = result.failure;
  if (found !== undefined) break;
}
const text = found?.text.split("\n")[0] ?? "";
console.log(
  JSON.stringify({
    found: found !== undefined,
    check: found?.check ?? "",
    text,
    seeds: seed - from + (found === undefined ? 0 : 1),
  }),
);
