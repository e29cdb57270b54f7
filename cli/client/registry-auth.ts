/**
 * Registry credentials from Docker's config.json, and the digest of an image as the registry knows it. The credentials are
 * read only when a command sends them. An image that can't be resolved is sent as it was written.
 */
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { homedir } from "node:os";
import path from "node:path";
import type { ServiceSpec } from "../../model/specs.ts";
import type { Output } from "../command.ts";
import { ApiError } from "./api-client.ts";
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

const DOCKER_HUB = "https://index.docker.io/v1/";
const HELPER_TIMEOUT_MS = 10_000;

/** The registry's name as config.json keys it. */
export function registryOf(image: string): string {
  const first = image.split("/", 1)[0] ?? "";
  const isHost = image.includes("/") && (first.includes(".") || first.includes(":") || first === "localhost");
  return isHost && first !== "docker.io" ? first : DOCKER_HUB;
}

function readConfig(env: Env): DockerConfig {
  const file = path.join(env["DOCKER_CONFIG"] ?? path.join(homedir(), ".docker"), "config.json");
  try {
    return JSON.parse(readFileSync(file, "utf8")) as DockerConfig;
  } catch {
    // No credentials are the normal case.
    return {};
  }
}

function fromHelper(helper: string, registry: string): Record<string, string> | undefined {
  const result = spawnSync(`docker-credential-${helper}`, ["get"], {
    input: registry,
    encoding: "utf8",
    timeout: HELPER_TIMEOUT_MS,
  });
  if (result.status !== 0) return undefined;
  const parsed = JSON.parse(result.stdout) as { Username?: string; Secret?: string };
  return { username: parsed.Username ?? "", password: parsed.Secret ?? "", serveraddress: registry };
}

/** `X-Registry-Auth` for the image's registry; {} without credentials or if they are not to be sent. */
export function registryAuthHeader(env: Env, image: string, isWanted: boolean): Record<string, string> {
  if (!isWanted) return {};
  const registry = registryOf(image);
  const config = readConfig(env);
  const helper = config.credHelpers?.[registry] ?? config.credsStore;
  const helped = helper === undefined ? undefined : fromHelper(helper, registry);
  const entry = config.auths?.[registry];
  const [, username = "", password = ""] =
    /^([^:]*):(.*)$/s.exec(Buffer.from(entry?.auth ?? "", "base64").toString("utf8")) ?? [];
  const auth =
    helped ??
    (entry === undefined
      ? undefined
      : { username, password, serveraddress: registry, identitytoken: entry.identitytoken ?? "" });
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
export async function resolveImage(client: ApiClient, spec: ServiceSpec, err: Output): Promise<ServiceSpec> {
  const image = spec.TaskTemplate.ContainerSpec.Image;
  if (image === "" || image.includes("@sha256:")) return spec;
  let found: Distribution;
  try {
    found = await client.get<Distribution>(`/distribution/${image}/json`, { headers: {} });
  } catch (caught) {
    if (!(caught instanceof ApiError)) throw caught;
    // Images that live in the cluster only have no registry: that is no news to their user.
    if (registryOf(image) !== DOCKER_HUB)
      err.write(`image ${image} could not be accessed on a registry; each node uses what it has\n`);
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
