/** Docker's inspect and list objects of a container. Pure but for what it is handed. */
import { parseNanoseconds, ZERO_TIME } from "../../common/time.ts";
import { OWN_RUNTIME } from "./oci-runtimes.ts";
import type { EndpointSettings, JsonObject } from "../../model/engine.ts";
import { humanDuration } from "../../model/units.ts";
import { fullConfig } from "../images/image-queries.ts";
import type { ContainerNetworkResult } from "../ports.ts";
import { commandOf } from "./config-merge.ts";
import type { ContainerRecord, MountPoint } from "./container-record.ts";
import { MASKED_PATHS, READONLY_PATHS } from "./container-defaults.ts";
import type { LiveContainer } from "./live-container.ts";
import { hasOwnLog, logPath } from "./log-options.ts";
import { sharedWith } from "./spec.ts";

/** Everything of ours is plain data; this is where it becomes JSON for clients. */
function json(value: unknown): JsonObject {
  return value as JsonObject;
}

function mountJson(point: MountPoint): JsonObject {
  const { Type, Name, Source, Destination, Driver, Mode, RW, Propagation } = point;
  return json({
    Type,
    ...(Name === undefined ? {} : { Name }),
    Source,
    Destination,
    ...(Type === "volume" && Driver !== undefined ? { Driver } : {}),
    Mode,
    RW,
    Propagation,
  });
}

const EMPTY_ENDPOINT = {
  IPAMConfig: null,
  Links: null,
  Aliases: null,
  MacAddress: "",
  DriverOpts: null,
  GwPriority: 0,
  NetworkID: "",
  EndpointID: "",
  Gateway: "",
  IPAddress: "",
  IPPrefixLen: 0,
  IPv6Gateway: "",
  GlobalIPv6Address: "",
  GlobalIPv6PrefixLen: 0,
  DNSNames: null,
};

/** Name under which a container without a run shows its network. */
function modeName(record: ContainerRecord): string {
  const mode = record.hostConfig.NetworkMode ?? "default";
  return mode === "default" ? "bridge" : mode;
}

function endpointsOf(record: ContainerRecord): Readonly<Record<string, JsonObject>> {
  if (record.network !== null) {
    return Object.fromEntries(
      Object.entries(record.network.endpoints).map(([name, endpoint]) => [
        name,
        json({ ...EMPTY_ENDPOINT, ...endpoint }),
      ]),
    );
  }
  if (sharedWith(record.hostConfig.NetworkMode) !== undefined || record.isNetworkOfTask) return {};
  const wanted: Readonly<Record<string, EndpointSettings>> = {
    [modeName(record)]: {},
    ...record.networkingConfig?.EndpointsConfig,
  };
  return Object.fromEntries(
    Object.entries(wanted).map(([name, given]) => [name, json({ ...EMPTY_ENDPOINT, ...given })]),
  );
}

function networkSettings(record: ContainerRecord): JsonObject {
  const endpoints = endpointsOf(record);
  const bridge = endpoints["bridge"] ?? json(EMPTY_ENDPOINT);
  const sandboxId = record.network?.sandboxId ?? "";
  return json({
    Bridge: "",
    SandboxID: sandboxId,
    SandboxKey: record.state.pid > 0 ? `/proc/${record.state.pid}/ns/net` : "",
    Ports: portMap(record),
    HairpinMode: false,
    LinkLocalIPv6Address: "",
    LinkLocalIPv6PrefixLen: 0,
    SecondaryIPAddresses: null,
    SecondaryIPv6Addresses: null,
    EndpointID: bridge["EndpointID"],
    Gateway: bridge["Gateway"],
    GlobalIPv6Address: bridge["GlobalIPv6Address"],
    GlobalIPv6PrefixLen: bridge["GlobalIPv6PrefixLen"],
    IPAddress: bridge["IPAddress"],
    IPPrefixLen: bridge["IPPrefixLen"],
    IPv6Gateway: bridge["IPv6Gateway"],
    MacAddress: bridge["MacAddress"],
    Networks: endpoints,
  });
}

function stateJson(live: LiveContainer): JsonObject {
  const { state } = live.record;
  const { status, isRunning, isPaused } = live.state();
  return json({
    Status: status,
    Running: isRunning,
    Paused: isPaused,
    Restarting: status === "restarting",
    OOMKilled: state.isOomKilled,
    Dead: status === "dead",
    Pid: state.pid,
    ExitCode: state.exitCode,
    Error: state.error,
    StartedAt: state.startedAt,
    FinishedAt: state.finishedAt,
    ...(live.health.status === "none"
      ? {}
      : {
          Health: {
            Status: live.health.status,
            FailingStreak: live.health.failingStreak,
            Log: live.health.log,
          },
        }),
  });
}

/** What Docker shows for options that were not given. */
const HOST_CONFIG_DEFAULTS: JsonObject = {
  Binds: null,
  ContainerIDFile: "",
  NetworkMode: "bridge",
  PortBindings: {},
  AutoRemove: false,
  VolumeDriver: "",
  VolumesFrom: null,
  ConsoleSize: [0, 0],
  CapAdd: null,
  CapDrop: null,
  CgroupnsMode: "private",
  Dns: [],
  DnsOptions: [],
  DnsSearch: [],
  ExtraHosts: null,
  GroupAdd: null,
  IpcMode: "private",
  Cgroup: "",
  Links: null,
  OomScoreAdj: 0,
  PidMode: "",
  Privileged: false,
  PublishAllPorts: false,
  ReadonlyRootfs: false,
  SecurityOpt: null,
  UTSMode: "",
  UsernsMode: "",
  Isolation: "",
  CpuShares: 0,
  Memory: 0,
  NanoCpus: 0,
  CgroupParent: "",
  BlkioWeight: 0,
  BlkioWeightDevice: [],
  BlkioDeviceReadBps: [],
  BlkioDeviceWriteBps: [],
  BlkioDeviceReadIOps: [],
  BlkioDeviceWriteIOps: [],
  CpuPeriod: 0,
  CpuQuota: 0,
  CpuRealtimePeriod: 0,
  CpuRealtimeRuntime: 0,
  CpusetCpus: "",
  CpusetMems: "",
  Devices: [],
  DeviceCgroupRules: null,
  DeviceRequests: null,
  MemoryReservation: 0,
  OomKillDisable: false,
  PidsLimit: null,
  Ulimits: [],
  CpuCount: 0,
  CpuPercent: 0,
  IOMaximumIOps: 0,
  IOMaximumBandwidth: 0,
};

/**
 * As dockerd has them: with both containers' names on the default bridge; on other networks they belong to the endpoint, and
 * docker-compose makes a container anew with what it links to only where there are none here.
 */
export function linksOf(record: ContainerRecord): readonly string[] | null {
  const { Links: links, NetworkMode: mode = "default" } = record.hostConfig;
  if ((mode !== "default" && mode !== "bridge") || (links ?? []).length === 0) return null;
  return (links ?? []).map((link) => {
    const [target = "", alias = target] = link.replace(/^\//, "").split(":");
    return `/${target}:/${record.name}/${alias.split("/").at(-1) ?? alias}`;
  });
}

function hostConfigJson(record: ContainerRecord): JsonObject {
  const { hostConfig } = record;
  const isPrivileged = hostConfig.Privileged === true;
  return json({
    ...HOST_CONFIG_DEFAULTS,
    MemorySwap: (hostConfig.Memory ?? 0) > 0 ? (hostConfig.Memory ?? 0) * 2 : 0,
    MaskedPaths: isPrivileged ? null : MASKED_PATHS,
    ReadonlyPaths: isPrivileged ? null : READONLY_PATHS,
    ...withoutEmpty(hostConfig),
    Links: linksOf(record),
    LogConfig: {
      Type: hostConfig.LogConfig?.Type || "json-file",
      Config: hostConfig.LogConfig?.Config ?? {},
    },
    RestartPolicy: {
      Name: hostConfig.RestartPolicy?.Name || "no",
      MaximumRetryCount: hostConfig.RestartPolicy?.MaximumRetryCount ?? 0,
    },
    // The CLI's word for "as it is".
    MemorySwappiness: hostConfig.MemorySwappiness === -1 ? null : (hostConfig.MemorySwappiness ?? null),
    Runtime: hostConfig.Runtime || OWN_RUNTIME,
    ShmSize: hostConfig.ShmSize || 67_108_864,
  });
}

/** Silent values must not cover the defaults above. */
function withoutEmpty(record: object): object {
  return Object.fromEntries(
    Object.entries(record).filter(
      ([, value]) => value !== null && value !== undefined && value !== "" && value !== 0,
    ),
  );
}

export function inspectContainer(
  live: LiveContainer,
  extra: {
    readonly execIds: readonly string[];
    /** "" where none is applied. */
    readonly appArmorProfile: string;
    readonly size?: { readonly writable: number; readonly total: number } | undefined;
    readonly layers?:
      | { readonly lower: readonly string[]; readonly upper: string; readonly work: string }
      | undefined;
  },
): JsonObject {
  const { record, folder } = live;
  const [program = "", ...args] = commandOf(record.config);
  const file = (name: string): string => `${live.files.folder}/${name}`;
  return json({
    Id: record.id,
    Created: record.created,
    Path: program,
    Args: args,
    State: stateJson(live),
    Image: record.imageId,
    ResolvConfPath: file("resolv.conf"),
    HostnamePath: file("hostname"),
    HostsPath: file("hosts"),
    LogPath: hasOwnLog(record.hostConfig) ? logPath(record, folder) : "",
    Name: `/${record.name}`,
    RestartCount: record.restartCount,
    Driver: "overlay2",
    Platform: "linux",
    MountLabel: "",
    ProcessLabel: "",
    AppArmorProfile: extra.appArmorProfile,
    ExecIDs: extra.execIds.length === 0 ? null : extra.execIds,
    HostConfig: hostConfigJson(record),
    GraphDriver: {
      Name: "overlay2",
      Data:
        extra.layers === undefined
          ? null
          : {
              LowerDir: extra.layers.lower.join(":"),
              MergedDir: "",
              UpperDir: extra.layers.upper,
              WorkDir: extra.layers.work,
            },
    },
    ...(extra.size === undefined ? {} : { SizeRw: extra.size.writable, SizeRootFs: extra.size.total }),
    Mounts: record.mounts
      .filter((each) => each.Type !== "tmpfs" || !isTmpfsOption(record, each))
      .map(mountJson),
    Config: configJson(record),
    NetworkSettings: networkSettings(record),
  });
}

/** `--tmpfs` shows in HostConfig only, `--mount type=tmpfs` in Mounts too. */
function isTmpfsOption(record: ContainerRecord, point: MountPoint): boolean {
  return Object.keys(record.hostConfig.Tmpfs ?? {}).some((target) => target === point.Destination);
}

function configJson(record: ContainerRecord): JsonObject {
  const { config } = record;
  return json({
    ...fullConfig({}),
    Hostname: record.id.slice(0, 12),
    Env: [],
    Image: record.image,
    Labels: {},
    ...Object.fromEntries(Object.entries(config).filter(([, value]) => value !== undefined && value !== "")),
  });
}

function statusText(live: LiveContainer, nowMs: number): string {
  const { state } = live.record;
  const since = (time: string): string =>
    humanDuration(Math.max(0, nowMs - 1000 * Number(parseNanoseconds(time) / 1_000_000_000n)));
  if (live.isRemoving) return "Removal In Progress";
  switch (state.status) {
    case "created":
      return "Created";
    case "running":
      return `Up ${since(state.startedAt)}${live.health.status === "none" ? "" : ` (${live.health.status === "starting" ? "health: starting" : live.health.status})`}`;
    case "paused":
      return `Up ${since(state.startedAt)} (Paused)`;
    case "restarting":
      return `Restarting (${state.exitCode}) ${since(state.finishedAt)} ago`;
    case "removing":
      return "Removal In Progress";
    case "exited":
      return state.finishedAt === ZERO_TIME
        ? "Created"
        : `Exited (${state.exitCode}) ${since(state.finishedAt)} ago`;
    case "dead":
      return "Dead";
  }
}

/** With null for what the container exposes and nobody publishes, as proxies that look for a backend's port expect. */
export function portMap(record: ContainerRecord): ContainerNetworkResult["ports"] {
  const { status } = record.state;
  const { NetworkMode: mode = "default" } = record.hostConfig;
  const isAlive = status === "running" || status === "paused";
  const hasOwnPorts = mode !== "host" && mode !== "none" && sharedWith(mode) === undefined;
  const exposed = isAlive && hasOwnPorts ? Object.keys(record.config.ExposedPorts ?? {}) : [];
  return { ...Object.fromEntries(exposed.map((key) => [key, null])), ...record.network?.ports };
}

function portsJson(record: ContainerRecord): readonly JsonObject[] {
  return Object.entries(portMap(record)).flatMap(([key, bindings]) => {
    const [port = "", Type = "tcp"] = key.split("/");
    const PrivatePort = Number(port);
    if (bindings === null || bindings.length === 0) return [json({ PrivatePort, Type })];
    return bindings.map((each) =>
      json({ IP: each.HostIp, PrivatePort, PublicPort: Number(each.HostPort), Type }),
    );
  });
}

/** As Docker lists it: arguments with spaces in quotes, whatever else is in them. */
export function commandText(command: readonly string[]): string {
  return command.map((word, index) => (index > 0 && word.includes(" ") ? `'${word}'` : word)).join(" ");
}

export function listEntry(
  live: LiveContainer,
  options: {
    readonly nowMs: number;
    /** Reference as given, or the id where that name has moved on to another image. */
    readonly image: string;
    readonly size?: { readonly writable: number; readonly total: number } | undefined;
  },
): JsonObject {
  const { record } = live;
  const command = commandText(commandOf(record.config));
  return json({
    Id: record.id,
    Names: [`/${record.name}`],
    Image: options.image,
    ImageID: record.imageId,
    Command: command,
    Created: Number(parseNanoseconds(record.created) / 1_000_000_000n),
    Ports: portsJson(record),
    ...(options.size === undefined ? {} : { SizeRw: options.size.writable, SizeRootFs: options.size.total }),
    Labels: record.config.Labels ?? {},
    State: live.state().status,
    Status: statusText(live, options.nowMs),
    HostConfig: { NetworkMode: modeName(record) },
    NetworkSettings: { Networks: endpointsOf(record) },
    Mounts: record.mounts.filter((each) => !isTmpfsOption(record, each)).map(mountJson),
  });
}
