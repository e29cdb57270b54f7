/** /shoal/v1: what Docker's API has no place for. The CLI, the dashboard and scripts use it; docs/api.md describes it. */
import { ClusterError } from "../../common/errors.ts";
import { NodeState, type StoreEvent, TABLE_NAMES } from "../../model/objects.ts";
import { TaskState } from "../../model/task-state.ts";
import { managerOf, type ApiContext } from "../context.ts";
import { badParameter } from "../error-body.ts";
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

/** A change as a line: what it is about, not what it holds, since secrets and keys are among them. */
function changeLine({ table, action, object, version }: StoreEvent): string {
  const name = "spec" in object && "Name" in object.spec ? object.spec.Name : undefined;
  return JSON.stringify({ table, action, id: object.id, ...(name === undefined ? {} : { name }), version });
}

function watchedTables(exchange: Exchange): ReadonlySet<string> {
  const tables = exchange.query.all("table");
  const unknown = tables.find((table) => !TABLE_NAMES.some((name) => name === table));
  if (unknown !== undefined) {
    throw badParameter(
      `invalid value for "table": wanted one of ${TABLE_NAMES.join(", ")}, got ${JSON.stringify(unknown)}`,
    );
  }
  return new Set(tables.length === 0 ? TABLE_NAMES : tables);
}

/**
 * Changes of the cluster's objects, a line each, and a line with the version alone at the end of each transaction:
 * after that one a client that was cut off goes on, at this manager or at another one. 410: that is too long ago, read
 * everything afresh.
 */
async function watch(exchange: Exchange, context: ApiContext): Promise<void> {
  const control = managerOf(context);
  const tables = watchedTables(exchange);
  const given = exchange.query.integer("after");
  if (given !== undefined && given < 0)
    throw badParameter(`invalid value for "after": wanted a version, got ${given}`);
  const after = given ?? control.staleView().version;
  if (!(await control.hasReached(after, exchange.signal))) {
    // As where a backup was restored: all up to there would be passed over in silence.
    throw new ClusterError("expired", `The cluster never came to version ${after}: start afresh`);
  }
  // Refused before the head of the answer, if at all.
  const commits = control.watch(exchange.signal, after);
  const sink = exchange.stream("application/json");
  await sink.write(`${JSON.stringify({ version: after })}\n`);
  try {
    for await (const { version, events } of commits) {
      const lines = events.filter(({ table }) => tables.has(table)).map(changeLine);
      if (lines.length === 0) continue;
      if (!(await sink.write(`${lines.join("\n")}\n${JSON.stringify({ version })}\n`))) return;
    }
    sink.end();
  } catch (error) {
    // Too slow, or the manager is going: the client goes on from the last version it read.
    exchange.cut();
    throw ClusterError.from(error);
  }
}

export const SHOAL_ROUTES: readonly Route[] = [
  get("/shoal/v1/cluster", cluster),
  get("/shoal/v1/metrics", metrics),
  get("/shoal/v1/watch", watch),
  post("/shoal/v1/plan", plan),
];
