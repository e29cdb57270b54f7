/** Which managers a node knows: the quorum's members on a manager, what sessions told on a worker. Pure. */
import type { PeerIdentity, Standing } from "../proto/rpc.ts";

export interface RemoteManager {
  readonly NodeID: string;
  /** "host:port". */
  readonly Addr: string;
}

export interface ManagerSources {
  /** Of Raft; undefined on a worker. */
  readonly members: readonly { readonly nodeId: string; readonly addr: string }[] | undefined;
  /** By the last session message. */
  readonly told: readonly { readonly nodeId: string; readonly addr: string }[];
  /** "host:port" of the last run or of the join: all that is known before the first session, ids are not. */
  readonly saved: readonly string[];
}

/** Every manager of the best source that knows one. */
export function remoteManagers({ members = [], told, saved }: ManagerSources): readonly RemoteManager[] {
  const known = members.length > 0 ? members : told;
  if (known.length > 0) return known.map((each) => ({ NodeID: each.nodeId, Addr: each.addr }));
  return saved.map((Addr) => ({ NodeID: "", Addr }));
}

/** How a worker sees a peer: who shows a manager's certificate and is not among those it was told of was demoted since. */
export function standingAtWorker(
  { nodeId, role }: Pick<PeerIdentity, "nodeId" | "role">,
  told: readonly { readonly nodeId: string }[],
): Standing {
  const isKnown = told.length === 0 || told.some((each) => each.nodeId === nodeId);
  return role === "manager" && !isKnown ? "worker" : undefined;
}
