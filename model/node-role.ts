/** What a node's certificate shall be now: its role, and whether it must be renewed for a new root. Pure. */
import type { Cluster, Node } from "./objects.ts";
import type { NodeRole } from "./specs.ts";
import type { StoreView } from "./store-view.ts";

/** A Raft member keeps a manager's certificate until it has left Raft, else demotion could cost a quorum. */
export function certificateRoleOf(node: Pick<Node, "spec" | "manager">): NodeRole {
  return node.spec.Role === "manager" || node.manager !== undefined ? "manager" : "worker";
}

/** True if the node's certificate is of a root that is being replaced. */
export function mustRenewCertificate(
  cluster: Pick<Cluster, "rootCa"> | undefined,
  node: Pick<Node, "certificateIssuer">,
): boolean {
  return cluster?.rootCa.rotationInProgress === true && node.certificateIssuer !== cluster.rootCa.digest;
}

/** True if the node still trusts a root that has been replaced: with its next certificate it gets the new one alone. */
export function mustForgetRoot(
  cluster: Pick<Cluster, "rootCa"> | undefined,
  node: Pick<Node, "trustsFormerRoot">,
): boolean {
  return (
    cluster !== undefined && cluster.rootCa.rotationInProgress !== true && node.trustsFormerRoot === true
  );
}

/** What the cluster says of a node's certificate today; undefined of a node that it has not heard of. */
export function standingOf(
  view: Pick<StoreView, "get" | "list">,
  nodeId: string,
): NodeRole | "removed" | undefined {
  if (view.list("cluster")[0]?.removedNodes?.[nodeId] !== undefined) return "removed";
  const node = view.get("node", nodeId);
  return node === undefined ? undefined : certificateRoleOf(node);
}
