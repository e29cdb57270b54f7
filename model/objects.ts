/**
 * The objects of the replicated store: what the manager knows, one interface for each table. Every object carries the
 * store's version of its last change, for compare-and-set. Objects are plain, immutable data: a change is a new object.
 * The Raft log holds them as JSON, so that fields of a newer version survive an older manager.
 *
 * Writers: specs come from users through controlapi; `status` of a task from its agent through the dispatcher;
 * desired state from the orchestrators; addresses, ports and VIPs from the allocator; `nodeId` from the scheduler.
 */
import type {
  ClusterSpec,
  ConfigSpec,
  NetworkSpec,
  NodeRole,
  NodeSpec,
  Platform,
  PortConfig,
  GenericResource,
  ImageSpec,
  SecretSpec,
  ServiceSpec,
  TaskSpec,
  Driver,
} from "./specs.ts";
import type { TaskState } from "./task-state.ts";

export interface ObjectMeta {
  /** 25 characters of base 36. */
  readonly id: string;
  /** Raft index of the transaction that wrote this object last; Docker's Version.Index. Set by apply, never by writers. */
  readonly version: number;
  /** RFC 3339 with nanoseconds, UTC; stamped by the proposer. */
  readonly createdAt: string;
  readonly updatedAt: string;
}

/** Objects that users and the system both write. */
export interface UserVersioned {
  /**
   * Version that the last write of the spec replaced. Whoever read a later one has seen that spec, whatever the system
   * wrote since; a compare-and-set by users is judged by it.
   */
  readonly specReplacedVersion?: number;
}

export interface TlsInfo {
  /** PEM. */
  readonly TrustRoot: string;
  /** Base64 of the DER subject. */
  readonly CertIssuerSubject: string;
  /** Base64 of the DER public key. */
  readonly CertIssuerPublicKey: string;
}

export interface Cluster extends ObjectMeta {
  readonly spec: ClusterSpec;
  readonly rootCa: {
    /** PEM certificate of the cluster's root. */
    readonly certificate: string;
    /** PEM key; never leaves the managers. */
    readonly key: string;
    /** "sha256:<hex>" of the DER certificate; join tokens carry it in base 36. */
    readonly digest: string;
    readonly joinTokens: { readonly worker: string; readonly manager: string };
    /**
     * A new root is being taken up: `certificate` holds it first and the former one behind it, `key` is the new one's,
     * and what is issued carries `crossSigned`.
     */
    readonly rotationInProgress?: boolean;
    /** PEM: the new root's key certified by the former root, so that nodes that know only that one trust it. */
    readonly crossSigned?: string;
  };
  readonly tlsInfo: TlsInfo;
  /** CIDRs from which overlay subnets are cut. */
  readonly defaultAddressPool: readonly string[];
  /** Mask length of the subnets cut from the pool. */
  readonly subnetSize: number;
  /** UDP port of VXLAN. */
  readonly dataPathPort: number;
  /** CIDR of the mesh: every node gets a block of it for task egress, published ports and node-local DNS. */
  readonly meshPool: string;
  /** "SWMKEY-1-…" when autolock is on, else "". */
  readonly unlockKey: string;
  /** Nodes whose certificates may still be valid but are refused: node id to when the last of them expires (RFC 3339). */
  readonly removedNodes?: Readonly<Record<string, string>>;
}

export interface NodeDescription {
  readonly Hostname: string;
  readonly Platform: Platform;
  readonly Resources: {
    readonly NanoCPUs: number;
    readonly MemoryBytes: number;
    readonly GenericResources?: readonly GenericResource[];
  };
  readonly Engine: {
    readonly EngineVersion: string;
    readonly Labels?: Readonly<Record<string, string>>;
    readonly Plugins?: readonly { readonly Type: string; readonly Name: string }[];
  };
  readonly TLSInfo?: TlsInfo;
}

export const NodeState = { unknown: 0, down: 1, ready: 2, disconnected: 3 } as const;
export type NodeState = (typeof NodeState)[keyof typeof NodeState];

/** A container outside of any service, on one attachable network. Its node reports it, the allocator gives the address. */
export interface NodeGuest {
  readonly containerId: string;
  readonly networkId: string;
  /** Names that resolve to it on the network. */
  readonly names: readonly string[];
  /** Without mask: chosen by the user, or held already. Empty: any. */
  readonly wanted: string;
  /** With mask; empty until the allocator has given one. */
  readonly address: string;
}

export interface Node extends ObjectMeta, UserVersioned {
  readonly spec: NodeSpec;
  /** Absent until the node's first session. */
  readonly description?: NodeDescription;
  readonly status: {
    readonly state: NodeState;
    readonly message: string;
    /** Address (no port) that the manager sees or that the node advertises. */
    readonly addr: string;
  };
  /** "host:port" of the node's mTLS port: blobs, logs, exec are fetched there. */
  readonly rpcAddress: string;
  /** Address (no port) of the node's VXLAN end. */
  readonly dataPathAddress: string;
  /** CIDR block of the mesh; written by the allocator. */
  readonly meshSubnet?: string;
  /** In the order in which the node reports them; absent if it never had any. */
  readonly guests?: readonly NodeGuest[];
  /** Set while the node is a Raft member. */
  readonly manager?: { readonly raftId: number; readonly addr: string };
  /** What the certificate said when the node joined; differs from spec.Role during promotion. */
  readonly certificateRole: NodeRole;
  /** Serial of the node's certificate, hex; a node that was removed is refused by id. */
  readonly certificateSerial?: string;
  /** When the last of its certificates expires, RFC 3339: one of before may outlive the newest. Absent of a cluster's first node. */
  readonly certificateUntil?: string;
  /** Digest (as in Cluster.rootCa) of the root whose key signed the node's certificate. */
  readonly certificateIssuer?: string;
  /** Its certificate came during a rotation of the root, with the former root beside the new one. */
  readonly trustsFormerRoot?: true;
}

export interface Endpoint {
  readonly spec: { readonly Mode: "vip" | "dnsrr" };
  /** Ingress ports with their published port filled in, and host ports as in the spec. */
  readonly ports: readonly Required<Omit<PortConfig, "Name">>[];
  /** One address for each network of a VIP service. `addr` has no mask. */
  readonly virtualIps: readonly { readonly networkId: string; readonly addr: string }[];
}

export type UpdateState =
  | "updating"
  | "paused"
  | "completed"
  | "rollback_started"
  | "rollback_paused"
  | "rollback_completed";

export interface UpdateStatus {
  readonly state: UpdateState;
  readonly startedAt: string;
  readonly completedAt?: string;
  readonly message: string;
}

export interface Service extends ObjectMeta, UserVersioned {
  readonly spec: ServiceSpec;
  readonly previousSpec?: ServiceSpec;
  /** Version of the service when `spec` was last changed; tasks made from it carry the same number. */
  readonly specVersion: number;
  readonly previousSpecVersion?: number;
  /** Written by the allocator; absent until then. */
  readonly endpoint?: Endpoint;
  readonly updateStatus?: UpdateStatus;
  readonly jobStatus?: { readonly jobIteration: number; readonly lastExecution: string };
  /** The client's registry credentials (X-Registry-Auth, base64url JSON), for this spec; never shown. */
  readonly registryAuth?: string;
  readonly previousRegistryAuth?: string;
}

export interface TaskStatus {
  readonly state: TaskState;
  /** RFC 3339 with nanoseconds; by the clock of the node once that has reported. */
  readonly timestamp: string;
  readonly message: string;
  /** Empty if all is well. */
  readonly err: string;
  /** When it came to RUNNING, by the same clock; absent if it never did. */
  readonly ranAt?: string;
  /**
   * When the leader wrote that the task ended: unlike `timestamp`, which is by the node's clock, in one order with the stamps
   * of objects. Absent before, and in records of programs that did not note it.
   */
  readonly appliedAt?: string;
  readonly container?: { readonly containerId: string; readonly pid: number; readonly exitCode: number };
  /** The task's address on its node's mesh block, chosen by the node; ingress traffic is sent there. */
  readonly meshIp?: string;
  /** Host-mode ports as bound on the node. */
  readonly ports?: readonly Required<Omit<PortConfig, "Name">>[];
}

export interface NetworkAttachment {
  readonly networkId: string;
  /** Addresses with mask, e.g. "10.0.1.7/24". */
  readonly addresses: readonly string[];
  readonly aliases: readonly string[];
}

/** One attempt to run a replica. Never rerun, never moved. */
export interface Task extends ObjectMeta {
  readonly serviceId: string;
  /** From 1 for replicated services, from 0 for replicated jobs, 0 for global ones. */
  readonly slot: number;
  /** Empty until scheduled; preset for global tasks. */
  readonly nodeId: string;
  readonly name: string;
  /** The service's labels when the task was made. */
  readonly serviceLabels: Readonly<Record<string, string>>;
  readonly serviceName: string;
  readonly spec: TaskSpec;
  /** The service's specVersion that `spec` is of. */
  readonly specVersion: number;
  readonly desiredState: TaskState;
  readonly status: TaskStatus;
  readonly networks: readonly NetworkAttachment[];
  /** Published and host ports of the service when the task was allocated. */
  readonly ports: readonly Required<Omit<PortConfig, "Name">>[];
  readonly jobIteration?: number;
  /** The task that died by itself and whose restart this is: it starts after the restart delay. */
  readonly restartOf?: string;
  /** The slot's task of another spec that had not ended when this one was made; absent where there was none. */
  readonly inPlaceOf?: string;
  readonly registryAuth?: string;
  readonly assignedGenericResources?: readonly GenericResource[];
  /** The cluster's default when the task was made; absent where the spec names a driver itself. */
  readonly logDriver?: Driver;
}

export interface Network extends ObjectMeta {
  readonly spec: NetworkSpec;
  /** Absent until the allocator has been here. */
  readonly allocation?: {
    /** VXLAN network identifier, from 4096. */
    readonly vni: number;
    readonly subnets: readonly { readonly subnet: string; readonly gateway: string }[];
  };
}

export interface Secret extends ObjectMeta {
  readonly spec: SecretSpec;
}

export interface Config extends ObjectMeta {
  readonly spec: ConfigSpec;
}

/** One copy of an image that the cluster keeps. */
export interface ImageHolder {
  readonly nodeId: string;
  /** The node has said that it has the image; until then it fetches it. */
  readonly isComplete: boolean;
}

/** A name under which the cluster itself keeps an image: nodes resolve it without a registry and fetch from each other. */
export interface ClusterImage extends ObjectMeta {
  readonly spec: ImageSpec;
  /** RFC 3339: when the name was given to this image. Absent in records of programs that did not note it. */
  readonly pushedAt?: string;
  /** Nodes that are told to keep the image, oldest first. Written by the image keeper; the first is where it came from. */
  readonly holders: readonly ImageHolder[];
}

/** Tables of the store and what they hold. */
export interface TableTypes {
  readonly cluster: Cluster;
  readonly node: Node;
  readonly service: Service;
  readonly task: Task;
  readonly network: Network;
  readonly secret: Secret;
  readonly config: Config;
  readonly image: ClusterImage;
}
export type TableName = keyof TableTypes;
export const TABLE_NAMES: readonly TableName[] = [
  "cluster",
  "node",
  "service",
  "task",
  "network",
  "secret",
  "config",
  "image",
];

/** A committed change, as watchers and the Docker event stream see it. */
export type StoreEvent = {
  readonly [K in TableName]: {
    readonly table: K;
    readonly action: "create" | "update" | "remove";
    readonly object: TableTypes[K];
    /** Before the change; absent for create. */
    readonly previous?: TableTypes[K];
    /** Raft index of the transaction. */
    readonly version: number;
  };
}[TableName];
