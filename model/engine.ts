/**
 * The machine's own engine: containers, images, networks and volumes of this machine, without a cluster.
 * runtime/ implements it, the HTTP API and the worker's tasks stand on it. Shapes of requests and answers are those of
 * the Docker Engine API 1.50 where they have one there, so that the API edge passes them through.
 * Names, full ids and unambiguous id prefixes are accepted wherever an `id` of a container, image, network is asked.
 */
import type { Readable, Writable } from "node:stream";
import type { SolvedBuild, SolveOptions } from "./build.ts";
import type { ResolvedImage } from "./dispatch.ts";
import type { HealthConfig, Labels, Mount, Ulimit } from "./specs.ts";

/** JSON as it came from or goes to a Docker client. */
export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };
export type JsonObject = { readonly [key: string]: Json };

export interface ContainerConfig {
  readonly Hostname?: string;
  readonly Domainname?: string;
  readonly User?: string;
  readonly AttachStdin?: boolean;
  readonly AttachStdout?: boolean;
  readonly AttachStderr?: boolean;
  readonly ExposedPorts?: Readonly<Record<string, object>> | null;
  readonly Tty?: boolean;
  readonly OpenStdin?: boolean;
  readonly StdinOnce?: boolean;
  readonly Env?: readonly string[] | null;
  readonly Cmd?: readonly string[] | null;
  readonly Healthcheck?: HealthConfig;
  readonly ArgsEscaped?: boolean;
  readonly Image?: string;
  readonly Volumes?: Readonly<Record<string, object>> | null;
  readonly WorkingDir?: string;
  readonly Entrypoint?: readonly string[] | null;
  readonly NetworkDisabled?: boolean;
  readonly MacAddress?: string;
  readonly OnBuild?: readonly string[] | null;
  readonly Labels?: Labels | null;
  readonly StopSignal?: string;
  /** Seconds. */
  readonly StopTimeout?: number;
  readonly Shell?: readonly string[];
}

export interface PortBinding {
  readonly HostIp?: string;
  readonly HostPort?: string;
}

export interface HostConfig {
  readonly Binds?: readonly string[] | null;
  readonly ContainerIDFile?: string;
  readonly LogConfig?: { readonly Type?: string; readonly Config?: Readonly<Record<string, string>> | null };
  readonly NetworkMode?: string;
  readonly PortBindings?: Readonly<Record<string, readonly PortBinding[] | null>> | null;
  readonly RestartPolicy?: { readonly Name?: string; readonly MaximumRetryCount?: number };
  readonly AutoRemove?: boolean;
  readonly VolumeDriver?: string;
  readonly VolumesFrom?: readonly string[] | null;
  readonly ConsoleSize?: readonly number[];
  readonly Annotations?: Readonly<Record<string, string>>;
  readonly CapAdd?: readonly string[] | null;
  readonly CapDrop?: readonly string[] | null;
  readonly CgroupnsMode?: string;
  readonly Dns?: readonly string[] | null;
  readonly DnsOptions?: readonly string[] | null;
  readonly DnsSearch?: readonly string[] | null;
  readonly ExtraHosts?: readonly string[] | null;
  readonly GroupAdd?: readonly string[] | null;
  readonly IpcMode?: string;
  readonly Cgroup?: string;
  readonly Links?: readonly string[] | null;
  readonly OomScoreAdj?: number;
  readonly PidMode?: string;
  readonly Privileged?: boolean;
  readonly PublishAllPorts?: boolean;
  readonly ReadonlyRootfs?: boolean;
  readonly SecurityOpt?: readonly string[] | null;
  readonly StorageOpt?: Readonly<Record<string, string>> | null;
  readonly Tmpfs?: Readonly<Record<string, string>> | null;
  readonly UTSMode?: string;
  readonly UsernsMode?: string;
  readonly ShmSize?: number;
  readonly Sysctls?: Readonly<Record<string, string>> | null;
  readonly Runtime?: string;
  readonly Isolation?: string;
  readonly CpuShares?: number;
  readonly Memory?: number;
  readonly NanoCpus?: number;
  readonly CgroupParent?: string;
  readonly BlkioWeight?: number;
  readonly BlkioWeightDevice?: readonly { readonly Path: string; readonly Weight: number }[] | null;
  readonly BlkioDeviceReadBps?: readonly { readonly Path: string; readonly Rate: number }[] | null;
  readonly BlkioDeviceWriteBps?: readonly { readonly Path: string; readonly Rate: number }[] | null;
  readonly BlkioDeviceReadIOps?: readonly { readonly Path: string; readonly Rate: number }[] | null;
  readonly BlkioDeviceWriteIOps?: readonly { readonly Path: string; readonly Rate: number }[] | null;
  readonly CpuPeriod?: number;
  readonly CpuQuota?: number;
  readonly CpuRealtimePeriod?: number;
  readonly CpuRealtimeRuntime?: number;
  readonly CpusetCpus?: string;
  readonly CpusetMems?: string;
  readonly Devices?:
    | readonly {
        readonly PathOnHost: string;
        readonly PathInContainer: string;
        readonly CgroupPermissions: string;
      }[]
    | null;
  readonly DeviceCgroupRules?: readonly string[] | null;
  readonly DeviceRequests?: readonly JsonObject[] | null;
  readonly MemoryReservation?: number;
  readonly MemorySwap?: number;
  readonly MemorySwappiness?: number | null;
  readonly OomKillDisable?: boolean | null;
  readonly PidsLimit?: number | null;
  readonly Ulimits?: readonly Ulimit[] | null;
  readonly CpuCount?: number;
  readonly CpuPercent?: number;
  readonly IOMaximumIOps?: number;
  readonly IOMaximumBandwidth?: number;
  readonly Mounts?: readonly Mount[] | null;
  readonly MaskedPaths?: readonly string[] | null;
  readonly ReadonlyPaths?: readonly string[] | null;
  readonly Init?: boolean | null;
}

export interface EndpointSettings {
  readonly IPAMConfig?: { readonly IPv4Address?: string; readonly IPv6Address?: string } | null;
  readonly Links?: readonly string[] | null;
  readonly Aliases?: readonly string[] | null;
  readonly DriverOpts?: Readonly<Record<string, string>> | null;
  readonly GwPriority?: number;
  readonly NetworkID?: string;
  readonly EndpointID?: string;
  readonly Gateway?: string;
  readonly IPAddress?: string;
  readonly IPPrefixLen?: number;
  readonly IPv6Gateway?: string;
  readonly GlobalIPv6Address?: string;
  readonly GlobalIPv6PrefixLen?: number;
  readonly MacAddress?: string;
  readonly DNSNames?: readonly string[] | null;
}

/** A file that is in the container's root when it starts and nowhere on the host's disk (secrets) or just given (configs). */
export interface InjectedFile {
  /** Absolute path in the container; parents are made 0755 root. */
  readonly path: string;
  readonly data: Uint8Array;
  readonly uid: number;
  readonly gid: number;
  readonly mode: number;
  /** Keep it in memory only: a tmpfs of the container. */
  readonly isSecret: boolean;
}

/** What the worker adds to a task's container and a Docker client can't say. */
export interface TaskExtras {
  /** Networks that the worker attaches itself: the engine makes the namespace and calls this between create and start. */
  readonly attachNetwork?: (target: NetworkNamespaceTarget) => Promise<AttachedNetworks>;
  /** Called after the container has stopped, before the namespace is dropped. Must not fail. */
  readonly detachNetwork?: () => Promise<void>;
  readonly files?: readonly InjectedFile[];
  readonly genericResourceEnv?: readonly string[];
}

export interface NetworkNamespaceTarget {
  readonly containerId: string;
  /** Of the container's first process, which waits for the start. Its namespace is /proc/PID/ns/net. */
  readonly pid: number;
}

export interface AttachedNetworks {
  /** By network name, for inspect. */
  readonly endpoints: Readonly<Record<string, EndpointSettings>>;
  readonly nameservers: readonly string[];
  /**
   * IPv4 address of the server that knows the names on these networks, where there is one: containers may call it
   * 127.0.0.11.
   */
  readonly nameService?: string;
  readonly searchDomains: readonly string[];
  readonly dnsOptions: readonly string[];
  /** Address on the cluster's mesh, of a container that is on its networks outside of any service. */
  readonly meshIp?: string;
}

export interface CreateContainerRequest {
  /** Without the leading slash; absent: one is made up. */
  readonly name?: string;
  readonly platform?: string;
  readonly config: ContainerConfig;
  readonly hostConfig: HostConfig;
  readonly networkingConfig?: {
    readonly EndpointsConfig?: Readonly<Record<string, EndpointSettings>> | null;
  };
  readonly task?: TaskExtras;
}

export type ContainerStatus =
  | "created"
  | "running"
  | "paused"
  | "restarting"
  | "removing"
  | "exited"
  | "dead";

/** Docker's container inspect `State`, parsed. */
export interface ContainerState {
  readonly status: ContainerStatus;
  readonly isRunning: boolean;
  readonly isPaused: boolean;
  readonly pid: number;
  readonly exitCode: number;
  readonly isOomKilled: boolean;
  /** Why the last start failed, or "". */
  readonly error: string;
  /** RFC 3339 with nanoseconds; 0001-01-01T00:00:00Z for never. */
  readonly startedAt: string;
  readonly finishedAt: string;
  readonly health: "none" | "starting" | "healthy" | "unhealthy";
}

export interface ContainerSummary {
  readonly id: string;
  readonly name: string;
  readonly labels: Labels;
  readonly state: ContainerState;
}

export interface ExitStatus {
  readonly exitCode: number;
  readonly isOomKilled: boolean;
  readonly error: string;
}

export interface LogLine {
  readonly stream: "stdout" | "stderr";
  /** RFC 3339 with nine digits and Z. */
  readonly timestamp: string;
  /** One line with its newline, or a 16 KiB piece of a longer one. */
  readonly data: Uint8Array;
  readonly attrs?: Labels;
}

export interface LogOptions {
  readonly follow: boolean;
  readonly stdout: boolean;
  readonly stderr: boolean;
  /** Unix time in milliseconds, fractions allowed; absent: from the start. */
  readonly sinceMs?: number;
  readonly untilMs?: number;
  /** Lines from the end; absent: all. */
  readonly tail?: number;
}

export interface AttachOptions {
  readonly stdin: boolean;
  readonly stdout: boolean;
  readonly stderr: boolean;
  /** Replay what the log has first. */
  readonly logs: boolean;
  /** Go on with what comes. */
  readonly stream: boolean;
  readonly detachKeys?: string;
}

/** A live connection to a container's or exec's streams. With a tty everything is on stdout. */
export interface AttachStreams {
  readonly isTty: boolean;
  /** Ends when the process has ended and all output was read, or after detach. Order between the two is kept as written. */
  readonly output: AsyncIterable<{ readonly stream: "stdout" | "stderr"; readonly data: Uint8Array }>;
  /** Absent when stdin was not asked for. end() closes the process's stdin where StdinOnce says so. */
  readonly stdin?: Writable;
  /** Lets go: of the process only the stdin ends, where StdinOnce says so, and that of an exec. */
  close(): void;
}

export interface ExecConfig {
  readonly Cmd: readonly string[];
  readonly Env?: readonly string[] | null;
  readonly WorkingDir?: string;
  readonly User?: string;
  readonly Tty?: boolean;
  readonly Privileged?: boolean;
  readonly AttachStdin?: boolean;
  readonly AttachStdout?: boolean;
  readonly AttachStderr?: boolean;
  readonly DetachKeys?: string;
  readonly ConsoleSize?: readonly number[] | null;
}

export interface ListContainersOptions {
  readonly all: boolean;
  readonly limit?: number;
  readonly size: boolean;
  readonly filters: Filters;
}

/** Parsed `filters` query: key to its values. */
export type Filters = ReadonlyMap<string, readonly string[]>;

/** A Docker event, complete but for `scope` of local ones, which is "local". */
export interface EngineEvent {
  readonly Type: string;
  readonly Action: string;
  readonly Actor: { readonly ID: string; readonly Attributes: Labels };
  readonly scope: "local" | "swarm";
  readonly time: number;
  readonly timeNano: number | bigint;
  readonly status?: string;
  readonly id?: string;
  readonly from?: string;
}

export interface ContainerEngine {
  create(
    request: CreateContainerRequest,
  ): Promise<{ readonly Id: string; readonly Warnings: readonly string[] }>;
  /**
   * False if it was running already. A start that fails for the program's sake carries runc's words, by which docker run
   * ends with 127 where the program is not found and with 126 where it can't be run.
   */
  start(id: string): Promise<boolean>;
  /** False if it was not running. `timeoutSeconds` absent: the container's own, else 10; negative: wait for ever. */
  stop(id: string, options: { readonly timeoutSeconds?: number; readonly signal?: string }): Promise<boolean>;
  restart(id: string, options: { readonly timeoutSeconds?: number; readonly signal?: string }): Promise<void>;
  kill(id: string, signal: string): Promise<void>;
  pause(id: string): Promise<void>;
  unpause(id: string): Promise<void>;
  rename(id: string, name: string): Promise<void>;
  update(id: string, config: JsonObject): Promise<{ readonly Warnings: readonly string[] }>;
  remove(
    id: string,
    options: { readonly force: boolean; readonly volumes: boolean; readonly link: boolean },
  ): Promise<void>;
  /** Resolves once `condition` holds; `registered` is called as soon as the wait is in place. */
  wait(
    id: string,
    condition: "not-running" | "next-exit" | "removed",
    options: { readonly signal?: AbortSignal; readonly registered?: () => void },
  ): Promise<ExitStatus>;
  /** Docker's full inspect object. */
  inspect(id: string, options: { readonly size: boolean }): Promise<JsonObject>;
  /** Docker's list objects, newest first. */
  list(options: ListContainersOptions): Promise<readonly JsonObject[]>;
  /** Cheap, for the worker: every container with all of `labels`. */
  summaries(labels: Labels): readonly ContainerSummary[];
  summary(id: string): ContainerSummary;
  /** Whether the container has a terminal. */
  isTty(id: string): boolean;
  logs(id: string, options: LogOptions, signal: AbortSignal): AsyncIterable<LogLine>;
  attach(id: string, options: AttachOptions): Promise<AttachStreams>;
  resize(id: string, height: number, width: number): Promise<void>;
  top(
    id: string,
    psArgs: string,
  ): Promise<{ readonly Titles: readonly string[]; readonly Processes: readonly (readonly string[])[] }>;
  /** One sample after the other; with `stream` false a single one (after two samples unless `oneShot`). */
  stats(
    id: string,
    options: { readonly stream: boolean; readonly oneShot: boolean },
    signal: AbortSignal,
  ): AsyncIterable<JsonObject>;
  changes(id: string): Promise<readonly { readonly Path: string; readonly Kind: 0 | 1 | 2 }[]>;
  /** The root filesystem as a tar stream. */
  export(id: string): Promise<Readable>;
  /** Docker's stat object of a path in the container (name, size, mode, mtime, linkTarget). */
  statPath(id: string, path: string): Promise<JsonObject>;
  getArchive(id: string, path: string): Promise<{ readonly stat: JsonObject; readonly tar: Readable }>;
  putArchive(
    id: string,
    path: string,
    tar: Readable,
    options: { readonly noOverwriteDirNonDir: boolean; readonly copyUidGid: boolean },
  ): Promise<void>;
  commit(
    id: string,
    options: {
      readonly repo?: string;
      readonly tag?: string;
      readonly comment?: string;
      readonly author?: string;
      readonly pause: boolean;
      readonly changes: readonly string[];
      readonly config?: ContainerConfig;
    },
  ): Promise<{ readonly Id: string }>;
  prune(
    filters: Filters,
  ): Promise<{ readonly ContainersDeleted: readonly string[]; readonly SpaceReclaimed: number }>;

  createExec(id: string, config: ExecConfig): Promise<{ readonly Id: string }>;
  startExec(
    execId: string,
    options: { readonly detach: boolean; readonly tty: boolean; readonly consoleSize?: readonly number[] },
  ): Promise<AttachStreams | undefined>;
  resizeExec(execId: string, height: number, width: number): Promise<void>;
  inspectExec(execId: string): Promise<JsonObject>;
}

/** One JSON progress line of pull, push, load, import, build. */
export type ProgressLine = JsonObject;

export interface PullOptions {
  /** Reference as given: name, name:tag or name@digest. */
  readonly reference: string;
  readonly platform?: string;
  /** X-Registry-Auth as given (base64url JSON), or absent. */
  readonly registryAuth?: string;
}

export interface BuildOptions {
  /** The build request's query, parsed as far as the builder needs it. */
  readonly query: URLSearchParams;
  /** X-Registry-Config as given (base64url JSON), or absent. */
  readonly registryConfig?: string;
  /** The context as a tar stream, possibly compressed. */
  readonly context: Readable;
}

/**
 * What of the build cache goes: all that the filters name, or the oldest of it until the sizes are kept. 0 or absent:
 * no such bound.
 */
export interface CachePruneOptions {
  readonly filters: Filters;
  /** Kept in any case. */
  readonly reservedBytes?: number;
  readonly maxUsedBytes?: number;
  /** On the disk. */
  readonly minFreeBytes?: number;
}

export interface ImageEngine {
  list(options: {
    readonly all: boolean;
    readonly digests: boolean;
    readonly sharedSize: boolean;
    readonly manifests: boolean;
    readonly filters: Filters;
  }): Promise<readonly JsonObject[]>;
  inspect(reference: string): Promise<JsonObject>;
  history(reference: string): Promise<readonly JsonObject[]>;
  tag(reference: string, repo: string, tag: string): Promise<void>;
  remove(
    reference: string,
    options: { readonly force: boolean; readonly noPrune: boolean },
  ): Promise<readonly JsonObject[]>;
  prune(
    filters: Filters,
  ): Promise<{ readonly ImagesDeleted: readonly JsonObject[] | null; readonly SpaceReclaimed: number }>;
  pull(options: PullOptions, signal: AbortSignal): AsyncIterable<ProgressLine>;
  push(
    options: { readonly reference: string; readonly tag?: string; readonly registryAuth?: string },
    signal: AbortSignal,
  ): AsyncIterable<ProgressLine>;
  /** With a platform ("linux/arm64"): the images for it alone. */
  load(
    tar: Readable,
    options: { readonly quiet: boolean; readonly platform?: string },
  ): AsyncIterable<ProgressLine>;
  /** One layer from a root filesystem tar. */
  import(
    tar: Readable,
    options: {
      readonly repo?: string;
      readonly tag?: string;
      readonly message?: string;
      readonly changes: readonly string[];
      readonly platform?: string;
    },
  ): AsyncIterable<ProgressLine>;
  save(references: readonly string[]): Promise<Readable>;
  build(options: BuildOptions, signal: AbortSignal): AsyncIterable<ProgressLine>;
  /** A build that asks its client for what it needs while it runs. Its cache is that of build(). */
  solve(options: SolveOptions, signal: AbortSignal): Promise<SolvedBuild>;
  pruneBuildCache(options: CachePruneOptions): Promise<JsonObject>;
  /** Answer of /distribution/NAME/json; fails fast when no registry can be asked. */
  distribution(reference: string, registryAuth?: string): Promise<JsonObject>;
  search(term: string, limit: number, filters: Filters): Promise<readonly JsonObject[]>;
  /** Answer of /auth. */
  login(auth: JsonObject): Promise<JsonObject>;

  /** Image id (sha256:…) of what `reference` names here, or undefined. */
  resolve(reference: string): string | undefined;
  /**
   * Makes `reference` present: from this machine, else from peers of the cluster, else (unless `peersOnly`) from its
   * registry. Returns the image id. `report` gets a readable line now and then.
   */
  ensure(
    reference: string,
    options: { readonly registryAuth?: string; readonly platform?: string; readonly peersOnly?: boolean },
    signal: AbortSignal,
  ): Promise<string>;
  /** Where `ensure` may look first; set by the daemon when the node is in a cluster, undefined when it leaves. */
  setPeers(peers: BlobPeers | undefined): void;
  /**
   * What is here, as canonical names with tag and as digests of manifests and indexes: of images that are kept for the
   * cluster, then of those that were tagged last, `countMax` names and digests at most.
   */
  inventory(countMax: number): ReadonlySet<string>;
  /** `listener` is called when the inventory may have changed, in the same turn. Returns what ends that. */
  onChange(listener: () => void): () => void;
  /**
   * Images, by the digest of their manifest or index, that are kept for the cluster: neither removal nor pruning takes
   * them. The whole list each time.
   */
  setKept(digests: ReadonlySet<string>): void;
  /** For peers: what `reference` names here by its digest, else by its tag; undefined if nothing. */
  describe(reference: string): ImageDescription | undefined;
  /** For peers: a blob's content from `offset`; not_found if it isn't here. */
  openBlob(
    digest: string,
    offset: number,
  ): Promise<{ readonly sizeBytes: number; readonly content: Readable }>;
  hasBlob(digest: string): boolean;
}

export interface ImageDescription {
  /** Reference in full form with registry and tag. */
  readonly reference: string;
  readonly imageId: string;
  readonly manifest: { readonly digest: string; readonly mediaType: string; readonly sizeBytes: number };
  /** The index that the manifest was chosen from, if the reference names that. */
  readonly index?: { readonly digest: string; readonly mediaType: string; readonly sizeBytes: number };
  /** Config and layers as they are stored. */
  readonly blobs: readonly {
    readonly digest: string;
    readonly mediaType: string;
    readonly sizeBytes: number;
  }[];
  /** What it was made for, as its config says. */
  readonly platform?: { readonly os: string; readonly architecture: string };
  /** Digests by which registries know it, "repo@sha256:…". */
  readonly repoDigests: readonly string[];
  /** RFC 3339 with nanoseconds: when the reference last changed on the node that answers; the newest wins among peers. */
  readonly taggedAt: string;
}

/** What one peer says that it has. Of this only that is to be believed which a digest proves. */
export interface PeerImage {
  /** "host:port". */
  readonly peer: string;
  readonly image: ImageDescription;
}

/** Other nodes of the cluster as sources of blobs. */
export interface BlobPeers {
  /** What a name or digest means in the cluster, as its managers say; undefined if they know nothing of it. */
  resolve(reference: string, signal: AbortSignal): Promise<ResolvedImage | undefined>;
  /**
   * Asks peers who has what `reference` names, by its digest or by its tag: `likely` (node ids) first, then others, until
   * some are found or enough were asked.
   */
  find(reference: string, likely: readonly string[], signal: AbortSignal): Promise<readonly PeerImage[]>;
  /** Streams a part of a blob from one peer; `length` 0 means all that follows. */
  fetch(
    peer: string,
    part: { readonly digest: string; readonly offset: number; readonly length: number },
    signal: AbortSignal,
  ): Promise<Readable>;
}

export interface NameMatch {
  readonly addresses: readonly string[];
  readonly ttlSeconds: number;
}

/** Names of the networks that an asker is on. */
export interface NameDirectory {
  /** `name` is lower case without a closing dot. */
  lookup(name: string): NameMatch | undefined;
  /** Full name of an address, or undefined. */
  reverse(address: string): string | undefined;
}

/** A network of the cluster that containers of this machine may join. */
export interface ClusterNetwork {
  readonly id: string;
  readonly name: string;
}

/** Where a guest is on one network. */
export interface GuestPlace {
  readonly networkId: string;
  /** Names that resolve to it there; the first is the container's. */
  readonly names: readonly string[];
  /** Chosen by the user, without mask, or held already, with it. Empty: any. */
  readonly address: string;
}

/** A container outside of any service on networks of the cluster. */
export interface Guest {
  readonly target: NetworkNamespaceTarget;
  readonly places: readonly GuestPlace[];
  /** Name servers of its own; empty: the host's. */
  readonly nameservers: readonly string[];
  readonly ports: readonly {
    readonly protocol: "tcp" | "udp";
    readonly containerPort: number;
    readonly hostPort: number;
  }[];
  /** Its way out, published ports and name server are a local network's: it needs no place on the mesh. */
  readonly isLedOut?: boolean;
}

/** Networks of the cluster that containers of this machine may join. Implemented by worker/network. */
export interface GuestNetworks {
  /**
   * Sees to it that the network is set up on this node; undefined if the cluster has no attachable network of that name
   * or id.
   */
  open(reference: string): Promise<ClusterNetwork | undefined>;
  /** Again for a container that is a guest: it joins and leaves what differs. */
  attach(guest: Guest): Promise<AttachedNetworks>;
  detach(containerId: string): Promise<void>;
  /** A guest that runs since before this daemon, with the address that it has on the mesh. */
  adopt(guest: Guest, meshIp: string): Promise<void>;
  /** What the container's networks of the cluster know, for the name server of a local one. */
  names(containerId: string): NameDirectory;
}

export interface LocalNetworkEngine {
  /** Docker's network objects of local scope (bridge, host, none, user bridges…). */
  list(filters: Filters): Promise<readonly JsonObject[]>;
  inspect(id: string, options: { readonly verbose: boolean }): Promise<JsonObject>;
  /** undefined if no local network has this id or name. */
  find(id: string): { readonly Id: string; readonly Name: string } | undefined;
  create(request: JsonObject): Promise<{ readonly Id: string; readonly Warning: string }>;
  remove(id: string): Promise<void>;
  connect(id: string, container: string, settings: EndpointSettings): Promise<void>;
  disconnect(id: string, container: string, force: boolean): Promise<void>;
  prune(filters: Filters): Promise<{ readonly NetworksDeleted: readonly string[] }>;
  /** Set by the daemon while the node is in a cluster, undefined when it leaves. */
  setGuests?(guests: GuestNetworks | undefined): void;
}

export interface VolumeEngine {
  list(
    filters: Filters,
  ): Promise<{ readonly Volumes: readonly JsonObject[]; readonly Warnings: readonly string[] | null }>;
  inspect(name: string): Promise<JsonObject>;
  create(request: JsonObject): Promise<JsonObject>;
  remove(name: string, force: boolean): Promise<void>;
  prune(
    filters: Filters,
  ): Promise<{ readonly VolumesDeleted: readonly string[]; readonly SpaceReclaimed: number }>;
  /** "local", and plugins that can be used now. */
  driverNames(): readonly string[];
}

export interface PullPluginOptions {
  readonly remote: string;
  /** Name here; "": that of the remote one. */
  readonly name: string;
  /** What the user grants, as the client sent it: must be what the plugin asks for. */
  readonly privileges: readonly Json[];
  readonly registryAuth?: string;
}

/** Docker's managed plugins. A `name` is also an id or an unambiguous prefix of one. */
export interface PluginEngine {
  list(filters: Filters): Promise<readonly JsonObject[]>;
  inspect(name: string): Promise<JsonObject>;
  /** From the tar of a folder with config.json and rootfs/. */
  create(name: string, tar: Readable): Promise<void>;
  /** Resolves when the plugin answers; `timeoutSeconds` 0: the default. */
  enable(name: string, timeoutSeconds: number): Promise<void>;
  disable(name: string, force: boolean): Promise<void>;
  remove(name: string, force: boolean): Promise<void>;
  /** "NAME[.FIELD]=VALUE" each, as the plugin's config allows. */
  set(name: string, settings: readonly string[]): Promise<void>;
  /** What the plugin in a registry asks for. */
  privileges(remote: string, registryAuth?: string): Promise<readonly JsonObject[]>;
  pull(options: PullPluginOptions, signal: AbortSignal): AsyncIterable<ProgressLine>;
  upgrade(name: string, options: PullPluginOptions, signal: AbortSignal): AsyncIterable<ProgressLine>;
  push(
    name: string,
    options: { readonly registryAuth?: string },
    signal: AbortSignal,
  ): AsyncIterable<ProgressLine>;
}

/** Everything of the machine that the API serves without a cluster. */
export interface Engine {
  readonly containers: ContainerEngine;
  readonly images: ImageEngine;
  readonly networks: LocalNetworkEngine;
  readonly volumes: VolumeEngine;
  readonly plugins: PluginEngine;
  /** Past events from the ring (256) that match, then live ones until the signal. */
  events(
    options: { readonly sinceMs?: number; readonly untilMs?: number },
    signal: AbortSignal,
  ): AsyncIterable<EngineEvent>;
  /** The machine's half of /info: everything but the Swarm block. */
  info(): Promise<JsonObject>;
  /** Docker's system df. */
  diskUsage(types: readonly string[]): Promise<JsonObject>;
}
