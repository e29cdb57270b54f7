import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import path from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import { choices, count, counts, quantity, toggle, toolOptions, toolWords } from "./tool-options.ts";

const TOOL = { run: "node tool.ts", about: "Does something." };
const OPTIONS = {
  rounds: count("how often", { fallback: 6 }),
  seed: count("where it begins", { min: 0, fallback: undefined }),
  warmUp: quantity("before anything is measured", { unit: "seconds", fallback: 0.5 }),
  clients: counts("how many at a time", { fallback: [1, 64] }),
  only: choices("what is measured", { names: ["puts", "reads"], fallback: ["puts", "reads"] }),
  noPeer: toggle("ours alone"),
};

/** What a process of its own says and ends with: toolOptions() ends it on --help and on wrong use. */
function called(...argv: readonly string[]): { readonly status: number | null; readonly said: string } {
  const module = pathToFileURL(
    path.join(import.meta.dirname, `tool-options${path.extname(import.meta.filename)}`),
  ).href;
  const script = `
    import { count, toolOptions } from ${JSON.stringify(module)};
    toolOptions(${JSON.stringify(TOOL)}, { warmUp: count("how often", { fallback: 6 }) }, process.argv.slice(1));
    console.log("went on");`;
  const { status, stderr, stdout } = spawnSync(
    process.execPath,
    ["--input-type=module", "--eval", script, "--", ...argv],
    { encoding: "utf8" },
  );
  return { status, said: `${stdout}${stderr}` };
}

test("toolOptions() gives what stands on the command line, and what each option has where it does not", () => {
  assert.deepEqual(toolOptions(TOOL, OPTIONS, []), {
    rounds: 6,
    seed: undefined,
    warmUp: 0.5,
    clients: [1, 64],
    only: ["puts", "reads"],
    noPeer: false,
  });
  const argv = [
    "--rounds=2",
    "--seed",
    "0",
    "--warm-up",
    "1.5",
    "--clients",
    "3,4",
    "--only=reads",
    "--no-peer",
  ];
  assert.deepEqual(toolOptions(TOOL, OPTIONS, argv), {
    rounds: 2,
    seed: 0,
    warmUp: 1.5,
    clients: [3, 4],
    only: ["reads"],
    noPeer: true,
  });
});

test("toolWords() gives the words of a tool that takes no options", () => {
  assert.deepEqual(toolWords(TOOL, "<server> <name>", ["10.0.0.1", "web"]), ["10.0.0.1", "web"]);
  assert.deepEqual(toolWords(TOOL, "[runtime...]", []), []);
  assert.deepEqual(toolWords(TOOL, "[runtime...]", ["runc", "crun"]), ["runc", "crun"]);
});

test("toolOptions() prints the usage on --help and ends with status 0", () => {
  const { said, status } = called("--help");
  assert.equal(status, 0);
  assert.match(
    said,
    /^Usage: node tool\.ts \[options\]\n\nDoes something\.\n\nOptions:\n {2}--warm-up <number> {2}how often \(default: 6\)/,
  );
  assert.doesNotMatch(said, /went on/);
});

test("toolOptions() names the flag, what it wants and what it got, and ends with status 2", () => {
  const wrong = called("--warm-up", "many");
  assert.equal(wrong.status, 2);
  assert.equal(
    wrong.said,
    `error: option '--warm-up <number>' argument 'many' is invalid. Want a whole number of 1 or more.\n`,
  );
  const unknown = called("--warmup", "3");
  assert.equal(unknown.status, 2);
  assert.match(unknown.said, /^error: unknown option '--warmup'/);
  assert.equal(called("more").status, 2);
});
