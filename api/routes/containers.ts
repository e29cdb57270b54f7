/** /containers: life, lists, logs, stats, files. Attach and exec are in streams.ts. The engine does the work. */
import { ClusterError } from "../../common/errors.ts";
import type {
  ContainerConfig,
  LogOptions,
  CreateContainerRequest,
  EndpointSettings,
  HostConfig,
  JsonObject,
} from "../../model/engine.ts";
import { CONTAINER_LIST_FILTERS, CONTAINER_PRUNE_FILTERS } from "../../model/filters.ts";
import { badParameter } from "../error-body.ts";
import type { ApiContext } from "../context.ts";
import type { Exchange } from "../exchange.ts";
import { streamType } from "../hijack.ts";
import { writeLogLines } from "../log-stream.ts";
import { ENGINE_FIELDS } from "../vocabulary.ts";
import { checkAttachable } from "./networks.ts";
import { get, head, post, put, remove, type Route } from "./table.ts";

const NAME = /^\/?[a-zA-Z0-9][a-zA-Z0-9_.-]+$/;

async function list(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  const { query } = exchange;
  const filters = new Map(exchange.filters(CONTAINER_LIST_FILTERS));
  for (const key of ["since", "before"]) {
    const value = query.optional(key);
    if (value !== undefined) filters.set(key, [...(filters.get(key) ?? []), value]);
  }
  const limit = query.integer("limit");
  const containers = await engine.containers.list({
    all: query.flag("all"),
    ...(limit === undefined || limit <= 0 ? {} : { limit }),
    size: query.flag("size"),
    filters,
  });
  exchange.send(200, containers);
}

interface CreateBody extends ContainerConfig {
  readonly HostConfig?: HostConfig;
  readonly NetworkingConfig?: { readonly EndpointsConfig?: Readonly<Record<string, EndpointSettings>> };
}

/** `name` without its slash; Docker's words for a bad one. */
function containerName(given: string | undefined): string | undefined {
  if (given === undefined) return undefined;
  if (!NAME.test(given)) {
    throw badParameter(`Invalid container name (${given}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed`);
  }
  return given.replace(/^\//, "");
}

/** Modes that name no network. */
const PLAIN_MODE = /^(?:|default|bridge|host|none|container:.*)$/;

/**
 * Of the swarm's networks only attachable ones take containers. An unknown network is the engine's to refuse, at start: a
 * 404 on create would make the CLI pull the image.
 */
function checkNetworks(context: ApiContext, request: CreateContainerRequest): void {
  const named = [
    request.hostConfig.NetworkMode ?? "",
    ...Object.keys(request.networkingConfig?.EndpointsConfig ?? {}),
  ];
  for (const name of new Set(named)) if (!PLAIN_MODE.test(name)) checkAttachable(context, name);
}

async function create(exchange: Exchange, context: ApiContext): Promise<void> {
  const name = containerName(exchange.query.optional("name"));
  const platform = exchange.query.optional("platform");
  const body = (await exchange.json(ENGINE_FIELDS)) as CreateBody;
  const { HostConfig: hostConfig = {}, NetworkingConfig: networkingConfig, ...config } = body;
  const request: CreateContainerRequest = {
    config,
    hostConfig,
    ...(name === undefined ? {} : { name }),
    ...(platform === undefined ? {} : { platform }),
    ...(networkingConfig === undefined ? {} : { networkingConfig }),
  };
  checkNetworks(context, request);
  const created = await context.engine.containers.create(request);
  exchange.send(201, { Id: created.Id, Warnings: created.Warnings });
}

async function inspect(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  exchange.send(
    200,
    await engine.containers.inspect(exchange.param("id"), { size: exchange.query.flag("size") }),
  );
}

async function start(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  exchange.empty((await engine.containers.start(exchange.param("id"))) ? 204 : 304);
}

function stopOptions(exchange: Exchange): { readonly timeoutSeconds?: number; readonly signal?: string } {
  const timeoutSeconds = exchange.query.integer("t");
  const signal = exchange.query.optional("signal");
  return {
    ...(timeoutSeconds === undefined ? {} : { timeoutSeconds }),
    ...(signal === undefined ? {} : { signal }),
  };
}

async function stop(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  exchange.empty((await engine.containers.stop(exchange.param("id"), stopOptions(exchange))) ? 204 : 304);
}

async function restart(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  await engine.containers.restart(exchange.param("id"), stopOptions(exchange));
  exchange.empty(204);
}

async function kill(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  await engine.containers.kill(exchange.param("id"), exchange.query.optional("signal") ?? "SIGKILL");
  exchange.empty(204);
}

async function pause(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  await engine.containers.pause(exchange.param("id"));
  exchange.empty(204);
}

async function unpause(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  await engine.containers.unpause(exchange.param("id"));
  exchange.empty(204);
}

async function rename(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  const given = exchange.query.optional("name");
  if (given === undefined) throw badParameter("Neither old nor new names may be empty");
  const name = containerName(given) ?? given;
  await engine.containers.rename(exchange.param("id"), name);
  exchange.empty(204);
}

async function update(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  const { Warnings } = await engine.containers.update(
    exchange.param("id"),
    await exchange.json(ENGINE_FIELDS),
  );
  exchange.send(200, { Warnings });
}

async function removeContainer(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  const { query } = exchange;
  await engine.containers.remove(exchange.param("id"), {
    force: query.flag("force"),
    volumes: query.flag("v"),
    link: query.flag("link"),
  });
  exchange.empty(204);
}

type WaitCondition = "not-running" | "next-exit" | "removed";

function waitCondition(text: string): WaitCondition {
  switch (text) {
    case "":
    case "not-running":
      return "not-running";
    case "next-exit":
    case "removed":
      return text;
    default:
      throw badParameter(`invalid condition: ${JSON.stringify(text)}`);
  }
}

/** Clients wait for the headers before they start the container, so these go out as soon as the wait is in place. */
async function wait(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  const condition = waitCondition(exchange.query.text("condition"));
  const { signal } = exchange;
  let sink: ReturnType<Exchange["stream"]> | undefined;
  const registered = (): void => {
    sink ??= exchange.stream("application/json");
  };
  try {
    const status = await engine.containers.wait(exchange.param("id"), condition, { signal, registered });
    registered();
    const error = status.error === "" ? {} : { Error: { Message: status.error } };
    await sink?.write(`${JSON.stringify({ StatusCode: status.exitCode, ...error })}\n`);
  } catch (error) {
    if (sink === undefined) throw error;
    const { message } = ClusterError.from(error);
    await sink.write(`${JSON.stringify({ StatusCode: -1, Error: { Message: message } })}\n`);
  }
  sink?.end();
}

/** The options that logs of containers, services and tasks share. */
export function logOptions(exchange: Exchange): LogOptions {
  const { query } = exchange;
  const [stdout, stderr] = [query.flag("stdout"), query.flag("stderr")];
  if (!stdout && !stderr) throw badParameter("Bad parameters: you must choose at least one stream");
  const sinceMs = query.unixTimeMs("since");
  const untilMs = query.unixTimeMs("until");
  const tailText = query.text("tail");
  // A tail that is no number, or negative, means all lines.
  const tail = /^\d{1,9}$/.test(tailText) ? Number(tailText) : undefined;
  return {
    follow: query.flag("follow"),
    stdout,
    stderr,
    ...(sinceMs === undefined ? {} : { sinceMs }),
    ...(untilMs === undefined ? {} : { untilMs }),
    ...(tail === undefined ? {} : { tail }),
  };
}

async function logs(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  const options = logOptions(exchange);
  const id = exchange.param("id");
  const isTty = engine.containers.isTty(id);
  const lines = engine.containers.logs(id, options, exchange.signal);
  await writeLogLines(exchange, lines, {
    contentType: streamType(isTty, exchange.apiMinor),
    isRaw: isTty,
    timestamps: exchange.query.flag("timestamps"),
    details: exchange.query.flag("details"),
  });
}

async function top(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  const psArgs = exchange.query.optional("ps_args") ?? "-ef";
  exchange.send(200, await engine.containers.top(exchange.param("id"), psArgs));
}

async function stats(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  const options = { stream: exchange.query.flag("stream", true), oneShot: exchange.query.flag("one-shot") };
  if (options.stream && options.oneShot) throw badParameter("cannot have stream=true and one-shot=true");
  const samples = engine.containers
    .stats(exchange.param("id"), options, exchange.signal)
    [Symbol.asyncIterator]();
  const first = await samples.next();
  const sink = exchange.stream("application/json");
  try {
    for (let item = first; item.done !== true; item = await samples.next()) {
      if (!(await sink.write(`${JSON.stringify(item.value)}\n`))) break;
    }
  } finally {
    await samples.return?.();
    sink.end();
  }
}

async function changes(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  exchange.send(200, await engine.containers.changes(exchange.param("id")));
}

async function exportTar(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  await exchange.pipe("application/x-tar", await engine.containers.export(exchange.param("id")));
}

function archivePath(exchange: Exchange): string {
  const path = exchange.query.optional("path");
  if (path === undefined) throw badParameter("bad parameter: path cannot be empty");
  return path;
}

function statHeader(stat: JsonObject): Readonly<Record<string, string>> {
  return { "X-Docker-Container-Path-Stat": Buffer.from(JSON.stringify(stat), "utf8").toString("base64") };
}

async function statArchive(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  exchange.empty(
    200,
    statHeader(await engine.containers.statPath(exchange.param("id"), archivePath(exchange))),
  );
}

async function getArchive(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  const { stat, tar } = await engine.containers.getArchive(exchange.param("id"), archivePath(exchange));
  await exchange.pipe("application/x-tar", tar, statHeader(stat));
}

async function putArchive(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  await engine.containers.putArchive(exchange.param("id"), archivePath(exchange), exchange.body(), {
    noOverwriteDirNonDir: exchange.query.flag("noOverwriteDirNonDir"),
    copyUidGid: exchange.query.flag("copyUIDGID"),
  });
  exchange.empty(200);
}

async function prune(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  exchange.send(200, await engine.containers.prune(exchange.filters(CONTAINER_PRUNE_FILTERS)));
}

async function commit(exchange: Exchange, { engine }: ApiContext): Promise<void> {
  const { query } = exchange;
  const container = query.optional("container");
  if (container === undefined) throw badParameter("bad parameter: container cannot be empty");
  const config = (await exchange.optionalJson(ENGINE_FIELDS)) as ContainerConfig;
  const texts = { repo: query.optional("repo"), tag: query.optional("tag") };
  const words = { comment: query.optional("comment"), author: query.optional("author") };
  const committed = await engine.containers.commit(container, {
    ...(texts.repo === undefined ? {} : { repo: texts.repo }),
    ...(texts.tag === undefined ? {} : { tag: texts.tag }),
    ...(words.comment === undefined ? {} : { comment: words.comment }),
    ...(words.author === undefined ? {} : { author: words.author }),
    pause: query.flag("pause", true),
    changes: query
      .all("changes")
      .flatMap((each) => each.split("\n"))
      .filter((each) => each.trim() !== ""),
    ...(Object.keys(config).length === 0 ? {} : { config }),
  });
  exchange.send(201, committed);
}

export const CONTAINER_ROUTES: readonly Route[] = [
  get("/containers/json", list),
  post("/containers/create", create),
  post("/containers/prune", prune),
  get("/containers/{id}/json", inspect),
  post("/containers/{id}/start", start),
  post("/containers/{id}/stop", stop),
  post("/containers/{id}/restart", restart),
  post("/containers/{id}/kill", kill),
  post("/containers/{id}/pause", pause),
  post("/containers/{id}/unpause", unpause),
  post("/containers/{id}/wait", wait),
  post("/containers/{id}/rename", rename),
  post("/containers/{id}/update", update),
  remove("/containers/{id}", removeContainer),
  get("/containers/{id}/logs", logs),
  get("/containers/{id}/top", top),
  get("/containers/{id}/stats", stats),
  get("/containers/{id}/changes", changes),
  get("/containers/{id}/export", exportTar),
  head("/containers/{id}/archive", statArchive),
  get("/containers/{id}/archive", getArchive),
  put("/containers/{id}/archive", putArchive),
  post("/commit", commit),
];
