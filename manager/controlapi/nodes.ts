/** Updating and removing nodes: plans of transactions, with the rules that keep a quorum. */
import { ClusterError } from "../../common/errors.ts";
import { rfc3339 } from "../../common/time.ts";
import { type Node, NodeState } from "../../model/objects.ts";
import { isTerminal, TaskState } from "../../model/task-state.ts";
import { banishedUntilMs } from "../ca/certificate-life.ts";
import type { ReplicatedLog } from "../raft/replicated-log.ts";
import type { Transaction } from "../store/store.ts";
import { checkVersion, existing } from "./lookup.ts";
import { checkNodeSpec } from "./validate/other-specs.ts";

export type Membership = Pick<ReplicatedLog, "members" | "healthy">;

export interface UpdateNodePlan {
  readonly id: string;
  readonly version: number;
  readonly spec: unknown;
  readonly raft: Membership;
}

export function updateNode(tx: Transaction, plan: UpdateNodePlan): undefined {
  const node = existing(tx, "node", plan.id);
  const spec = checkNodeSpec(plan.spec);
  if (node.spec.Role === "manager" && spec.Role === "worker") checkDemotion(tx, node, plan.raft);
  checkVersion(node, plan.version);
  tx.update("node", { ...node, spec, specReplacedVersion: node.version });
  return undefined;
}

function checkDemotion(tx: Transaction, node: Node, raft: Membership): void {
  const managers = tx.list("node").filter((each) => each.spec.Role === "manager");
  if (managers.length <= 1) {
    throw new ClusterError("failed_precondition", "attempting to demote the last manager of the swarm");
  }
  // Those whose demotion was accepted before are still members for a moment, but won't be when this one goes.
  const staying = new Set(managers.map((each) => each.id));
  const rest = raft.members.filter(
    (member) => !member.isLearner && member.nodeId !== node.id && staying.has(member.nodeId),
  );
  const isVoter = raft.members.some((member) => !member.isLearner && member.nodeId === node.id);
  if (!isVoter) return;
  const alive = rest.filter((member) => raft.healthy.has(member.raftId)).length;
  const quorum = Math.floor(rest.length / 2) + 1;
  if (alive >= quorum && rest.length > 0) return;
  throw new ClusterError(
    "failed_precondition",
    `can't remove member from the raft: this would result in a loss of quorum: want ${quorum} of the remaining ${rest.length} managers reachable and with a whole log, got ${alive}`,
    { details: { quorum, alive } },
  );
}

export interface RemoveNodePlan {
  readonly id: string;
  readonly force: boolean;
  readonly now: string;
  readonly nowMs: number;
  readonly raft: Membership;
}

/** The node's certificate is refused from now on, and what ran there counts as lost. */
export function removeNode(tx: Transaction, plan: RemoveNodePlan): undefined {
  const node = existing(tx, "node", plan.id);
  const isMember =
    node.manager !== undefined || plan.raft.members.some((member) => member.nodeId === node.id);
  if (isMember) {
    throw new ClusterError(
      "failed_precondition",
      node.spec.Role === "manager"
        ? `node ${node.id} is a cluster manager and is a member of the raft cluster. It must be demoted to worker before removal`
        : `node ${node.id} is being demoted and is a member of the raft cluster yet. It can be removed when it has left`,
    );
  }
  if (!plan.force && node.status.state === NodeState.ready) {
    throw new ClusterError("failed_precondition", `node ${node.id} is not down and can't be removed`);
  }
  for (const task of tx.list("task", { kind: "node", nodeId: node.id })) {
    if (isTerminal(task.status.state)) continue;
    const status = {
      ...task.status,
      state: TaskState.orphaned,
      timestamp: plan.now,
      message: "Task belonged to a node that has been deleted",
    };
    tx.update("task", { ...task, status });
  }
  banish(tx, node, plan.nowMs);
  tx.remove("node", node.id);
  return undefined;
}

/** Remembers the id until its last certificate has expired, and forgets those whose has. */
function banish(tx: Transaction, node: Node, nowMs: number): void {
  const cluster = tx.list("cluster")[0];
  if (cluster === undefined) return;
  const valid = Object.entries(cluster.removedNodes ?? {}).filter(([, until]) => Date.parse(until) > nowMs);
  const until = rfc3339(banishedUntilMs(cluster.spec, node, nowMs));
  tx.update("cluster", { ...cluster, removedNodes: { ...Object.fromEntries(valid), [node.id]: until } });
}
