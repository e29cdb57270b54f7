/**
 * `docker pull`: an image from its registry (or a mirror of it). Finds the manifest for this machine and lets
 * image-fetch.ts bring the rest. Errors in Docker's words.
 */
import { Readable } from "node:stream";
import { ClusterError, hasCode } from "../../common/errors.ts";
import type { BlobPeers, ImageDescription, ProgressLine } from "../../model/engine.ts";
import {
  canonicalForm,
  familiarForm,
  familiarName,
  isDigest,
  isTag,
  type ImageReference,
} from "../../model/image-reference.ts";
import type { ImagePlatform } from "../../model/platforms.ts";
import { DOCUMENT_BYTES_MAX, hasDigest, sha256 } from "../images/content-store.ts";
import { makeDurable, nameImage } from "../images/durable-images.ts";
import { imageEvent } from "../images/image-events.ts";
import {
  choosePlatform,
  MEDIA,
  parseManifestOrIndex,
  type Descriptor,
  type Manifest,
} from "../images/image-documents.ts";
import type { ImageRecord } from "../images/image-records.ts";
import { keepIndex, type ImageStorage } from "../images/image-storage.ts";
import type { BlobSource } from "./blob-stream.ts";
import { isTransportError, type HttpCaller } from "./http-call.ts";
import { fetchImage, offeredImage, parseManifest } from "./image-fetch.ts";
import { NearbyPeers } from "./nearby-peers.ts";
import type { RegistryCredentials } from "./registry-auth.ts";
import { RegistryClient } from "./registry-client.ts";
import { endpointsOf, type RegistryConfig } from "./registry-config.ts";

const ACCEPT = [
  MEDIA.ociIndex,
  MEDIA.ociManifest,
  MEDIA.dockerList,
  MEDIA.dockerManifest,
  "application/vnd.docker.distribution.manifest.v1+prettyjws",
].join(", ");

const TAGS_PAGE = 1000;
/** More are an endless list. */
const TAGS_MAX = 100_000;

export interface RegistryAccess {
  readonly config: RegistryConfig;
  readonly caller: HttpCaller;
  readonly credentials: RegistryCredentials;
}

export interface FoundManifest {
  readonly client: RegistryClient;
  /** Hosts that come after it, should it not have the rest. */
  readonly others: readonly RegistryClient[];
  readonly bytes: Buffer;
  readonly mediaType: string;
  readonly digest: string;
}

export function pullScope(reference: ImageReference): string {
  return `repository:${reference.path}:pull`;
}

/** The manifest or index that the reference names, and the host that has it. */
export async function findManifest(
  access: RegistryAccess,
  reference: ImageReference,
  signal: AbortSignal,
): Promise<FoundManifest> {
  const clients = endpointsOf(reference.domain, access.config).map(
    (endpoint) => new RegistryClient(endpoint, access.credentials, access.caller),
  );
  const wanted = reference.digest ?? reference.tag ?? "latest";
  try {
    return await manifestOfFirst(clients, reference, wanted, signal);
  } catch (caught) {
    throw pullError(caught, reference);
  }
}

/** All tags of the repository, in the registry's order. */
export async function listTags(
  access: RegistryAccess,
  reference: ImageReference,
  signal: AbortSignal,
): Promise<readonly string[]> {
  let failure: unknown;
  // A mirror may know only some.
  for (const endpoint of endpointsOf(reference.domain, access.config, true)) {
    const client = new RegistryClient(endpoint, access.credentials, access.caller);
    try {
      return await tagsOf(client, reference, signal);
    } catch (caught) {
      failure = caught;
      if (!isTransportError(caught) || signal.aborted) break;
    }
  }
  throw pullError(failure, reference);
}

async function tagsOf(
  client: RegistryClient,
  reference: ImageReference,
  signal: AbortSignal,
): Promise<readonly string[]> {
  const tags: string[] = [];
  // Names that are no tags count as well: they could go on without end too.
  let nameCount = 0;
  let target: string | undefined = `/v2/${reference.path}/tags/list?n=${TAGS_PAGE}`;
  while (target !== undefined && nameCount <= TAGS_MAX) {
    const scope = pullScope(reference);
    const { answer, bytes } = await client.document({ method: "GET", target, scope, signal, accepts: [200] });
    const page = JSON.parse(bytes.toString("utf8")) as { readonly tags?: unknown };
    const names = (Array.isArray(page.tags) ? page.tags : []) as readonly unknown[];
    // A page with nothing on it leads nowhere, whatever it says comes next.
    if (names.length === 0) break;
    nameCount += names.length;
    for (const name of names) if (typeof name === "string" && isTag(name)) tags.push(name);
    const next = /<([^>]+)>\s*;\s*rel="?next"?/.exec(String(answer.headers["link"] ?? ""))?.[1];
    target = next === undefined ? undefined : new URL(next, answer.url).href;
  }
  return tags;
}

/** From the first of `clients` that has it. The registry's own "no" is final. */
async function manifestOfFirst(
  clients: readonly RegistryClient[],
  reference: ImageReference,
  wanted: string,
  signal: AbortSignal,
): Promise<FoundManifest> {
  let failure: unknown;
  for (const [index, client] of clients.entries()) {
    try {
      const found = await getManifest(client, reference, wanted, signal);
      return { ...found, others: clients.slice(index + 1) };
    } catch (caught) {
      // A host that answered "no" is more telling than one that is not there.
      if (failure === undefined || !isTransportError(caught) || isTransportError(failure)) failure = caught;
      const isFinal = client.endpoint.mirrorOf === undefined && !isTransportError(caught);
      if (isFinal || signal.aborted) break;
    }
  }
  throw failure;
}

async function getManifest(
  client: RegistryClient,
  reference: ImageReference,
  wanted: string,
  signal: AbortSignal,
): Promise<Omit<FoundManifest, "others">> {
  const { answer, bytes } = await client.document({
    method: "GET",
    target: `/v2/${reference.path}/manifests/${wanted}`,
    headers: { Accept: ACCEPT },
    scope: pullScope(reference),
    signal,
    accepts: [200],
  });
  if (bytes.length > DOCUMENT_BYTES_MAX)
    throw new ClusterError("failed_precondition", "Manifest is too large");
  const digest = sha256(bytes);
  const stated = answer.headers["docker-content-digest"];
  const isWrong = isDigest(wanted) ? !hasDigest(bytes, wanted) : isOther(stated, bytes);
  if (isWrong) {
    throw new ClusterError(
      "failed_precondition",
      `manifest verification failed for digest ${wanted.includes(":") ? wanted : String(stated)}`,
    );
  }
  const mediaType = (answer.headers["content-type"] ?? "").split(";")[0]?.trim() ?? "";
  return { client, bytes, mediaType: isManifestType(mediaType) ? mediaType : "", digest };
}

function isOther(stated: string | string[] | undefined, bytes: Buffer): boolean {
  return typeof stated === "string" && isDigest(stated) && !hasDigest(bytes, stated);
}

/** Some registries say "application/json"; then the document must say what it is. */
function isManifestType(mediaType: string): boolean {
  if (mediaType.startsWith("application/vnd.docker.distribution.manifest.v1")) {
    throw new ClusterError(
      "failed_precondition",
      "Cannot pull image: its manifest has schema version 1, which is no longer supported",
    );
  }
  return [MEDIA.ociIndex, MEDIA.ociManifest, MEDIA.dockerList, MEDIA.dockerManifest].some(
    (each) => each === mediaType,
  );
}

function pullError(caught: unknown, reference: ImageReference): unknown {
  if (!(caught instanceof ClusterError)) return caught;
  const registryCode = caught.details["registryCode"];
  const name = familiarName(reference);
  if (
    registryCode === "MANIFEST_UNKNOWN" ||
    (hasCode(caught, "not_found") && registryCode !== "NAME_UNKNOWN")
  ) {
    return new ClusterError(
      "not_found",
      `manifest for ${familiarForm(reference)} not found: ${caught.message}`,
      {
        cause: caught,
      },
    );
  }
  if (registryCode === "NAME_UNKNOWN" || registryCode === "DENIED" || hasCode(caught, "permission_denied")) {
    return new ClusterError(
      "not_found",
      `pull access denied for ${name}, repository does not exist or may require 'docker login': ${caught.message}`,
      { cause: caught },
    );
  }
  return caught;
}

/** A registry host as a source of blobs, by ranges where it knows them. */
export function registrySource(
  client: RegistryClient,
  reference: ImageReference,
  digest: string,
  isReserve = false,
): BlobSource {
  return {
    name: client.endpoint.url,
    isReserve,
    open: async (offset, length, signal) => {
      const answer = await client
        .request({
          method: "GET",
          target: `/v2/${reference.path}/blobs/${digest}`,
          headers: { Range: `bytes=${offset}-${offset + length - 1}` },
          scope: pullScope(reference),
          signal,
          accepts: [200, 206],
        })
        .catch((caught: unknown) => {
          // It has been waited for as long as the registry wanted: not a peer that is busy for a moment.
          if (!hasCode(caught, "resource_exhausted")) throw caught;
          throw new ClusterError("unavailable", caught.message, { cause: caught });
        });
      const range = /^bytes (\d+)-/.exec(answer.headers["content-range"] ?? "");
      const start = answer.status === 206 ? Number(range?.[1] ?? Number.NaN) : 0;
      // It must give what was asked for, or all of it from the start.
      if (start !== offset && start !== 0) {
        answer.body.destroy();
        throw new ClusterError("unavailable", `registry answered another range than asked for`, {
          retryable: true,
        });
      }
      return start === offset ? answer.body : skip(answer.body, offset);
    },
  };
}

/** The same stream without its first `count` bytes. */
function skip(stream: Readable, count: number): Readable {
  async function* rest(): AsyncGenerator<Buffer> {
    let left = count;
    for await (const chunk of stream) {
      const bytes = chunk as Buffer;
      if (bytes.length > left) yield bytes.subarray(left);
      left = Math.max(0, left - bytes.length);
    }
  }
  return Readable.from(rest(), { objectMode: false });
}

export interface RegistryPull {
  readonly reference: ImageReference;
  readonly platform: ImagePlatform;
  readonly access: RegistryAccess;
  readonly report: (line: ProgressLine) => void;
  readonly signal: AbortSignal;
  /** Other nodes that may have some of it, or come to have it meanwhile. */
  readonly peers: BlobPeers | undefined;
  /** Called with what is being pulled as soon as it can be offered to others, and with undefined at the end. */
  readonly offer: (image: ImageDescription | undefined) => void;
}

async function platformManifest(
  found: FoundManifest,
  pull: RegistryPull,
): Promise<{ readonly bytes: Buffer; readonly manifest: Manifest }> {
  const parsed = parseManifestOrIndex(found.bytes, found.mediaType);
  if (parsed.kind === "manifest") return { bytes: found.bytes, manifest: parsed.manifest };
  const chosen = choosePlatform(parsed.manifests, pull.platform);
  if (chosen === undefined) {
    const { os, architecture, variant } = pull.platform;
    const wanted = [os, architecture, variant].filter((part) => part !== "").join("/");
    throw new ClusterError("not_found", `no matching manifest for ${wanted} in the manifest list entries`);
  }
  const clients = [found.client, ...found.others];
  const inner = await manifestOfFirst(clients, pull.reference, chosen.digest, pull.signal);
  return { bytes: inner.bytes, manifest: parseManifest(inner.bytes, inner.mediaType) };
}

export async function pullFromRegistry(storage: ImageStorage, pull: RegistryPull): Promise<ImageRecord> {
  const { records, leases } = storage;
  const { reference, report } = pull;
  const found = await findManifest(pull.access, reference, pull.signal);
  report({ status: `Pulling from ${reference.path}`, id: reference.tag ?? found.digest });
  const { bytes, manifest } = await platformManifest(found, pull);
  const lease = leases.open();
  const wanted = { reference: canonicalForm({ ...reference, digest: found.digest }), likely: [] };
  const nearby = pull.peers === undefined ? undefined : new NearbyPeers(pull.peers, wanted);
  const fromRegistry = new Map<string, readonly BlobSource[]>();
  const sourcesOf = ({ digest }: Descriptor): readonly BlobSource[] => {
    const sources = fromRegistry.get(digest) ?? [
      registrySource(found.client, reference, digest),
      ...found.others.map((client) => registrySource(client, reference, digest, true)),
    ];
    fromRegistry.set(digest, sources);
    return [...(nearby?.sourcesOf(digest) ?? []), ...sources];
  };
  try {
    const before = records.find(canonicalForm(reference))?.id;
    const index = found.digest === sha256(bytes) ? undefined : await keepIndex(storage, found, lease);
    const record = await fetchImage(storage, {
      manifestBytes: bytes,
      manifest,
      lease,
      report,
      signal: pull.signal,
      sourcesOf,
      onConfig: () => pull.offer(offeredImage(storage, reference, { bytes, manifest, index })),
    });
    if (index !== undefined) await records.addIndex(record.id, index);
    await makeDurable(storage, record);
    await records.addDigest(reference, found.digest, record.id);
    if (reference.digest === undefined) await nameImage(storage, reference, record);
    report({ status: `Digest: ${found.digest}` });
    const isNew = before !== record.id;
    report({
      status: `Status: ${isNew ? "Downloaded newer image" : "Image is up to date"} for ${familiarForm(reference)}`,
    });
    imageEvent(storage, "pull", record.id, canonicalForm(reference));
    return record;
  } finally {
    nearby?.stop();
    pull.offer(undefined);
    lease.release();
  }
}
