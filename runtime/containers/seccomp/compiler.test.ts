/** The compiled filter, run by an interpreter of the kernel's instruction set, against what the profile says. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { compileFilter, type ArgumentCondition } from "./compiler.ts";
import { DEFAULT_PROFILE } from "./default-profile.ts";
import { compileProfile, filterSpec, tablesFor } from "./profiles.ts";
import { SYSCALL_TABLES } from "./syscall-tables.ts";

const ALLOW = 0x7fff0000;
const EPERM = 0x00050001;
const ENOSYS = 0x00050026;
const X86_64 = 0xc000003e;

interface Call {
  readonly arch: number;
  readonly number: number;
  readonly args?: readonly bigint[];
}

/** Classic BPF as seccomp uses it; also the proof that no jump leaves the program. */
function evaluate(program: Uint8Array, call: Call): number {
  const code = Buffer.from(program);
  const data = Buffer.alloc(64);
  data.writeUInt32LE(call.number, 0);
  data.writeUInt32LE(call.arch, 4);
  (call.args ?? []).forEach((value, index) => data.writeBigUInt64LE(value, 16 + 8 * index));
  let register = 0;
  for (let at = 0; at < code.length / 8; at++) {
    const op = code.readUInt16LE(at * 8);
    const [yes, no] = [code.readUInt8(at * 8 + 2), code.readUInt8(at * 8 + 3)];
    const value = code.readUInt32LE(at * 8 + 4);
    switch (op) {
      case 0x20:
        register = data.readUInt32LE(value);
        break;
      case 0x54:
        register = (register & value) >>> 0;
        break;
      case 0x05:
        at += value;
        break;
      case 0x15:
        at += register === value ? yes : no;
        break;
      case 0x25:
        at += register > value ? yes : no;
        break;
      case 0x35:
        at += register >= value ? yes : no;
        break;
      case 0x06:
        return value;
      default:
        assert.fail(`unknown instruction ${op}`);
    }
  }
  return assert.fail("the program ends without a verdict");
}

const [x64] = SYSCALL_TABLES;
assert.ok(x64 !== undefined);
function numberOf(name: string): number {
  const number = x64?.numbers.get(name);
  assert.ok(number !== undefined, name);
  return number;
}

function verdict(filter: Uint8Array, name: string, args: readonly bigint[] = []): number {
  return evaluate(filter, { arch: X86_64, number: numberOf(name), args });
}

test("compileFilter() agrees with the profile for every call number and capability set", () => {
  for (const capabilities of [[], ["CAP_SYS_ADMIN"], ["CAP_SYS_PTRACE", "CAP_SYS_CHROOT"]]) {
    const spec = filterSpec(DEFAULT_PROFILE, capabilities);
    const filter = compileFilter(spec, tablesFor("x64"));
    const plain = spec.rules.filter((rule) => rule.conditions.length === 0);
    const conditional = new Set(
      spec.rules.filter((rule) => rule.conditions.length > 0).flatMap((rule) => rule.names),
    );
    let newest = 0;
    for (const rule of spec.rules)
      for (const name of rule.names) newest = Math.max(newest, x64?.numbers.get(name) ?? 0);
    const names = new Map<number, string>();
    for (const [name, number] of x64?.numbers ?? []) names.set(number, name);
    for (let number = 0; number < 600; number++) {
      const name = names.get(number) ?? "";
      if (conditional.has(name) && !plain.some((rule) => rule.names.includes(name))) continue;
      const expected =
        number > newest ? ENOSYS : (plain.find((rule) => rule.names.includes(name))?.action ?? EPERM);
      assert.equal(evaluate(filter, { arch: X86_64, number }), expected, `${number} ${name}`);
    }
  }
});

test("the default profile decides by arguments and capabilities", () => {
  const filter = compileProfile("default", []);
  const admin = compileProfile("default", ["CAP_SYS_ADMIN"]);
  assert.ok(filter !== undefined && admin !== undefined);
  assert.equal(verdict(filter, "clone", [0x10000000n]), EPERM);
  assert.equal(verdict(filter, "clone", [0x11n]), ALLOW);
  assert.equal(verdict(admin, "clone", [0x10000000n]), ALLOW);
  assert.equal(verdict(filter, "clone3"), ENOSYS);
  assert.equal(verdict(admin, "clone3"), ALLOW);
  assert.equal(verdict(filter, "socket", [2n]), ALLOW);
  assert.equal(verdict(filter, "socket", [38n]), EPERM);
  assert.equal(verdict(filter, "socket", [40n]), EPERM);
  assert.equal(verdict(filter, "socket", [44n]), ALLOW);
  assert.equal(verdict(filter, "personality", [0xffffffffn]), ALLOW);
  assert.equal(verdict(filter, "personality", [0x40000n]), EPERM);
  assert.equal(verdict(filter, "mount"), EPERM);
  assert.equal(verdict(admin, "mount"), ALLOW);
  assert.equal(verdict(filter, "keyctl"), EPERM);
});

test("another architecture ends the process, x32 calls don't exist", () => {
  const filter = compileProfile("default", []);
  assert.ok(filter !== undefined);
  assert.equal(evaluate(filter, { arch: 0x12345678, number: 0 }), 0x80000000);
  assert.equal(evaluate(filter, { arch: X86_64, number: 0x40000000 }), ENOSYS);
  // exit of i386.
  assert.equal(evaluate(filter, { arch: 0x40000003, number: 1 }), ALLOW);
});

test("the default program is short: the kernel loads it in microseconds", () => {
  const filter = compileProfile("default", []);
  assert.ok(
    filter !== undefined && filter.byteLength / 8 < 600,
    `${(filter?.byteLength ?? 0) / 8} instructions`,
  );
});

test("comparisons of 64 bits hold in both halves", () => {
  const big = 0x1_0000_0005n;
  const cases: readonly (readonly [ArgumentCondition["op"], bigint, boolean])[] = [
    ["SCMP_CMP_EQ", big, true],
    ["SCMP_CMP_EQ", 5n, false],
    ["SCMP_CMP_NE", 5n, true],
    ["SCMP_CMP_NE", big, false],
    ["SCMP_CMP_GT", big + 1n, true],
    ["SCMP_CMP_GT", big, false],
    ["SCMP_CMP_GT", 0xffffffffn, false],
    ["SCMP_CMP_GE", big, true],
    ["SCMP_CMP_GE", big - 1n, false],
    ["SCMP_CMP_LT", big - 1n, true],
    ["SCMP_CMP_LT", big, false],
    ["SCMP_CMP_LT", 0xffffffffn, true],
    ["SCMP_CMP_LE", big, true],
    ["SCMP_CMP_LE", 0x2_0000_0000n, false],
  ];
  for (const [op, argument, holds] of cases) {
    const rule = { names: ["read"], action: ALLOW, conditions: [{ index: 2, value: big, valueTwo: 0n, op }] };
    const filter = compileFilter({ defaultAction: EPERM, rules: [rule] }, tablesFor("x64"));
    const got = verdict(filter, "read", [0n, 0n, argument]);
    assert.equal(got, holds ? ALLOW : EPERM, `${op} ${argument}`);
  }
});

test("profiles in Docker's form: unknown actions and comparisons are refused", () => {
  assert.throws(
    () => compileProfile('{"defaultAction":"SCMP_ACT_NOTIFY"}', []),
    /SCMP_ACT_NOTIFY is not supported/,
  );
  assert.throws(() => compileProfile("{", []), /decoding seccomp profile failed/);
  const args = [{ index: 9, value: 0, op: "SCMP_CMP_EQ" }];
  const profile = {
    defaultAction: "SCMP_ACT_ALLOW",
    syscalls: [{ names: ["read"], action: "SCMP_ACT_ERRNO", args }],
  };
  assert.throws(() => compileProfile(JSON.stringify(profile), []), /argument index 9/);
});
