/**
 * Registry credentials from Docker's config.json, and the digest of an image as the registry knows it. The credentials are
 * read only when a command sends them. An image that can't be resolved is sent as it was written.
 */
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { homedir } from "node:os";
import path from "node:path";
import { ClusterError, hasNodeCode } from "../../common/errors.ts";
import type { ServiceSpec } from "../../model/specs.ts";
import type { Output } from "../command.ts";
import { ApiError, imagePath } from "./api-client.ts";
import type { ApiClient } from "./api-client.ts";

type Env = Readonly<Record<string, string | undefined>>;

interface AuthEntry {
  readonly auth?: string;
  readonly identitytoken?: string;
}

interface DockerConfig {
  readonly auths?: Readonly<Record<string, AuthEntry>>;
  readonly credsStore?: string;
  readonly credHelpers?: Readonly<Record<string, string>>;
}

export const DOCKER_HUB = "https://index.docker.io/v1/";
export const HELPER_TIMEOUT_MS = 10_000;

/** The registry's name as config.json keys it. */
export function registryOf(image: string): string {
  const first = image.split("/", 1)[0] ?? "";
  const isHost = image.includes("/") && (first.includes(".") || first.includes(":") || first === "localhost");
  return isHost && first !== "docker.io" ? first : DOCKER_HUB;
}

export function configFile(env: Env): string {
  return path.join(env["DOCKER_CONFIG"] ?? path.join(homedir(), ".docker"), "config.json");
}

function readConfig(env: Env): DockerConfig {
  const file = configFile(env);
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch {
    // No credentials are the normal case.
    return {};
  }
  const problem = (what: string): ClusterError =>
    new ClusterError("failed_precondition", `Cannot read credentials from "${file}": ${what}`);
  let config: unknown;
  try {
    config = JSON.parse(text);
  } catch {
    // The text itself may hold the secret.
    throw problem("it must be JSON");
  }
  const { auths = {}, credHelpers = {}, credsStore } = record(config, "it", problem);
  if (credsStore !== undefined && typeof credsStore !== "string")
    throw problem("credsStore must be a string");
  const entries = Object.entries(record(auths, "auths", problem));
  return {
    auths: Object.fromEntries(
      entries.map(([key, entry]) => [key, strings(entry, `auths of "${key}"`, problem)]),
    ),
    credHelpers: strings(credHelpers, "credHelpers", problem),
    ...(credsStore === undefined ? {} : { credsStore }),
  };
}

type Problem = (what: string) => ClusterError;

/** Docker writes null for what is empty. */
function record(value: unknown, what: string, problem: Problem): Record<string, unknown> {
  if (typeof value !== "object" || Array.isArray(value)) throw problem(`${what} must be an object`);
  return Object.fromEntries(Object.entries(value ?? {}).filter(([, each]) => each !== null));
}

/** The object's fields that are strings. What else an entry may have is not for us. */
function strings(value: unknown, what: string, problem: Problem): Record<string, string> {
  const fields = Object.entries(record(value, what, problem));
  return Object.fromEntries(
    fields.filter((field): field is [string, string] => typeof field[1] === "string"),
  );
}

/** What the helper says when it simply has none. */
const NOT_FOUND = /credentials not found/;
/** In place of a user's name: the secret is a refresh token. */
export const TOKEN_USER = "<token>";

function fromHelper(helper: string, registry: string, env: Env): Record<string, string> | undefined {
  const program = `docker-credential-${helper}`;
  const result = spawnSync(program, ["get"], {
    input: registry,
    encoding: "utf8",
    env: { ...env },
    timeout: HELPER_TIMEOUT_MS,
  });
  const said = `${result.stdout ?? ""}${result.stderr ?? ""}`.trim();
  if (NOT_FOUND.test(said)) return undefined;
  // A helper that knows its answer need not read the question.
  const error = hasNodeCode(result.error, "EPIPE") ? undefined : result.error;
  if (error !== undefined || result.status !== 0) {
    const why = error?.message ?? `exit status ${result.status ?? "unknown"}`;
    throw new ClusterError(
      "failed_precondition",
      `error getting credentials - err: ${program}: ${why}, out: "${said.slice(0, 200)}"`,
    );
  }
  const { Username = "", Secret = "" } = helperAnswer(program, result.stdout);
  if (Username === "" && Secret === "") return undefined;
  return Username === TOKEN_USER
    ? { identitytoken: Secret, serveraddress: registry }
    : { username: Username, password: Secret, serveraddress: registry };
}

function helperAnswer(
  program: string,
  text: string,
): { readonly Username?: string; readonly Secret?: string } {
  try {
    return JSON.parse(text) as ReturnType<typeof helperAnswer>;
  } catch {
    // The text itself may hold the secret.
    throw new ClusterError("failed_precondition", `Cannot read credentials: ${program} must answer in JSON`);
  }
}

/** "https://host/v1/" of old entries is "host". */
function hostOf(key: string): string {
  return key.replace(/^https?:\/\//, "").replace(/\/.*$/, "");
}

function fromFile({ auths = {} }: DockerConfig, registry: string): Record<string, string> | undefined {
  const key =
    registry in auths ? registry : Object.keys(auths).find((each) => hostOf(each) === hostOf(registry));
  const entry = key === undefined ? undefined : auths[key];
  if (entry === undefined) return undefined;
  const [, username = "", password = ""] =
    /^([^:]*):(.*)$/s.exec(Buffer.from(entry.auth ?? "", "base64").toString("utf8")) ?? [];
  return { username, password, serveraddress: registry, identitytoken: entry.identitytoken ?? "" };
}

/** The program that keeps the registry's credentials, without its "docker-credential-". Undefined: the file keeps them. */
export function helperOf(env: Env, registry: string): string | undefined {
  const config = readConfig(env);
  return config.credHelpers?.[registry] ?? config.credsStore;
}

/** `X-Registry-Auth` for the image's registry; {} without credentials or if they are not to be sent. */
export function registryAuthHeader(env: Env, image: string, isWanted: boolean): Record<string, string> {
  if (!isWanted) return {};
  const registry = registryOf(image);
  const config = readConfig(env);
  const helper = config.credHelpers?.[registry] ?? config.credsStore;
  const auth =
    (helper === undefined ? undefined : fromHelper(helper, registry, env)) ?? fromFile(config, registry);
  return auth === undefined
    ? {}
    : { "X-Registry-Auth": Buffer.from(JSON.stringify(auth)).toString("base64url") };
}

interface Distribution {
  readonly Descriptor: { readonly digest: string };
  readonly Platforms?: readonly { readonly architecture?: string; readonly os?: string }[] | null;
}

/** "nginx" is "nginx:latest". */
function withTag(image: string): string {
  const name = image.slice(image.lastIndexOf("/") + 1);
  return name.includes(":") ? image : `${image}:latest`;
}

/** Pins the image to its digest and its platforms where the registry answers; else the spec as it is. */
export async function resolveImage(
  client: ApiClient,
  spec: ServiceSpec,
  options: { readonly err: Output; readonly headers: Readonly<Record<string, string>> },
): Promise<ServiceSpec> {
  const image = spec.TaskTemplate.ContainerSpec.Image;
  if (image === "" || image.includes("@sha256:")) return spec;
  let found: Distribution;
  try {
    found = await client.get<Distribution>(`/distribution/${imagePath(image)}/json`, {
      headers: options.headers,
    });
  } catch (caught) {
    if (!(caught instanceof ApiError)) throw caught;
    // Images that live in the cluster only have no registry: that is no news to their user.
    if (registryOf(image) !== DOCKER_HUB)
      options.err.write(`image ${image} could not be accessed on a registry; each node uses what it has\n`);
    return spec;
  }
  const platforms = (found.Platforms ?? []).map((each) => ({
    Architecture: each.architecture ?? "",
    OS: each.os ?? "",
  }));
  const template = spec.TaskTemplate;
  return {
    ...spec,
    TaskTemplate: {
      ...template,
      ContainerSpec: { ...template.ContainerSpec, Image: `${withTag(image)}@${found.Descriptor.digest}` },
      Placement: { ...template.Placement, ...(platforms.length === 0 ? {} : { Platforms: platforms }) },
    },
  };
}
