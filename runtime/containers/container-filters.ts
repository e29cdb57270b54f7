/** `docker ps --filter` and prune's filters. Pure. */
import { ClusterError } from "../../common/errors.ts";
import type { Filters } from "../../model/engine.ts";
import { checkFilterKeys, CONTAINER_LIST_FILTERS, hasLabel } from "../../model/filters.ts";
import { type TextPattern, textPattern } from "../text-pattern.ts";
import type { LiveContainer } from "./live-container.ts";

const BOOLEANS: ReadonlySet<string> = new Set(["1", "0", "true", "false"]);
const STATUSES = ["created", "running", "paused", "restarting", "removing", "exited", "dead"];

/** "80", "80/tcp", "8000-8010/udp" against "80/tcp". */
function matchesPort(wanted: string, port: string): boolean {
  const [range = "", protocol = "tcp"] = wanted.split("/");
  const [start = "", end = start] = range.split("-");
  const [number = "", kind = "tcp"] = port.split("/");
  return kind === protocol && Number(number) >= Number(start) && Number(number) <= Number(end);
}

export interface FilterContext {
  readonly find: (id: string) => LiveContainer;
  /** Image ids that `ancestor` names (the image itself and those built on it). */
  readonly imageId: (reference: string) => string | undefined;
  /** The test for a value of `id` or `name`; made once for a list. */
  readonly pattern: (key: string, source: string) => TextPattern;
}

export function filterPatterns(): FilterContext["pattern"] {
  const made = new Map<string, TextPattern>();
  return (key, source) => {
    const known = made.get(source) ?? filterPattern(key, source);
    made.set(source, known);
    return known;
  };
}

type Test = (live: LiveContainer, wanted: string, context: FilterContext) => boolean;

/** Creation times compare as text. */
const TESTS: Readonly<Record<string, Test>> = {
  id: (live, wanted, { pattern }) => pattern("id", wanted)(live.id),
  name: (live, wanted, { pattern }) =>
    pattern("name", wanted)(live.record.name) || pattern("name", wanted)(`/${live.record.name}`),
  status: (live, wanted) => live.state().status === wanted,
  exited: (live, wanted) =>
    live.record.state.status === "exited" && live.record.state.exitCode === Number(wanted),
  health: (live, wanted) => live.health.status === wanted,
  "is-task": (live, wanted) =>
    "com.docker.swarm.task.id" in (live.record.config.Labels ?? {}) ===
    ["1", "true"].includes(wanted.toLowerCase()),
  isolation: () => true,
  ancestor: (live, wanted, { imageId }) =>
    live.record.image === wanted || live.record.imageId === (imageId(wanted) ?? wanted),
  before: (live, wanted, { find }) => live.record.created < find(wanted).record.created,
  since: (live, wanted, { find }) => live.record.created > find(wanted).record.created,
  volume: (live, wanted) =>
    live.record.mounts.some(
      (each) => each.Name === wanted || each.Destination === wanted || each.Source === wanted,
    ),
  network: (live, wanted) => {
    const mode = live.record.hostConfig.NetworkMode ?? "default";
    const endpoints = { ...live.record.networkingConfig?.EndpointsConfig, ...live.record.network?.endpoints };
    if ((mode === "default" ? "bridge" : mode) === wanted) return true;
    return Object.entries(endpoints).some(([name, each]) => name === wanted || each.NetworkID === wanted);
  },
  expose: (live, wanted) =>
    Object.keys(live.record.config.ExposedPorts ?? {}).some((port) => matchesPort(wanted, port)),
  publish: (live, wanted) =>
    Object.entries(live.record.network?.ports ?? {}).some(([port, bindings]) =>
      (bindings ?? []).some((each) => matchesPort(wanted, `${each.HostPort}/${port.split("/")[1] ?? "tcp"}`)),
    ),
};

/** Values of one key are alternatives, but for labels, which must all be there; keys must all hold. */
export function matchesFilters(live: LiveContainer, filters: Filters, context: FilterContext): boolean {
  for (const [key, values] of filters) {
    if (key === "label") {
      if (!values.every((value) => hasLabel(live.record.config.Labels ?? {}, value))) return false;
      continue;
    }
    const test = TESTS[key];
    if (test !== undefined && values.length > 0 && !values.some((value) => test(live, value, context)))
      return false;
  }
  return true;
}

const HEALTHS: readonly string[] = ["none", "starting", "healthy", "unhealthy"];

export function checkListFilters(filters: Filters): void {
  checkFilterKeys(filters, CONTAINER_LIST_FILTERS);
  for (const status of filters.get("status") ?? []) {
    if (!STATUSES.includes(status)) {
      throw new ClusterError(
        "invalid_argument",
        `invalid filter 'status=${status}': invalid value for state (${status}): must be one of ${STATUSES.join(", ")}`,
      );
    }
  }
  for (const health of filters.get("health") ?? []) {
    if (!HEALTHS.includes(health))
      throw new ClusterError(
        "invalid_argument",
        `invalid filter 'health=${health}': invalid value for health (${health}): must be one of ${HEALTHS.join(", ")}`,
      );
  }
  for (const code of filters.get("exited") ?? []) {
    if (!/^-?\d+$/.test(code)) throw new ClusterError("invalid_argument", `invalid filter 'exited=${code}'`);
  }
  for (const flag of filters.get("is-task") ?? []) {
    if (!BOOLEANS.has(flag.toLowerCase()))
      throw new ClusterError("invalid_argument", `invalid filter 'is-task=${flag}': want true or false`);
  }
  for (const key of ["publish", "expose"]) {
    for (const port of filters.get(key) ?? []) {
      if (!/^\d{1,5}(-\d{1,5})?(\/(tcp|udp|sctp))?$/.test(port))
        throw new ClusterError(
          "invalid_argument",
          `invalid filter '${key}=${port}': want PORT[/PROTOCOL] or FIRST-LAST[/PROTOCOL]`,
        );
    }
  }
  for (const key of ["id", "name"]) for (const pattern of filters.get(key) ?? []) filterPattern(key, pattern);
}

function filterPattern(key: string, source: string): TextPattern {
  return textPattern(
    source,
    (cause) =>
      new ClusterError("invalid_argument", `invalid filter '${key}=${source}': want a regular expression`, {
        cause,
      }),
  );
}
