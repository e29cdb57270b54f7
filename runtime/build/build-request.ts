/** The query of POST /build, checked. Pure. */
import { ClusterError } from "../../common/errors.ts";
import { isObject } from "../../common/json.ts";
import type { HostConfig } from "../../model/engine.ts";
import { parseReference, withDefaultTag, type ImageReference } from "../../model/image-reference.ts";

export interface BuildRequest {
  readonly tags: readonly ImageReference[];
  /** Path of the Dockerfile in the context. */
  readonly dockerfile: string;
  readonly isQuiet: boolean;
  readonly usesCache: boolean;
  readonly pulls: boolean;
  readonly removesContainers: boolean;
  readonly removesFailed: boolean;
  readonly args: ReadonlyMap<string, string>;
  /** Arguments that were named without a value: they stay unset. */
  readonly unsetArgs: readonly string[];
  readonly labels: ReadonlyMap<string, string>;
  readonly target: string;
  readonly platform: string;
  /** For the containers of RUN. */
  readonly hostConfig: HostConfig;
}

function invalid(field: string, wanted: string, got: string): ClusterError {
  return new ClusterError(
    "invalid_argument",
    `Cannot build: ${field} must be ${wanted}, got "${got.slice(0, 200)}"`,
  );
}

function flag(query: URLSearchParams, key: string, fallback: boolean): boolean {
  const value = query.get(key);
  if (value === null || value === "") return fallback;
  return !["0", "no", "false", "none"].includes(value.toLowerCase());
}

/** null is a name without a value. */
function entries(query: URLSearchParams, key: string): readonly (readonly [string, string | null])[] {
  const text = query.get(key) ?? "";
  if (text === "" || text === "null") return [];
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw invalid(key, "a JSON map", text);
  }
  if (!isObject(value)) throw invalid(key, "a JSON map", text);
  const found = Object.entries(value);
  for (const [, each] of found)
    if (each !== null && typeof each !== "string") throw invalid(key, "a map of strings", text);
  return found as [string, string | null][];
}

function stringMap(query: URLSearchParams, key: string): ReadonlyMap<string, string> {
  return new Map(
    entries(query, key).flatMap(([name, value]) => (value === null ? [] : [[name, value] as const])),
  );
}

function integer(query: URLSearchParams, key: string): number {
  const text = query.get(key) ?? "";
  if (text === "") return 0;
  if (!/^-?\d{1,16}$/.test(text)) throw invalid(key, "a whole number", text);
  return Number(text);
}

function ulimits(query: URLSearchParams): HostConfig["Ulimits"] {
  const text = query.get("ulimits") ?? "";
  if (text === "" || text === "null") return null;
  try {
    const value: unknown = JSON.parse(text);
    if (Array.isArray(value)) return value as HostConfig["Ulimits"];
  } catch {
    // Told below.
  }
  throw invalid("ulimits", "a JSON list", text);
}

function hostConfig(query: URLSearchParams): HostConfig {
  const numbers = {
    Memory: integer(query, "memory"),
    MemorySwap: integer(query, "memswap"),
    CpuShares: integer(query, "cpushares"),
    CpuPeriod: integer(query, "cpuperiod"),
    CpuQuota: integer(query, "cpuquota"),
    ShmSize: integer(query, "shmsize"),
  };
  const set = Object.fromEntries(Object.entries(numbers).filter(([, value]) => value !== 0));
  const hosts = query
    .getAll("extrahosts")
    .flatMap((each) => each.split(","))
    .filter((each) => each !== "");
  const limits = ulimits(query);
  return {
    NetworkMode: query.get("networkmode") ?? "default",
    CpusetCpus: query.get("cpusetcpus") ?? "",
    CpusetMems: query.get("cpusetmems") ?? "",
    CgroupParent: query.get("cgroupparent") ?? "",
    ...(hosts.length === 0 ? {} : { ExtraHosts: hosts }),
    ...(limits === null || limits === undefined ? {} : { Ulimits: limits }),
    ...set,
  };
}

/** What Docker refuses on Linux too, in its words: said, not left out. */
function refuseUnsupported(query: URLSearchParams): void {
  const isolation = query.get("isolation") ?? "";
  if (!["", "default"].includes(isolation.toLowerCase()))
    throw new ClusterError("invalid_argument", `Unsupported isolation: ${JSON.stringify(isolation)}`);
  if (!["", "null", "[]"].includes(query.get("securityopt") ?? "")) {
    throw new ClusterError(
      "invalid_argument",
      "The daemon on this platform does not support setting security options on build",
    );
  }
}

export function parseBuildRequest(query: URLSearchParams): BuildRequest {
  refuseUnsupported(query);
  const remote = query.get("remote") ?? "";
  if (remote !== "" && remote !== "client-session") {
    throw new ClusterError(
      "invalid_argument",
      `Cannot build from "${remote}": the context must be sent with the request, remote contexts are not fetched`,
    );
  }
  if (flag(query, "squash", false)) {
    throw new ClusterError(
      "invalid_argument",
      "squash is not supported: use a stage with COPY --from instead",
    );
  }
  const networkMode = query.get("networkmode") ?? "";
  return {
    tags: query
      .getAll("t")
      .filter((each) => each !== "")
      .map((each) => withDefaultTag(parseReference(each))),
    dockerfile: query.get("dockerfile") || "Dockerfile",
    isQuiet: flag(query, "q", false),
    usesCache: !flag(query, "nocache", false),
    pulls: flag(query, "pull", false),
    removesContainers: flag(query, "rm", true),
    removesFailed: flag(query, "forcerm", false),
    args: stringMap(query, "buildargs"),
    unsetArgs: entries(query, "buildargs").flatMap(([name, value]) => (value === null ? [name] : [])),
    labels: stringMap(query, "labels"),
    target: (query.get("target") ?? "").toLowerCase(),
    platform: query.get("platform") ?? "",
    hostConfig: { ...hostConfig(query), NetworkMode: networkMode === "" ? "default" : networkMode },
  };
}
