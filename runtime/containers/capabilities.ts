/**
 * Linux capabilities by name and bit, Docker's default set, and how --cap-add, --cap-drop and --privileged change it. Nobody
 * gets what the daemon itself could not have: on a machine that withholds some (a container, a hardened VM), "privileged"
 * and "ALL" mean all that there are, as with dockerd.
 */
import { readFileSync } from "node:fs";
import { ClusterError } from "../../common/errors.ts";
import type { CapabilitySets } from "./launch-spec.ts";

/** In the order of the kernel's numbers. */
const CAPABILITY_NAMES = [
  "CHOWN",
  "DAC_OVERRIDE",
  "DAC_READ_SEARCH",
  "FOWNER",
  "FSETID",
  "KILL",
  "SETGID",
  "SETUID",
  "SETPCAP",
  "LINUX_IMMUTABLE",
  "NET_BIND_SERVICE",
  "NET_BROADCAST",
  "NET_ADMIN",
  "NET_RAW",
  "IPC_LOCK",
  "IPC_OWNER",
  "SYS_MODULE",
  "SYS_RAWIO",
  "SYS_CHROOT",
  "SYS_PTRACE",
  "SYS_PACCT",
  "SYS_ADMIN",
  "SYS_BOOT",
  "SYS_NICE",
  "SYS_RESOURCE",
  "SYS_TIME",
  "SYS_TTY_CONFIG",
  "MKNOD",
  "LEASE",
  "AUDIT_WRITE",
  "AUDIT_CONTROL",
  "SETFCAP",
  "MAC_OVERRIDE",
  "MAC_ADMIN",
  "SYSLOG",
  "WAKE_ALARM",
  "BLOCK_SUSPEND",
  "AUDIT_READ",
  "PERFMON",
  "BPF",
  "CHECKPOINT_RESTORE",
] as const;

const DEFAULT_NAMES: readonly string[] = [
  "CHOWN",
  "DAC_OVERRIDE",
  "FSETID",
  "FOWNER",
  "MKNOD",
  "NET_RAW",
  "SETGID",
  "SETUID",
  "SETFCAP",
  "SETPCAP",
  "NET_BIND_SERVICE",
  "SYS_CHROOT",
  "KILL",
  "AUDIT_WRITE",
];

const BIT_OF: ReadonlyMap<string, bigint> = new Map(
  CAPABILITY_NAMES.map((name, index) => [name, 1n << BigInt(index)]),
);

/** Mask of everything this list knows. */
export const ALL_CAPABILITIES: bigint = (1n << BigInt(CAPABILITY_NAMES.length)) - 1n;

/** The bounding set of this process, from the text of /proc/self/status (proc(5), CapBnd). */
export function boundingSet(status: string): bigint {
  const hex = /^CapBnd:\s*([0-9a-f]+)$/m.exec(status)?.[1];
  return hex === undefined ? ALL_CAPABILITIES : BigInt(`0x${hex}`) & ALL_CAPABILITIES;
}

let available: bigint | undefined;

/** What containers of this daemon can have at most. Read once: the bounding set of a process never grows. */
export function availableCapabilities(): bigint {
  available ??= boundingSet(readFileSync("/proc/self/status", "utf8"));
  return available;
}

/** "cap_net_admin", "NET_ADMIN" and "CAP_NET_ADMIN" are the same; "ALL" stays. */
function canonical(given: string, field: "CapAdd" | "CapDrop"): string {
  const name = given.toUpperCase().replace(/^CAP_/, "");
  if (name !== "ALL" && !BIT_OF.has(name)) {
    throw new ClusterError("invalid_argument", `invalid ${field}: unknown capability: "CAP_${name}"`);
  }
  return name;
}

function maskOf(names: readonly string[]): bigint {
  return names.reduce(
    (mask, name) => mask | (name === "ALL" ? ALL_CAPABILITIES : (BIT_OF.get(name) ?? 0n)),
    0n,
  );
}

const DEFAULT_MASK = maskOf(DEFAULT_NAMES);

/** The set after adding and dropping. Throws on unknown names, and on adding by name what is not available. */
export function capabilityMask(options: {
  readonly add: readonly string[];
  readonly drop: readonly string[];
  readonly isPrivileged: boolean;
  readonly available: bigint;
}): bigint {
  const add = options.add.map((name) => canonical(name, "CapAdd"));
  const drop = options.drop.map((name) => canonical(name, "CapDrop"));
  const absent = add.find((name) => name !== "ALL" && (maskOf([name]) & options.available) === 0n);
  if (absent !== undefined) {
    throw new ClusterError(
      "invalid_argument",
      `invalid CapAdd: capability not supported by your kernel or not available in the current environment: "CAP_${absent}"`,
    );
  }
  if (options.isPrivileged) return options.available;
  if (add.length + drop.length === 0) return DEFAULT_MASK & options.available;
  const added = add.includes("ALL") ? options.available : (DEFAULT_MASK & options.available) | maskOf(add);
  // As Docker: with ALL dropped only what is added by name stays; with ALL added only what is dropped by name goes.
  if (drop.includes("ALL")) return maskOf(add.filter((name) => name !== "ALL"));
  return added & ~maskOf(drop);
}

/** Sets of a container's process: inheritable and ambient stay empty. */
export function capabilitySets(mask: bigint): CapabilitySets {
  return { bounding: mask, effective: mask, permitted: mask, inheritable: 0n, ambient: 0n };
}

/** CAP_ names of a mask, for seccomp profiles and OCI documents. */
export function capabilityNames(mask: bigint): readonly string[] {
  return CAPABILITY_NAMES.filter((_, index) => (mask >> BigInt(index)) & 1n).map((name) => `CAP_${name}`);
}
