/**
 * From a container as Docker describes it to what the native program is told: every mount, right, limit and namespace
 * decided. Called at each start; knows no process and no socket.
 */
import { statfsSync, statSync } from "node:fs";
import * as os from "node:os";
import path from "node:path";
import { ClusterError } from "../../common/errors.ts";
import type { HostConfig, InjectedFile } from "../../model/engine.ts";
import type { RootfsLayers } from "../ports.ts";
import type { AppArmor } from "./apparmor.ts";
import { availableCapabilities, capabilityMask, capabilityNames, capabilitySets } from "./capabilities.ts";
import type { Cgroups } from "./cgroups.ts";
import { commandOf } from "./config-merge.ts";
import {
  baseMounts,
  DEFAULT_PATH,
  DEFAULT_SHM_BYTES,
  DEVICE_RULES,
  filesystem,
  MASKED_PATHS,
  READONLY_PATHS,
} from "./container-defaults.ts";
import type { ContainerRecord, MountPoint } from "./container-record.ts";
import { compileDeviceProgram } from "./device-program.ts";
import {
  MountAttribute,
  MountFlag,
  type LaunchDevice,
  type LaunchMount,
  type LaunchProcess,
  type LaunchSpec,
} from "./launch-spec.ts";
import { GENERATED_FILES } from "./container-files.ts";
import { logOptions } from "./log-options.ts";
import { JobFlag, NamespaceFlag } from "./native-job.ts";
import { hostDevices } from "./host-devices.ts";
import { deviceNumber, resourceLimits } from "./resource-limits.ts";
import { resourceLimit } from "./rlimits.ts";
import { compileProfile } from "./seccomp/profiles.ts";
import { parseSecurityOptions } from "./security-options.ts";
import type { IdMaps } from "./id-ranges.ts";
import { lastMappedId, ownGidMap, userNamespaceOf } from "./user-namespace.ts";

const PROPAGATION: Readonly<Record<string, number>> = {
  private: 1 << 18,
  rprivate: 1 << 18,
  slave: 1 << 19,
  rslave: 1 << 19,
  shared: 1 << 20,
  rshared: 1 << 20,
};

export interface SpecInput {
  readonly record: ContainerRecord;
  readonly layers: RootfsLayers;
  /** Folder with hosts, hostname, resolv.conf. */
  readonly folder: string;
  /** Folder of the container whose network it shares, whose files of names it shares then too. */
  readonly networkFolder: string;
  readonly execRoot: string;
  readonly nativeBinary: string;
  readonly cgroups: Cgroups;
  readonly files: readonly InjectedFile[];
  readonly environment: readonly string[];
  /** Of containers that don't ask for the host's; undefined: ids are the host's. */
  readonly idMaps: IdMaps | undefined;
  readonly appArmor: AppArmor;
  /** First process of the container whose namespace a mode names ("container:ID"). */
  readonly pidOf: (id: string) => number;
  /** Folder that holds the shared memory of a container whose ipc is shareable. */
  readonly shmOf: (id: string) => string;
}

/** Name of the monitor's socket below the exec root. */
export function monitorSocket(id: string): string {
  return `m/${id.slice(0, 32)}.sock`;
}

/** "container:ID" to ID, else undefined. */
export function sharedWith(mode: string | undefined): string | undefined {
  return mode?.startsWith("container:") === true ? mode.slice("container:".length) : undefined;
}

export function hostnameOf(record: Pick<ContainerRecord, "id" | "config" | "hostConfig">): string {
  if ((record.config.Hostname ?? "") !== "") return record.config.Hostname ?? "";
  const { NetworkMode, UTSMode } = record.hostConfig;
  return NetworkMode === "host" || UTSMode === "host" ? os.hostname() : record.id.slice(0, 12);
}

function environmentOf(input: SpecInput): readonly string[] {
  const { config } = input.record;
  const terminal = config.Tty === true ? ["TERM=xterm"] : [];
  const base = [DEFAULT_PATH, `HOSTNAME=${hostnameOf(input.record)}`, ...terminal];
  // By name, each where it came first, as programs that print their environment show it under Docker.
  const byName = new Map(base.map((entry) => [entry.split("=", 1)[0] ?? "", entry]));
  for (const entry of config.Env ?? []) byName.set(entry.split("=", 1)[0] ?? "", entry);
  // A name without "=" asks for removal.
  return [...[...byName.values()].filter((entry) => entry.includes("=")), ...input.environment];
}

/** Process part, shared with exec. */
export function processOf(
  record: ContainerRecord,
  options: {
    readonly args: readonly string[];
    readonly env: readonly string[];
    readonly cwd: string;
    readonly user: string;
    readonly isPrivileged: boolean;
    readonly consoleSize: readonly number[] | null | undefined;
    readonly apparmor: string | undefined;
  },
): LaunchProcess {
  const { hostConfig } = record;
  const mask = capabilityMask({
    add: hostConfig.CapAdd ?? [],
    drop: hostConfig.CapDrop ?? [],
    isPrivileged: options.isPrivileged,
    available: availableCapabilities(),
  });
  const security = parseSecurityOptions(hostConfig);
  const seccomp = options.isPrivileged ? "unconfined" : security.seccomp;
  return {
    args: options.args,
    env: options.env,
    cwd: options.cwd === "" ? "/" : options.cwd,
    user: options.user,
    groups: hostConfig.GroupAdd ?? [],
    capabilities: capabilitySets(mask),
    seccomp: compileProfile(seccomp, capabilityNames(mask)),
    rlimits: (hostConfig.Ulimits ?? []).map(resourceLimit),
    umask: undefined,
    apparmor: options.apparmor,
    consoleSize: { rows: options.consoleSize?.[0] ?? 0, columns: options.consoleSize?.[1] ?? 0 },
  };
}

interface Namespaces {
  readonly flags: number;
  /** Of the container's user namespace; undefined: it is ours. */
  readonly idMaps: IdMaps | undefined;
  readonly join: readonly { readonly flag: number; readonly path: string }[];
}

function namespacesOf(input: SpecInput): Namespaces {
  const { hostConfig } = input.record;
  let flags = 0;
  const join: { flag: number; path: string }[] = [];
  const add = (mode: string | undefined, jobFlag: number, kind: number, name: string): void => {
    const other = sharedWith(mode);
    if (other !== undefined) join.push({ flag: kind, path: `/proc/${input.pidOf(other)}/ns/${name}` });
    else if (mode !== "host") flags |= jobFlag;
  };
  add(hostConfig.NetworkMode, JobFlag.newNet, NamespaceFlag.net, "net");
  add(hostConfig.PidMode, JobFlag.newPid, NamespaceFlag.pid, "pid");
  add(hostConfig.IpcMode, JobFlag.newIpc, NamespaceFlag.ipc, "ipc");
  const network = sharedWith(hostConfig.NetworkMode);
  // Sharing a network shares the names too, unless the host's are asked for.
  if (network !== undefined && (hostConfig.UTSMode ?? "") === "") {
    join.push({ flag: NamespaceFlag.uts, path: `/proc/${input.pidOf(network)}/ns/uts` });
  } else {
    add(hostConfig.UTSMode, JobFlag.newUts, NamespaceFlag.uts, "uts");
  }
  const cgroupMode = hostConfig.CgroupnsMode ?? "";
  if (cgroupMode !== "host") flags |= JobFlag.newCgroup;
  const idMaps = hostConfig.UsernsMode === "host" ? undefined : input.idMaps;
  if (idMaps === undefined) return { flags, join, idMaps };
  // A namespace can only be shared together with the user namespace that owns it.
  const other = [hostConfig.NetworkMode, hostConfig.PidMode, hostConfig.IpcMode]
    .map(sharedWith)
    .find((id) => id !== undefined);
  if (other === undefined) return { flags: flags | JobFlag.newUser, join, idMaps };
  const pid = input.pidOf(other);
  if (!userNamespaceOf(pid).isOwn) {
    throw new ClusterError(
      "conflict",
      `cannot share namespaces of container ${other}, which is in the host's user namespace: use --userns=host`,
    );
  }
  return { flags, join: [{ flag: NamespaceFlag.user, path: `/proc/${pid}/ns/user` }, ...join], idMaps };
}

function cgroupMounts(input: SpecInput): readonly LaunchMount[] {
  const { hierarchies, isV2 } = input.cgroups;
  const { hostConfig, id } = input.record;
  if (hostConfig.CgroupnsMode === "host" || !input.cgroups.isAvailable) return [];
  const { readonly, nosuid, nodev, noexec } = MountAttribute;
  const attributes = nosuid | nodev | noexec | (hostConfig.Privileged === true ? 0 : readonly);
  const at = "/sys/fs/cgroup";
  if (isV2) return [filesystem("cgroup2", at, attributes, "", MountFlag.optional)];
  const entered = input.cgroups.groups(id, groupOptions(hostConfig));
  const mounts = [filesystem("tmpfs", at, nosuid | nodev | noexec, "mode=755,size=64k")];
  for (const [point, controllers] of hierarchies.v1Options) {
    const isEntered = entered.some((group) => group.version === 1 && group.folder.startsWith(`${point}/`));
    if (!isEntered) continue;
    mounts.push(
      filesystem("cgroup", `${at}/${path.basename(point)}`, attributes, controllers, MountFlag.optional),
    );
  }
  return mounts;
}

export function groupOptions(hostConfig: HostConfig): { readonly parent?: string; readonly cpuset: boolean } {
  const hasCpuset = (hostConfig.CpusetCpus ?? "") !== "" || (hostConfig.CpusetMems ?? "") !== "";
  const parent = hostConfig.CgroupParent ?? "";
  return { cpuset: hasCpuset, ...(parent === "" ? {} : { parent }) };
}

/** Files of ours show the ids that they have on disk, whatever the container's map. */
function ownBind(source: string, target: string): LaunchMount {
  return bind(source, target, 0, MountFlag.idMap);
}

function bind(source: string, target: string, attributes = 0, flags = 0): LaunchMount {
  return {
    kind: "bind",
    flags,
    propagation: PROPAGATION["rprivate"] ?? 0,
    attributes,
    type: "bind",
    source,
    subpath: "",
    target,
    options: "",
  };
}

export function pointMount(point: MountPoint): LaunchMount {
  const { readonly, nosuid, nodev, noexec } = MountAttribute;
  if (point.Type === "tmpfs") {
    const words = point.options.split(",").filter((word) => word !== "");
    const has = (word: string): boolean => words.includes(word);
    const attributes =
      (has("suid") ? 0 : nosuid) |
      (has("dev") ? 0 : nodev) |
      (has("exec") ? 0 : noexec) |
      (point.RW ? 0 : readonly);
    const kept = words.filter((word) => !/^(no)?(suid|dev|exec|atime|relatime)$|^r[ow]$/.test(word));
    return filesystem("tmpfs", point.Destination, attributes, kept.join(","));
  }
  const flags =
    (point.isRecursive ? MountFlag.recursive : 0) |
    // Volumes belong to containers and keep container ids on disk; folders of the host are the host's.
    (point.Type === "volume" ? MountFlag.idMap : 0) |
    (!point.RW && point.readonlyDepth === "recursive" ? MountFlag.readonlyRecursive : 0);
  return {
    ...bind(point.Source, point.Destination, point.RW ? 0 : readonly, flags),
    propagation: PROPAGATION[point.Propagation] ?? PROPAGATION["rprivate"] ?? 0,
    subpath: point.subpath,
  };
}

/** Files of /proc that may be covered: those that tell of the machine's size, which some want to be the container's. */
const PROC_TARGETS = [
  "cpuinfo",
  "diskstats",
  "meminfo",
  "stat",
  "swaps",
  "uptime",
  "loadavg",
  "slabinfo",
  "sys/kernel/ns_last_pid",
  "sys/crypto/fips_enabled",
].map((name) => `/proc/${name}`);
const PROC_MAGIC = 0x9fa0;

/** As runc has it: nothing may pretend to be /proc, since later steps and programs inside trust it. */
function checkProcTarget(point: MountPoint): void {
  const { Destination: target, Source: source } = point;
  if (target !== "/proc" && (!target.startsWith("/proc/") || PROC_TARGETS.includes(target))) return;
  if (target === "/proc" && point.Type === "bind" && statfsSync(source).type === PROC_MAGIC) return;
  throw new ClusterError(
    "invalid_argument",
    target === "/proc"
      ? `error mounting "${source}" to rootfs at "/proc": "${source}" cannot be mounted because it is not of type proc`
      : `error mounting "${source}" to rootfs at "${target}": "${target}" cannot be mounted because it is inside /proc`,
  );
}

/** The three files that Docker gives, unless a mount of the user's covers the place. */
function generatedFiles(input: SpecInput): readonly LaunchMount[] {
  const { mounts } = input.record;
  return GENERATED_FILES.filter((name) => !mounts.some((each) => each.Destination === `/etc/${name}`)).map(
    (name) => ownBind(path.join(input.networkFolder, name), `/etc/${name}`),
  );
}

function mountsOf(input: SpecInput): readonly LaunchMount[] {
  const { hostConfig, mounts } = input.record;
  const ipcOwner = sharedWith(hostConfig.IpcMode);
  const isHostIpc = hostConfig.IpcMode === "host";
  const covers = (target: string): boolean => mounts.some((each) => each.Destination === target);
  const isShmElsewhere = isHostIpc || ipcOwner !== undefined || covers("/dev/shm");
  const isShareable = hostConfig.IpcMode === "shareable";
  const base = baseMounts({
    isPrivileged: hostConfig.Privileged === true,
    shmBytes: isShmElsewhere || isShareable ? undefined : (hostConfig.ShmSize ?? 0) || DEFAULT_SHM_BYTES,
    hasOwnIpc: true,
  }).filter((mount) => !covers(mount.target));
  const shm = ((): readonly LaunchMount[] => {
    if (covers("/dev/shm")) return [];
    if (isHostIpc) return [bind("/dev/shm", "/dev/shm")];
    if (ipcOwner !== undefined) return [ownBind(input.shmOf(ipcOwner), "/dev/shm")];
    return isShareable ? [ownBind(input.shmOf(input.record.id), "/dev/shm")] : [];
  })();
  for (const point of mounts) checkProcTarget(point);
  const points = mounts
    .map(pointMount)
    .toSorted((a, b) => a.target.split("/").length - b.target.split("/").length);
  const init =
    hostConfig.Init === true ? [bind(input.nativeBinary, "/sbin/docker-init", MountAttribute.readonly)] : [];
  return [...base, ...cgroupMounts(input), ...shm, ...generatedFiles(input), ...points, ...init];
}

interface Devices {
  readonly nodes: readonly LaunchDevice[];
  readonly rules: readonly string[];
}

/** What the devices controller lets the container use. */
export function deviceRulesOf(hostConfig: HostConfig): readonly string[] {
  return devicesOf(hostConfig).rules;
}

function devicesOf(hostConfig: HostConfig): Devices {
  const nodes: LaunchDevice[] = [];
  const rules: string[] = [...DEVICE_RULES];
  for (const device of hostConfig.Devices ?? []) {
    const stat = statSync(device.PathOnHost, { throwIfNoEntry: false });
    if (stat === undefined) {
      throw new ClusterError(
        "invalid_argument",
        `error gathering device information while adding custom device "${device.PathOnHost}": no such file or directory`,
      );
    }
    if (!stat.isBlockDevice() && !stat.isCharacterDevice()) {
      throw new ClusterError(
        "invalid_argument",
        `error gathering device information while adding custom device "${device.PathOnHost}": not a device node`,
      );
    }
    const { major, minor } = deviceNumber(stat.rdev);
    const type = stat.isBlockDevice() ? "b" : "c";
    const target = device.PathInContainer === "" ? device.PathOnHost : device.PathInContainer;
    const owner = { mode: stat.mode & 0o7777, uid: stat.uid, gid: stat.gid };
    nodes.push({ path: target, hostPath: device.PathOnHost, type, major, minor, ...owner });
    rules.push(
      `${type} ${major}:${minor} ${device.CgroupPermissions === "" ? "rwm" : device.CgroupPermissions}`,
    );
  }
  for (const rule of hostConfig.DeviceCgroupRules ?? []) {
    if (!/^[acb] (\d+|\*):(\d+|\*) [rwm]{1,3}$/.test(rule)) {
      throw new ClusterError("invalid_argument", `invalid device cgroup rule format: '${rule}'`);
    }
    rules.push(rule);
  }
  return { nodes, rules: hostConfig.Privileged === true ? ["a *:* rwm"] : rules };
}

function deviceWrites(input: SpecInput, rules: readonly string[]): LaunchSpec["cgroupWrites"] {
  const { parent } = groupOptions(input.record.hostConfig);
  const folder = input.cgroups.v1Folder("devices", input.record.id, parent);
  if (folder === undefined || input.record.hostConfig.Privileged === true) return [];
  return [
    { file: path.join(folder, "devices.deny"), value: "a", isOptional: false },
    ...rules.map((value) => ({ file: path.join(folder, "devices.allow"), value, isOptional: false })),
  ];
}

/** What is removed when it ends is removed after a loss of power too, so its layer is never synced. */
export function volatileFlags({ hostConfig }: Pick<ContainerRecord, "hostConfig">): number {
  return hostConfig.AutoRemove === true ? JobFlag.volatile : 0;
}

function flagsOf(record: ContainerRecord): number {
  const { config, hostConfig } = record;
  return (
    JobFlag.fillDev |
    (config.Tty === true ? JobFlag.tty : 0) |
    // A folder or device of somebody else's must be free when the end is told.
    (record.mounts.every(({ Type }) => Type === "tmpfs") ? JobFlag.unmountLate : 0) |
    volatileFlags(record) |
    (config.OpenStdin === true ? JobFlag.openStdin : 0) |
    (config.StdinOnce === true ? JobFlag.stdinOnce : 0) |
    (hostConfig.ReadonlyRootfs === true ? JobFlag.readonlyRoot : 0) |
    (parseSecurityOptions(hostConfig).hasNoNewPrivileges ? JobFlag.noNewPrivileges : 0)
  );
}

function rootOf(layers: RootfsLayers): LaunchSpec["root"] {
  return layers.lower.length === 0 ? { kind: "folder", path: layers.upper } : { kind: "overlay", ...layers };
}

export function launchSpec(input: SpecInput): LaunchSpec {
  const { record, cgroups } = input;
  const { config, hostConfig, id } = record;
  const isPrivileged = hostConfig.Privileged === true;
  const isOpen = isPrivileged || parseSecurityOptions(hostConfig).isSystemPathsUnconfined;
  const namespaces = namespacesOf(input);
  const devices = devicesOf(hostConfig);
  const groups = groupOptions(hostConfig);
  const command = commandOf(config);
  const args = hostConfig.Init === true ? ["/sbin/docker-init", "--", ...command] : command;
  const hasOwnNames = (namespaces.flags & JobFlag.newUts) !== 0;
  return {
    id,
    stateDir: path.join(input.execRoot, "c", id),
    socket: monitorSocket(id),
    log: logOptions(record, input.folder),
    flags: flagsOf(record) | namespaces.flags,
    process: processOf(record, {
      args,
      env: environmentOf(input),
      cwd: config.WorkingDir ?? "",
      user: config.User ?? "",
      isPrivileged,
      consoleSize: hostConfig.ConsoleSize,
      apparmor: input.appArmor.profileOf(hostConfig),
    }),
    // Said also where it is the usual one: the daemon's own, which its unit lowers, is not for containers.
    oomScoreAdj: hostConfig.OomScoreAdj ?? 0,
    hostname: hasOwnNames ? hostnameOf(record) : "",
    domainname: hasOwnNames ? (config.Domainname ?? "") : "",
    sysctls: sysctlsOf(hostConfig, namespaces.idMaps),
    root: rootOf(input.layers),
    mounts: mountsOf(input),
    devices: isPrivileged ? [...hostDevices(), ...devices.nodes] : devices.nodes,
    files: input.files,
    maskedPaths: hostConfig.MaskedPaths ?? (isOpen ? [] : MASKED_PATHS),
    readonlyPaths: hostConfig.ReadonlyPaths ?? (isOpen ? [] : READONLY_PATHS),
    cgroups: cgroups.groups(id, groups),
    cgroupWrites: [
      ...cgroups.limitWrites(id, resourceLimits(hostConfig), groups.parent),
      ...deviceWrites(input, devices.rules),
    ],
    joinNamespaces: namespaces.join,
    uidMaps: namespaces.idMaps?.uid ?? [],
    gidMaps: namespaces.idMaps?.gid ?? [],
    deviceProgram: cgroups.isV2 && !isPrivileged ? compileDeviceProgram(devices.rules) : undefined,
  };
}

/** ping and low ports work for any user in a network of the container's own, as Docker sets it. */
function sysctlsOf(
  hostConfig: HostConfig,
  idMaps: IdMaps | undefined,
): readonly (readonly [string, string])[] {
  const given = Object.entries(hostConfig.Sysctls ?? {});
  const mode = hostConfig.NetworkMode ?? "";
  if (mode === "host" || sharedWith(mode) !== undefined) return given;
  const defaults: readonly (readonly [string, string])[] = [
    ["net.ipv4.ip_unprivileged_port_start", "0"],
    // The kernel takes no group that the namespace has not.
    ["net.ipv4.ping_group_range", `0 ${Math.min(2_147_483_647, lastMappedId(idMaps?.gid ?? ownGidMap()))}`],
  ];
  const keys = new Set(given.map(([key]) => key));
  return [...defaults.filter(([key]) => !keys.has(key)), ...given];
}
