/** /swarm and /nodes: the cluster itself and its machines. */
import { ClusterError } from "../../common/errors.ts";
import type { SwarmInitRequest, SwarmJoinRequest } from "../../model/cluster-control.ts";
import type { Cluster } from "../../model/objects.ts";
import type { ClusterSpec, NodeSpec } from "../../model/specs.ts";
import type { StoreView } from "../../model/store-view.ts";
import { ALREADY_IN_SWARM, managerOf, NOT_PART_OF_SWARM, type ApiContext } from "../context.ts";
import { badParameter } from "../error-body.ts";
import type { Exchange } from "../exchange.ts";
import { anyValue, exactMatches, labelsMatch, prefixMatches } from "../filters.ts";
import { lookupNode, nodeName } from "../lookup.ts";
import { checkAddresses, checkPools, type GivenAddresses } from "../swarm-addresses.ts";
import { nodeJson, swarmJson } from "../translate/cluster.ts";
import { SWARM_FIELDS } from "../vocabulary.ts";
import { get, post, remove, type Route } from "./table.ts";

const DEFAULT_LISTEN_ADDR = "0.0.0.0:2377";
const DEFAULT_SUBNET_BITS = 24;
const DEFAULT_DATA_PATH_PORT = 4789;
const NODE_KEYS = new Set(["id", "label", "membership", "name", "node.label", "role"]);

type Availability = "active" | "pause" | "drain";

function availability(given: unknown): Availability {
  if (given === undefined || given === "" || given === "active") return "active";
  if (given === "pause" || given === "drain") return given;
  throw badParameter(`invalid Availability: ${JSON.stringify(given)}`);
}

interface InitBody extends GivenAddresses {
  readonly ListenAddr?: string;
  readonly ForceNewCluster?: boolean;
  readonly Availability?: string;
  readonly AutoLockManagers?: boolean;
  readonly Spec?: ClusterSpec;
  readonly RemoteAddrs?: readonly string[];
  readonly JoinToken?: string;
}

function initRequest(body: InitBody): SwarmInitRequest {
  return {
    listenAddr: body.ListenAddr || DEFAULT_LISTEN_ADDR,
    advertiseAddr: body.AdvertiseAddr ?? "",
    dataPathAddr: body.DataPathAddr ?? "",
    dataPathPort: body.DataPathPort || DEFAULT_DATA_PATH_PORT,
    defaultAddrPool: body.DefaultAddrPool ?? [],
    subnetSize: body.SubnetSize || DEFAULT_SUBNET_BITS,
    forceNewCluster: body.ForceNewCluster ?? false,
    availability: availability(body.Availability),
    autoLockManagers: body.AutoLockManagers ?? body.Spec?.EncryptionConfig?.AutoLockManagers ?? false,
    spec: body.Spec,
  };
}

/** The spec's zeros mean "default": clients send whole structures of them. */
function withoutZeros(spec: ClusterSpec | undefined): ClusterSpec | undefined {
  if (spec === undefined) return undefined;
  const clean = (part: object | undefined): object =>
    Object.fromEntries(Object.entries(part ?? {}).filter(([, value]) => value !== 0 && value !== ""));
  return {
    ...spec,
    Raft: clean(spec.Raft),
    Dispatcher: clean(spec.Dispatcher),
    CAConfig: clean(spec.CAConfig),
  };
}

async function init(exchange: Exchange, context: ApiContext): Promise<void> {
  const body = (await exchange.json(SWARM_FIELDS)) as InitBody;
  const request = initRequest(body);
  checkAddresses(body);
  checkPools(body, request.subnetSize);
  if (context.swarm.state().localNodeState !== "inactive" && !request.forceNewCluster) {
    throw new ClusterError("unavailable", ALREADY_IN_SWARM);
  }
  const nodeId = await context.swarm.init({ ...request, spec: withoutZeros(request.spec) });
  context.events.follow();
  exchange.send(200, nodeId);
}

async function join(exchange: Exchange, context: ApiContext): Promise<void> {
  const body = (await exchange.json(SWARM_FIELDS)) as InitBody;
  if (context.swarm.state().localNodeState !== "inactive")
    throw new ClusterError("unavailable", ALREADY_IN_SWARM);
  if (body.RemoteAddrs === undefined || body.RemoteAddrs.length === 0) {
    throw badParameter("at least 1 RemoteAddr is required to join");
  }
  checkAddresses(body);
  const request: SwarmJoinRequest = {
    listenAddr: body.ListenAddr || DEFAULT_LISTEN_ADDR,
    advertiseAddr: body.AdvertiseAddr ?? "",
    dataPathAddr: body.DataPathAddr ?? "",
    remoteAddrs: body.RemoteAddrs,
    joinToken: body.JoinToken ?? "",
    availability: availability(body.Availability),
  };
  await context.swarm.join(request);
  context.events.follow();
  exchange.empty(200);
}

async function leave(exchange: Exchange, context: ApiContext): Promise<void> {
  if (context.swarm.state().localNodeState === "inactive") {
    throw new ClusterError("unavailable", NOT_PART_OF_SWARM);
  }
  await context.swarm.leave(exchange.query.flag("force"));
  context.events.follow();
  exchange.empty(200);
}

function clusterOf(view: StoreView): Cluster {
  const cluster = view.list("cluster")[0];
  if (cluster === undefined)
    throw new ClusterError("unavailable", "The swarm is still being set up", { retryable: true });
  return cluster;
}

async function inspectSwarm(exchange: Exchange, context: ApiContext): Promise<void> {
  exchange.send(200, swarmJson(clusterOf(await managerOf(context).view())));
}

async function updateSwarm(exchange: Exchange, context: ApiContext): Promise<void> {
  const control = managerOf(context);
  const { query } = exchange;
  const version = query.objectVersion("swarm");
  const spec = (await exchange.json(SWARM_FIELDS)) as unknown as ClusterSpec;
  await control.updateCluster({
    version,
    spec,
    rotateWorkerToken: query.flag("rotateWorkerToken"),
    rotateManagerToken: query.flag("rotateManagerToken"),
    rotateManagerUnlockKey: query.flag("rotateManagerUnlockKey"),
  });
  exchange.empty(200);
}

async function unlockKey(exchange: Exchange, context: ApiContext): Promise<void> {
  const cluster = clusterOf(await managerOf(context).view());
  exchange.send(200, { UnlockKey: cluster.unlockKey });
}

async function unlock(exchange: Exchange, context: ApiContext): Promise<void> {
  const body = await exchange.json(SWARM_FIELDS);
  const key = body["UnlockKey"];
  switch (context.swarm.state().localNodeState) {
    case "inactive":
      throw new ClusterError("unavailable", NOT_PART_OF_SWARM);
    case "pending":
    case "active":
    case "error":
      throw new ClusterError("conflict", "swarm is not locked");
    case "locked":
      await context.swarm.unlock(typeof key === "string" ? key : "");
      context.events.follow();
      exchange.empty(200);
  }
}

async function listNodes(exchange: Exchange, context: ApiContext): Promise<void> {
  const control = managerOf(context);
  const filters = exchange.filters(NODE_KEYS);
  for (const [key, words] of [
    ["role", ["manager", "worker"]],
    ["membership", ["accepted", "pending"]],
  ] as const) {
    const unknown = filters.get(key)?.find((value) => !words.some((word) => word === value));
    if (unknown !== undefined) throw badParameter(`Invalid ${key} filter: '${unknown}'`);
  }
  const view = await control.view();
  const nodes = view
    .list("node")
    .filter(
      (node) =>
        prefixMatches(filters, "id", node.id) &&
        anyValue(filters, "name", (wanted) =>
          [nodeName(node), node.description?.Hostname ?? ""].some((name) => name.startsWith(wanted)),
        ) &&
        labelsMatch(filters, "label", node.description?.Engine.Labels) &&
        labelsMatch(filters, "node.label", node.spec.Labels) &&
        exactMatches(filters, "role", node.spec.Role) &&
        exactMatches(filters, "membership", "accepted"),
    );
  const managers = control.managers();
  await exchange.sendList(nodes, (node) => nodeJson(node, managers));
}

async function inspectNode(exchange: Exchange, context: ApiContext): Promise<void> {
  const control = managerOf(context);
  const node = lookupNode(await control.view(), exchange.param("id"));
  exchange.send(200, nodeJson(node, control.managers()));
}

function nodeSpec(body: Partial<NodeSpec>): NodeSpec {
  const { Role: role } = body;
  if (role !== "worker" && role !== "manager")
    throw badParameter(`invalid Role: ${JSON.stringify(role ?? "")}`);
  return { ...body, Role: role, Availability: availability(body.Availability) };
}

async function updateNode(exchange: Exchange, context: ApiContext): Promise<void> {
  const control = managerOf(context);
  const version = exchange.query.objectVersion("node");
  const spec = nodeSpec((await exchange.json(SWARM_FIELDS)) as Partial<NodeSpec>);
  const node = lookupNode(await control.view(), exchange.param("id"));
  await control.updateNode(node.id, version, spec);
  exchange.empty(200);
}

async function removeNode(exchange: Exchange, context: ApiContext): Promise<void> {
  const control = managerOf(context);
  const node = lookupNode(await control.view(), exchange.param("id"));
  await control.removeNode(node.id, exchange.query.flag("force"));
  exchange.empty(200);
}

export const SWARM_ROUTES: readonly Route[] = [
  post("/swarm/init", init),
  post("/swarm/join", join),
  post("/swarm/leave", leave),
  get("/swarm", inspectSwarm),
  post("/swarm/update", updateSwarm),
  get("/swarm/unlockkey", unlockKey),
  post("/swarm/unlock", unlock),
  get("/nodes", listNodes),
  get("/nodes/{id}", inspectNode),
  post("/nodes/{id}/update", updateNode),
  remove("/nodes/{id}", removeNode),
];
