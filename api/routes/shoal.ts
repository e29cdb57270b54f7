/** /shoal/v1: what Docker's API has no place for. The CLI, the dashboard and scripts use it; docs/api.md describes it. */
import { ClusterError } from "../../common/errors.ts";
import { NodeState } from "../../model/objects.ts";
import { TaskState } from "../../model/task-state.ts";
import { managerOf, type ApiContext } from "../context.ts";
import type { Exchange } from "../exchange.ts";
import { find, nodeName } from "../lookup.ts";
import { nodeStateName } from "../translate/cluster.ts";
import { planService } from "../translate/plan.ts";
import { serviceSpec } from "./services.ts";
import { get, post, type Route } from "./table.ts";

/** Health at a glance. Answers from the local replica, so that it can say that there is no quorum. */
function cluster(exchange: Exchange, context: ApiContext): void {
  const control = managerOf(context);
  const view = control.staleView();
  const managers = control.managers();
  const reachable = managers.filter((manager) => manager.isReachable).length;
  const leader = managers.find((manager) => manager.isLeader);
  const nodes = view.list("node");
  const tasks = view.list("task");
  const nameOf = (nodeId: string): string => {
    const node = view.get("node", nodeId);
    return node === undefined ? "" : nodeName(node);
  };
  const hasQuorum = reachable > managers.length / 2 && leader !== undefined;
  const down = nodes.filter((node) => node.status.state !== NodeState.ready);
  exchange.send(200, {
    healthy: hasQuorum && down.length === 0 && reachable === managers.length,
    quorum: { has: hasQuorum, reachable, members: managers.length },
    leader:
      leader === undefined ? null : { nodeId: leader.nodeId, name: nameOf(leader.nodeId), addr: leader.addr },
    managers: managers.map((manager) => ({
      nodeId: manager.nodeId,
      name: nameOf(manager.nodeId),
      addr: manager.addr,
      leader: manager.isLeader,
      reachable: manager.isReachable,
    })),
    nodes: nodes.map((node) => ({
      id: node.id,
      name: nodeName(node),
      role: node.spec.Role,
      availability: node.spec.Availability,
      state: nodeStateName(node.status.state),
      version: node.description?.Engine.EngineVersion ?? "",
    })),
    services: view.list("service").length,
    tasks: {
      running: tasks.filter((task) => task.status.state === TaskState.running).length,
      wanted: tasks.filter((task) => task.desiredState === TaskState.running).length,
    },
    storeVersion: view.version,
  });
}

function metrics(exchange: Exchange, context: ApiContext): void {
  exchange.text(200, "text/plain; version=0.0.4; charset=utf-8", context.metrics.text());
}

/** What the service spec in the body would change; nothing is changed. */
async function plan(exchange: Exchange, context: ApiContext): Promise<void> {
  const control = managerOf(context);
  const spec = await serviceSpec(exchange);
  if (spec.Name === "")
    throw new ClusterError("invalid_argument", "Cannot plan: Name must be given, got none");
  const view = await control.view();
  exchange.send(200, { Name: spec.Name, ...planService(view, find(view, "service", spec.Name), spec) });
}

export const SHOAL_ROUTES: readonly Route[] = [
  get("/shoal/v1/cluster", cluster),
  get("/shoal/v1/metrics", metrics),
  post("/shoal/v1/plan", plan),
];
