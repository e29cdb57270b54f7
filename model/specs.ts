/**
 * What users ask for, in the shape of the Docker Engine API (1.50): the spec is kept as it was given, with fields we
 * don't know, so that a client reads back what it wrote. Durations are nanoseconds, memory bytes, CPU 1e-9 cores.
 * Every field that Docker treats as optional is optional here. Validation is manager/controlapi/validate; defaults
 * are applied by readers (model/defaults.ts), never written into the spec.
 */
export type Labels = Readonly<Record<string, string>>;

export interface Annotations {
  readonly Name: string;
  readonly Labels?: Labels;
}

export interface Driver {
  readonly Name?: string;
  readonly Options?: Readonly<Record<string, string>>;
}

export interface HealthConfig {
  /** ["NONE"], ["CMD", ...argv] or ["CMD-SHELL", command]; empty inherits the image's. */
  readonly Test?: readonly string[];
  readonly Interval?: number;
  readonly Timeout?: number;
  readonly StartPeriod?: number;
  readonly StartInterval?: number;
  readonly Retries?: number;
}

export interface Mount {
  readonly Type?: "bind" | "volume" | "tmpfs" | "npipe" | "cluster" | "image";
  readonly Source?: string;
  readonly Target: string;
  readonly ReadOnly?: boolean;
  readonly Consistency?: string;
  readonly BindOptions?: {
    readonly Propagation?: string;
    readonly NonRecursive?: boolean;
    readonly CreateMountpoint?: boolean;
    readonly ReadOnlyNonRecursive?: boolean;
    readonly ReadOnlyForceRecursive?: boolean;
  };
  readonly VolumeOptions?: {
    readonly NoCopy?: boolean;
    readonly Labels?: Labels;
    readonly Subpath?: string;
    readonly DriverConfig?: Driver;
  };
  readonly ImageOptions?: { readonly Subpath?: string };
  readonly TmpfsOptions?: {
    readonly SizeBytes?: number;
    readonly Mode?: number;
    readonly Options?: readonly (readonly string[])[];
  };
}

export interface FileTarget {
  readonly Name: string;
  readonly UID?: string;
  readonly GID?: string;
  /** Permission bits as a number (0o444 = 292). */
  readonly Mode?: number;
}

export interface SecretReference {
  readonly SecretID: string;
  readonly SecretName: string;
  readonly File?: FileTarget;
}

export interface ConfigReference {
  readonly ConfigID: string;
  readonly ConfigName: string;
  readonly File?: FileTarget;
  readonly Runtime?: Record<string, never>;
}

export interface Ulimit {
  readonly Name: string;
  readonly Soft: number;
  readonly Hard: number;
}

/** Of a Windows service account; one of the three. */
export interface CredentialSpec {
  readonly Config?: string;
  readonly File?: string;
  readonly Registry?: string;
}

export interface ContainerSpec {
  readonly Image: string;
  readonly Labels?: Labels;
  /** Entrypoint. */
  readonly Command?: readonly string[];
  readonly Args?: readonly string[];
  readonly Hostname?: string;
  readonly Env?: readonly string[];
  readonly Dir?: string;
  readonly User?: string;
  readonly Groups?: readonly string[];
  readonly TTY?: boolean;
  readonly OpenStdin?: boolean;
  readonly ReadOnly?: boolean;
  readonly Mounts?: readonly Mount[];
  readonly StopSignal?: string;
  readonly StopGracePeriod?: number;
  readonly Healthcheck?: HealthConfig;
  /** "IP name [alias…]" lines. */
  readonly Hosts?: readonly string[];
  readonly DNSConfig?: {
    readonly Nameservers?: readonly string[];
    readonly Search?: readonly string[];
    readonly Options?: readonly string[];
  };
  readonly Secrets?: readonly SecretReference[];
  readonly Configs?: readonly ConfigReference[];
  readonly Isolation?: string;
  readonly Init?: boolean;
  readonly Sysctls?: Readonly<Record<string, string>>;
  readonly CapabilityAdd?: readonly string[];
  readonly CapabilityDrop?: readonly string[];
  readonly Ulimits?: readonly Ulimit[];
  readonly OomScoreAdj?: number;
  readonly Privileges?: {
    readonly CredentialSpec?: CredentialSpec;
    readonly SELinuxContext?: unknown;
    readonly Seccomp?: { readonly Mode?: "default" | "unconfined" | "custom"; readonly Profile?: string };
    readonly AppArmor?: { readonly Mode?: "default" | "disabled" };
    readonly NoNewPrivileges?: boolean;
  };
}

export interface GenericResource {
  readonly NamedResourceSpec?: { readonly Kind: string; readonly Value: string };
  readonly DiscreteResourceSpec?: { readonly Kind: string; readonly Value: number };
}

export interface Resources {
  readonly NanoCPUs?: number;
  readonly MemoryBytes?: number;
  readonly Pids?: number;
  readonly GenericResources?: readonly GenericResource[];
}

export interface ResourceRequirements {
  readonly Limits?: Resources;
  readonly Reservations?: Resources;
}

export interface RestartPolicy {
  /** Default any. */
  readonly Condition?: "none" | "on-failure" | "any";
  /** Default 5 s. */
  readonly Delay?: number;
  /** 0: no limit. */
  readonly MaxAttempts?: number;
  readonly Window?: number;
}

export interface Platform {
  readonly Architecture?: string;
  readonly OS?: string;
}

export interface Placement {
  readonly Constraints?: readonly string[];
  readonly Preferences?: readonly { readonly Spread?: { readonly SpreadDescriptor: string } }[];
  readonly MaxReplicas?: number;
  readonly Platforms?: readonly Platform[];
}

export interface NetworkAttachmentConfig {
  /** Network ID once stored; a name is resolved when the spec is accepted. */
  readonly Target: string;
  readonly Aliases?: readonly string[];
  readonly DriverOpts?: Readonly<Record<string, string>>;
}

export interface TaskSpec {
  readonly ContainerSpec: ContainerSpec;
  readonly Resources?: ResourceRequirements;
  readonly RestartPolicy?: RestartPolicy;
  readonly Placement?: Placement;
  readonly Networks?: readonly NetworkAttachmentConfig[];
  readonly LogDriver?: Driver;
  readonly ForceUpdate?: number;
  /** "container" (default); others are refused. */
  readonly Runtime?: string;
}

export interface UpdateConfig {
  /** Tasks at once; 0: all. Default 1. */
  readonly Parallelism?: number;
  readonly Delay?: number;
  readonly FailureAction?: "pause" | "continue" | "rollback";
  /** Default 5 s. */
  readonly Monitor?: number;
  readonly MaxFailureRatio?: number;
  readonly Order?: "stop-first" | "start-first";
}

export interface ServiceMode {
  readonly Replicated?: { readonly Replicas?: number };
  readonly Global?: Record<string, never>;
  readonly ReplicatedJob?: { readonly MaxConcurrent?: number; readonly TotalCompletions?: number };
  readonly GlobalJob?: Record<string, never>;
}

export type PortProtocol = "tcp" | "udp" | "sctp";

export interface PortConfig {
  readonly Name?: string;
  readonly Protocol?: PortProtocol;
  readonly TargetPort: number;
  /** 0 or absent: the allocator chooses from 30000-32767 (ingress mode). */
  readonly PublishedPort?: number;
  readonly PublishMode?: "ingress" | "host";
}

export interface EndpointSpec {
  readonly Mode?: "vip" | "dnsrr";
  readonly Ports?: readonly PortConfig[];
}

export interface ServiceSpec extends Annotations {
  readonly TaskTemplate: TaskSpec;
  readonly Mode?: ServiceMode;
  readonly UpdateConfig?: UpdateConfig;
  readonly RollbackConfig?: UpdateConfig;
  readonly Networks?: readonly NetworkAttachmentConfig[];
  readonly EndpointSpec?: EndpointSpec;
}

export type NodeRole = "worker" | "manager";
export type NodeAvailability = "active" | "pause" | "drain";

export interface NodeSpec {
  readonly Name?: string;
  readonly Labels?: Labels;
  readonly Role: NodeRole;
  readonly Availability: NodeAvailability;
}

export interface IPAMConfig {
  readonly Subnet?: string;
  readonly IPRange?: string;
  readonly Gateway?: string;
  readonly AuxiliaryAddresses?: Readonly<Record<string, string>>;
}

export interface NetworkSpec extends Annotations {
  readonly Driver?: string;
  readonly Options?: Readonly<Record<string, string>>;
  readonly IPAM?: {
    readonly Driver?: string;
    readonly Options?: Readonly<Record<string, string>>;
    readonly Config?: readonly IPAMConfig[];
  };
  readonly Internal?: boolean;
  readonly Attachable?: boolean;
  readonly Ingress?: boolean;
  readonly EnableIPv6?: boolean;
  readonly ConfigOnly?: boolean;
  readonly ConfigFrom?: { readonly Network?: string };
  readonly Scope?: string;
}

export interface SecretSpec extends Annotations {
  /** Base64; at most 500 KiB decoded. */
  readonly Data?: string;
  readonly Driver?: Driver;
  readonly Templating?: Driver;
}

export interface ConfigSpec extends Annotations {
  /** Base64; at most 1000 KiB decoded. */
  readonly Data?: string;
  readonly Templating?: Driver;
}

/** An image as it is put into the cluster. */
export interface ImageSpec extends Annotations {
  /** Canonical, with tag: "docker.io/library/web:1". */
  readonly Name: string;
  /** Of the manifest: "sha256:…". */
  readonly Digest: string;
  readonly MediaType: string;
  /** Of the manifest alone. */
  readonly ManifestBytes: number;
  /** Of config and layers together, as they travel. */
  readonly SizeBytes: number;
  /** Digest of the config. */
  readonly ImageID: string;
  readonly Platform?: Platform;
}

export interface ClusterSpec extends Annotations {
  readonly Orchestration?: { readonly TaskHistoryRetentionLimit?: number };
  readonly Raft?: {
    readonly SnapshotInterval?: number;
    readonly KeepOldSnapshots?: number;
    readonly LogEntriesForSlowFollowers?: number;
    readonly ElectionTick?: number;
    readonly HeartbeatTick?: number;
  };
  readonly Dispatcher?: { readonly HeartbeatPeriod?: number };
  readonly CAConfig?: {
    readonly NodeCertExpiry?: number;
    readonly ExternalCAs?: readonly unknown[];
    readonly SigningCACert?: string;
    readonly SigningCAKey?: string;
    readonly ForceRotate?: number;
  };
  readonly TaskDefaults?: { readonly LogDriver?: Driver };
  readonly EncryptionConfig?: { readonly AutoLockManagers?: boolean };
}
