/** The options of BuildKit's Dockerfile frontend, checked and put as the builder has them. Pure. */
import { ClusterError } from "../../common/errors.ts";
import type { NamedContext, RunSurroundings, SolveOptions } from "../../model/build.ts";
import type { Ulimit } from "../../model/specs.ts";

export type Attributes = Readonly<Record<string, string>>;

/** Where the context comes from: a folder, what the client reads from its stdin, or (refused) elsewhere. */
export type WantedContext = { readonly folder: string } | { readonly upload: URL };

export interface SolveRequest extends Omit<SolveOptions, "client" | "context" | "report"> {
  readonly context: WantedContext;
}

const DOCKERFILE = "Dockerfile";
const UPLOAD_HOST = "buildkit-session";
const NETWORK_MODES: Readonly<Record<string, string>> = {
  "": "default",
  sandbox: "default",
  none: "none",
  host: "host",
};
const COUNT_MAX = 10_000;

function invalid(name: string, wanted: string, got: string): ClusterError {
  return new ClusterError(
    "invalid_argument",
    `Cannot build: ${name} must be ${wanted}, got ${JSON.stringify(got.slice(0, 200))}`,
  );
}

/** "build-arg:NAME" and the like, by NAME. */
function prefixed(attributes: Attributes, prefix: string): ReadonlyMap<string, string> {
  return new Map(
    Object.entries(attributes)
      .filter(([key]) => key.startsWith(prefix))
      .map(([key, value]) => [key.slice(prefix.length), value]),
  );
}

function wantedContext(attributes: Attributes): WantedContext {
  const context = attributes["context"] ?? "";
  if (context === "") return { folder: attributes["contextkey"] || "context" };
  const url = URL.canParse(context) ? new URL(context) : undefined;
  if (url?.protocol === "http:" && url.host === UPLOAD_HOST) return { upload: url };
  throw new ClusterError(
    "invalid_argument",
    `Cannot build from "${context}": the context must come from the client, remote contexts are not fetched`,
  );
}

/** Images that other builds made, by the name of the input that stands for them. */
export type Inputs = ReadonlyMap<string, string>;

function namedContext(name: string, value: string, inputs: Inputs): NamedContext {
  const [, kind = "", rest = ""] = /^(docker-image:\/\/|local:|input:)(.+)$/.exec(value) ?? [];
  const made = kind === "input:" ? inputs.get(rest) : undefined;
  if (made !== undefined) return { kind: "image", reference: made };
  if (kind === "local:") return { kind: "folder", name: rest };
  if (kind === "docker-image://") return { kind: "image", reference: rest };
  throw invalid(`build context "${name}"`, "a folder or docker-image://REFERENCE", value);
}

/** "linux/amd64" after the name: for that platform only, and there is only one. */
function namedContexts(attributes: Attributes, inputs: Inputs): ReadonlyMap<string, NamedContext> {
  return new Map(
    [...prefixed(attributes, "context:")].map(([key, value]) => {
      const name = key.split("::", 1)[0] ?? key;
      return [name.toLowerCase(), namedContext(name, value, inputs)] as const;
    }),
  );
}

function list(text: string | undefined): readonly string[] {
  const found = (text ?? "").split(",").filter((each) => each !== "");
  if (found.length > COUNT_MAX) throw invalid("a list", `of at most ${COUNT_MAX}`, String(found.length));
  return found;
}

function ulimit(text: string): Ulimit {
  const [, Name = "", soft = "", hard = soft] = /^([a-z]+)=(-?\d{1,15})(?::(-?\d{1,15}))?$/.exec(text) ?? [];
  if (Name === "") throw invalid("ulimit", "NAME=SOFT[:HARD]", text);
  return { Name, Soft: Number(soft), Hard: Number(hard) };
}

function shmBytes(text: string): number {
  if (text === "") return 0;
  if (!/^\d{1,15}$/.test(text)) throw invalid("shm-size", "a number of bytes", text);
  return Number(text);
}

function surroundings(attributes: Attributes): RunSurroundings {
  const mode = attributes["force-network-mode"] ?? "";
  const networkMode = NETWORK_MODES[mode];
  if (networkMode === undefined) throw invalid("network", "default, none or host", mode);
  const extraHosts = list(attributes["add-hosts"]).map((each) => {
    const [, name = "", address = ""] = /^([^=]+)=(.+)$/.exec(each) ?? [];
    if (name === "") throw invalid("add-hosts", "NAME=ADDRESS", each);
    return `${name}:${address.replace(/^\[(.*)\]$/, "$1")}`;
  });
  return {
    networkMode,
    extraHosts,
    shmBytes: shmBytes(attributes["shm-size"] ?? ""),
    ulimits: list(attributes["ulimit"]).map(ulimit),
    cgroupParent: attributes["cgroup-parent"] ?? "",
  };
}

function noCache(attributes: Attributes): SolveRequest["noCache"] {
  const value = attributes["no-cache"];
  if (value === undefined) return "none";
  return value === "" ? "all" : list(value.toLowerCase());
}

export function solveRequest(attributes: Attributes, inputs: Inputs = new Map()): SolveRequest {
  const context = wantedContext(attributes);
  const platform = attributes["platform"] ?? "";
  if (platform.includes(","))
    throw new ClusterError("invalid_argument", `Cannot build for "${platform}": want one platform`);
  const path = attributes["filename"] || DOCKERFILE;
  const isInContext = "upload" in context && attributes["dockerfilekey"] === undefined;
  return {
    context,
    dockerfile: { path, folder: isInContext ? undefined : attributes["dockerfilekey"] || "dockerfile" },
    namedContexts: namedContexts(attributes, inputs),
    args: prefixed(attributes, "build-arg:"),
    labels: prefixed(attributes, "label:"),
    target: attributes["target"] ?? "",
    platform,
    noCache: noCache(attributes),
    pulls: attributes["image-resolve-mode"] === "pull",
    run: surroundings(attributes),
  };
}
