/** /plugins: Docker's managed plugins. Names have slashes, so these patterns take more than one segment. */
import { filterFlag } from "../../model/filters.ts";
import type { Json, PullPluginOptions } from "../../model/engine.ts";
import { familiarForm, parseReference, withDefaultTag } from "../../model/image-reference.ts";
import type { ApiContext } from "../context.ts";
import { badParameter } from "../error-body.ts";
import type { Exchange } from "../exchange.ts";
import { writeProgress } from "../progress.ts";
import { fromRegistry } from "./registry-refusal.ts";
import { get, post, remove, type Route } from "./table.ts";

const LIST_KEYS = new Set(["capability", "enabled"]);

function registryAuth(exchange: Exchange): { readonly registryAuth?: string } {
  const header = exchange.header("x-registry-auth");
  return header === undefined ? {} : { registryAuth: header };
}

function remoteOf(exchange: Exchange): string {
  const remote = exchange.query.optional("remote");
  if (remote === undefined) throw badParameter("invalid reference format");
  return remote;
}

async function list(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  const filters = exchange.filters(LIST_KEYS);
  filterFlag(filters, "enabled");
  exchange.send(200, await engine.plugins.list(filters));
}

async function inspect(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  exchange.send(200, await engine.plugins.inspect(exchange.param("name")));
}

async function create(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  const name = exchange.query.optional("name");
  if (name === undefined) throw badParameter("failed to parse reference : invalid reference format");
  await engine.plugins.create(name, exchange.body());
  exchange.empty(204);
}

async function enable(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  await engine.plugins.enable(exchange.param("name"), exchange.query.integer("timeout") ?? 0);
  exchange.empty(200);
}

async function disable(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  await engine.plugins.disable(exchange.param("name"), exchange.query.flag("force"));
  exchange.empty(200);
}

async function removePlugin(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  await engine.plugins.remove(exchange.param("name"), exchange.query.flag("force"));
  exchange.empty(200);
}

function isText(value: Json): value is string {
  return typeof value === "string";
}

async function set(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  const settings = await exchange.jsonList();
  if (!settings.every(isText)) throw badParameter("invalid JSON: body must be a list of strings");
  await engine.plugins.set(exchange.param("name"), settings);
  exchange.empty(204);
}

async function privileges(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  const { registryAuth: auth } = registryAuth(exchange);
  exchange.send(200, await fromRegistry(engine.plugins.privileges(remoteOf(exchange), auth)));
}

async function pullOptions(exchange: Exchange): Promise<PullPluginOptions> {
  return {
    remote: remoteOf(exchange),
    name: exchange.query.text("name"),
    privileges: await exchange.jsonList(),
    ...registryAuth(exchange),
  };
}

/** Under which name it is here: clients go on with it. */
function nameHeader({ name, remote }: PullPluginOptions): Readonly<Record<string, string>> {
  const reference = parseReference(name === "" ? remote : name);
  const { digest: _, ...named } = reference;
  return { "Docker-Plugin-Name": familiarForm(withDefaultTag(named)) };
}

async function pull(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  const options = await pullOptions(exchange);
  const lines = engine.plugins.pull(options, exchange.signal);
  await fromRegistry(writeProgress(exchange, lines, nameHeader(options)));
}

async function upgrade(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  const options = await pullOptions(exchange);
  const lines = engine.plugins.upgrade(exchange.param("name"), options, exchange.signal);
  await fromRegistry(writeProgress(exchange, lines));
}

async function push(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  const lines = engine.plugins.push(exchange.param("name"), registryAuth(exchange), exchange.signal);
  await writeProgress(exchange, lines);
}

export const PLUGIN_ROUTES: readonly Route[] = [
  get("/plugins", list),
  get("/plugins/privileges", privileges),
  post("/plugins/pull", pull),
  post("/plugins/create", create),
  get("/plugins/{name*}/json", inspect),
  post("/plugins/{name*}/enable", enable),
  post("/plugins/{name*}/disable", disable),
  post("/plugins/{name*}/set", set),
  post("/plugins/{name*}/push", push),
  post("/plugins/{name*}/upgrade", upgrade),
  remove("/plugins/{name*}", removePlugin),
];
