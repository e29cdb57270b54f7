/**
 * Seccomp, three ways: the native program compiles what the TypeScript compiler compiles, byte for byte; every system
 * call is made under the default profile and the outcome compared with what the profile says; and, where runc is
 * installed, with the same container under runc.
 */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import path from "node:path";
import { after, before, test } from "node:test";
import { compileFilter, type FilterSpec } from "../../runtime/containers/seccomp/compiler.ts";
import { DEFAULT_PROFILE } from "../../runtime/containers/seccomp/default-profile.ts";
import { filterSpec, tablesFor } from "../../runtime/containers/seccomp/profiles.ts";
import { SYSCALL_TABLES } from "../../runtime/containers/seccomp/syscall-tables.ts";
import { OciLab, usualConfig, type OciConfig } from "./support/oci-lab.ts";

const source = (...parts: string[]): string => {
  const root = path.resolve(import.meta.dirname, "../..");
  return path.join(path.basename(root) === "dist" ? path.dirname(root) : root, ...parts);
};
const HIGHEST_PROBED = 480;
/** The newest call that Debian 12's libseccomp knows: runc answers ENOSYS to all above, whatever the profile says. */
const HIGHEST_OF_LIBSECCOMP = 456;
/** x86: the kernel's own return probes call these, and seccomp never sees them. */
const UNFILTERED = [335, 336];
const ACTIONS = new Map([
  [0x7fff0000, { action: "SCMP_ACT_ALLOW" }],
  [0x00050001, { action: "SCMP_ACT_ERRNO" }],
  [0x00050026, { action: "SCMP_ACT_ERRNO", errnoRet: 38 }],
]);

let lab: OciLab;
before(async () => {
  lab = await OciLab.create();
});
after(async () => {
  await lab.close();
});

/** As an engine resolves a profile into config.json. */
function ociSeccomp(spec: FilterSpec): Record<string, unknown> {
  return {
    defaultAction: "SCMP_ACT_ERRNO",
    defaultErrnoRet: 1,
    architectures: tablesFor(process.arch).map((table) => table.arch),
    syscalls: spec.rules.map((rule) => ({
      names: rule.names,
      ...ACTIONS.get(rule.action),
      args: rule.conditions.map(({ index, value, valueTwo, op }) => ({
        index,
        value: Number(value),
        valueTwo: Number(valueTwo),
        op,
      })),
    })),
  };
}

async function nativeProgram(seccomp: Record<string, unknown>): Promise<string> {
  const config = usualConfig("true");
  config.linux["seccomp"] = seccomp;
  return (await lab.ok("seccomp", "--bundle", await lab.bundle(config))).trim();
}

test("both compilers know the same calls", () => {
  const text = readFileSync(source("runtime/native/syscalls.c"), "utf8");
  for (const [name, arch] of [
    ["x86_64", "SCMP_ARCH_X86_64"],
    ["i386", "SCMP_ARCH_X86"],
    ["aarch64", "SCMP_ARCH_AARCH64"],
  ] as const) {
    const body = new RegExp(`char ${name}\\[\\] =([^;]*);`).exec(text)?.[1] ?? "";
    const entries = body
      .replaceAll(/["\s]/g, "")
      .split(",")
      .map((entry) => entry.split("="))
      .map(([key = "", value]) => [key, Number(value)]);
    const table = SYSCALL_TABLES.find((each) => each.arch === arch);
    assert.deepEqual(entries, [...(table?.numbers ?? [])], name);
  }
});

test("both compilers make the same program of the default profile, whatever the capabilities", async () => {
  for (const capabilities of [[], ["CAP_SYS_ADMIN"], ["CAP_SYS_PTRACE", "CAP_SYS_CHROOT", "CAP_BPF"]]) {
    const spec = filterSpec(DEFAULT_PROFILE, capabilities);
    const wanted = Buffer.from(compileFilter(spec, tablesFor(process.arch))).toString("hex");
    assert.equal(await nativeProgram(ociSeccomp(spec)), wanted);
  }
});

test("both compilers make the same program of comparisons, of repeated arguments and of a logging default", async () => {
  const ops = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"].map((op) => `SCMP_CMP_${op}`);
  const one = ops.map((op, index) => ({
    names: ["read", "write", "ioctl"].slice(0, (index % 3) + 1),
    action: "SCMP_ACT_ERRNO",
    errnoRet: index + 5,
    args: [
      { index: index % 6, value: 2 ** 40 + index, valueTwo: 7, op },
      { index: (index + 1) % 6, value: 9, op: "SCMP_CMP_GE" },
    ],
  }));
  const twice = {
    names: ["socket"],
    action: "SCMP_ACT_ERRNO",
    args: [
      { index: 0, value: 1, op: "SCMP_CMP_EQ" },
      { index: 0, value: 3, op: "SCMP_CMP_EQ" },
    ],
  };
  const logged = { names: ["statmount"], action: "SCMP_ACT_LOG" };
  for (const defaultAction of ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_KILL_PROCESS"]) {
    const profile = { defaultAction, syscalls: [...one, twice, logged] };
    const spec = filterSpec(profile, []);
    const architectures = tablesFor(process.arch).map((table) => table.arch);
    const wanted = Buffer.from(compileFilter(spec, tablesFor(process.arch))).toString("hex");
    assert.equal(await nativeProgram({ ...profile, architectures }), wanted, defaultAction);
  }
});

async function probeConfig(): Promise<OciConfig> {
  const program = path.join(lab.folder, "probe");
  execFileSync("musl-gcc", ["-O1", "-static", "-o", program, source("test/conformance/support/probe.c")]);
  const config = usualConfig("/place/probe", String(HIGHEST_PROBED));
  config.mounts.push({ destination: "/place/probe", type: "bind", source: program, options: ["bind", "ro"] });
  config.process["noNewPrivileges"] = true;
  config.process["capabilities"] = {};
  config.linux["seccomp"] = ociSeccomp(filterSpec(DEFAULT_PROFILE, []));
  return config;
}

async function probe(target: OciLab, config: OciConfig): Promise<Map<number, string>> {
  const { status, stdout, stderr } = await target.run(structuredClone(config));
  assert.equal(status, 0, stderr);
  const pairs = stdout
    .trim()
    .split("\n")
    .map((line) => line.split(" "));
  return new Map(pairs.map(([number, outcome]) => [Number(number), outcome ?? ""]));
}

test("every call number under the default profile: refused, unknown or let through as the profile says", async () => {
  const config = await probeConfig();
  const outcomes = await probe(lab, config);
  delete config.linux["seccomp"];
  const free = await probe(lab, config);
  const spec = filterSpec(DEFAULT_PROFILE, []);
  const [table] = tablesFor(process.arch);
  assert.ok(table !== undefined);
  const names = new Map([...table.numbers].map(([name, number]) => [number, name]));
  const newest = Math.max(
    ...spec.rules.flatMap((rule) => rule.names.map((name) => table.numbers.get(name) ?? -1)),
  );
  assert.ok(outcomes.size > HIGHEST_PROBED - 3);
  for (const [number, outcome] of outcomes) {
    const rules = spec.rules.filter((rule) => rule.names.includes(names.get(number) ?? ""));
    if (rules.some((rule) => rule.conditions.length > 0) || UNFILTERED.includes(number)) continue;
    const [rule] = rules;
    // What the filter lets through is answered by the kernel, as without a filter.
    const wanted =
      number > newest
        ? "ENOSYS"
        : rule === undefined
          ? "EPERM"
          : rule.action === 0x7fff0000
            ? free.get(number)
            : "ENOSYS";
    assert.equal(outcome, wanted, `call ${number} ${names.get(number) ?? ""}`);
  }
});

test("every call number answers as under runc with the same profile", async (context) => {
  if (spawnSync("runc", ["--version"]).status !== 0) {
    context.skip("runc is not installed");
    return;
  }
  const config = await probeConfig();
  const other = await OciLab.create("runc");
  try {
    config.root.path = path.join(lab.folder, "rootfs");
    const [ours, theirs] = [await probe(lab, config), await probe(other, config)];
    const different = [...ours].filter(
      ([number, outcome]) => number <= HIGHEST_OF_LIBSECCOMP && theirs.get(number) !== outcome,
    );
    assert.deepEqual(
      different.map(([number, outcome]) => `${number}: ${outcome}, runc ${theirs.get(number)}`),
      [],
    );
    for (let number = HIGHEST_OF_LIBSECCOMP + 1; number <= HIGHEST_PROBED; number++) {
      assert.equal(theirs.get(number), "ENOSYS", `${number} under runc`);
    }
  } finally {
    await other.close();
  }
});
