/**
 * `npm run sim:mutants`, with `-- --help` for its options: which seeded errors the simulator finds, by which check, after
 * how many seeds. Says on standard error what it finds as it finds it, and prints the table of
 * docs/simulator.md at the end. Exits with 1 if a safety mutant survives or more than one liveness mutant in twenty.
 */
import { execFile } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { count, text, toolOptions } from "../../dev/tool-options.ts";
import type { Mutant } from "./mutant.ts";
import { MUTANTS } from "./mutants.ts";

const run = promisify(execFile);
const LIVENESS_PASS_RATE = 0.95;
/** A seed takes seconds; one that takes longer than this beyond the budget never ends. */
const HANG_SECONDS = 60;

interface Outcome {
  readonly mutant: Mutant;
  readonly found: boolean;
  readonly check: string;
  readonly text: string;
  readonly seeds: number;
}

function isOutcome(value: unknown): value is Omit<Outcome, "mutant"> {
  return (
    typeof value === "object" && value !== null && "found" in value && "seeds" in value && "check" in value
  );
}

interface Budget {
  readonly seeds: number;
  readonly seconds: number;
  /** Where the processes keep what they compiled: all load the same modules but one or two. */
  readonly cache: string;
}

async function judge(mutant: Mutant, budget: Budget): Promise<Outcome> {
  const script = path.join(import.meta.dirname, "mutant-run.ts");
  // One that runs in a circle within an event is stopped from outside, and so is found too.
  const timeout = (budget.seconds + HANG_SECONDS) * 1000;
  const args = [script, String(mutant.number), String(budget.seeds), String(budget.seconds)];
  const env = { ...process.env, NODE_COMPILE_CACHE: budget.cache };
  const ended = await run(process.execPath, args, { env, timeout, killSignal: "SIGKILL" }).catch(
    (caught: unknown) => (caught instanceof Error ? caught : new Error(String(caught))),
  );
  if (ended instanceof Error) {
    if ("killed" in ended && ended.killed === true)
      return { mutant, found: true, check: "hang", text: "a seed never ended", seeds: 0 };
    // No reason to lose what the others show: it counts as one that survived.
    return { mutant, found: false, check: "", text: ended.message, seeds: 0 };
  }
  const { stdout } = ended;
  const parsed: unknown = JSON.parse(stdout.trim().split("\n").at(-1) ?? "");
  if (!isOutcome(parsed)) throw new Error(`mutant ${mutant.number} printed "${stdout}"`);
  return { ...parsed, mutant };
}

function verdict({ check, found, mutant, seeds, text }: Outcome): string {
  const how = found ? `found by ${check} after ${seeds}` : `SURVIVED ${seeds} seeds`;
  return `${mutant.number} ${mutant.name} (${mutant.kind}): ${how} ${text.slice(0, 90)}`;
}

/** Our checks by their names; what the production code itself noticed, in words. */
function finder({ check, found }: Outcome): string {
  if (!found) return "nothing";
  if (/^[A-Z]\d+$/.test(check) || check === "hang") return check;
  return check === "AssertionError" ? "an assertion" : "an exception";
}

function row(outcome: Outcome): string {
  const { mutant, seeds } = outcome;
  return `| ${mutant.number} | ${mutant.name} | ${finder(outcome)} | ${seeds} |`;
}

const {
  jobs,
  only,
  seconds,
  seeds: seedCount,
} = toolOptions(
  {
    run: "npm run sim:mutants --",
    about:
      "Makes one error at a time in the sources as they are loaded, and says which of them the simulator finds, by which check, after how many seeds. Exit status 1: more survived than may.",
  },
  {
    only: text("numbers of errors, such as 3,11 or 201-227 (default: all)", {
      placeholder: "<numbers>",
      fallback: undefined,
    }),
    seeds: count("the most seeds for one error", { fallback: 2000 }),
    seconds: count("the most time for one error", { fallback: 600 }),
    jobs: count("errors looked for at a time", { fallback: 2 }),
  },
);

/** "3", "3,11" or "201-227". */
function isChosen({ number }: Mutant): boolean {
  if (only === undefined) return true;
  return only.split(",").some((part) => {
    const [first = "", last = first] = part.split("-");
    return number >= Number(first) && number <= Number(last);
  });
}

const waiting = MUTANTS.filter(isChosen);
if (waiting.length === 0) {
  console.error(`error: --only wants numbers of seeded errors, as 3,11 or 201-227, got "${only}"`);
  process.exit(2);
}
const outcomes: Outcome[] = [];
const cache = mkdtempSync(path.join(tmpdir(), "shoal-mutants-"));
async function work(): Promise<void> {
  for (let mutant = waiting.shift(); mutant !== undefined; mutant = waiting.shift()) {
    const outcome = await judge(mutant, { seeds: seedCount, seconds, cache });
    outcomes.push(outcome);
    console.error(verdict(outcome));
  }
}
try {
  await Promise.all(Array.from({ length: jobs }, work));
} finally {
  rmSync(cache, { recursive: true, force: true });
}
console.log("| # | seeded error | found by | seeds |\n| --- | --- | --- | --- |");
for (const outcome of outcomes.sort((a, b) => a.mutant.number - b.mutant.number)) console.log(row(outcome));
const survivors = (kind: Mutant["kind"]): number =>
  outcomes.filter((each) => !each.found && each.mutant.kind === kind).length;
const livenessCount = outcomes.filter((each) => each.mutant.kind === "liveness").length;
const seeds = outcomes
  .filter((each) => each.found)
  .map((each) => each.seeds)
  .sort((a, b) => a - b);
console.error(
  `${seeds.length} of ${outcomes.length} found, median ${seeds[Math.floor(seeds.length / 2)] ?? 0} seeds`,
);
const isPassed =
  survivors("safety") === 0 && survivors("liveness") <= livenessCount * (1 - LIVENESS_PASS_RATE);
process.exitCode = isPassed ? 0 : 1;
