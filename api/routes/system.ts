/** /_ping, /version, /info, /events, /system/df, /auth: the engine as a whole and its place in the swarm. */
import type { JsonObject } from "../../model/engine.ts";
import type { SwarmState } from "../../model/cluster-control.ts";
import type { StoreView } from "../../model/store-view.ts";
import { IS_LOCKED, type ApiContext } from "../context.ts";
import { badParameter } from "../error-body.ts";
import type { EventRange } from "../event-feed.ts";
import { EVENT_FILTER_KEYS, eventLine, eventMatches } from "../event-filter.ts";
import type { Exchange } from "../exchange.ts";
import { API_VERSION, MIN_API_VERSION, PAST_EVENTS_GRACE_MS } from "../limits.ts";
import { clusterInfoJson } from "../translate/cluster.ts";
import { NO_FIELDS } from "../vocabulary.ts";
import { get, head, post, type Route } from "./table.ts";

/** The Swarm header of /_ping: clients hide manager commands by it. */
function swarmHeader(state: SwarmState): string {
  if (state.localNodeState !== "active") return state.localNodeState;
  return state.isManager ? "active/manager" : "active/worker";
}

function ping(exchange: Exchange, context: ApiContext): void {
  const headers = {
    "Builder-Version": "2",
    "Cache-Control": "no-cache, no-store, must-revalidate",
    Pragma: "no-cache",
    Swarm: swarmHeader(context.swarm.state()),
  };
  exchange.text(200, "text/plain; charset=utf-8", "OK", headers);
}

function pingHead(exchange: Exchange, context: ApiContext): void {
  exchange.empty(200, {
    "Builder-Version": "2",
    "Cache-Control": "no-cache, no-store, must-revalidate",
    Pragma: "no-cache",
    "Content-Type": "text/plain; charset=utf-8",
    Swarm: swarmHeader(context.swarm.state()),
  });
}

function version(exchange: Exchange, context: ApiContext): void {
  const { version: build } = context;
  const facts = {
    Version: build.version,
    ApiVersion: API_VERSION,
    MinAPIVersion: MIN_API_VERSION,
    GitCommit: build.gitCommit,
    GoVersion: `node ${process.version}`,
    Os: "linux",
    Arch: build.arch,
    KernelVersion: build.kernelVersion,
    BuildTime: build.buildTime,
  };
  const { Version: _version, ...details } = facts;
  exchange.send(200, {
    Platform: { Name: "Shoal" },
    Components: [{ Name: "Engine", Version: build.version, Details: { ...details, Experimental: "false" } }],
    ...facts,
  });
}

function clusterBlock(view: StoreView): JsonObject {
  const cluster = view.list("cluster")[0];
  const nodes = view.list("node");
  return {
    Nodes: nodes.length,
    Managers: nodes.filter((node) => node.manager !== undefined).length,
    ...(cluster === undefined ? {} : { Cluster: clusterInfoJson(cluster) as JsonObject }),
  };
}

/** The Swarm block of /info. Reads the local replica as it is: info must answer without a quorum, too. */
function swarmBlock(context: ApiContext): object {
  const state = context.swarm.state();
  const control = context.swarm.control();
  return {
    NodeID: state.nodeId,
    NodeAddr: state.nodeAddr,
    LocalNodeState: state.localNodeState,
    ControlAvailable: control !== undefined,
    Error: state.localNodeState === "locked" ? IS_LOCKED : state.error,
    RemoteManagers: state.remoteManagers.length === 0 ? null : state.remoteManagers,
    ...(control === undefined ? {} : clusterBlock(control.staleView())),
  };
}

async function info(exchange: Exchange, context: ApiContext): Promise<void> {
  const engine = await context.engine.info();
  exchange.send(200, { ServerVersion: context.version.version, ...engine, Swarm: swarmBlock(context) });
}

function eventRange(exchange: Exchange): EventRange {
  const since = exchange.query.unixTimeMs("since");
  const untilMs = exchange.query.unixTimeMs("until");
  if (since !== undefined && untilMs !== undefined && since > untilMs) {
    const [from, to] = [exchange.query.text("since"), exchange.query.text("until")];
    throw badParameter(`\`since\` time (${from}) cannot be after \`until\` time (${to})`);
  }
  // An end without a beginning means: what is remembered.
  const sinceMs = since ?? (untilMs === undefined ? undefined : 0);
  return { ...(sinceMs === undefined ? {} : { sinceMs }), ...(untilMs === undefined ? {} : { untilMs }) };
}

async function events(exchange: Exchange, context: ApiContext): Promise<void> {
  const range = eventRange(exchange);
  const filters = exchange.filters(EVENT_FILTER_KEYS);
  const end = new AbortController();
  const { timers, clock } = context.env;
  const cancel =
    range.untilMs === undefined
      ? (): void => {}
      : timers.after(Math.max(range.untilMs - clock.wallMs(), PAST_EVENTS_GRACE_MS), () => end.abort());
  const sink = exchange.stream("application/json");
  try {
    for await (const event of context.events.read(range, AbortSignal.any([exchange.signal, end.signal]))) {
      if (range.untilMs !== undefined && Number(event.timeNano) / 1e6 > range.untilMs) continue;
      if (eventMatches(event, filters) && !(await sink.write(eventLine(event)))) break;
    }
  } finally {
    cancel();
    sink.end();
  }
}

const DF_TYPES = new Set(["container", "image", "volume", "build-cache"]);

async function diskUsage(exchange: Exchange, context: ApiContext): Promise<void> {
  const types = exchange.query.all("type").filter((type) => type !== "");
  const unknown = types.find((type) => !DF_TYPES.has(type));
  if (unknown !== undefined) throw badParameter(`unknown object type: ${unknown}`);
  exchange.send(200, await context.engine.diskUsage(types));
}

async function auth(exchange: Exchange, context: ApiContext): Promise<void> {
  exchange.send(200, await context.engine.images.login(await exchange.json(NO_FIELDS)));
}

export const SYSTEM_ROUTES: readonly Route[] = [
  get("/_ping", ping),
  head("/_ping", pingHead),
  get("/version", version),
  get("/info", info),
  get("/events", events),
  get("/system/df", diskUsage),
  post("/auth", auth),
];
