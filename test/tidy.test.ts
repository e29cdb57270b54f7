/**
 * Our own linter of last resort: what no other tool checks. Reads the tree itself, which may have come without git.
 */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { packageRoot } from "../common/package-root.ts";

const root: string = packageRoot(import.meta.dirname);
const SOURCE = /\.(ts|c|h|sh|mjs)$/;
const LINES_MAX = 620;
/** Longer than that, with the reason. */
const LONG_FILES: ReadonlyMap<string, string> = new Map([
  ["manager/raft/core/core.ts", "one state machine: its transitions are read against each other"],
  ["manager/raft/node.ts", "one drive loop around the core: the order of its steps is the point"],
  ["model/engine.ts", "types only: the one contract between the API and the machine"],
  ["runtime/containers/lifecycle.ts", "one life from start to removal: its transitions are read together"],
  ["runtime/containers/container-engine.ts", "one method for each verb of the engine, each a few lines"],
]);

/** What is made from the sources, by folder: .gitignore says the same. */
const MADE =
  /^(?:\.git|\.cache|proto\/gen|runtime\/native\/build|examples\/[^/]+\/build)$|(?:^|\/)(?:node_modules|dist)$/;

function filesBelow(folder: string): readonly string[] {
  return readdirSync(path.join(root, folder), { withFileTypes: true }).flatMap((entry) => {
    const name = path.join(folder, entry.name);
    if (MADE.test(name)) return [];
    return entry.isDirectory() ? filesBelow(name) : [name];
  });
}

const files: readonly string[] = filesBelow("");
const sources: readonly string[] = files.filter((name) => SOURCE.test(name));

function text(name: string): string {
  return readFileSync(path.join(root, name), "utf8");
}

function offenders(
  names: readonly string[],
  breaks: (content: string, name: string) => boolean,
): readonly string[] {
  return names.filter((name) => breaks(text(name), name));
}

test("every source file says at its head what it is", () => {
  const bare = offenders(
    sources.filter((name) => !name.endsWith(".test.ts") && !name.endsWith(".h")),
    (content) => !/^(#!.*\n)?\s*(\/\*|\/\/|#)/.test(content),
  );
  assert.deepEqual(bare, []);
});

test("no source file grows beyond what one reads in a sitting", () => {
  const long = offenders(
    sources.filter(
      (name) => !name.endsWith(".test.ts") && !name.startsWith("test/") && !LONG_FILES.has(name),
    ),
    (content) => content.split("\n").length > LINES_MAX,
  );
  assert.deepEqual(long, []);
});

test("nothing is left undone or switched off in the code", () => {
  const self = "test/tidy.test.ts";
  const undone = new RegExp(["\\bTO" + "DO\\b", "\\bFIX" + "ME\\b", "\\bXX" + "X\\b"].join("|"));
  assert.deepEqual(
    offenders(
      sources.filter((name) => name !== self),
      (content) => undone.test(content),
    ),
    [],
  );
  const off = /\b(?:it|test|describe)\.(?:skip|todo|only)\b/;
  assert.deepEqual(
    offenders(
      sources.filter((name) => name.endsWith(".test.ts") && name !== self),
      (content) => off.test(content),
    ),
    [],
  );
});

test("the words of docs/nomenclature.md are used: no synonyms for them in names", () => {
  const self = "test/tidy.test.ts";
  const banned: readonly (readonly [RegExp, string])[] = [
    [/\bclass \w*(?:Helper|Util|Utils)\b/, "a domain noun"],
    [/\binterface I[A-Z][a-z]\w*\b/, "the name without I"],
  ];
  const found = sources
    .filter((name) => name.endsWith(".ts") && name !== self)
    .flatMap((name) =>
      banned.filter(([word]) => word.test(text(name))).map(([, instead]) => `${name}: use ${instead}`),
    );
  assert.deepEqual(found, []);
});

test("lock file and sources name no download address", () => {
  assert.deepEqual(
    offenders(
      files.filter((name) => name === "package-lock.json"),
      (content) => /"resolved"/.test(content),
    ),
    [],
  );
});
