/**
 * What the HTTP API asks of the cluster. On a manager the daemon hands it an implementation that reads the local
 * replica (after a linearizable barrier) and forwards writes to the leader; on other nodes there is none.
 * Errors are ClusterErrors whose messages are Docker's where clients match them.
 */
import type { ImageDescription, LogOptions } from "./engine.ts";
import type { StoreEvent } from "./objects.ts";
import type {
  ClusterSpec,
  ConfigSpec,
  ImageSpec,
  NetworkSpec,
  NodeSpec,
  SecretSpec,
  ServiceSpec,
} from "./specs.ts";
import type { StoreView } from "./store-view.ts";

export interface Written {
  readonly id: string;
  readonly warnings: readonly string[];
}

export interface UpdateServiceOptions {
  /** Version that the caller read; stale: out_of_sequence. */
  readonly version: number;
  readonly spec: ServiceSpec;
  /** Put back the previous spec instead of `spec`. */
  readonly rollback?: boolean;
  readonly registryAuth?: string;
  /** Which stored credentials to keep when none are given. Default "spec". */
  readonly registryAuthFrom?: "spec" | "previous-spec";
}

export interface UpdateClusterOptions {
  readonly version: number;
  readonly spec: ClusterSpec;
  readonly rotateWorkerToken: boolean;
  readonly rotateManagerToken: boolean;
  readonly rotateManagerUnlockKey: boolean;
}

export interface LogSelector {
  readonly serviceIds?: readonly string[];
  readonly taskIds?: readonly string[];
}

export interface ClusterLogLine {
  readonly taskId: string;
  readonly serviceId: string;
  readonly nodeId: string;
  readonly stream: "stdout" | "stderr";
  /** RFC 3339, nine digits. */
  readonly timestamp: string;
  /** With its newline, if it had one. */
  readonly data: Uint8Array;
}

export interface ManagerReachability {
  readonly nodeId: string;
  readonly addr: string;
  readonly isLeader: boolean;
  readonly isReachable: boolean;
  /** False while it catches up before it counts for a quorum. */
  readonly isVoter: boolean;
}

/** The changes of one transaction, in order. */
export interface CommittedChanges {
  readonly version: number;
  readonly events: readonly StoreEvent[];
}

export interface ClusterControl {
  /** A view that contains every write acknowledged before the call. Rejects with `unavailable` without a quorum. */
  view(signal?: AbortSignal): Promise<StoreView>;
  /** The local replica as it is now, without asking anyone. */
  staleView(): StoreView;
  /**
   * False for a version that this cluster has never come to: one who was given it saw what is not in the backup that the
   * cluster was restored from. Asks the others only if this replica may be behind.
   */
  hasReached(version: number, signal: AbortSignal): Promise<boolean>;
  /**
   * Commits from now on, or after a version that any manager of the cluster gave. Ends with `resource_exhausted` if the
   * reader falls too far behind (it may go on after the version it saw last), with `expired` if what came after `after`
   * isn't kept any more.
   */
  watch(signal: AbortSignal, after?: number): AsyncIterable<CommittedChanges>;
  managers(): readonly ManagerReachability[];

  createService(spec: ServiceSpec, options: { readonly registryAuth?: string }): Promise<Written>;
  updateService(id: string, options: UpdateServiceOptions): Promise<Written>;
  removeService(id: string): Promise<void>;

  updateNode(id: string, version: number, spec: NodeSpec): Promise<void>;
  removeNode(id: string, force: boolean): Promise<void>;

  createNetwork(spec: NetworkSpec): Promise<Written>;
  removeNetwork(id: string): Promise<void>;

  createSecret(spec: SecretSpec): Promise<Written>;
  updateSecret(id: string, version: number, spec: SecretSpec): Promise<void>;
  removeSecret(id: string): Promise<void>;

  createConfig(spec: ConfigSpec): Promise<Written>;
  updateConfig(id: string, version: number, spec: ConfigSpec): Promise<void>;
  removeConfig(id: string): Promise<void>;

  updateCluster(options: UpdateClusterOptions): Promise<void>;

  /** Gives `spec.Name` to an image that node `nodeId` has; the cluster keeps copies of it from then on. */
  putImage(spec: ImageSpec, nodeId: string): Promise<Written>;
  /** Refused while services name it, unless by `force`. */
  removeImage(id: string, force: boolean): Promise<void>;
  /** Canonical names and digests that the node has said to have, sorted; undefined while it has not said. */
  nodeImages(nodeId: string): Promise<readonly string[] | undefined>;
  /** Ids of some nodes that have said to have what `reference` names. */
  imageNodes(reference: string): Promise<readonly string[]>;

  /** The whole state in one file, to be kept as safe as the cluster itself: it holds every key and secret. */
  backup?(): Promise<Uint8Array>;

  /** Lines of the tasks' containers, wherever they run. Ends when all are read, or by the signal when following. */
  logs(selector: LogSelector, options: LogOptions, signal: AbortSignal): AsyncIterable<ClusterLogLine>;
}

export interface SwarmInitRequest {
  readonly listenAddr: string;
  readonly advertiseAddr: string;
  readonly dataPathAddr: string;
  readonly dataPathPort: number;
  readonly defaultAddrPool: readonly string[];
  readonly subnetSize: number;
  readonly forceNewCluster: boolean;
  readonly availability: "active" | "pause" | "drain";
  readonly autoLockManagers: boolean;
  readonly spec: ClusterSpec | undefined;
  /** A backup to start from instead of an empty cluster; `spec`, pools and autolock then come from it. */
  readonly restore?: Uint8Array;
}

export interface SwarmJoinRequest {
  readonly listenAddr: string;
  readonly advertiseAddr: string;
  readonly dataPathAddr: string;
  readonly remoteAddrs: readonly string[];
  readonly joinToken: string;
  readonly availability: "active" | "pause" | "drain";
}

export interface SwarmState {
  readonly localNodeState: "inactive" | "pending" | "active" | "error" | "locked";
  readonly nodeId: string;
  readonly nodeAddr: string;
  readonly isManager: boolean;
  readonly error: string;
  readonly remoteManagers: readonly { readonly NodeID: string; readonly Addr: string }[];
}

/** The machine's place in a cluster; implemented by the daemon. */
export interface SwarmLifecycle {
  state(): SwarmState;
  /** The control of the local manager, or undefined when this node is not an active manager. */
  control(): ClusterControl | undefined;
  /** Returns the new node's id. */
  init(request: SwarmInitRequest): Promise<string>;
  join(request: SwarmJoinRequest): Promise<void>;
  /** What node `nodeId` has under `reference`: not_found if nothing, unavailable if the node can't be asked. */
  describeImage(nodeId: string, reference: string, signal: AbortSignal): Promise<ImageDescription>;
  leave(force: boolean): Promise<void>;
  unlock(key: string): Promise<void>;
}
