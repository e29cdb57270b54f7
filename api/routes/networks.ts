/**
 * /networks: the machine's own and the swarm's, shown as one list: all of them on a manager, on a worker those set up
 * on it.
 */
import { ClusterError, hasCode } from "../../common/errors.ts";
import { filterFlag, labelsPass } from "../../model/filters.ts";
import type { NetworkAssignment } from "../../model/dispatch.ts";
import type { EndpointSettings, Filters, JsonObject } from "../../model/engine.ts";
import type { Network } from "../../model/objects.ts";
import type { NetworkSpec } from "../../model/specs.ts";
import type { StoreView } from "../../model/store-view.ts";
import { managerOf, notManager, type ApiContext } from "../context.ts";
import { badParameter } from "../error-body.ts";
import type { Exchange } from "../exchange.ts";
import { anyValue, exactMatches, labelsMatch, prefixMatches } from "../filters.ts";
import {
  assignedNetworkJson,
  networkJson,
  peerNetworkJson,
  verboseNetworkJson,
  type NetworkJson,
} from "../translate/network.ts";
import { ENGINE_FIELDS, NETWORK_FIELDS } from "../vocabulary.ts";
import { get, post, remove, type Route } from "./table.ts";

const PRUNE_KEYS = new Set(["label", "label!", "until"]);
const LIST_KEYS = new Set(["dangling", "driver", "id", "label", "name", "scope", "type"]);
/** Networks that every machine has; services may name them. */
const PREDEFINED = new Set(["bridge", "host", "none"]);

function swarmNetworkMatches(network: NetworkJson, filters: Filters, isUsed: boolean): boolean {
  const dangling = filterFlag(filters, "dangling");
  return (
    exactMatches(filters, "driver", network.Driver) &&
    exactMatches(filters, "scope", network.Scope) &&
    prefixMatches(filters, "id", network.Id) &&
    anyValue(filters, "name", (wanted) => network.Name.includes(wanted)) &&
    labelsMatch(filters, "label", network.Labels) &&
    anyValue(filters, "type", (wanted) => wanted === "custom") &&
    (dangling === undefined || dangling !== isUsed)
  );
}

/** Read without a barrier when there is no quorum: the machine's own networks must stay visible. */
async function swarmView(context: ApiContext): Promise<StoreView | undefined> {
  const control = context.swarm.control();
  if (control === undefined) return undefined;
  try {
    return await control.view();
  } catch (error) {
    if (hasCode(error, "unavailable", "deadline_exceeded")) return control.staleView();
    throw error;
  }
}

function checkType(filters: Filters): void {
  const unknown = filters.get("type")?.find((type) => type !== "custom" && type !== "builtin");
  if (unknown !== undefined) throw badParameter(`invalid filter: 'type'='${unknown}'`);
}

async function list(exchange: Exchange, context: ApiContext): Promise<void> {
  const filters = exchange.filters(LIST_KEYS);
  checkType(filters);
  const local = await context.engine.networks.list(filters);
  const known = new Set(local.map((network) => network["Id"]));
  const view = await swarmView(context);
  const swarm = (view?.list("network") ?? []).filter(({ id }) => !known.has(id));
  const isUsed = (network: Network): boolean =>
    view !== undefined && view.list("task", { kind: "network", networkId: network.id }).length > 0;
  const shown = swarm.filter((network) =>
    swarmNetworkMatches(networkJson(network), filters, isUsed(network)),
  );
  // On a worker, where nobody else knows of them.
  const assigned = view === undefined ? context.networksHere().map(assignedNetworkJson) : [];
  const here = assigned.filter(
    (network) => !known.has(network.Id) && swarmNetworkMatches(network, filters, true),
  );
  exchange.send(200, [...local, ...shown.map((network) => networkJson(network)), ...here]);
}

/** A worker's view of a network of the cluster: by id, name or the beginning of its id. */
function findHere(context: ApiContext, wanted: string): NetworkAssignment | undefined {
  const here = context.networksHere();
  const exact = here.find(({ networkId, name }) => networkId === wanted || name === wanted);
  const byPrefix = here.filter(({ networkId }) => networkId.startsWith(wanted));
  return exact ?? (byPrefix.length === 1 ? byPrefix[0] : undefined);
}

/** By full id or name, machine first; then by the swarm's; then by prefix of an id. */
function findSwarm(view: StoreView | undefined, wanted: string): Network | undefined {
  if (view === undefined) return undefined;
  return view.get("network", wanted) ?? view.list("network", { kind: "name", name: wanted })[0];
}

function findByPrefix(view: StoreView | undefined, wanted: string): Network | undefined {
  const found = view?.list("network", { kind: "idPrefix", prefix: wanted }) ?? [];
  if (found.length > 1) {
    throw badParameter(`network ${wanted} is ambiguous (${found.length} matches found based on ID prefix)`);
  }
  return found[0];
}

interface Located {
  readonly local: boolean;
  readonly swarm: Network | undefined;
}

function locate(context: ApiContext, view: StoreView | undefined, wanted: string): Located {
  const local = context.engine.networks.find(wanted);
  if (local !== undefined && (local.Id === wanted || local.Name === wanted)) {
    return { local: true, swarm: view?.get("network", local.Id) };
  }
  const swarm = findSwarm(view, wanted);
  if (swarm !== undefined) return { local: false, swarm };
  if (local !== undefined) return { local: true, swarm: view?.get("network", local.Id) };
  return { local: false, swarm: findByPrefix(view, wanted) };
}

function notFound(wanted: string): ClusterError {
  return new ClusterError("not_found", `network ${wanted} not found`);
}

/**
 * A service may use a predefined network of every node; it is named in the spec by its name, since its id differs from
 * node to node. Clients that ask for it with scope=swarm get that name as its id.
 */
async function inspectPredefined(context: ApiContext, name: string): Promise<JsonObject> {
  const local = await context.engine.networks.inspect(name, { verbose: false });
  return { ...local, Id: name, Scope: "swarm", Containers: {} };
}

/** Containers of this machine that are on the network; null if there are none, as Docker has it. */
async function containersOn(context: ApiContext, networkId: string): Promise<JsonObject | null> {
  const rows = await context.engine.containers.list({ all: false, size: false, filters: new Map() });
  const found: Record<string, JsonObject> = {};
  for (const row of rows as readonly ContainerRow[]) {
    const ends = Object.values(row.NetworkSettings?.Networks ?? {});
    const end = ends.find((each) => each.NetworkID === networkId);
    if (end === undefined) continue;
    found[row.Id] = {
      Name: (row.Names[0] ?? "").slice(1),
      EndpointID: end.EndpointID ?? "",
      MacAddress: end.MacAddress ?? "",
      IPv4Address: end.IPAddress ? `${end.IPAddress}/${end.IPPrefixLen ?? 32}` : "",
      IPv6Address: "",
    };
  }
  return Object.keys(found).length === 0 ? null : found;
}

/** As GET /containers/json has it, as far as networks go. */
type ContainerRow = JsonObject & {
  readonly Id: string;
  readonly Names: readonly string[];
  readonly NetworkSettings?: { readonly Networks?: Readonly<Record<string, EndpointSettings & JsonObject>> };
};

async function inspect(exchange: Exchange, context: ApiContext): Promise<void> {
  const wanted = exchange.param("id");
  const scope = exchange.query.optional("scope");
  const verbose = exchange.query.flag("verbose");
  const view = await swarmView(context);
  if (scope === "swarm") {
    const found = findSwarm(view, wanted) ?? findByPrefix(view, wanted);
    if (found !== undefined) exchange.send(200, networkJson(found));
    else if (view !== undefined && PREDEFINED.has(wanted))
      exchange.send(200, await inspectPredefined(context, wanted));
    else throw notFound(wanted);
    return;
  }
  const { local, swarm } = locate(context, view, wanted);
  if (local && (swarm === undefined || !verbose)) {
    exchange.send(200, await context.engine.networks.inspect(wanted, { verbose }));
  } else if (swarm !== undefined && view !== undefined && scope !== "local") {
    const Containers = await containersOn(context, swarm.id);
    const quiet = Containers === null ? networkJson : peerNetworkJson;
    const shown = verbose ? verboseNetworkJson(swarm, view) : quiet(swarm, view);
    exchange.send(200, { ...shown, Containers });
  } else {
    const assigned = view === undefined && scope !== "local" ? findHere(context, wanted) : undefined;
    if (assigned === undefined) throw notFound(wanted);
    const Containers = await containersOn(context, assigned.networkId);
    exchange.send(200, { ...assignedNetworkJson(assigned), Containers });
  }
}

interface CreateBody extends NetworkSpec {
  readonly CheckDuplicate?: boolean;
}

function isSwarmScoped(body: CreateBody): boolean {
  return body.Driver === "overlay" || body.Scope === "swarm" || body.Ingress === true;
}

/** Networks of the cluster carry IPv4 alone: what would be left out of what is asked for is refused. */
function checkFamily({ EnableIPv6, IPAM }: CreateBody): void {
  const subnets = (IPAM?.Config ?? []).map(({ Subnet = "" }) => Subnet);
  if (EnableIPv6 !== true && !subnets.some((subnet) => subnet.includes(":"))) return;
  throw badParameter("Cannot create network: overlay networks have no IPv6, use a bridge network for it");
}

async function create(exchange: Exchange, context: ApiContext): Promise<void> {
  const request = await exchange.json(NETWORK_FIELDS);
  const body = request as unknown as CreateBody;
  const { Name: name } = body;
  if (typeof name !== "string" || name.trim() === "") throw badParameter("network name cannot be empty");
  if (PREDEFINED.has(name)) {
    throw new ClusterError("permission_denied", `operation is not permitted on predefined ${name} network`);
  }
  const isTaken = new ClusterError("already_exists", `network with name ${name} already exists`);
  if (!isSwarmScoped(body)) {
    if (findSwarm(context.swarm.control()?.staleView(), name) !== undefined) throw isTaken;
    exchange.send(201, await context.engine.networks.create(request));
    return;
  }
  checkFamily(body);
  const control = managerOf(context);
  const local = context.engine.networks.find(name);
  if (local?.Name === name || findSwarm(await control.view(), name) !== undefined) throw isTaken;
  const { CheckDuplicate: _checked, ...spec } = body;
  const { id, warnings } = await control.createNetwork({ Driver: "overlay", ...spec });
  exchange.send(201, { Id: id, Warning: warnings.join("\n") });
}

async function removeNetwork(exchange: Exchange, context: ApiContext): Promise<void> {
  const wanted = exchange.param("id");
  const { local, swarm } = locate(context, await swarmView(context), wanted);
  if (swarm !== undefined) await managerOf(context).removeNetwork(swarm.id);
  else if (local) await context.engine.networks.remove(wanted);
  else if (findHere(context, wanted) !== undefined) throw notManager(context.swarm);
  else throw notFound(wanted);
  exchange.empty(204);
}

/** Throws for a swarm network that containers can't be attached to by hand. Says nothing about unknown ones. */
export function checkAttachable(context: ApiContext, wanted: string): void {
  const { swarm } = locate(context, context.swarm.control()?.staleView(), wanted);
  if (swarm !== undefined && swarm.spec.Attachable !== true) {
    const why = `Could not attach to network ${wanted}: rpc error: code = PermissionDenied desc = network ${wanted} not manually attachable`;
    throw new ClusterError("permission_denied", why);
  }
}

/** A network of the cluster by its name, which containers have it by; others as they are asked for. */
function referenceOf(context: ApiContext, wanted: string): string {
  const { local, swarm } = locate(context, context.swarm.control()?.staleView(), wanted);
  return local ? wanted : (swarm?.spec.Name ?? findHere(context, wanted)?.name ?? wanted);
}

async function connect(exchange: Exchange, context: ApiContext): Promise<void> {
  const body = await exchange.json(ENGINE_FIELDS);
  const container = body["Container"];
  if (typeof container !== "string" || container === "")
    throw badParameter("container name or ID cannot be empty");
  checkAttachable(context, exchange.param("id"));
  const settings = (body["EndpointConfig"] ?? {}) as EndpointSettings;
  await context.engine.networks.connect(referenceOf(context, exchange.param("id")), container, settings);
  exchange.empty(200);
}

async function disconnect(exchange: Exchange, context: ApiContext): Promise<void> {
  const body = await exchange.json(ENGINE_FIELDS);
  const container = body["Container"];
  if (typeof container !== "string" || container === "")
    throw badParameter("container name or ID cannot be empty");
  const reference = referenceOf(context, exchange.param("id"));
  await context.engine.networks.disconnect(reference, container, body["Force"] === true);
  exchange.empty(200);
}

async function pruneSwarm(context: ApiContext, filters: Filters): Promise<readonly string[]> {
  const control = context.swarm.control();
  if (control === undefined || filters.has("until")) return [];
  const view = await control.view();
  const removed: string[] = [];
  for (const network of view.list("network")) {
    const { id, spec } = network;
    const isUsed = (["service", "task"] as const).some(
      (table) => view.list(table, { kind: "network", networkId: id }).length > 0,
    );
    if (isUsed || spec.Ingress === true || !labelsPass(filters, spec.Labels ?? {})) continue;
    try {
      await control.removeNetwork(id);
      removed.push(spec.Name);
    } catch (error) {
      // Taken into use or removed by someone else meanwhile: then there is nothing to prune.
      if (!hasCode(error, "failed_precondition", "not_found")) throw error;
    }
  }
  return removed;
}

async function prune(exchange: Exchange, context: ApiContext): Promise<void> {
  const filters = exchange.filters(PRUNE_KEYS);
  const { NetworksDeleted } = await context.engine.networks.prune(filters);
  exchange.send(200, { NetworksDeleted: [...NetworksDeleted, ...(await pruneSwarm(context, filters))] });
}

export const NETWORK_ROUTES: readonly Route[] = [
  get("/networks", list),
  get("/networks/", list),
  post("/networks/create", create),
  post("/networks/prune", prune),
  get("/networks/{id}", inspect),
  remove("/networks/{id}", removeNetwork),
  post("/networks/{id}/connect", connect),
  post("/networks/{id}/disconnect", disconnect),
];
