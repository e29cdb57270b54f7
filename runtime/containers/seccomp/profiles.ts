/** Profiles in Docker's JSON form: which rules apply for a set of capabilities on this machine, compiled once and kept. */
import * as os from "node:os";
import { ClusterError } from "../../../common/errors.ts";
import {
  compileFilter,
  type ArgumentCondition,
  type CallRule,
  type CompareOp,
  type FilterSpec,
} from "./compiler.ts";
import { DEFAULT_PROFILE } from "./default-profile.ts";
import type { Profile, ProfileSyscall } from "./profile-format.ts";
import { SYSCALL_TABLES, type SyscallTable } from "./syscall-tables.ts";

const EPERM = 1;
const CACHED_FILTERS_MAX = 64;
const COMPARE_OPS: readonly CompareOp[] = [
  "SCMP_CMP_EQ",
  "SCMP_CMP_NE",
  "SCMP_CMP_LT",
  "SCMP_CMP_LE",
  "SCMP_CMP_GT",
  "SCMP_CMP_GE",
  "SCMP_CMP_MASKED_EQ",
];

function refuse(text: string): never {
  throw new ClusterError("invalid_argument", `decoding seccomp profile failed: ${text}`);
}

function actionValue(action: string, errno: number | undefined): number {
  switch (action) {
    case "SCMP_ACT_ALLOW":
      return 0x7fff0000;
    case "SCMP_ACT_LOG":
      return 0x7ffc0000;
    case "SCMP_ACT_TRACE":
      return 0x7ff00000 | (errno ?? EPERM);
    case "SCMP_ACT_ERRNO":
      return 0x00050000 | (errno ?? EPERM);
    case "SCMP_ACT_TRAP":
      return 0x00030000;
    case "SCMP_ACT_KILL":
    case "SCMP_ACT_KILL_THREAD":
      return 0;
    case "SCMP_ACT_KILL_PROCESS":
      return 0x80000000;
    default:
      return refuse(`action ${action} is not supported`);
  }
}

function isKernelAtLeast(wanted: string, release: string): boolean {
  const parts = (text: string): number[] => text.split(/[.-]/).slice(0, 2).map(Number);
  const [wantedMajor = 0, wantedMinor = 0] = parts(wanted);
  const [major = 0, minor = 0] = parts(release);
  return major > wantedMajor || (major === wantedMajor && minor >= wantedMinor);
}

const GO_ARCH: Readonly<Record<string, string>> = { x64: "amd64", arm64: "arm64" };

function applies(rule: ProfileSyscall, capabilities: readonly string[]): boolean {
  const { includes, excludes } = rule;
  const arch = GO_ARCH[process.arch] ?? process.arch;
  if (includes?.arches !== undefined && includes.arches.length > 0 && !includes.arches.includes(arch))
    return false;
  if (excludes?.arches?.includes(arch) === true) return false;
  if (includes?.minKernel !== undefined && includes.minKernel !== "") {
    if (!isKernelAtLeast(includes.minKernel, os.release())) return false;
  }
  if (includes?.caps !== undefined && includes.caps.length > 0) {
    if (!includes.caps.some((each) => capabilities.includes(each))) return false;
  }
  return !(excludes?.caps ?? []).some((each) => capabilities.includes(each));
}

function conditionOf(arg: NonNullable<ProfileSyscall["args"]>[number]): ArgumentCondition {
  const op = COMPARE_OPS.find((each) => each === arg.op);
  if (op === undefined) refuse(`comparison ${arg.op} is unknown`);
  if (!Number.isInteger(arg.index) || arg.index < 0 || arg.index > 5) refuse(`argument index ${arg.index}`);
  return { index: arg.index, value: BigInt(arg.value), valueTwo: BigInt(arg.valueTwo ?? 0), op };
}

function hasSameArgumentTwice(conditions: readonly ArgumentCondition[]): boolean {
  return new Set(conditions.map((each) => each.index)).size < conditions.length;
}

export function filterSpec(profile: Profile, capabilities: readonly string[]): FilterSpec {
  const defaultAction = actionValue(profile.defaultAction, profile.defaultErrnoRet);
  const rules: CallRule[] = [];
  const otherNames: string[] = [];
  for (const each of profile.syscalls ?? []) {
    const action = actionValue(each.action, each.errnoRet);
    if (!applies(each, capabilities)) continue;
    const names = each.names ?? (each.name === undefined ? [] : [each.name]);
    const conditions = (each.args ?? []).map(conditionOf);
    // A rule that says what happens anyway only costs.
    if (action === defaultAction) otherNames.push(...names);
    else if (!hasSameArgumentTwice(conditions)) rules.push({ names, action, conditions });
    // The same argument twice: any of the conditions is enough, as runc has it.
    else rules.push(...conditions.map((one) => ({ names, action, conditions: [one] })));
  }
  return { defaultAction, rules, otherNames };
}

/** The machine's own first, then what it can also run. */
export function tablesFor(arch: string): readonly SyscallTable[] {
  const wanted = arch === "arm64" ? ["SCMP_ARCH_AARCH64"] : ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"];
  return SYSCALL_TABLES.filter((table) => wanted.includes(table.arch));
}

function parseProfile(text: string): Profile {
  try {
    const parsed: unknown = JSON.parse(text);
    if (typeof parsed === "object" && parsed !== null && "defaultAction" in parsed) return parsed as Profile;
  } catch (caught) {
    refuse(caught instanceof Error ? caught.message : String(caught));
  }
  return refuse("defaultAction is missing");
}

/** The profile as config.json has it, decided for these capabilities; undefined for "unconfined". */
export function ociSeccomp(profile: string, capabilities: readonly string[]): object | undefined {
  if (profile === "unconfined") return undefined;
  const { defaultAction, defaultErrnoRet, syscalls } =
    profile === "default" ? DEFAULT_PROFILE : parseProfile(profile);
  const rules = (syscalls ?? []).filter((each) => applies(each, capabilities));
  return {
    defaultAction,
    defaultErrnoRet,
    architectures: tablesFor(process.arch).map((table) => table.arch),
    syscalls: rules.map(({ name, names, action, errnoRet, args }) => ({
      names: names ?? (name === undefined ? [] : [name]),
      action,
      errnoRet,
      args: args ?? [],
    })),
  };
}

const cache = new Map<string, Uint8Array>();

/** Filter bytes of "default", a profile's text, or undefined for "unconfined". */
export function compileProfile(profile: string, capabilities: readonly string[]): Uint8Array | undefined {
  if (profile === "unconfined") return undefined;
  const key = `${capabilities.join(",")}\n${profile}`;
  const known = cache.get(key);
  if (known !== undefined) return known;
  const spec = filterSpec(profile === "default" ? DEFAULT_PROFILE : parseProfile(profile), capabilities);
  const filter = compileFilter(spec, tablesFor(process.arch));
  const [oldest] = cache.keys();
  if (cache.size >= CACHED_FILTERS_MAX && oldest !== undefined) cache.delete(oldest);
  cache.set(key, filter);
  return filter;
}
