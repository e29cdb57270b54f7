/**
 * A launch spec as an OCI bundle, for runtimes other than ours: config.json in the container's state folder, its root
 * mounted by the monitor. What our runtime looks up inside the container (names of users) is looked up here in its
 * layers.
 */
import { existsSync } from "node:fs";
import * as fs from "node:fs/promises";
import path from "node:path";
import { ClusterError } from "../../common/errors.ts";
import type { HostConfig } from "../../model/engine.ts";
import { LayeredView } from "../images/layered-view.ts";
import type { RootfsLayers } from "../ports.ts";
import { capabilityNames } from "./capabilities.ts";
import type { ResourceLimits } from "./cgroups.ts";
import {
  MountAttribute,
  MountFlag,
  type LaunchMount,
  type LaunchProcess,
  type LaunchSpec,
} from "./launch-spec.ts";
import { JobFlag, NamespaceFlag } from "./native-job.ts";
import type { OciRuntime, OciRuntimes } from "./oci-runtimes.ts";
import { rlimitName } from "./rlimits.ts";
import { ociSeccomp } from "./seccomp/profiles.ts";
import { parseSecurityOptions } from "./security-options.ts";
import { resolveSubpath } from "./subpaths.ts";

const ACCOUNT_FILE_BYTES_MAX = 1024 * 1024;
const ID_MAX = 2 ** 31 - 1;
const PROPAGATION_NAMES = new Map([
  [1 << 18, "rprivate"],
  [1 << 19, "rslave"],
  [1 << 20, "rshared"],
]);
const NAMESPACE_TYPES = new Map<number, string>([
  [NamespaceFlag.pid, "pid"],
  [NamespaceFlag.net, "network"],
  [NamespaceFlag.ipc, "ipc"],
  [NamespaceFlag.uts, "uts"],
  [NamespaceFlag.cgroup, "cgroup"],
]);

type Json = Record<string, unknown>;

interface Account {
  readonly uid: number;
  readonly gid: number;
  readonly additionalGids: readonly number[];
  readonly home: string;
}

function idOf(text: string): number | undefined {
  return /^\d+$/.test(text) && Number(text) <= ID_MAX ? Number(text) : undefined;
}

/** The id in `text`; undefined for a name. Throws for a number that no id can be. */
function idOrName(text: string): number | undefined {
  const id = idOf(text);
  if (id === undefined && /^\d+$/.test(text))
    throw new ClusterError("internal", `uids and gids must be in range 0-${ID_MAX}`);
  return id;
}

/**
 * "name|uid[:group|gid]" and more groups, as our own runtime reads them inside. Throws "internal" with the words that
 * clients know for what is not there.
 */
export function resolveAccount(user: string, groups: readonly string[], layers: RootfsLayers): Account {
  const view = new LayeredView([layers.upper, ...layers.lower]);
  const rows = (file: string): readonly string[][] =>
    (view.readFile(file, ACCOUNT_FILE_BYTES_MAX)?.toString("utf8") ?? "")
      .split("\n")
      .map((line) => line.split(":"));
  const [wanted = "", group = ""] = (user === "" ? "0" : user).split(":");
  const number = idOrName(wanted === "" ? "0" : wanted);
  const entry = rows("/etc/passwd").find((row) =>
    number === undefined ? row[0] === wanted : idOf(row[2] ?? "") === number,
  );
  const uid = idOf(entry?.[2] ?? "") ?? number;
  if (uid === undefined) {
    throw new ClusterError("internal", `unable to find user ${wanted}: no matching entries in passwd file`);
  }
  const gidOf = (name: string): number => {
    const gid = idOrName(name) ?? idOf(rows("/etc/group").find((row) => row[0] === name)?.[2] ?? "");
    if (gid === undefined)
      throw new ClusterError("internal", `unable to find group ${name}: no matching entries in group file`);
    return gid;
  };
  // Memberships only where the user named no group.
  const memberOf =
    entry === undefined || group !== ""
      ? []
      : rows("/etc/group")
          .filter((row) => (row[3] ?? "").split(",").includes(entry[0] ?? ""))
          .map((row) => idOf(row[2] ?? "") ?? 0);
  return {
    uid,
    gid: group === "" ? (idOf(entry?.[3] ?? "") ?? 0) : gidOf(group),
    additionalGids: [...new Set([...memberOf, ...groups.map(gidOf)])],
    home: (entry?.[5] ?? "") === "" ? "/" : (entry?.[5] ?? "/"),
  };
}

export function ociProcess(
  process: LaunchProcess,
  options: { readonly account: Account; readonly isTty: boolean; readonly hasNoNewPrivileges: boolean },
): Json {
  const { account } = options;
  const names = (mask: bigint): readonly string[] => capabilityNames(mask);
  const { bounding, effective, permitted, inheritable, ambient } = process.capabilities;
  const { rows, columns } = process.consoleSize;
  const hasHome = process.env.some((entry) => entry.startsWith("HOME="));
  return {
    terminal: options.isTty,
    ...(rows > 0 && columns > 0 ? { consoleSize: { height: rows, width: columns } } : {}),
    user: { uid: account.uid, gid: account.gid, additionalGids: account.additionalGids },
    args: process.args,
    env: hasHome ? process.env : [...process.env, `HOME=${account.home}`],
    cwd: process.cwd,
    capabilities: {
      bounding: names(bounding),
      effective: names(effective),
      permitted: names(permitted),
      inheritable: names(inheritable),
      ambient: names(ambient),
    },
    rlimits: process.rlimits.map((limit) => ({
      type: `RLIMIT_${rlimitName(limit.resource)}`,
      soft: limit.soft,
      hard: limit.hard,
    })),
    noNewPrivileges: options.hasNoNewPrivileges,
    ...(process.apparmor === undefined ? {} : { apparmorProfile: process.apparmor }),
  };
}

function mountOptions(mount: LaunchMount): string[] {
  const has = (bit: number): boolean => (mount.attributes & bit) !== 0;
  return [
    has(MountAttribute.readonly) ? ((mount.flags & MountFlag.readonlyRecursive) !== 0 ? "rro" : "ro") : "rw",
    ...(has(MountAttribute.nosuid) ? ["nosuid"] : []),
    ...(has(MountAttribute.nodev) ? ["nodev"] : []),
    ...(has(MountAttribute.noexec) ? ["noexec"] : []),
    ...(has(MountAttribute.noatime) ? ["noatime"] : []),
  ];
}

async function ociMount(mount: LaunchMount): Promise<Json> {
  if (mount.kind === "filesystem") {
    const data = mount.options.split(",").filter((word) => word !== "");
    return {
      destination: mount.target,
      type: mount.type,
      source: mount.source === "" ? mount.type : mount.source,
      options: [...mountOptions(mount), ...data],
    };
  }
  const propagation = PROPAGATION_NAMES.get(mount.propagation) ?? "rprivate";
  return {
    destination: mount.target,
    type: "bind",
    source: mount.subpath === "" ? mount.source : await resolveSubpath(mount.source, mount.subpath),
    options: [
      (mount.flags & MountFlag.recursive) !== 0 ? "rbind" : "bind",
      ...mountOptions(mount),
      propagation,
    ],
  };
}

function ociResources(limits: ResourceLimits, rules: readonly string[]): Json {
  const throttle = (lines: readonly string[] | undefined): Json[] | undefined =>
    lines?.map((line) => {
      const [numbers = "", rate = "0"] = line.split(" ");
      const [major, minor] = numbers.split(":").map(Number);
      return { major, minor, rate: Number(rate) };
    });
  return {
    devices: [{ allow: false, access: "rwm" }, ...rules.map(deviceRule)],
    memory: {
      limit: limits.memory,
      swap: limits.memorySwap,
      reservation: limits.memoryReservation,
      swappiness: limits.memorySwappiness,
      disableOOMKiller: limits.isOomKillDisabled,
    },
    cpu: {
      shares: limits.cpuShares,
      period: limits.cpuPeriod,
      quota: limits.cpuQuota,
      cpus: limits.cpusetCpus,
      mems: limits.cpusetMems,
    },
    ...(limits.pidsLimit === undefined ? {} : { pids: { limit: limits.pidsLimit } }),
    blockIO: {
      weight: limits.blkioWeight,
      throttleReadBpsDevice: throttle(limits.blkioThrottle?.readBps),
      throttleWriteBpsDevice: throttle(limits.blkioThrottle?.writeBps),
      throttleReadIOPSDevice: throttle(limits.blkioThrottle?.readIops),
      throttleWriteIOPSDevice: throttle(limits.blkioThrottle?.writeIops),
    },
  };
}

/** "c 1:3 rwm" */
function deviceRule(rule: string): Json {
  const [type = "a", numbers = "*:*", access = "rwm"] = rule.split(" ");
  const [major, minor] = numbers.split(":").map((text) => (text === "*" ? undefined : Number(text)));
  return { allow: true, type, major, minor, access };
}

/** What `update` gives another runtime. */
export function updatedResources(limits: ResourceLimits): Json {
  const { devices: _, ...rest } = ociResources(limits, []);
  return rest;
}

function ociNamespaces(spec: LaunchSpec): Json[] {
  const own: readonly (readonly [number, string])[] = [
    [JobFlag.newPid, "pid"],
    [JobFlag.newNet, "network"],
    [JobFlag.newIpc, "ipc"],
    [JobFlag.newUts, "uts"],
    [JobFlag.newCgroup, "cgroup"],
  ];
  return [
    { type: "mount" },
    ...own.filter(([flag]) => (spec.flags & flag) !== 0).map(([, type]) => ({ type })),
    ...spec.joinNamespaces.map(({ flag, path: place }) => ({ type: NAMESPACE_TYPES.get(flag), path: place })),
  ];
}

/** JSON with whole numbers of 64 bits, which limits are. */
export function documentText(document: object): string {
  const text = JSON.stringify(document, (_, value: unknown) =>
    typeof value === "bigint" ? `\0${value}` : value,
  );
  // No text of a container holds a NUL.
  return text.replaceAll(/"\\u0000(\d+)"/g, "$1");
}

export interface BundleInput {
  readonly spec: LaunchSpec;
  readonly hostConfig: HostConfig;
  readonly layers: RootfsLayers;
  /** Where the monitor mounts the root, in a mount namespace of its own. */
  readonly rootPath: string;
  readonly cgroupsPath: string;
  readonly limits: ResourceLimits;
  readonly deviceRules: readonly string[];
}

async function ociMounts(input: BundleInput): Promise<Json[]> {
  const { spec, hostConfig } = input;
  const at = "/sys/fs/cgroup";
  const mounts = spec.mounts.filter((each) => each.target !== at && !each.target.startsWith(`${at}/`));
  const mode = hostConfig.Privileged === true ? "rw" : "ro";
  const groups = {
    destination: at,
    type: "cgroup",
    source: "cgroup",
    options: ["nosuid", "nodev", "noexec", "relatime", mode],
  };
  const files = spec.files.map((file, index) => ({
    destination: file.path,
    type: "bind",
    source: path.join(spec.stateDir, "files", String(index)),
    options: ["bind", "ro", "rprivate"],
  }));
  const all = await Promise.all(mounts.map(ociMount));
  return [...all, ...(hostConfig.CgroupnsMode === "host" ? [] : [groups]), ...files];
}

/** The spec for another runtime: its bundle is written, and what it left of a former run is gone. */
export async function delegatedSpec(
  runtimes: OciRuntimes,
  runtime: OciRuntime,
  input: BundleInput,
): Promise<LaunchSpec> {
  const { spec } = input;
  await fs.mkdir(runtime.root, { recursive: true, mode: 0o711 });
  if (existsSync(path.join(runtime.root, spec.id)))
    await runtimes.call(runtime, "delete", "--force", spec.id);
  await writeBundle(input);
  return { ...spec, runtime: { program: runtime.program, args: runtime.args, root: runtime.root } };
}

/** Writes config.json into the state folder. */
async function writeBundle(input: BundleInput): Promise<void> {
  const { spec, hostConfig } = input;
  const { process } = spec;
  const security = parseSecurityOptions(hostConfig);
  const account = resolveAccount(process.user, process.groups, input.layers);
  const isPrivileged = hostConfig.Privileged === true;
  const seccomp = isPrivileged ? "unconfined" : security.seccomp;
  const config = {
    ociVersion: "1.0.2",
    process: {
      ...ociProcess(process, {
        account,
        isTty: (spec.flags & JobFlag.tty) !== 0,
        hasNoNewPrivileges: (spec.flags & JobFlag.noNewPrivileges) !== 0,
      }),
      ...(spec.oomScoreAdj === undefined ? {} : { oomScoreAdj: spec.oomScoreAdj }),
    },
    root: { path: input.rootPath, readonly: (spec.flags & JobFlag.readonlyRoot) !== 0 },
    ...(spec.hostname === "" ? {} : { hostname: spec.hostname }),
    ...(spec.domainname === "" ? {} : { domainname: spec.domainname }),
    mounts: await ociMounts(input),
    linux: {
      cgroupsPath: input.cgroupsPath,
      namespaces: ociNamespaces(spec),
      resources: ociResources(input.limits, input.deviceRules),
      sysctl: Object.fromEntries(spec.sysctls),
      devices: spec.devices.map((device) => ({
        path: device.path,
        type: device.type,
        major: device.major,
        minor: device.minor,
        fileMode: device.mode,
        uid: device.uid,
        gid: device.gid,
      })),
      maskedPaths: spec.maskedPaths,
      readonlyPaths: spec.readonlyPaths,
      seccomp: ociSeccomp(seccomp, capabilityNames(process.capabilities.bounding)),
    },
  };
  await fs.writeFile(path.join(spec.stateDir, "config.json"), documentText(config), { mode: 0o600 });
}
