/** `docker create`: every check that can be made before anything is changed, then the record. */
import * as os from "node:os";
import { ClusterError } from "../../common/errors.ts";
import type { ContainerConfig, CreateContainerRequest, HostConfig } from "../../model/engine.ts";
import { parsePlatformText } from "../../model/platforms.ts";
import type { ImageConfig } from "../ports.ts";
import { availableCapabilities, capabilityMask, capabilityNames } from "./capabilities.ts";
import type { Cgroups } from "./cgroups.ts";
import { commandOf, mergeConfig } from "./config-merge.ts";
import { validateLogOptions } from "./log-options.ts";
import { validateResources } from "./resource-limits.ts";
import { resourceLimit } from "./rlimits.ts";
import { compileProfile } from "./seccomp/profiles.ts";
import { parseSecurityOptions } from "./security-options.ts";
import { parseSignal } from "./signals.ts";
import { refuseNul } from "./texts.ts";

const HEALTH_NS_MIN = 1_000_000;
const RESTART_POLICIES = ["", "no", "always", "unless-stopped", "on-failure"];
const HOSTNAME_BYTES_MAX = 63;

function refuse(text: string): never {
  throw new ClusterError("invalid_argument", text);
}

export function checkRestartPolicy(hostConfig: HostConfig): void {
  const { Name = "", MaximumRetryCount = 0 } = hostConfig.RestartPolicy ?? {};
  if (!RESTART_POLICIES.includes(Name)) {
    refuse(
      `invalid restart policy: unknown policy '${Name}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'`,
    );
  }
  if (Name !== "on-failure" && MaximumRetryCount !== 0) {
    refuse("invalid restart policy: maximum retry count can only be used with 'on-failure'");
  }
  if (MaximumRetryCount < 0) refuse("invalid restart policy: maximum retry count cannot be negative");
  if (hostConfig.AutoRemove === true && Name !== "" && Name !== "no") {
    refuse("can't create 'AutoRemove' container with restart policy");
  }
}

function checkHealth(config: ContainerConfig): void {
  const health = config.Healthcheck;
  if (health === undefined) return;
  const fields = ["Interval", "Timeout", "StartPeriod", "StartInterval"] as const;
  for (const field of fields) {
    const value = health[field] ?? 0;
    if (value !== 0 && value < HEALTH_NS_MIN) refuse(`${field} in Healthcheck cannot be less than 1ms`);
  }
  if ((health.Retries ?? 0) < 0) refuse("Retries in Healthcheck cannot be negative");
}

/** What is another container's, or the host's, can't be set for this one. */
function checkNetworkMode(hostConfig: HostConfig, config: ContainerConfig): void {
  const mode = hostConfig.NetworkMode ?? "";
  const undefinedBehavior = "can't be used with links. This would result in undefined behavior";
  const hasLinks = (hostConfig.Links ?? []).length > 0;
  if (mode === "host" && hasLinks) refuse(`conflicting options: host type networking ${undefinedBehavior}`);
  if (mode !== "container" && !mode.startsWith("container:")) return;
  if (mode.length <= "container:".length)
    refuse("invalid network mode: invalid container format container:<name|id>");
  const has = (value: object | undefined | null): boolean => Object.keys(value ?? {}).length > 0;
  if ((config.Hostname ?? "") !== "") refuse("conflicting options: hostname and the network mode");
  if (hasLinks) refuse(`conflicting options: container type network ${undefinedBehavior}`);
  if (has(hostConfig.Dns)) refuse("conflicting options: dns and the network mode");
  if (has(hostConfig.ExtraHosts))
    refuse("conflicting options: custom host-to-IP mapping and the network mode");
  if (has(hostConfig.PortBindings) || hostConfig.PublishAllPorts === true)
    refuse("conflicting options: port publishing and the container type network mode");
  if (has(config.ExposedPorts))
    refuse("conflicting options: port exposing and the container type network mode");
}

function checkModes(hostConfig: HostConfig, config: ContainerConfig): void {
  const check = (name: string, value: string | undefined, allowed: readonly string[]): void => {
    const isShared = value?.startsWith("container:") === true && value.length > "container:".length;
    const mayShare = allowed.includes("container:");
    if (value === undefined || allowed.includes(value) || (isShared && mayShare)) return;
    refuse(`invalid ${name} mode: ${value}`);
  };
  check("PID", hostConfig.PidMode, ["", "host", "container:"]);
  check("IPC", hostConfig.IpcMode, ["", "none", "private", "shareable", "host", "container:"]);
  check("UTS", hostConfig.UTSMode, ["", "host"]);
  check("cgroup namespace", hostConfig.CgroupnsMode, ["", "private", "host"]);
  check("userns", hostConfig.UsernsMode, ["", "host"]);
  if (hostConfig.UTSMode === "host" && (config.Hostname ?? "") !== "") {
    refuse("conflicting options: hostname and the UTS mode");
  }
  checkNetworkMode(hostConfig, config);
  const isolation = hostConfig.Isolation ?? "";
  if (isolation !== "" && isolation !== "default")
    refuse(`invalid isolation (${isolation}): linux only supports 'default'`);
}

function checkSysctls(hostConfig: HostConfig): void {
  const ipc = /^(kernel\.(shm|msg|sem)|fs\.mqueue\.)/;
  for (const key of Object.keys(hostConfig.Sysctls ?? {})) {
    if (key.startsWith("net.")) {
      if (hostConfig.NetworkMode === "host") refuse(`sysctl '${key}' not allowed in host network namespace`);
    } else if (ipc.test(key)) {
      if (hostConfig.IpcMode === "host") refuse(`sysctl '${key}' not allowed in host ipc namespace`);
    } else {
      refuse(`sysctl '${key}' is not allowed`);
    }
  }
}

function checkConfig(config: ContainerConfig): void {
  for (const entry of config.Env ?? [])
    if (entry.startsWith("=") || entry === "") refuse(`invalid environment variable: ${entry}`);
  if ((config.WorkingDir ?? "") !== "" && !(config.WorkingDir ?? "").startsWith("/")) {
    refuse(`the working directory '${config.WorkingDir}' is invalid, it needs to be an absolute path`);
  }
  if ((config.StopSignal ?? "") !== "") parseSignal(config.StopSignal ?? "");
  if (Buffer.byteLength(config.Hostname ?? "") > HOSTNAME_BYTES_MAX)
    refuse(`invalid hostname: ${config.Hostname}`);
  checkHealth(config);
}

function checkHostConfig(hostConfig: HostConfig, config: ContainerConfig): void {
  checkRestartPolicy(hostConfig);
  checkModes(hostConfig, config);
  checkSysctls(hostConfig);
  validateLogOptions(hostConfig);
  validateResources(hostConfig, () => os.cpus().length);
  const score = hostConfig.OomScoreAdj ?? 0;
  if (score < -1000 || score > 1000)
    refuse(`Invalid value ${score}, range for oom score adj is [-1000, 1000]`);
  if ((hostConfig.ShmSize ?? 0) < 0) refuse("SHM size can not be less than 0");
  for (const limit of hostConfig.Ulimits ?? []) resourceLimit(limit);
  const security = parseSecurityOptions(hostConfig);
  const mask = capabilityMask({
    add: hostConfig.CapAdd ?? [],
    drop: hostConfig.CapDrop ?? [],
    isPrivileged: hostConfig.Privileged === true,
    available: availableCapabilities(),
  });
  compileProfile(security.seccomp, capabilityNames(mask));
}

/** What this engine can't do is refused: a container without what was asked for would only look as if it had it. */
function checkUnsupported(hostConfig: HostConfig): void {
  for (const request of hostConfig.DeviceRequests ?? []) {
    const capabilities = (request["Capabilities"] ?? []) as readonly (readonly string[])[];
    const shown = capabilities.map((all) => `[${all.join(" ")}]`).join(" ");
    refuse(
      `could not select device driver ${JSON.stringify(request["Driver"] ?? "")} with capabilities: [${shown}]`,
    );
  }
  for (const key of Object.keys(hostConfig.StorageOpt ?? {})) {
    if (key !== "size") refuse(`unknown option ${key} in StorageOpt`);
    refuse("--storage-opt size is not supported: writable layers are as large as the disk of the data root");
  }
}

/** Clients take this for a missing image and pull the one for the platform. */
function checkPlatform(request: CreateContainerRequest, image: ImageConfig): void {
  if (request.platform === undefined || request.platform === "") return;
  const wanted = parsePlatformText(request.platform);
  // An image that names none, as an import may, is taken for what is wanted.
  const own = parsePlatformText(`${image.os || wanted.os}/${image.architecture || wanted.architecture}`);
  if (wanted.os === own.os && wanted.architecture === own.architecture) return;
  throw new ClusterError(
    "not_found",
    `image with reference ${request.config.Image} was found but its platform (${image.os}/${image.architecture}) does not match the specified platform (${request.platform})`,
  );
}

function checkChosenAddress({ hostConfig, networkingConfig }: CreateContainerRequest): void {
  const mode = hostConfig.NetworkMode ?? "";
  if (mode !== "none" && mode !== "host" && !mode.startsWith("container:")) return;
  for (const { IPAMConfig } of Object.values(networkingConfig?.EndpointsConfig ?? {})) {
    const chosen = [IPAMConfig?.IPv4Address, IPAMConfig?.IPv6Address];
    if (chosen.some((address) => (address ?? "") !== ""))
      refuse("user specified IP address is supported on user defined networks only");
  }
}

/** "default" is the CLI's word for the network that is called "bridge". */
export function withNetworkNames(request: CreateContainerRequest): CreateContainerRequest {
  const { hostConfig, networkingConfig } = request;
  const named =
    hostConfig.NetworkMode === "default"
      ? { ...request, hostConfig: { ...hostConfig, NetworkMode: "bridge" } }
      : request;
  const endpoints = networkingConfig?.EndpointsConfig;
  if (!endpoints?.["default"]) return named;
  const { default: settings, ...others } = endpoints;
  return { ...named, networkingConfig: { EndpointsConfig: { bridge: settings, ...others } } };
}

/** The config on top of the image's, checked with the host config. Changes nothing. */
export function checkedConfig(request: CreateContainerRequest, image: ImageConfig): ContainerConfig {
  const config = mergeConfig(request.config, image.config);
  refuseNul(config, "Config");
  refuseNul(request.hostConfig, "HostConfig");
  checkConfig(config);
  checkHostConfig(request.hostConfig, request.config);
  checkUnsupported(request.hostConfig);
  checkPlatform(request, image);
  checkChosenAddress(request);
  if (commandOf(config).length === 0) refuse("no command specified");
  return config;
}

const DISCARDED: readonly {
  readonly controller: Parameters<Cgroups["has"]>[0];
  readonly what: string;
  readonly isAsked: (hostConfig: HostConfig) => boolean;
}[] = [
  { controller: "memory", what: "memory limit capabilities", isAsked: ({ Memory }) => (Memory ?? 0) > 0 },
  {
    controller: "memory",
    what: "memory soft limit capabilities",
    isAsked: ({ MemoryReservation }) => (MemoryReservation ?? 0) > 0,
  },
  { controller: "pids", what: "PIDs limit capabilities", isAsked: ({ PidsLimit }) => (PidsLimit ?? 0) > 0 },
  { controller: "cpu", what: "CPU shares", isAsked: ({ CpuShares }) => (CpuShares ?? 0) > 0 },
  {
    controller: "cpu",
    what: "CPU CFS quota",
    isAsked: ({ NanoCpus, CpuQuota }) => (NanoCpus ?? 0) > 0 || (CpuQuota ?? 0) > 0,
  },
  {
    controller: "cpuset",
    what: "cpuset",
    isAsked: ({ CpusetCpus, CpusetMems }) => `${CpusetCpus ?? ""}${CpusetMems ?? ""}` !== "",
  },
  { controller: "io", what: "Block I/O weight", isAsked: ({ BlkioWeight }) => (BlkioWeight ?? 0) > 0 },
];

/** What the client should know though the container is made. */
export function createWarnings(
  request: CreateContainerRequest,
  image: ImageConfig,
  cgroups: Pick<Cgroups, "has">,
): readonly string[] {
  const warnings = DISCARDED.filter(
    ({ controller, isAsked }) => isAsked(request.hostConfig) && !cgroups.has(controller),
  ).map(
    ({ what }) => `Your kernel does not support ${what} or the cgroup is not mounted. Limitation discarded.`,
  );
  const own = process.arch === "x64" ? "amd64" : process.arch;
  if (image.architecture !== "" && image.architecture !== own) {
    warnings.push(
      `The requested image's platform (linux/${image.architecture}) does not match the detected host platform (linux/${own}) and no specific platform was requested`,
    );
  }
  if (request.hostConfig.OomKillDisable === true && (request.hostConfig.Memory ?? 0) === 0) {
    warnings.push(
      "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources.",
    );
  }
  const { NetworkMode, PortBindings } = request.hostConfig;
  if (NetworkMode === "host" && Object.keys(PortBindings ?? {}).length > 0) {
    warnings.push("Published ports are discarded when using host network mode");
  }
  return warnings;
}
