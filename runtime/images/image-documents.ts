/**
 * The documents of images: configs, manifests and indexes of OCI and of Docker (schema 2). Parses what is needed and
 * leaves the bytes alone, because digests are of the bytes. Pure.
 */
import { ZERO_TIME } from "../../common/time.ts";
import { createHash } from "node:crypto";
import { ClusterError } from "../../common/errors.ts";
import { isObject } from "../../common/json.ts";
import type { ContainerConfig, JsonObject } from "../../model/engine.ts";
import { isDigest } from "../../model/image-reference.ts";
import { type ImagePlatform, platformScore } from "../../model/platforms.ts";

export const MEDIA = {
  ociManifest: "application/vnd.oci.image.manifest.v1+json",
  ociIndex: "application/vnd.oci.image.index.v1+json",
  ociConfig: "application/vnd.oci.image.config.v1+json",
  ociLayer: "application/vnd.oci.image.layer.v1.tar",
  dockerManifest: "application/vnd.docker.distribution.manifest.v2+json",
  dockerList: "application/vnd.docker.distribution.manifest.list.v2+json",
  dockerConfig: "application/vnd.docker.container.image.v1+json",
  dockerLayer: "application/vnd.docker.image.rootfs.diff.tar",
} as const;

const INDEX_TYPES: readonly string[] = [MEDIA.ociIndex, MEDIA.dockerList];
const MANIFEST_TYPES: readonly string[] = [MEDIA.ociManifest, MEDIA.dockerManifest];

/** Docker refuses deeper images; overlays end at 500. */
export const LAYERS_MAX = 480;

export interface Descriptor {
  readonly mediaType: string;
  readonly digest: string;
  readonly sizeBytes: number;
  readonly platform?: ImagePlatform;
  readonly annotations?: Readonly<Record<string, string>>;
}

export interface Manifest {
  readonly mediaType: string;
  readonly config: Descriptor;
  readonly layers: readonly Descriptor[];
}

export interface HistoryEntry {
  readonly created?: string;
  readonly created_by?: string;
  readonly author?: string;
  readonly comment?: string;
  readonly empty_layer?: boolean;
}

/** An image's config document. */
export interface ImageDocument {
  readonly architecture: string;
  readonly os: string;
  readonly variant: string;
  readonly created: string;
  readonly author: string;
  readonly config: ContainerConfig;
  /** Docker's record of the container that made the image; JSON as it is. */
  readonly containerConfig: JsonObject | undefined;
  readonly container: string;
  readonly dockerVersion: string;
  readonly comment: string;
  readonly diffIds: readonly string[];
  readonly history: readonly HistoryEntry[];
}

type Loose = Readonly<Record<string, unknown>>;

function bad(what: string, wanted: string): ClusterError {
  return new ClusterError("invalid_argument", `Cannot read image: ${what} must be ${wanted}`);
}

function string(value: unknown, fallback = ""): string {
  return typeof value === "string" ? value : fallback;
}

function parseJsonDocument(bytes: Uint8Array, what: string): Loose {
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(bytes).toString("utf8"));
  } catch {
    throw bad(what, "JSON");
  }
  if (!isObject(value)) throw bad(what, "a JSON object");
  return value;
}

function parsePlatform(value: unknown): ImagePlatform | undefined {
  if (!isObject(value)) return undefined;
  return {
    os: string(value["os"]),
    architecture: string(value["architecture"]),
    variant: string(value["variant"]),
  };
}

function parseDescriptor(value: unknown, what: string): Descriptor {
  if (!isObject(value)) throw bad(what, "a descriptor");
  const digest = value["digest"];
  const size = value["size"];
  if (typeof digest !== "string" || !isDigest(digest))
    throw bad(`${what}'s digest`, "sha256 or sha512 in hex");
  if (typeof size !== "number" || !Number.isSafeInteger(size) || size < 0)
    throw bad(`${what}'s size`, "bytes");
  const platform = parsePlatform(value["platform"]);
  const annotations = isObject(value["annotations"]) ? stringMap(value["annotations"]) : undefined;
  return {
    mediaType: string(value["mediaType"]),
    digest,
    sizeBytes: size,
    ...(platform === undefined ? {} : { platform }),
    ...(annotations === undefined ? {} : { annotations }),
  };
}

function stringMap(value: Loose): Readonly<Record<string, string>> {
  return Object.fromEntries(
    Object.entries(value).filter((entry): entry is [string, string] => typeof entry[1] === "string"),
  );
}

/** Index or manifest by what it says it is; one that could be both is refused (CVE-2021-41190). */
export function parseManifestOrIndex(
  bytes: Uint8Array,
  mediaType = "",
):
  | { readonly kind: "index"; readonly mediaType: string; readonly manifests: readonly Descriptor[] }
  | { readonly kind: "manifest"; readonly manifest: Manifest } {
  const value = parseJsonDocument(bytes, "manifest");
  if (value["schemaVersion"] !== 2)
    throw bad("manifest's schemaVersion", `2, got ${String(value["schemaVersion"])}`);
  const hasManifests = value["manifests"] !== undefined;
  const hasLayers = value["layers"] !== undefined || value["config"] !== undefined;
  if (hasManifests && hasLayers) throw bad("manifest", "either an index or a manifest, not both");
  const stated = string(value["mediaType"], mediaType);
  if (mediaType !== "" && stated !== mediaType)
    throw bad("manifest's mediaType", `"${mediaType}", got "${stated}"`);
  const isOther = hasManifests ? MANIFEST_TYPES : INDEX_TYPES;
  if (isOther.includes(stated)) throw bad("manifest's mediaType", `that of its content, got "${stated}"`);
  if (hasManifests) {
    const list = value["manifests"];
    if (!Array.isArray(list)) throw bad("index's manifests", "a list");
    const manifests = list.map((each) => parseDescriptor(each, "index entry"));
    return { kind: "index", mediaType: stated === "" ? MEDIA.ociIndex : stated, manifests };
  }
  const layers = value["layers"];
  if (!Array.isArray(layers)) throw bad("manifest's layers", "a list");
  if (layers.length > LAYERS_MAX)
    throw bad("manifest's layers", `at most ${LAYERS_MAX}, got ${layers.length}`);
  const manifest: Manifest = {
    mediaType: stated === "" ? MEDIA.ociManifest : stated,
    config: parseDescriptor(value["config"], "manifest's config"),
    layers: layers.map((each) => parseDescriptor(each, "manifest's layer")),
  };
  return { kind: "manifest", manifest };
}

function parseHistory(value: unknown): readonly HistoryEntry[] {
  if (!Array.isArray(value)) return [];
  return value.filter(isObject).map((entry) => ({
    created: string(entry["created"], ZERO_TIME),
    created_by: string(entry["created_by"]),
    ...(typeof entry["author"] === "string" ? { author: entry["author"] } : {}),
    ...(typeof entry["comment"] === "string" ? { comment: entry["comment"] } : {}),
    ...(entry["empty_layer"] === true ? { empty_layer: true } : {}),
  }));
}

export function parseImageDocument(bytes: Uint8Array): ImageDocument {
  const value = parseJsonDocument(bytes, "config");
  const rootfs = value["rootfs"];
  if (!isObject(rootfs)) throw bad("config's rootfs", "present");
  const diffIds = rootfs["diff_ids"] ?? [];
  if (!Array.isArray(diffIds) || !diffIds.every((each) => typeof each === "string" && isDigest(each))) {
    throw bad("config's rootfs.diff_ids", "a list of digests");
  }
  if (diffIds.length > LAYERS_MAX) throw bad("config's rootfs.diff_ids", `at most ${LAYERS_MAX} long`);
  const containerConfig = value["container_config"];
  return {
    architecture: string(value["architecture"]),
    os: string(value["os"], "linux"),
    variant: string(value["variant"]),
    created: string(value["created"], ZERO_TIME),
    author: string(value["author"]),
    config: isObject(value["config"]) ? (value["config"] as ContainerConfig) : {},
    containerConfig: isObject(containerConfig) ? (containerConfig as JsonObject) : undefined,
    container: string(value["container"]),
    dockerVersion: string(value["docker_version"]),
    comment: string(value["comment"]),
    diffIds: diffIds as readonly string[],
    history: parseHistory(value["history"]),
  };
}

type Check = (value: unknown) => boolean;

const isString: Check = (value) => typeof value === "string";
const isStringList: Check = (value) => Array.isArray(value) && value.every(isString);
const isCommand: Check = (value) => isString(value) || isStringList(value);
const isStringMap: Check = (value) => isObject(value) && Object.values(value).every(isString);
const isWholeNumber: Check = (value) => Number.isInteger(value);

const HEALTH_CHECKS: Readonly<Record<string, Check>> = {
  Test: isStringList,
  Interval: isWholeNumber,
  Timeout: isWholeNumber,
  StartPeriod: isWholeNumber,
  StartInterval: isWholeNumber,
  Retries: isWholeNumber,
};

/** The fields that are read, by their kind; Docker takes a text for a command of one word. */
const CONFIG_CHECKS: Readonly<Record<string, Check>> = {
  Cmd: isCommand,
  Entrypoint: isCommand,
  Env: isStringList,
  ExposedPorts: isObject,
  Healthcheck: (value) =>
    isObject(value) &&
    Object.entries(HEALTH_CHECKS).every(
      ([key, isRight]) => (value[key] ?? null) === null || isRight(value[key]),
    ),
  Labels: isStringMap,
  OnBuild: isStringList,
  Shell: isCommand,
  StopSignal: isString,
  User: isString,
  Volumes: isObject,
  WorkingDir: isString,
};

/**
 * Of an image that comes from elsewhere: throws invalid_argument for what Docker would not take. One label that is no text
 * is enough for clients to refuse the whole list of images.
 */
export function checkImageConfig({ config }: ImageDocument): void {
  const fields = config as Loose;
  for (const [key, isRight] of Object.entries(CONFIG_CHECKS)) {
    const value = fields[key] ?? null;
    if (value !== null && !isRight(value)) throw bad(`config's ${key}`, "as Docker has it");
  }
}

/** ChainIDs of all layers, lowest first: each names a layer together with everything below it. */
export function chainIdsOf(diffIds: readonly string[]): readonly string[] {
  const chain: string[] = [];
  for (const diffId of diffIds) {
    const parent = chain.at(-1);
    chain.push(
      parent === undefined
        ? diffId
        : `sha256:${createHash("sha256").update(`${parent} ${diffId}`).digest("hex")}`,
    );
  }
  return chain;
}

/** The entry of an index that fits best; undefined if none does. Attestations (platform unknown) never fit. */
export function choosePlatform(
  manifests: readonly Descriptor[],
  wanted: ImagePlatform,
): Descriptor | undefined {
  let best: { readonly descriptor: Descriptor; readonly score: number } | undefined;
  for (const descriptor of manifests) {
    const score =
      descriptor.platform === undefined
        ? manifests.length === 1
          ? 0
          : undefined
        : platformScore(descriptor.platform, wanted);
    if (score !== undefined && (best === undefined || score > best.score)) best = { descriptor, score };
  }
  return best?.descriptor;
}
