/** Which role a node's certificate shall have now. Pure. */
import type { Node } from "./objects.ts";
import type { NodeRole } from "./specs.ts";

/** A Raft member keeps a manager's certificate until it has left Raft, else demotion could cost a quorum. */
export function certificateRoleOf(node: Pick<Node, "spec" | "manager">): NodeRole {
  return node.spec.Role === "manager" || node.manager !== undefined ? "manager" : "worker";
}
