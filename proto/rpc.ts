/**
 * The mTLS edge that all gRPC of a node goes through: who we are, who the peer is, what it may call.
 * rpc-server.ts and rpc-client.ts implement it. Every node serves one port; a peer without a certificate may call only
 * what is registered for "anyone" (asking for a certificate).
 */
import type { NodeRole } from "../model/specs.ts";

/** This node's place in a cluster. Replaced as a whole when the certificate rotates or the role changes. */
export interface NodeIdentity {
  readonly nodeId: string;
  readonly clusterId: string;
  readonly role: NodeRole;
  /** PEM: the node's certificate; CN = node id, OU = swarm-manager or swarm-worker, O = cluster id. */
  readonly certificate: string;
  /** PEM. */
  readonly key: string;
  /** PEM: the roots that are trusted (two during a root rotation). */
  readonly rootCa: string;
}

/** What a verified peer certificate says. */
export interface PeerIdentity {
  readonly nodeId: string;
  readonly clusterId: string;
  readonly role: NodeRole;
  readonly serial: string;
  /** Of a peer that may only renew. */
  readonly hasExpired?: true;
}

/**
 * Who may call a service: managers, any member of the cluster, members whose certificate may have expired a while ago, or
 * also those without a certificate. "raft" is for all who have a manager's certificate: a replica that is behind may not
 * know yet that its leader is a manager, and would never hear of it from anyone else.
 */
export type Audience = "managers" | "raft" | "members" | "renewing" | "anyone";

/** What the cluster says of a node that shows a certificate; undefined: no more than that certificate. */
export type Standing = NodeRole | "removed" | undefined;
