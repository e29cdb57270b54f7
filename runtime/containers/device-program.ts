/**
 * Device rules as a BPF program for hosts whose devices controller is cgroup v2: the last rule that matches decides,
 * silence denies. Pure.
 */

const TYPE_BLOCK = 1;
const TYPE_CHAR = 2;
const ACCESS: Readonly<Record<string, number>> = { m: 1, r: 2, w: 4 };

const Op = {
  loadWord: 0x61,
  move: 0xb7,
  copy: 0xbf,
  and: 0x57,
  shift: 0x77,
  notEqual: 0x55,
  notEqualReg: 0x5d,
  exit: 0x95,
};

interface Instruction {
  readonly code: number;
  readonly to: number;
  readonly from: number;
  readonly offset: number;
  readonly value: number;
}

function instruction(code: number, to: number, from = 0, offset = 0, value = 0): Instruction {
  return { code, to, from, offset, value };
}

/** Registers: 2 type, 3 access, 4 major, 5 minor of what is asked; 1 scratch. */
function ruleBlock(rule: string): readonly Instruction[] {
  const [type = "a", numbers = "*:*", letters = "rwm"] = rule.split(" ");
  const [major = "*", minor = "*"] = numbers.split(":");
  const access = letters.split("").reduce((bits, letter) => bits | (ACCESS[letter] ?? 0), 0);
  const tests: Instruction[] = [];
  const test = (...instructions: Instruction[]): number => tests.push(...instructions);
  if (type !== "a") test(instruction(Op.notEqual, 2, 0, 0, type === "b" ? TYPE_BLOCK : TYPE_CHAR));
  if (access !== 7) {
    // What is asked must all be granted.
    test(instruction(Op.copy, 1, 3), instruction(Op.and, 1, 0, 0, access), instruction(Op.notEqualReg, 1, 3));
  }
  if (major !== "*") test(instruction(Op.notEqual, 4, 0, 0, Number(major)));
  if (minor !== "*") test(instruction(Op.notEqual, 5, 0, 0, Number(minor)));
  const block = [...tests, instruction(Op.move, 0, 0, 0, 1), instruction(Op.exit, 0)];
  const isJump = (code: number): boolean => code === Op.notEqual || code === Op.notEqualReg;
  return block.map((each, index) =>
    isJump(each.code) ? { ...each, offset: block.length - index - 1 } : each,
  );
}

/** `rules`: "c 1:3 rwm", "a *:* rwm"; all allow. */
export function compileDeviceProgram(rules: readonly string[]): Uint8Array {
  const program = [
    instruction(Op.loadWord, 2, 1, 0),
    instruction(Op.copy, 3, 2),
    instruction(Op.and, 2, 0, 0, 0xffff),
    instruction(Op.shift, 3, 0, 0, 16),
    instruction(Op.loadWord, 4, 1, 4),
    instruction(Op.loadWord, 5, 1, 8),
    ...rules.flatMap(ruleBlock),
    instruction(Op.move, 0, 0, 0, 0),
    instruction(Op.exit, 0),
  ];
  const bytes = Buffer.alloc(program.length * 8);
  program.forEach((each, index) => {
    bytes.writeUInt8(each.code, index * 8);
    bytes.writeUInt8(each.to | (each.from << 4), index * 8 + 1);
    bytes.writeInt16LE(each.offset, index * 8 + 2);
    bytes.writeInt32LE(each.value, index * 8 + 4);
  });
  return bytes;
}
