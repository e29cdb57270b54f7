/** /images, /build and /distribution. Image names have slashes, so these patterns take more than one segment. */
import { ClusterError } from "../../common/errors.ts";
import { isObject } from "../../common/json.ts";
import { IMAGE_LIST_FILTERS, IMAGE_PRUNE_FILTERS } from "../../model/filters.ts";
import { type ImagePlatform, isForPlatform, platformText } from "../../model/platforms.ts";
import { badParameter } from "../error-body.ts";
import type { ApiContext } from "../context.ts";
import type { Exchange } from "../exchange.ts";
import { writeProgress } from "../progress.ts";
import { buildWithSession } from "./buildkit.ts";
import { clusterDistribution } from "./cluster-images.ts";
import { fromRegistry } from "./registry-refusal.ts";
import { get, post, remove, type Route } from "./table.ts";

const CACHE_PRUNE_KEYS = new Set([
  "description",
  "id",
  "inuse",
  "label",
  "label!",
  "mutable",
  "parent",
  "private",
  "shared",
  "type",
  "until",
  "unused-for",
  "immutable",
]);
const SEARCH_KEYS = new Set(["is-automated", "is-official", "stars"]);
const SEARCH_LIMIT = 25;

function registryAuth(exchange: Exchange): { readonly registryAuth?: string } {
  const header = exchange.header("x-registry-auth");
  return header === undefined ? {} : { registryAuth: header };
}

async function list(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  const { query } = exchange;
  const filters = new Map(exchange.filters(IMAGE_LIST_FILTERS));
  // Before filters there was a parameter for the reference.
  const reference = query.optional("filter");
  if (reference !== undefined) filters.set("reference", [...(filters.get("reference") ?? []), reference]);
  const images = await engine.images.list({
    all: query.flag("all"),
    digests: query.flag("digests"),
    sharedSize: query.flag("shared-size"),
    manifests: query.flag("manifests"),
    filters,
  });
  exchange.send(200, images);
}

/** What --platform of docker's load, save, push, history and inspect sends: an OCI platform as JSON. */
function wantedPlatform({ query }: Exchange): ImagePlatform | undefined {
  const [text, ...others] = query.all("platform").filter((each) => each !== "");
  if (text === undefined) return undefined;
  if (others.length > 0) throw badParameter("multiple platform parameters not supported");
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    value = undefined;
  }
  if (!isObject(value))
    throw badParameter(`invalid platform: want a JSON object with os and architecture, got ${text}`);
  const platform = platformOf([value["os"], value["architecture"], value["variant"]]);
  if (platform.os === "" || platform.architecture === "")
    throw badParameter(`invalid platform: both os and architecture must be provided, got ${text}`);
  return platform;
}

function platformOf(values: readonly unknown[]): ImagePlatform {
  const [os = "", architecture = "", variant = ""] = values.map((each) =>
    typeof each === "string" ? each : "",
  );
  return { os, architecture, variant };
}

/** An image has one platform here: another one that is asked for is not there, and this one is no answer. */
async function checkPlatform(
  exchange: Exchange,
  { engine }: ApiContext,
  names: readonly string[],
): Promise<void> {
  const wanted = wantedPlatform(exchange);
  if (wanted === undefined) return;
  for (const name of names) {
    const image = await engine.images.inspect(name);
    const own = platformOf([image["Os"], image["Architecture"], image["Variant"]]);
    if (isForPlatform(own, wanted)) continue;
    throw new ClusterError(
      "not_found",
      `image with reference ${name} was found but its platform (${platformText(own)}) does not match the specified ` +
        `platform (${platformText(wanted)})`,
    );
  }
}

async function inspect(exchange: Exchange, context: ApiContext): Promise<void> {
  await checkPlatform(exchange, context, [exchange.param("name")]);
  exchange.send(200, await context.engine.images.inspect(exchange.param("name")));
}

async function history(exchange: Exchange, context: ApiContext): Promise<void> {
  const { engine } = context;
  await checkPlatform(exchange, context, [exchange.param("name")]);
  exchange.send(200, await engine.images.history(exchange.param("name")));
}

async function tag(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  const repo = exchange.query.optional("repo");
  if (repo === undefined) throw badParameter("repository name must have at least one component");
  await engine.images.tag(exchange.param("name"), repo, exchange.query.text("tag"));
  exchange.empty(201);
}

async function removeImage(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  const { query } = exchange;
  const options = { force: query.flag("force"), noPrune: query.flag("noprune") };
  exchange.send(200, await engine.images.remove(exchange.param("name"), options));
}

async function prune(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  exchange.send(200, await engine.images.prune(exchange.filters(IMAGE_PRUNE_FILTERS)));
}

/** `fromImage` with its tag or digest as one reference. */
export function pullReference(image: string, tag: string): string {
  if (tag === "") return image;
  if (tag.includes(":")) return `${image}@${tag}`;
  const lastSegment = image.slice(image.lastIndexOf("/") + 1);
  return lastSegment.includes("@") || lastSegment.includes(":") ? image : `${image}:${tag}`;
}

async function importTar(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  const { query } = exchange;
  if (query.text("fromSrc") !== "-") {
    throw badParameter(
      `Cannot import from ${JSON.stringify(query.text("fromSrc"))}: only "-", the request's body, is taken`,
    );
  }
  const [repo, tagText] = [query.optional("repo"), query.optional("tag")];
  const [message, platform] = [query.optional("message"), query.optional("platform")];
  const lines = engine.images.import(exchange.body(), {
    ...(repo === undefined ? {} : { repo }),
    ...(tagText === undefined ? {} : { tag: tagText }),
    ...(message === undefined ? {} : { message }),
    ...(platform === undefined ? {} : { platform }),
    changes: query.all("changes").filter((each) => each !== ""),
  });
  await writeProgress(exchange, lines);
}

async function create(exchange: Exchange, context: ApiContext): Promise<void> {
  const { query } = exchange;
  const image = query.optional("fromImage");
  if (image === undefined) {
    await importTar(exchange, context);
    return;
  }
  const platform = query.optional("platform");
  const reference = pullReference(image, query.text("tag"));
  const options = { reference, ...(platform === undefined ? {} : { platform }), ...registryAuth(exchange) };
  await fromRegistry(writeProgress(exchange, context.engine.images.pull(options, exchange.signal)));
}

async function push(exchange: Exchange, context: ApiContext): Promise<void> {
  const { engine } = context;
  const tagText = exchange.query.optional("tag");
  const reference = exchange.param("name");
  await checkPlatform(exchange, context, [pullReference(reference, tagText ?? "")]);
  const options = {
    reference,
    ...(tagText === undefined ? {} : { tag: tagText }),
    ...registryAuth(exchange),
  };
  await writeProgress(exchange, engine.images.push(options, exchange.signal));
}

async function load(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  const platform = wantedPlatform(exchange);
  const options = {
    quiet: exchange.query.flag("quiet"),
    ...(platform === undefined ? {} : { platform: platformText(platform) }),
  };
  await writeProgress(exchange, engine.images.load(exchange.body(), options));
}

async function saveMany(exchange: Exchange, context: ApiContext): Promise<void> {
  const { engine } = context;
  const names = exchange.query.all("names").filter((name) => name !== "");
  if (names.length === 0) throw badParameter("no image names given");
  await checkPlatform(exchange, context, names);
  await exchange.pipe("application/x-tar", await engine.images.save(names));
}

async function saveOne(exchange: Exchange, context: ApiContext): Promise<void> {
  const { engine } = context;
  await checkPlatform(exchange, context, [exchange.param("name")]);
  await exchange.pipe("application/x-tar", await engine.images.save([exchange.param("name")]));
}

async function search(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  const term = exchange.query.optional("term");
  if (term === undefined) throw badParameter("search term is empty");
  const limit = exchange.query.integer("limit") || SEARCH_LIMIT;
  const filters = exchange.filters(SEARCH_KEYS);
  exchange.send(200, await engine.images.search(term, limit, filters));
}

/** Images that the cluster keeps need no registry: services are pinned to them all the same. */
async function distribution(exchange: Exchange, context: ApiContext): Promise<void> {
  const name = exchange.param("name");
  const answer =
    (await clusterDistribution(context, name, exchange.signal)) ??
    (await fromRegistry(context.engine.images.distribution(name, exchange.header("x-registry-auth"))));
  exchange.send(200, answer);
}

async function build(exchange: Exchange, context: ApiContext): Promise<void> {
  const { engine } = context;
  if (exchange.query.text("version") === "2") {
    await buildWithSession(exchange, context);
    return;
  }
  const registryConfig = exchange.header("x-registry-config");
  const options = {
    query: exchange.query.params,
    ...(registryConfig === undefined ? {} : { registryConfig }),
    context: exchange.body(),
  };
  await writeProgress(exchange, engine.images.build(options, exchange.signal));
}

async function pruneCache(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  const filters = new Map(exchange.filters(CACHE_PRUNE_KEYS));
  // The cache has no labels, so none of it has the wanted one and all of it lacks the unwanted one.
  if ((filters.get("label") ?? []).length > 0) {
    exchange.send(200, { CachesDeleted: null, SpaceReclaimed: 0 });
    return;
  }
  filters.delete("label!");
  const { query } = exchange;
  const options = {
    filters,
    // Before 1.48 it had another name.
    reservedBytes: query.integer("reserved-space") ?? query.integer("keep-storage") ?? 0,
    maxUsedBytes: query.integer("max-used-space") ?? 0,
    minFreeBytes: query.integer("min-free-space") ?? 0,
  };
  exchange.send(200, await engine.images.pruneBuildCache(options));
}

export const IMAGE_ROUTES: readonly Route[] = [
  get("/images/json", list),
  get("/images/search", search),
  get("/images/get", saveMany),
  post("/images/create", create),
  post("/images/load", load),
  post("/images/prune", prune),
  get("/images/{name*}/json", inspect),
  get("/images/{name*}/history", history),
  get("/images/{name*}/get", saveOne),
  post("/images/{name*}/tag", tag),
  post("/images/{name*}/push", push),
  remove("/images/{name*}", removeImage),
  get("/distribution/{name*}/json", distribution),
  post("/build", build),
  post("/build/prune", pruneCache),
];
