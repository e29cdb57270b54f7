/** What is left of removed services. Pure; used by `stack rm`. */
import type { ApiNode, ApiTask } from "../client/types.ts";

const ENDED = new Set(["complete", "shutdown", "failed", "rejected", "remove", "orphaned"]);

/**
 * Tasks that have not ended: how many on nodes that will say so, and how many by the host name of each node that is down, which
 * cannot.
 */
export function remainingTasks(
  tasks: readonly ApiTask[],
  nodes: readonly ApiNode[],
): { readonly running: number; readonly lost: ReadonlyMap<string, number> } {
  const down = new Map(
    nodes
      .filter((node) => node.Status.State === "down")
      .map((node) => [node.ID, node.Description?.Hostname ?? node.ID]),
  );
  const lost = new Map<string, number>();
  let running = 0;
  for (const task of tasks.filter(({ Status: { State } }) => !ENDED.has(State))) {
    const node = down.get(task.NodeID ?? "");
    if (node === undefined) running += 1;
    else lost.set(node, (lost.get(node) ?? 0) + 1);
  }
  return { running, lost };
}
