/** The checker itself, on histories whose verdict is known. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { SeededRandom } from "../../common/testing/seeded-random.ts";
import { checkRegister, type Operation } from "./linearizable.ts";

/** "w1 0-5" writes 1, "r1 6-7" reads 1, "c1>2=true 3-4" compare-and-set; "?" as the end: unknown. */
function history(...lines: readonly string[]): readonly Operation[] {
  return lines.map((line) => {
    const [what = "", when = ""] = line.split(" ");
    const [call = "", end = ""] = when.split("-");
    const times = { callMs: Number(call), returnMs: end === "?" ? Infinity : Number(end) };
    const outcome = (known: string): string | undefined => (end === "?" ? undefined : known);
    if (what.startsWith("w"))
      return { call: { kind: "write", value: what.slice(1) }, ...times, outcome: outcome("true") };
    if (what.startsWith("r")) return { call: { kind: "read" }, ...times, outcome: outcome(what.slice(1)) };
    const [from = "", rest = ""] = what.slice(1).split(">");
    const [to = "", result = ""] = rest.split("=");
    return { call: { kind: "cas", expected: from, value: to }, ...times, outcome: outcome(result) };
  });
}

const GOOD: readonly (readonly [string, readonly string[]])[] = [
  ["nothing", []],
  ["one after the other", ["w1 0-1", "r1 2-3", "w2 4-5", "r2 6-7"]],
  ["a read beside a write may see either", ["w1 0-1", "w2 2-9", "r1 3-4", "r2 5-6"]],
  ["two writes at once, one order explains both reads", ["w1 0-10", "w2 0-10", "r2 11-12", "r2 13-14"]],
  ["an unknown write that took effect late", ["w1 0-1", "w2 2-?", "r1 3-4", "r2 50-51"]],
  ["an unknown write that never took effect", ["w1 0-1", "w2 2-?", "r1 50-51"]],
  ["compare-and-set in a row", ["w1 0-1", "c1>2=true 2-3", "c1>3=false 4-5", "r2 6-7"]],
  ["an unknown compare-and-set explains a value", ["w1 0-1", "c1>2=true 2-?", "r2 9-10"]],
  ["reads before any write", ["r 0-1", "w1 2-3", "r1 4-5"]],
];

const BAD: readonly (readonly [string, readonly string[]])[] = [
  ["a stale read", ["w1 0-1", "w2 2-3", "r1 4-5"]],
  ["a value from nowhere", ["w1 0-1", "r7 2-3"]],
  ["reads that go back", ["w1 0-1", "w2 2-20", "r2 3-4", "r1 5-6"]],
  ["two readers that see opposite orders", ["w1 0-10", "w2 0-10", "r1 11-12", "r2 13-14", "r1 15-16"]],
  ["two successful compare-and-sets from one value", ["w1 0-1", "c1>2=true 2-9", "c1>3=true 2-9"]],
  ["a lost acknowledged write", ["w1 0-1", "r 2-3"]],
  ["an unknown write before its call", ["w1 0-1", "r2 2-3", "w2 4-?"]],
  ["a failed compare-and-set that had to succeed", ["w1 0-1", "c1>2=false 2-3"]],
];

for (const [name, lines] of GOOD) {
  test(`checkRegister() accepts ${name}`, () => {
    assert.equal(checkRegister(history(...lines), ""), "linearizable");
  });
}

for (const [name, lines] of BAD) {
  test(`checkRegister() refuses ${name}`, () => {
    assert.equal(checkRegister(history(...lines), ""), "not linearizable");
  });
}

/** What a real register of `clients` would show: each operation takes effect at a moment between call and return. */
function honest(random: SeededRandom, count: number): Operation[] {
  const planned = Array.from({ length: count }, (_, index) => {
    const callMs = random.float() * count * 2;
    const effectMs = callMs + random.float() * 10;
    return { index, callMs, effectMs, returnMs: effectMs + random.float() * 10, dice: random.float() };
  });
  let value = "";
  const operations: Operation[] = [];
  for (const each of planned.sort((a, b) => a.effectMs - b.effectMs)) {
    const times = { callMs: each.callMs, returnMs: each.returnMs };
    if (each.dice < 0.5) operations.push({ call: { kind: "read" }, ...times, outcome: value });
    else if (each.dice < 0.8) {
      value = String(each.index);
      operations.push({ call: { kind: "write", value }, ...times, outcome: "true" });
    } else {
      const expected = each.dice < 0.9 ? value : "other";
      const succeeds = expected === value;
      operations.push({
        call: { kind: "cas", expected, value: String(each.index) },
        ...times,
        outcome: String(succeeds),
      });
      if (succeeds) value = String(each.index);
    }
  }
  return operations;
}

test("checkRegister() accepts what a real register shows, and refuses it with one read changed", () => {
  let refused = 0;
  for (let seed = 1; seed <= 60; seed += 1) {
    const random = new SeededRandom(seed);
    const operations = honest(random, 80);
    assert.equal(checkRegister(operations, ""), "linearizable", `seed ${seed}`);
    const reads = operations.filter((each) => each.call.kind === "read");
    const victim = reads[random.below(reads.length)];
    assert.ok(victim !== undefined);
    const changed = operations.map((each) =>
      each === victim ? { ...each, outcome: "never written" } : each,
    );
    if (checkRegister(changed, "") === "not linearizable") refused += 1;
  }
  assert.equal(refused, 60);
});

test("checkRegister() gives up at its bound instead of running for ever", () => {
  const operations = Array.from({ length: 30 }, (_, index): Operation => {
    return { call: { kind: "write", value: String(index) }, callMs: 0, returnMs: 100, outcome: "true" };
  });
  operations.push({ call: { kind: "read" }, callMs: 101, returnMs: 102, outcome: "absent" });
  assert.equal(checkRegister(operations, "", 10_000), "undecided");
});
