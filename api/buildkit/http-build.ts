/**
 * `POST /build` with version=2: how CLIs with a BuildKit client of their own (20.10 with DOCKER_BUILDKIT=1) ask for a build whose
 * files come through their session. The steps go back as lines of JSON around BuildKit's own messages. Reads the query and
 * drives a build as the other clients do by themselves.
 */
import { randomUUID } from "node:crypto";
import { PassThrough, type Readable } from "node:stream";
import { finished, pipeline } from "node:stream/promises";
import { ClusterError } from "../../common/errors.ts";
import { isObject } from "../../common/json.ts";
import type { ProgressLine } from "../../model/engine.ts";
import { bk } from "../../proto/buildkit-messages.ts";
import type { Arrivals } from "./arrivals.ts";
import type { WantedExport } from "./exports.ts";
import { DOCKERFILE_FRONTEND, type OpenBuild } from "./open-build.ts";
import type { Attributes } from "./solve-request.ts";

const CLIENT_SESSION = "client-session";
/** The context comes as the body of another request, which names this build. */
const UPLOAD = "upload-request";
const UPLOAD_PREFIX = `${UPLOAD}:`;

/** What the query says, in the words of BuildKit's frontend. */
export interface HttpBuild {
  readonly ref: string;
  readonly session: string;
  readonly attributes: Attributes;
  readonly exports: readonly WantedExport[];
  /** The context is uploaded. */
  readonly isUploaded: boolean;
  /** The image's id is to be said as text, too. */
  readonly isQuiet: boolean;
}

function invalid(field: string, wanted: string, got: string): ClusterError {
  return new ClusterError(
    "invalid_argument",
    `Cannot build: ${field} must be ${wanted}, got ${JSON.stringify(got.slice(0, 200))}`,
  );
}

function parsed(query: URLSearchParams, field: string): unknown {
  const text = query.get(field) ?? "";
  if (text === "") return undefined;
  try {
    return JSON.parse(text) ?? undefined;
  } catch {
    throw invalid(field, "JSON", text);
  }
}

/** Names without a value stay unset. */
function entries(
  query: URLSearchParams,
  field: string,
  prefix: string,
): readonly (readonly [string, string])[] {
  const value = parsed(query, field) ?? {};
  if (!isObject(value)) throw invalid(field, "a JSON map", query.get(field) ?? "");
  return Object.entries(value).flatMap(([key, each]) =>
    typeof each === "string" ? [[`${prefix}${key}`, each] as const] : [],
  );
}

function isSet(query: URLSearchParams, field: string): boolean {
  return ["1", "true", "yes"].includes((query.get(field) ?? "").toLowerCase());
}

function exportsOf(query: URLSearchParams): readonly WantedExport[] {
  const name = query
    .getAll("t")
    .filter((each) => each !== "")
    .join(",");
  const outputs = parsed(query, "outputs") ?? [];
  if (!Array.isArray(outputs)) throw invalid("outputs", "a JSON list", query.get("outputs") ?? "");
  if (outputs.length === 0) return [{ type: "moby", attrs: { name } }];
  return outputs.flatMap((each: unknown) => {
    if (!isObject(each)) throw invalid("outputs", "a list of types with attributes", String(each));
    const type = String(each["Type"]);
    if (type === "cacheonly") return [];
    const attrs = isObject(each["Attrs"]) ? each["Attrs"] : {};
    const isImage = type === "moby" || type === "image";
    const strings = Object.entries(attrs).map(([key, value]) => [key, String(value)] as const);
    return [{ type, attrs: { ...Object.fromEntries(strings), ...(isImage && name !== "" ? { name } : {}) } }];
  });
}

function networkMode(mode: string): string {
  if (["", "default", "none", "host"].includes(mode)) return mode === "default" ? "" : mode;
  throw invalid("networkmode", "default, none or host", mode);
}

function contextOf(remote: string): Attributes {
  if (remote === CLIENT_SESSION || remote === UPLOAD) return {};
  if (remote === "")
    throw new ClusterError("invalid_argument", "Cannot build: remote must say where the context comes from");
  return { context: remote };
}

/** The id that another request's context is uploaded under; undefined: this request builds. */
export function uploadedId(query: URLSearchParams): string | undefined {
  const id = query.get("buildid") ?? "";
  return id.startsWith(UPLOAD_PREFIX) ? id.slice(UPLOAD_PREFIX.length) : undefined;
}

export function parseHttpBuild(query: URLSearchParams): HttpBuild {
  const remote = query.get("remote") ?? "";
  const hosts = query.getAll("extrahosts").map((each) => each.replace(":", "="));
  const attributes: Attributes = {
    ...contextOf(remote),
    filename: query.get("dockerfile") ?? "",
    target: query.get("target") ?? "",
    platform: query.get("platform") ?? "",
    "force-network-mode": networkMode(query.get("networkmode") ?? ""),
    "add-hosts": hosts.join(","),
    "shm-size": query.get("shmsize") === "0" ? "" : (query.get("shmsize") ?? ""),
    "cgroup-parent": query.get("cgroupparent") ?? "",
    ...(isSet(query, "nocache") ? { "no-cache": "" } : {}),
    ...(isSet(query, "pull") ? { "image-resolve-mode": "pull" } : {}),
    ...Object.fromEntries(entries(query, "buildargs", "build-arg:")),
    ...Object.fromEntries(entries(query, "labels", "label:")),
  };
  return {
    ref: query.get("buildid") || randomUUID(),
    session: query.get("session") ?? "",
    attributes,
    exports: exportsOf(query),
    isUploaded: remote === UPLOAD,
    isQuiet: isSet(query, "q"),
  };
}

/** Holds the request of an upload until its build has read it. */
export async function holdUpload(uploads: Arrivals<Readable>, id: string, body: Readable): Promise<void> {
  uploads.add(id, body);
  try {
    await finished(body);
  } finally {
    uploads.remove(id);
  }
}

/** The body of the request that uploads, which may come after this one. */
export function uploadedContext(uploads: Arrivals<Readable>, id: string, signal: AbortSignal): Readable {
  const context = new PassThrough();
  // Told to whoever reads it, who may not have begun yet.
  context.on("error", () => undefined);
  uploads
    .get(id, signal)
    .then((body) => pipeline(body, context, { signal }))
    .catch((caught: unknown) => context.destroy(ClusterError.from(caught)));
  return context;
}

/** Drives the build: `finish` exports what was made. Lines come while it runs; rejects as it does. */
export async function* httpBuildLines(
  build: OpenBuild,
  { attributes, isQuiet }: Pick<HttpBuild, "attributes" | "isQuiet">,
  finish: (ref: string) => Promise<Readonly<Record<string, string>>>,
): AsyncGenerator<ProgressLine> {
  const running = build
    .solve(DOCKERFILE_FRONTEND, attributes)
    .then(finish)
    .finally(() => build.status.end());
  // Told below, after what was shown.
  running.catch(() => undefined);
  for await (const status of build.status.read(build.signal)) {
    const bytes = bk.StatusResponse.encode(status as never).finish();
    yield { id: "moby.buildkit.trace", aux: Buffer.from(bytes).toString("base64") };
  }
  const imageId = (await running)["containerimage.digest"];
  if (imageId === undefined) return;
  yield { id: "moby.image.id", aux: { ID: imageId } };
  if (isQuiet) yield { stream: `${imageId}\n` };
}
