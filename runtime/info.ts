/** The machine's half of Docker's /info: what it is, what runs on it, what it can do. Reads only. */
import { readFileSync } from "node:fs";
import * as fs from "node:fs/promises";
import * as os from "node:os";
import type { JsonObject } from "../model/engine.ts";
import { DEFAULT_DOMAIN } from "../model/image-reference.ts";
import { LOG_DRIVERS } from "../model/log-drivers.ts";
import type { CgroupHierarchies } from "./containers/cgroups.ts";
import type { OciRuntimes } from "./containers/oci-runtimes.ts";
import { type RegistryConfig, withoutUser } from "./registry/registry-config.ts";

const GO_ARCH: Readonly<Record<string, string>> = { x64: "x86_64", arm64: "aarch64" };

function osName(): string {
  try {
    const text = readFileSync("/etc/os-release", "utf8");
    return /^PRETTY_NAME="?([^"\n]*)"?$/m.exec(text)?.[1] ?? "Linux";
  } catch {
    return "Linux";
  }
}

async function isSet(file: string): Promise<boolean> {
  return fs.readFile(file, "utf8").then(
    (text) => text.trim() === "1",
    () => false,
  );
}

function totalMemoryBytes(): number {
  return os.totalmem();
}

function runtimesJson(runtimes: OciRuntimes): JsonObject {
  const entries = Object.entries(runtimes.list());
  return Object.fromEntries(
    entries.map(([name, { path, runtimeArgs }]) => [
      name,
      { path, ...(runtimeArgs === undefined ? {} : { runtimeArgs: [...runtimeArgs] }) },
    ]),
  );
}

export interface InfoInput {
  /** Stable for the data root. */
  readonly id: string;
  readonly version: string;
  readonly dataRoot: string;
  readonly counts: { readonly running: number; readonly paused: number; readonly stopped: number };
  readonly imageCount: number;
  readonly hierarchies: CgroupHierarchies;
  /** Containers have ids of their own. */
  readonly isRemapped: boolean;
  readonly hasAppArmor: boolean;
  /** The daemon is an ordinary user's. */
  readonly isRootless: boolean;
  readonly runtimes: OciRuntimes;
  /** Of containers that ask for none. */
  readonly logDriver: string;
  readonly volumeDrivers: readonly string[];
  readonly nowIso: string;
  readonly registry: RegistryConfig;
}

/** Of the daemon's environment, in either spelling; what is secret in it is not shown. */
function proxy(name: string): string {
  return withoutUser(process.env[name] ?? process.env[name.toLowerCase()] ?? "");
}

function registryInfo({ insecure, mirrors }: RegistryConfig): JsonObject {
  const hubMirrors = (mirrors[DEFAULT_DOMAIN] ?? []).map(withoutUser);
  const hosts = insecure.filter((each) => !each.includes("/"));
  const indexOf = (name: string, isSecure: boolean): JsonObject => ({
    Name: name,
    Mirrors: isSecure ? hubMirrors : [],
    Secure: isSecure,
    Official: isSecure,
  });
  return {
    AllowNondistributableArtifactsCIDRs: null,
    AllowNondistributableArtifactsHostnames: null,
    InsecureRegistryCIDRs: [...insecure.filter((each) => each.includes("/")), "127.0.0.0/8"],
    IndexConfigs: Object.fromEntries([
      [DEFAULT_DOMAIN, indexOf(DEFAULT_DOMAIN, true)],
      ...hosts.map((host) => [host, indexOf(host, false)] as const),
    ]),
    Mirrors: hubMirrors,
  };
}

function limitsInfo(hierarchies: InfoInput["hierarchies"]): JsonObject {
  const has = (controller: string): boolean =>
    hierarchies.v1.has(controller) || hierarchies.v2Controllers.has(controller);
  const isV2 = hierarchies.v2Controllers.has("memory");
  return {
    MemoryLimit: has("memory"),
    SwapLimit: has("memory"),
    CpuCfsPeriod: has("cpu"),
    CpuCfsQuota: has("cpu"),
    CPUShares: has("cpu"),
    CPUSet: has("cpuset"),
    PidsLimit: has("pids"),
    OomKillDisable: !isV2,
    CgroupDriver: hierarchies.v1.size > 0 || hierarchies.v2 !== undefined ? "cgroupfs" : "none",
    CgroupVersion: isV2 ? "2" : "1",
  };
}

function securityOptions(input: InfoInput): string[] {
  return [
    ...(input.hasAppArmor ? ["name=apparmor"] : []),
    "name=seccomp,profile=builtin",
    ...(input.isRemapped ? ["name=userns"] : []),
    ...(input.isRootless ? ["name=rootless"] : []),
    "name=cgroupns",
  ];
}

export async function machineInfo(input: InfoInput): Promise<JsonObject> {
  const { counts } = input;
  return {
    ID: input.id,
    Containers: counts.running + counts.paused + counts.stopped,
    ContainersRunning: counts.running,
    ContainersPaused: counts.paused,
    ContainersStopped: counts.stopped,
    Images: input.imageCount,
    Driver: "overlay2",
    DriverStatus: [
      ["Backing Filesystem", "extfs"],
      ["Supports d_type", "true"],
      ["Native Overlay Diff", "true"],
    ],
    DockerRootDir: input.dataRoot,
    SystemStatus: null,
    Plugins: {
      Volume: [...input.volumeDrivers],
      Network: ["bridge", "host", "null", "overlay"],
      Authorization: null,
      Log: LOG_DRIVERS.filter((name) => name !== "none"),
    },
    ...limitsInfo(input.hierarchies),
    IPv4Forwarding: await isSet("/proc/sys/net/ipv4/ip_forward"),
    BridgeNfIptables: await isSet("/proc/sys/net/bridge/bridge-nf-call-iptables"),
    BridgeNfIp6tables: await isSet("/proc/sys/net/bridge/bridge-nf-call-ip6tables"),
    Debug: false,
    NFd: 0,
    OomScoreAdj: 0,
    NGoroutines: 0,
    SystemTime: input.nowIso,
    LoggingDriver: input.logDriver,
    NEventsListener: 0,
    KernelVersion: os.release(),
    OperatingSystem: osName(),
    OSVersion: "",
    OSType: "linux",
    Architecture: GO_ARCH[process.arch] ?? process.arch,
    IndexServerAddress: "https://index.docker.io/v1/",
    RegistryConfig: registryInfo(input.registry),
    NCPU: os.cpus().length,
    MemTotal: totalMemoryBytes(),
    GenericResources: null,
    HttpProxy: proxy("HTTP_PROXY"),
    HttpsProxy: proxy("HTTPS_PROXY"),
    NoProxy: proxy("NO_PROXY"),
    Name: os.hostname(),
    Labels: [],
    ExperimentalBuild: false,
    ServerVersion: input.version,
    Runtimes: runtimesJson(input.runtimes),
    DefaultRuntime: input.runtimes.defaultName,
    LiveRestoreEnabled: true,
    Isolation: "",
    InitBinary: "docker-init",
    ContainerdCommit: { ID: "" },
    RuncCommit: { ID: "" },
    InitCommit: { ID: "" },
    SecurityOptions: securityOptions(input),
    Warnings: null,
  };
}
