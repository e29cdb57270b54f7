/** /volumes and /plugins. Volumes are the machine's; of plugins there are only those that the engine has built in. */
import { ClusterError } from "../../common/errors.ts";
import type { ApiContext } from "../context.ts";
import type { Exchange } from "../exchange.ts";
import { flagFilter } from "../filters.ts";
import { ENGINE_FIELDS } from "../vocabulary.ts";
import { get, post, put, remove, type Route } from "./table.ts";

const LIST_KEYS = new Set(["dangling", "driver", "label", "name"]);
const PRUNE_KEYS = new Set(["all", "label", "label!"]);
const PLUGIN_KEYS = new Set(["capability", "enable", "enabled"]);

async function list(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  const filters = exchange.filters(LIST_KEYS);
  flagFilter(filters, "dangling");
  exchange.send(200, await engine.volumes.list(filters));
}

async function inspect(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  exchange.send(200, await engine.volumes.inspect(exchange.param("name")));
}

async function create(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  exchange.send(201, await engine.volumes.create(await exchange.json(ENGINE_FIELDS)));
}

async function removeVolume(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  await engine.volumes.remove(exchange.param("name"), exchange.query.flag("force"));
  exchange.empty(204);
}

async function prune(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  const filters = new Map(exchange.filters(PRUNE_KEYS));
  // Before 1.42 all unused volumes were pruned; since then only anonymous ones unless asked.
  if (exchange.apiMinor < 42) filters.set("all", ["true"]);
  exchange.send(200, await engine.volumes.prune(filters));
}

function updateVolume(): never {
  throw new ClusterError("unimplemented", "cluster volumes are not supported by this engine");
}

async function listPlugins(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  const filters = exchange.filters(PLUGIN_KEYS);
  exchange.send(200, await engine.plugins.list(filters));
}

async function inspectPlugin(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  exchange.send(200, await engine.plugins.inspect(exchange.param("name")));
}

function pluginNotFound(exchange: Exchange): never {
  throw new ClusterError("not_found", `plugin ${JSON.stringify(exchange.param("name"))} not found`);
}

function noPlugins(): never {
  throw new ClusterError("unimplemented", "managed plugins are not supported by this engine");
}

export const VOLUME_ROUTES: readonly Route[] = [
  get("/volumes", list),
  post("/volumes/create", create),
  post("/volumes/prune", prune),
  get("/volumes/{name}", inspect),
  put("/volumes/{name}", updateVolume),
  remove("/volumes/{name}", removeVolume),
  get("/plugins", listPlugins),
  get("/plugins/privileges", noPlugins),
  post("/plugins/pull", noPlugins),
  post("/plugins/create", noPlugins),
  get("/plugins/{name*}/json", inspectPlugin),
  post("/plugins/{name*}/enable", pluginNotFound),
  post("/plugins/{name*}/disable", pluginNotFound),
  post("/plugins/{name*}/set", pluginNotFound),
  post("/plugins/{name*}/push", pluginNotFound),
  post("/plugins/{name*}/upgrade", pluginNotFound),
  remove("/plugins/{name*}", pluginNotFound),
];
