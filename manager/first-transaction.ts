/** The first transaction of a new cluster: the cluster object, its ingress network and the first node. */
import type { Env } from "../common/env.ts";
import { newObjectId } from "../common/ids.ts";
import { NodeState } from "../model/objects.ts";
import type { NodeAvailability } from "../model/specs.ts";
import type { LiveIdentity } from "../proto/rpc-identity.ts";
import type { NewCluster } from "./ca/new-cluster.ts";
import type { ReplicatedLog } from "./raft/replicated-log.ts";
import type { Draft, Store } from "./store/store.ts";

export interface BootstrapOptions {
  readonly env: Pick<Env, "random">;
  readonly identity: LiveIdentity;
  readonly newCluster: NewCluster;
}

const INGRESS_SUBNET = { Subnet: "10.0.0.0/24", Gateway: "10.0.0.1" };
const DEFAULT_POOL = "10.0.0.0/8";

/** Waits for leadership of the only member and writes; nothing if the cluster exists (a restart after a crash). */
export async function bootstrapStore(
  store: Store,
  raft: ReplicatedLog,
  options: BootstrapOptions,
): Promise<void> {
  await leadership(raft);
  const { newCluster, identity, env } = options;
  const { cluster } = newCluster;
  const isDefaultPool =
    cluster.defaultAddressPool.length === 1 && cluster.defaultAddressPool[0] === DEFAULT_POOL;
  await store.update((tx) => {
    if (tx.list("cluster").length > 0) return;
    tx.create("cluster", cluster);
    tx.create("node", newNode(identity, newCluster.availability, cluster.rootCa.digest));
    tx.create("network", {
      id: newObjectId(env.random),
      spec: {
        Name: "ingress",
        Labels: {},
        Driver: "overlay",
        Scope: "swarm",
        Ingress: true,
        IPAM: {
          Driver: "default",
          Config: isDefaultPool && cluster.subnetSize === 24 ? [INGRESS_SUBNET] : [],
        },
      },
    });
  });
}

/** The node of a machine that took a backup over. Those that were managers before are none any more. */
export async function adoptStore(
  store: Store,
  raft: ReplicatedLog,
  options: { readonly identity: LiveIdentity; readonly availability: NodeAvailability },
): Promise<void> {
  await leadership(raft);
  const { availability, identity } = options;
  await store.update((tx) => {
    if (tx.get("node", identity.current.nodeId) !== undefined) return;
    for (const node of tx.list("node").filter((each) => each.spec.Role === "manager")) {
      const { manager: _gone, ...rest } = node;
      tx.update("node", { ...rest, spec: { ...node.spec, Role: "worker" } });
    }
    tx.create("node", newNode(identity, availability, tx.list("cluster")[0]?.rootCa.digest));
  });
}

/** This machine's own node, of which nothing is known yet but its certificate. */
function newNode(
  identity: LiveIdentity,
  availability: NodeAvailability,
  issuer: string | undefined,
): Draft<"node"> {
  const { nodeId, role } = identity.current;
  return {
    id: nodeId,
    spec: { Labels: {}, Role: role, Availability: availability },
    status: { state: NodeState.unknown, message: "", addr: "" },
    rpcAddress: "",
    dataPathAddress: "",
    certificateRole: role,
    ...(issuer === undefined ? {} : { certificateIssuer: issuer }),
    specReplacedVersion: 0,
  };
}

function leadership(raft: ReplicatedLog): Promise<void> {
  if (raft.isLeader) return Promise.resolve();
  return new Promise((resolve) => {
    const unsubscribe = raft.onLeadership((change) => {
      if (!change.isLeader) return;
      unsubscribe();
      resolve();
    });
  });
}
