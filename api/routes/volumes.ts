/** /volumes: those of this machine. */
import { ClusterError } from "../../common/errors.ts";
import { filterFlag } from "../../model/filters.ts";
import type { ApiContext } from "../context.ts";
import type { Exchange } from "../exchange.ts";
import { ENGINE_FIELDS } from "../vocabulary.ts";
import { get, post, put, remove, type Route } from "./table.ts";

const LIST_KEYS = new Set(["dangling", "driver", "label", "name"]);
const PRUNE_KEYS = new Set(["all", "label", "label!"]);

async function list(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  const filters = exchange.filters(LIST_KEYS);
  filterFlag(filters, "dangling");
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

export const VOLUME_ROUTES: readonly Route[] = [
  get("/volumes", list),
  post("/volumes/create", create),
  post("/volumes/prune", prune),
  get("/volumes/{name}", inspect),
  put("/volumes/{name}", updateVolume),
  remove("/volumes/{name}", removeVolume),
];
