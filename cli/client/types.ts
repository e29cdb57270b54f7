/**
 * Answers of the Docker Engine API, as far as the CLI reads them. Everything optional here may be missing from an
 * answer; readers show an empty cell then. Specs are those of model/specs.ts.
 */
import type {
  ClusterSpec,
  ConfigSpec,
  Labels,
  NetworkAttachmentConfig,
  NodeSpec,
  PortConfig,
  SecretSpec,
  ServiceSpec,
  TaskSpec,
} from "../../model/specs.ts";

export interface VersionIndex {
  readonly Index: number;
}

interface Stored<Spec> {
  readonly ID: string;
  readonly Version: VersionIndex;
  readonly CreatedAt: string;
  readonly UpdatedAt: string;
  readonly Spec: Spec;
}

export interface UpdateStatus {
  readonly State?:
    | "updating"
    | "paused"
    | "completed"
    | "rollback_started"
    | "rollback_paused"
    | "rollback_completed"
    | "";
  readonly StartedAt?: string;
  readonly CompletedAt?: string;
  readonly Message?: string;
}

export interface ApiService extends Stored<ServiceSpec> {
  readonly PreviousSpec?: ServiceSpec;
  readonly Endpoint?: {
    readonly Spec?: { readonly Mode?: string; readonly Ports?: readonly PortConfig[] };
    readonly Ports?: readonly PortConfig[];
    readonly VirtualIPs?: readonly { readonly NetworkID: string; readonly Addr?: string }[];
  };
  readonly UpdateStatus?: UpdateStatus | null;
  readonly ServiceStatus?: {
    readonly RunningTasks: number;
    readonly DesiredTasks: number;
    readonly CompletedTasks?: number;
  };
  readonly JobStatus?: { readonly JobIteration?: VersionIndex; readonly LastExecution?: string } | null;
}

export interface ApiTask {
  readonly ID: string;
  readonly Name?: string;
  readonly Version: VersionIndex;
  readonly CreatedAt: string;
  readonly UpdatedAt: string;
  readonly Labels?: Labels;
  readonly Spec: TaskSpec;
  readonly ServiceID: string;
  readonly Slot?: number;
  readonly NodeID?: string;
  readonly Status: {
    readonly Timestamp: string;
    readonly State: string;
    readonly Message?: string;
    readonly Err?: string;
    readonly ContainerStatus?: {
      readonly ContainerID?: string;
      readonly PID?: number;
      readonly ExitCode?: number;
    };
    readonly PortStatus?: { readonly Ports?: readonly PortConfig[] };
  };
  readonly DesiredState: string;
  readonly JobIteration?: VersionIndex;
  readonly NetworksAttachments?: readonly {
    readonly Network?: unknown;
    readonly Addresses?: readonly string[];
  }[];
}

export interface ApiNode extends Stored<NodeSpec> {
  readonly Description?: {
    readonly Hostname?: string;
    readonly Platform?: { readonly Architecture?: string; readonly OS?: string };
    readonly Resources?: {
      readonly NanoCPUs?: number;
      readonly MemoryBytes?: number;
      readonly GenericResources?: readonly unknown[];
    };
    readonly Engine?: {
      readonly EngineVersion?: string;
      readonly Labels?: Labels;
      readonly Plugins?: readonly { readonly Type: string; readonly Name: string }[];
    };
    readonly TLSInfo?: TlsInfo;
  };
  readonly Status: { readonly State: string; readonly Message?: string; readonly Addr?: string };
  readonly ManagerStatus?: {
    readonly Leader?: boolean;
    readonly Reachability?: string;
    readonly Addr?: string;
  } | null;
}

export interface TlsInfo {
  readonly TrustRoot?: string;
  readonly CertIssuerSubject?: string;
  readonly CertIssuerPublicKey?: string;
}

export interface ApiSwarm extends Stored<ClusterSpec> {
  readonly TLSInfo?: TlsInfo;
  readonly RootRotationInProgress?: boolean;
  readonly DefaultAddrPool?: readonly string[] | null;
  readonly SubnetSize?: number;
  readonly DataPathPort?: number;
  readonly JoinTokens: { readonly Worker: string; readonly Manager: string };
}

export type ApiSecret = Stored<SecretSpec>;
export type ApiConfig = Stored<ConfigSpec>;

export interface ApiNetwork {
  readonly Name: string;
  readonly Id: string;
  readonly Created?: string;
  readonly Scope?: string;
  readonly Driver?: string;
  readonly EnableIPv4?: boolean;
  readonly EnableIPv6?: boolean;
  readonly Internal?: boolean;
  readonly Attachable?: boolean;
  readonly Ingress?: boolean;
  readonly Labels?: Labels | null;
}

export interface ApiInfo {
  readonly ID?: string;
  readonly Name?: string;
  readonly ServerVersion?: string;
  readonly Containers?: number;
  readonly ContainersRunning?: number;
  readonly ContainersPaused?: number;
  readonly ContainersStopped?: number;
  readonly Images?: number;
  readonly Driver?: string;
  readonly CgroupDriver?: string;
  readonly CgroupVersion?: string;
  readonly LoggingDriver?: string;
  readonly KernelVersion?: string;
  readonly OperatingSystem?: string;
  readonly OSType?: string;
  readonly Architecture?: string;
  readonly NCPU?: number;
  readonly MemTotal?: number;
  readonly DockerRootDir?: string;
  readonly Labels?: readonly string[] | null;
  readonly Warnings?: readonly string[] | null;
  readonly Swarm?: {
    readonly NodeID?: string;
    readonly NodeAddr?: string;
    readonly LocalNodeState?: string;
    readonly ControlAvailable?: boolean;
    readonly Error?: string;
    readonly RemoteManagers?: readonly { readonly NodeID: string; readonly Addr: string }[] | null;
    readonly Nodes?: number;
    readonly Managers?: number;
    readonly Cluster?: (Omit<ApiSwarm, "JoinTokens"> & { readonly ID: string }) | null;
  };
}

export type { NetworkAttachmentConfig };
