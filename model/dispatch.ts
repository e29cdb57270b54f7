/**
 * What a session tells a worker: its tasks with the secrets and configs they use, and the network state they need.
 * The dispatcher (manager/dispatcher) makes it, the agent (worker/agent) takes it apart. Network state is complete for
 * the networks the node has tasks on: a worker never asks, it is told.
 */
import type { NodeRole, PortConfig } from "./specs.ts";
import type { Config, Secret, Task } from "./objects.ts";

/** One task's end on a network, as other nodes need to know it; or that of a container outside of any service. */
export interface RemoteEndpoint {
  /** Or the container's id. */
  readonly taskId: string;
  /** Empty for a container outside of any service. */
  readonly serviceId: string;
  readonly nodeId: string;
  /** Without mask. */
  readonly ip: string;
  /**
   * starting: has an address and a route, gets no traffic. ready: gets traffic and is in DNS.
   * draining: keeps its route, gets no new connections, not in DNS.
   */
  readonly state: "starting" | "ready" | "draining";
  /** Names that resolve to this endpoint alone: task name, container hostname. */
  readonly names: readonly string[];
}

export interface NetworkServiceRecord {
  readonly serviceId: string;
  readonly name: string;
  /** Aliases on this network. The service's own name is not repeated here. */
  readonly aliases: readonly string[];
  /** Empty for dnsrr services. */
  readonly vip: string;
}

export interface NetworkAssignment {
  readonly networkId: string;
  readonly name: string;
  readonly vni: number;
  readonly subnets: readonly { readonly subnet: string; readonly gateway: string }[];
  readonly isInternal: boolean;
  /** Containers outside of any service may join. */
  readonly isAttachable?: boolean;
  readonly options: Readonly<Record<string, string>>;
  /** Every endpoint of the network, this node's own too, sorted by taskId. */
  readonly endpoints: readonly RemoteEndpoint[];
  /** Sorted by serviceId. */
  readonly services: readonly NetworkServiceRecord[];
}

/** A node's end of the tunnels. */
export interface PeerNode {
  readonly nodeId: string;
  /** Address of its VXLAN end, without port. */
  readonly dataPathAddress: string;
  /** "host:port" of its mTLS port. */
  readonly rpcAddress: string;
  readonly meshSubnet: string;
}

/** One published ingress port, answered on every node. */
export interface IngressPort {
  readonly serviceId: string;
  readonly protocol: NonNullable<PortConfig["Protocol"]>;
  readonly publishedPort: number;
  readonly targetPort: number;
  /** Tasks that take traffic now. `meshIp` is on the mesh block of `nodeId`. Sorted by taskId. */
  readonly backends: readonly { readonly taskId: string; readonly nodeId: string; readonly meshIp: string }[];
}

export interface MeshAssignment {
  readonly pool: string;
  /** This node's block. */
  readonly subnet: string;
  readonly vni: number;
  readonly dataPathPort: number;
  /** Every other node that is not removed, sorted by nodeId. */
  readonly peers: readonly PeerNode[];
  /** Sorted by protocol and port. */
  readonly ingressPorts: readonly IngressPort[];
}

/** An image that this node keeps for the cluster, whether or not it runs it. */
export interface ImageAssignment {
  /** Canonical, with tag. */
  readonly name: string;
  /** Of the manifest: "sha256:…". */
  readonly digest: string;
}

/** What a name means in the cluster, as a manager tells it. */
export interface ResolvedImage {
  /** Of the manifest or index: "sha256:…". */
  readonly digest: string;
  /** Some of the nodes that have all of it. */
  readonly holders: readonly string[];
  /** The cluster keeps it under the name; otherwise it is only what the asked manager calls so. */
  readonly isKept: boolean;
  /** RFC 3339 with nanoseconds: when the name was given to it. Of several managers' own images the newest counts. */
  readonly taggedAt: string;
}

/** A container outside of any service that is on a network, or about to be. */
export interface ReportedGuest {
  readonly containerId: string;
  readonly networkId: string;
  /** Names that shall resolve to it on the network. */
  readonly names: readonly string[];
  /** Without mask: chosen by the user, or held already. Empty: any. */
  readonly address: string;
}

/** What a node asks for its containers outside of services; the whole of it each time. */
export interface GuestReport {
  /** Attachable networks, by name or id, that the node has to be told of. */
  readonly references: readonly string[];
  readonly guests: readonly ReportedGuest[];
}

/** The whole of what a worker shall do; differences are against the last one acknowledged in the same session. */
export interface AssignmentSet {
  readonly tasks: ReadonlyMap<string, Task>;
  readonly secrets: ReadonlyMap<string, Secret>;
  readonly configs: ReadonlyMap<string, Config>;
  readonly networks: ReadonlyMap<string, NetworkAssignment>;
  readonly mesh: MeshAssignment | undefined;
  /** By the record's id. */
  readonly images: ReadonlyMap<string, ImageAssignment>;
}

/** How managers and the node itself are to be reached and what the node is; sent with each session. */
export interface SessionInfo {
  readonly heartbeatMs: number;
  readonly role: NodeRole;
  readonly managers: readonly { readonly nodeId: string; readonly addr: string }[];
}
