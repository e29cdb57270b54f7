/** The flags of `run` and `create`, in docker's names, and what they come to in the API's container create. Pure. */
import path from "node:path";
import { ClusterError } from "../common/errors.ts";
import type { ContainerConfig, EndpointSettings, HostConfig, PortBinding } from "../model/engine.ts";
import type { HealthConfig, Ulimit } from "../model/specs.ts";
import type { FlagDefinition, Flags } from "./command.ts";
import { bool, list, text } from "./command.ts";
import {
  bytesFlag,
  cpusFlag,
  given,
  healthFields,
  integerFlag,
  pairsFlag,
  parsePairs,
  readEnvFile,
  resolveEnv,
  splitCsv,
  unsignedFlag,
} from "./flag-values.ts";
import { parseBytes } from "../model/units.ts";
import { parseGpus } from "./gpus.ts";
import { parseMount, parseShortVolume } from "./mounts.ts";
import { parseShortPort, portKey } from "./ports.ts";
import { byName, WORKLOAD_FLAGS } from "./workload-flags.ts";

export const CONTAINER_FLAGS: readonly FlagDefinition[] = byName([
  ...WORKLOAD_FLAGS,
  list("add-host", "name:ip", "Line of /etc/hosts"),
  list("annotation", "key=value", "Annotation of the runtime"),
  list("attach", "stream", "Attach to stdin, stdout or stderr", "a"),
  text("blkio-weight", "weight", "Share of block I/O, 10 to 1000"),
  list("blkio-weight-device", "path:weight", "Share of block I/O of one device"),
  text("cgroup-parent", "path", "Parent cgroup"),
  text("cgroupns", "host|private", "Cgroup namespace"),
  text("cidfile", "file", "Write the container's id here"),
  text("cpu-period", "microseconds", "Period of the CPU limit"),
  text("cpu-quota", "microseconds", "CPU time in a period"),
  text("cpu-shares", "shares", "Relative CPU weight", "c"),
  text("cpus", "decimal", "Number of CPUs"),
  text("cpuset-cpus", "list", "CPUs to run on"),
  text("cpuset-mems", "list", "Memory nodes to use"),
  list("device", "path[:path[:rwm]]", "Device of this machine"),
  list("device-cgroup-rule", "rule", "Rule for devices"),
  list("device-read-bps", "path:bytes", "Most bytes read from a device in a second"),
  list("device-read-iops", "path:count", "Most reads from a device in a second"),
  list("device-write-bps", "path:bytes", "Most bytes written to a device in a second"),
  list("device-write-iops", "path:count", "Most writes to a device in a second"),
  list("dns", "address", "Name server"),
  list("dns-option", "option", "Resolver option"),
  list("dns-search", "domain", "Search domain"),
  text("domainname", "name", "Domain name"),
  list("env", "NAME=value", "Environment variable", "e"),
  list("env-file", "file", "File of environment variables"),
  list("expose", "port", "Port to expose"),
  text(
    "gpus",
    "request",
    "GPUs: all, a count, or device=ID (refused by machines that have no driver for them)",
  ),
  list("group-add", "group", "Further group"),
  text("hostname", "name", "Host name", "h"),
  bool("init", "Run an init that reaps processes"),
  bool("interactive", "Keep stdin open", "i"),
  text("ip", "address", "IPv4 address"),
  text("ip6", "address", "IPv6 address"),
  text("ipc", "mode", "IPC namespace"),
  list("label", "key=value", "Label", "l"),
  list("label-file", "file", "File of labels"),
  list("link", "container[:alias]", "Name of another container on the default bridge"),
  text("mac-address", "address", "MAC address"),
  text("memory", "bytes", "Memory limit", "m"),
  text("memory-reservation", "bytes", "Memory soft limit"),
  text("memory-swap", "bytes", "Memory and swap limit (-1: no limit)"),
  text("memory-swappiness", "percent", "0 to 100"),
  list("mount", "mount", "Mount, as type=bind,source=/a,target=/b"),
  text("name", "name", "Name of the container"),
  list("network", "network", "Network: a name, none, host, bridge or container:NAME"),
  list("network-alias", "name", "Name on the network"),
  bool("oom-kill-disable", "Don't kill on memory shortage"),
  text("pid", "mode", "PID namespace"),
  text("pids-limit", "count", "Most processes (-1: no limit)"),
  text("platform", "platform", "Platform of the image"),
  bool("privileged", "All capabilities and devices"),
  list("publish", "port", "Published port, as 8080:80", "p"),
  bool("publish-all", "Publish all exposed ports", "P"),
  text("pull", "always|missing|never", "When to fetch the image (default missing)"),
  bool("quiet", "No progress of the pull", "q"),
  text("restart", "policy", "no, on-failure[:max], always or unless-stopped"),
  bool("rm", "Remove the container when it ends"),
  text("runtime", "name", "Runtime"),
  list("security-opt", "option", "Security option"),
  text("shm-size", "bytes", "Size of /dev/shm"),
  text("stop-signal", "signal", "Signal that stops the container"),
  text("stop-timeout", "seconds", "Seconds from the stop signal to the kill"),
  list("storage-opt", "key=value", "Option of the storage"),
  list("sysctl", "key=value", "Kernel parameter"),
  list("tmpfs", "path[:options]", "Mount a tmpfs"),
  bool("tty", "Give it a terminal", "t"),
  list("ulimit", "name=soft[:hard]", "Resource limit"),
  text("user", "user[:group]", "User", "u"),
  text("userns", "mode", "User namespace"),
  text("uts", "mode", "UTS namespace"),
  list("volume", "source:target[:mode]", "Volume or folder of this machine", "v"),
  text("volume-driver", "name", "Driver of new volumes"),
  list("volumes-from", "container", "Volumes of another container"),
  text("workdir", "path", "Working folder", "w"),
]);

export interface CreateBody extends ContainerConfig {
  readonly HostConfig: HostConfig;
  readonly NetworkingConfig: { readonly EndpointsConfig: Readonly<Record<string, EndpointSettings>> };
}

type Env = Readonly<Record<string, string | undefined>>;

function restartPolicy(word: string | undefined): HostConfig["RestartPolicy"] | undefined {
  if (word === undefined) return undefined;
  const match = /^(no|always|unless-stopped|on-failure)(?::(\d+))?$/.exec(word);
  if (match === null || (match[2] !== undefined && match[1] !== "on-failure")) {
    throw new ClusterError(
      "invalid_argument",
      `Invalid value for --restart: expected no, always, unless-stopped or on-failure[:max], got "${word}"`,
    );
  }
  return { Name: match[1] ?? "no", MaximumRetryCount: Number(match[2] ?? 0) };
}

/** "/dev/sda:1mb": what stands behind the last colon is the value. */
function deviceLimits(
  flags: Flags,
  name: string,
  read: (word: string) => number,
): { readonly Path: string; readonly value: number }[] | undefined {
  if (!flags.has(name)) return undefined;
  return flags.list(name).map((word) => {
    const at = word.lastIndexOf(":");
    const value = at < 1 ? Number.NaN : read(word.slice(at + 1));
    if (!Number.isSafeInteger(value) || value < 0)
      throw new ClusterError(
        "invalid_argument",
        `Invalid --${name} "${word}": expected a device's path:value`,
      );
    return { Path: word.slice(0, at), value };
  });
}

function deviceRates(flags: Flags, name: string): { Path: string; Rate: number }[] | undefined {
  const read = name.endsWith("-bps") ? parseBytes : Number;
  return deviceLimits(flags, name, read)?.map(({ Path, value }) => ({ Path, Rate: value }));
}

function blockLimits(flags: Flags): HostConfig {
  const weights = deviceLimits(flags, "blkio-weight-device", Number);
  return given({
    BlkioDeviceReadBps: deviceRates(flags, "device-read-bps"),
    BlkioDeviceReadIOps: deviceRates(flags, "device-read-iops"),
    BlkioDeviceWriteBps: deviceRates(flags, "device-write-bps"),
    BlkioDeviceWriteIOps: deviceRates(flags, "device-write-iops"),
    BlkioWeightDevice: weights?.map(({ Path, value }) => ({ Path, Weight: value })),
  });
}

export function parseUlimit(word: string): Ulimit {
  const match = /^(\w+)=(-?\d+)(?::(-?\d+))?$/.exec(word);
  if (match === null)
    throw new ClusterError("invalid_argument", `Invalid ulimit "${word}": expected name=soft[:hard]`);
  return { Name: match[1] ?? "", Soft: Number(match[2]), Hard: Number(match[3] ?? match[2]) };
}

function parseDevice(word: string): {
  PathOnHost: string;
  PathInContainer: string;
  CgroupPermissions: string;
} {
  const [host = "", second, third] = word.split(":");
  const isMode = (part: string | undefined): boolean => part !== undefined && /^[rwm]{1,3}$/.test(part);
  const inside = isMode(second) ? host : (second ?? host);
  return {
    PathOnHost: host,
    PathInContainer: inside,
    CgroupPermissions: (isMode(second) ? second : third) ?? "rwm",
  };
}

function healthcheck(flags: Flags): HealthConfig | undefined {
  if (flags.bool("no-healthcheck")) return { Test: ["NONE"] };
  const fields = healthFields(flags);
  return Object.keys(fields).length === 0 ? undefined : fields;
}

interface Ports {
  readonly exposed: Record<string, object>;
  readonly bindings: Record<string, PortBinding[]>;
}

function ports(flags: Flags): Ports {
  const exposed: Record<string, object> = {};
  const bindings: Record<string, PortBinding[]> = {};
  for (const word of flags.list("expose")) {
    for (const port of parseShortPort(word)) exposed[portKey(port.target, port.protocol)] = {};
  }
  for (const word of flags.list("publish")) {
    for (const port of parseShortPort(word)) {
      const key = portKey(port.target, port.protocol);
      exposed[key] = {};
      (bindings[key] ??= []).push({
        HostIp: port.hostIp,
        HostPort: port.published === undefined ? "" : String(port.published),
      });
    }
  }
  return { exposed, bindings };
}

/** Anonymous volumes go to the config, all others are binds. */
function volumes(flags: Flags): { readonly anonymous: Record<string, object>; readonly binds: string[] } {
  const anonymous: Record<string, object> = {};
  const binds: string[] = [];
  for (const word of flags.list("volume")) {
    const volume = parseShortVolume(word);
    if (volume.source === "") anonymous[volume.target] = {};
    else if (/^[.~]/.test(volume.source))
      binds.push(`${absolute(volume.source)}${word.slice(volume.source.length)}`);
    else binds.push(word);
  }
  return { anonymous, binds };
}

function absolute(source: string): string {
  if (source === "~" || source.startsWith("~/")) return `${process.env["HOME"] ?? ""}${source.slice(1)}`;
  return path.resolve(source);
}

/** "net" or "name=net,alias=a,ip=1.2.3.4,ip6=fd00::4". */
function networks(flags: Flags): {
  readonly mode: string;
  readonly endpoints: Record<string, EndpointSettings>;
} {
  const endpoints: Record<string, EndpointSettings> = {};
  let mode = "default";
  for (const [index, word] of flags.list("network").entries()) {
    const fields = word.includes("=")
      ? splitCsv("network", word).map((each) => each.split("=", 2))
      : [["name", word]];
    const values = (key: string): string[] =>
      fields.filter(([name]) => name === key).map(([, value = ""]) => value);
    const name = values("name")[0] ?? "";
    if (index === 0) mode = name;
    if (/^(none|host|container:.*)$/.test(name)) continue;
    const address = (key: "ip" | "ip6"): string | undefined =>
      (index === 0 ? flags.string(key) : undefined) ?? values(key)[0];
    const addresses = given({ IPv4Address: address("ip"), IPv6Address: address("ip6") });
    const aliases = [...values("alias"), ...(index === 0 ? flags.list("network-alias") : [])];
    endpoints[name] = {
      ...(aliases.length === 0 ? {} : { Aliases: aliases }),
      ...(Object.keys(addresses).length === 0 ? {} : { IPAMConfig: addresses }),
      ...(flags.has("mac-address") && index === 0 ? { MacAddress: flags.string("mac-address") ?? "" } : {}),
    };
  }
  return { mode, endpoints };
}

function memorySwap(flags: Flags): number | undefined {
  const word = flags.string("memory-swap");
  return word === undefined ? undefined : word === "-1" ? -1 : bytesFlag(flags, "memory-swap");
}

/** What a container is made with and `update` may change. */
export function changeableLimits(flags: Flags): HostConfig {
  return given({
    BlkioWeight: unsignedFlag(flags, "blkio-weight"),
    CpuPeriod: integerFlag(flags, "cpu-period"),
    CpuQuota: integerFlag(flags, "cpu-quota"),
    CpuShares: unsignedFlag(flags, "cpu-shares"),
    CpusetCpus: flags.string("cpuset-cpus"),
    CpusetMems: flags.string("cpuset-mems"),
    Memory: bytesFlag(flags, "memory"),
    MemoryReservation: bytesFlag(flags, "memory-reservation"),
    MemorySwap: memorySwap(flags),
    NanoCpus: cpusFlag(flags, "cpus"),
    PidsLimit: integerFlag(flags, "pids-limit"),
    RestartPolicy: restartPolicy(flags.string("restart")),
  });
}

/** `--tmpfs FOLDER[:OPTIONS]` by folder. */
function tmpfsFolders(flags: Flags): Record<string, string> | undefined {
  if (!flags.has("tmpfs")) return undefined;
  return Object.fromEntries(
    flags.list("tmpfs").map((word) => {
      const [folder = ""] = word.split(":", 1);
      return [folder, word.slice(folder.length + 1)];
    }),
  );
}

function hostConfig(flags: Flags): HostConfig {
  const { bindings } = ports(flags);
  const { binds } = volumes(flags);
  const { mode } = networks(flags);
  const some = (name: string): readonly string[] | undefined =>
    flags.has(name) ? flags.list(name) : undefined;
  const flag = (name: string): boolean | undefined => (flags.has(name) ? flags.bool(name) : undefined);
  const gpus = flags.string("gpus");
  const logging = flags.hasAny("log-driver", "log-opt")
    ? { Type: flags.string("log-driver") ?? "", Config: pairsFlag(flags, "log-opt") ?? {} }
    : undefined;
  return {
    NetworkMode: mode,
    ...changeableLimits(flags),
    ...blockLimits(flags),
    ...given({
      Annotations: pairsFlag(flags, "annotation"),
      AutoRemove: flag("rm"),
      Binds: binds.length === 0 ? undefined : binds,
      CapAdd: some("cap-add"),
      CapDrop: some("cap-drop"),
      CgroupParent: flags.string("cgroup-parent"),
      CgroupnsMode: flags.string("cgroupns"),
      DeviceCgroupRules: some("device-cgroup-rule"),
      DeviceRequests: gpus === undefined ? undefined : [{ ...parseGpus(gpus) }],
      Devices: flags.has("device") ? flags.list("device").map(parseDevice) : undefined,
      Dns: some("dns"),
      DnsOptions: some("dns-option"),
      DnsSearch: some("dns-search"),
      ExtraHosts: some("add-host"),
      GroupAdd: some("group-add"),
      Init: flag("init"),
      IpcMode: flags.string("ipc"),
      Links: some("link"),
      LogConfig: logging,
      MemorySwappiness: unsignedFlag(flags, "memory-swappiness"),
      Mounts: flags.has("mount") ? flags.list("mount").map(parseMount) : undefined,
      OomKillDisable: flag("oom-kill-disable"),
      OomScoreAdj: integerFlag(flags, "oom-score-adj"),
      PidMode: flags.string("pid"),
      PortBindings: Object.keys(bindings).length === 0 ? undefined : bindings,
      Privileged: flag("privileged"),
      PublishAllPorts: flag("publish-all"),
      ReadonlyRootfs: flag("read-only"),
      Runtime: flags.string("runtime"),
      SecurityOpt: some("security-opt"),
      ShmSize: bytesFlag(flags, "shm-size"),
      StorageOpt: pairsFlag(flags, "storage-opt"),
      Sysctls: pairsFlag(flags, "sysctl"),
      Tmpfs: tmpfsFolders(flags),
      UTSMode: flags.string("uts"),
      Ulimits: flags.has("ulimit") ? flags.list("ulimit").map(parseUlimit) : undefined,
      UsernsMode: flags.string("userns"),
      VolumeDriver: flags.string("volume-driver"),
      VolumesFrom: some("volumes-from"),
    }),
  };
}

/** `args`: IMAGE [COMMAND [ARG…]]. `isDetached`: nothing is attached. */
export function createBody(
  args: readonly string[],
  flags: Flags,
  options: { readonly env: Env; readonly isDetached: boolean },
): CreateBody {
  const [image = "", ...command] = args;
  const isInteractive = flags.bool("interactive");
  const attached = flags.list("attach").map((each) => each.toLowerCase());
  const isAttached = (stream: string): boolean =>
    !options.isDetached && (attached.length === 0 || attached.includes(stream));
  const { exposed } = ports(flags);
  const { anonymous } = volumes(flags);
  const fromFiles = flags.list("env-file").flatMap((file) => readEnvFile(file, options.env));
  const environment = [...fromFiles, ...resolveEnv(flags.list("env"), options.env)];
  const labels = [
    ...flags.list("label-file").flatMap((file) => readEnvFile(file, {}, "label-file")),
    ...flags.list("label"),
  ];
  const entrypoint = flags.string("entrypoint");
  const attachesInput = isInteractive && isAttached("stdin");
  return {
    Image: image,
    AttachStdin: attachesInput,
    AttachStdout: isAttached("stdout"),
    AttachStderr: isAttached("stderr"),
    Tty: flags.bool("tty"),
    OpenStdin: isInteractive,
    StdinOnce: attachesInput,
    ...given({
      Cmd: command.length === 0 ? undefined : command,
      // An empty entrypoint clears the image's.
      Entrypoint: entrypoint === undefined ? undefined : [entrypoint],
      Env: environment.length === 0 ? undefined : environment,
      ExposedPorts: Object.keys(exposed).length === 0 ? undefined : exposed,
      Healthcheck: healthcheck(flags),
      Hostname: flags.string("hostname"),
      Domainname: flags.string("domainname"),
      Labels: labels.length === 0 ? undefined : parsePairs(labels),
      MacAddress: flags.string("mac-address"),
      StopSignal: flags.string("stop-signal"),
      StopTimeout: integerFlag(flags, "stop-timeout"),
      User: flags.string("user"),
      Volumes: Object.keys(anonymous).length === 0 ? undefined : anonymous,
      WorkingDir: flags.string("workdir"),
    }),
    HostConfig: hostConfig(flags),
    NetworkingConfig: { EndpointsConfig: networks(flags).endpoints },
  };
}
