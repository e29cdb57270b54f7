/**
 * Seccomp profile to filter program: a balanced tree of comparisons over ranges of call numbers, so that a call costs about
 * seven comparisons instead of hundreds. Pure; profiles.ts decides which rules apply.
 */
import { ClusterError } from "../../../common/errors.ts";
import type { SyscallTable } from "./syscall-tables.ts";

export type CompareOp =
  | "SCMP_CMP_EQ"
  | "SCMP_CMP_NE"
  | "SCMP_CMP_LT"
  | "SCMP_CMP_LE"
  | "SCMP_CMP_GT"
  | "SCMP_CMP_GE"
  | "SCMP_CMP_MASKED_EQ";

export interface ArgumentCondition {
  readonly index: number;
  readonly value: bigint;
  readonly valueTwo: bigint;
  readonly op: CompareOp;
}

export interface CallRule {
  readonly names: readonly string[];
  /** The kernel's return value for it. */
  readonly action: number;
  /** All must hold. */
  readonly conditions: readonly ArgumentCondition[];
}

export interface FilterSpec {
  readonly defaultAction: number;
  readonly rules: readonly CallRule[];
  /** Calls that the profile speaks of beyond the rules, since it says of them what happens anyway. */
  readonly otherNames?: readonly string[];
}

const INSTRUCTION_COUNT_MAX = 4096;
const KILL_PROCESS = 0x80000000;
const ERRNO_ENOSYS = 0x00050000 | 38;
/** Allow, log, trace: what is watched goes on as well. */
const ALLOWING_ACTIONS: readonly number[] = [0x7fff0000, 0x7ffc0000, 0x7ff00000];
/** x32 calls have this bit: another table, which no profile speaks of. */
const X32_BIT = 0x40000000;
const OFFSET_NUMBER = 0;
const OFFSET_ARCH = 4;
const OFFSET_ARGUMENTS = 16;

const Op = {
  load: 0x20,
  and: 0x54,
  jumpAlways: 0x05,
  equal: 0x15,
  greater: 0x25,
  atLeast: 0x35,
  ret: 0x06,
} as const;

/** `yes`, `no`: how many instructions to skip, or a label that is resolved when the block is whole. */
interface Instruction {
  readonly code: number;
  readonly k: number;
  readonly yes: number | "pass" | "fail";
  readonly no: number | "pass" | "fail";
}

function plain(code: number, k: number): Instruction {
  return { code, k: k >>> 0, yes: 0, no: 0 };
}

function jump(code: number, k: number, yes: Instruction["yes"], no: Instruction["no"]): Instruction {
  return { code, k: k >>> 0, yes, no };
}

/** One argument against a value, in two halves of 32 bits. Goes on behind itself if it holds, else to "fail". */
function condition(test: ArgumentCondition): readonly Instruction[] {
  const low = OFFSET_ARGUMENTS + 8 * test.index;
  const half = (value: bigint, isHigh: boolean): number =>
    Number((value >> (isHigh ? 32n : 0n)) & 0xffffffffn);
  const high = half(test.value, true);
  const rest = half(test.value, false);
  const loadHigh = plain(Op.load, low + 4);
  const loadLow = plain(Op.load, low);
  switch (test.op) {
    case "SCMP_CMP_EQ":
      return [loadHigh, jump(Op.equal, high, 0, "fail"), loadLow, jump(Op.equal, rest, 0, "fail")];
    case "SCMP_CMP_NE":
      return [loadHigh, jump(Op.equal, high, 0, "pass"), loadLow, jump(Op.equal, rest, "fail", "pass")];
    case "SCMP_CMP_MASKED_EQ":
      return [
        loadHigh,
        plain(Op.and, high),
        jump(Op.equal, half(test.valueTwo, true), 0, "fail"),
        loadLow,
        plain(Op.and, rest),
        jump(Op.equal, half(test.valueTwo, false), 0, "fail"),
      ];
    case "SCMP_CMP_GE":
    case "SCMP_CMP_GT": {
      const compare = test.op === "SCMP_CMP_GE" ? Op.atLeast : Op.greater;
      return [
        loadHigh,
        jump(Op.greater, high, "pass", 0),
        jump(Op.equal, high, 0, "fail"),
        loadLow,
        jump(compare, rest, 0, "fail"),
      ];
    }
    case "SCMP_CMP_LT":
    case "SCMP_CMP_LE": {
      const compare = test.op === "SCMP_CMP_LT" ? Op.atLeast : Op.greater;
      return [
        loadHigh,
        jump(Op.greater, high, "fail", 0),
        jump(Op.equal, high, 0, "pass"),
        loadLow,
        jump(compare, rest, "fail", 0),
      ];
    }
  }
}

/** Conditions of one rule, then its action; falls out behind itself if one does not hold. */
function ruleBlock(rule: CallRule): readonly Instruction[] {
  const tests = rule.conditions.map(condition);
  const block: Instruction[] = [];
  const total = tests.reduce((sum, test) => sum + test.length, 0) + 1;
  for (const test of tests) {
    const testEnd = block.length + test.length;
    for (const each of test) {
      const at = block.length;
      const resolve = (target: Instruction["yes"]): number =>
        target === "pass" ? testEnd - at - 1 : target === "fail" ? total - at - 1 : target;
      block.push({ ...each, yes: resolve(each.yes), no: resolve(each.no) });
    }
  }
  block.push(plain(Op.ret, rule.action));
  return block;
}

/** What happens for one call number; equal keys merge into ranges. */
interface Leaf {
  readonly key: string;
  readonly code: readonly Instruction[];
}

function leafOf(rules: readonly CallRule[], defaultAction: number): Leaf {
  const always = rules.find((rule) => rule.conditions.length === 0);
  const code =
    always !== undefined
      ? [plain(Op.ret, always.action)]
      : [...rules.flatMap(ruleBlock), plain(Op.ret, defaultAction)];
  return { key: JSON.stringify(code), code };
}

interface Range {
  readonly start: number;
  readonly leaf: Leaf;
}

function tree(ranges: readonly Range[]): readonly Instruction[] {
  const [first] = ranges;
  if (first === undefined) return [];
  if (ranges.length === 1) return first.leaf.code;
  const middle = ranges.length >> 1;
  const pivot = ranges[middle]?.start ?? 0;
  const left = tree(ranges.slice(0, middle));
  const right = tree(ranges.slice(middle));
  // Conditional jumps reach 255 instructions, unconditional ones as far as it takes.
  const head =
    left.length <= 255
      ? [jump(Op.atLeast, pivot, left.length, 0)]
      : [jump(Op.atLeast, pivot, 0, 1), plain(Op.jumpAlways, left.length)];
  return [...head, ...left, ...right];
}

function rangesOf(spec: FilterSpec, table: SyscallTable): readonly Range[] {
  const byNumber = new Map<number, CallRule[]>();
  for (const rule of spec.rules) {
    for (const name of rule.names) {
      const number = table.numbers.get(name);
      if (number === undefined) continue;
      const list = byNumber.get(number);
      if (list === undefined) byNumber.set(number, [rule]);
      else list.push(rule);
    }
  }
  const others = (spec.otherNames ?? []).map((name) => table.numbers.get(name) ?? -1);
  const newest = Math.max(-1, ...byNumber.keys(), ...others);
  const ranges: Range[] = [];
  const add = (start: number, leaf: Leaf): void => {
    if (ranges.at(-1)?.leaf.key !== leaf.key) ranges.push({ start, leaf });
  };
  for (let number = 0; number <= newest; number++) {
    add(number, leafOf(byNumber.get(number) ?? [], spec.defaultAction));
  }
  // Calls younger than the profile: libraries fall back on "no such call" but not on "not permitted".
  const isAllowing = ALLOWING_ACTIONS.includes(spec.defaultAction & 0xffff0000);
  const unknown = isAllowing ? spec.defaultAction : ERRNO_ENOSYS;
  add(newest + 1, leafOf([], unknown));
  if (table.arch === "SCMP_ARCH_X86_64") add(X32_BIT, leafOf([], ERRNO_ENOSYS));
  return ranges;
}

/** Filter for the machine's architecture first and those it can also run. Bytes as the kernel takes them. */
export function compileFilter(spec: FilterSpec, tables: readonly SyscallTable[]): Uint8Array {
  const program: Instruction[] = [plain(Op.load, OFFSET_ARCH)];
  for (const table of tables) {
    const body = [plain(Op.load, OFFSET_NUMBER), ...tree(rangesOf(spec, table))];
    program.push(jump(Op.equal, table.auditArch, 1, 0), plain(Op.jumpAlways, body.length), ...body);
  }
  program.push(plain(Op.ret, KILL_PROCESS));
  if (program.length > INSTRUCTION_COUNT_MAX) {
    throw new ClusterError(
      "invalid_argument",
      `Seccomp profile is too long: ${program.length} instructions, at most ${INSTRUCTION_COUNT_MAX}`,
    );
  }
  const bytes = Buffer.alloc(program.length * 8);
  program.forEach((each, index) => {
    bytes.writeUInt16LE(each.code, index * 8);
    bytes.writeUInt8(Number(each.yes), index * 8 + 2);
    bytes.writeUInt8(Number(each.no), index * 8 + 3);
    bytes.writeUInt32LE(each.k, index * 8 + 4);
  });
  return bytes;
}
