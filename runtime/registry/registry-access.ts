/**
 * Small questions to registries: does a login work, which digest has a tag. A host that answers nothing is not asked
 * again for a while, so that services of images without a registry do not wait for it each time.
 */
import { ClusterError } from "../../common/errors.ts";
import { isObject } from "../../common/json.ts";
import type { JsonObject } from "../../model/engine.ts";
import { DEFAULT_DOMAIN, type ImageReference } from "../../model/image-reference.ts";
import type { ImagePlatform } from "../../model/platforms.ts";
import { hasDigest, sha256 } from "../images/content-store.ts";
import { parseManifestOrIndex } from "../images/image-documents.ts";
import { isTransportError, type HttpCaller } from "./http-call.ts";
import { toCredentials, type RegistryCredentials } from "./registry-auth.ts";
import { RegistryClient } from "./registry-client.ts";
import { endpointsOf, type RegistryConfig } from "./registry-config.ts";
import { findManifest, pullScope, type RegistryAccess } from "./registry-pull.ts";

const SILENT_MS = 10_000;
/** Who is told sooner that a host can't be reached need not be spared the next question. */
const WAITED_MS = 1_000;
const QUESTION_TIMEOUT_MS = 8_000;

export class RegistryQuestions {
  readonly #config: RegistryConfig;
  readonly #caller: HttpCaller;
  /** Host to why and until when. */
  readonly #silent = new Map<string, { readonly error: ClusterError; readonly untilMs: number }>();

  constructor(config: RegistryConfig, caller: HttpCaller) {
    this.#config = config;
    this.#caller = caller;
  }

  #access(credentials: RegistryCredentials): RegistryAccess {
    return { config: this.#config, caller: this.#caller, credentials };
  }

  /** Docker's answer of /distribution/NAME/json. */
  async distribution(reference: ImageReference, credentials: RegistryCredentials): Promise<JsonObject> {
    const known = this.#silent.get(reference.domain);
    if (known !== undefined && known.untilMs > performance.now()) throw known.error;
    const signal = AbortSignal.timeout(QUESTION_TIMEOUT_MS);
    const askedMs = performance.now();
    try {
      const found = await findManifest(this.#access(credentials), reference, signal);
      this.#silent.delete(reference.domain);
      const parsed = parseManifestOrIndex(found.bytes, found.mediaType);
      const mediaType = parsed.kind === "index" ? parsed.mediaType : parsed.manifest.mediaType;
      const platforms =
        parsed.kind === "index"
          ? parsed.manifests.flatMap(({ platform }) =>
              platform === undefined || platform.os === "unknown" ? [] : [platform],
            )
          : [await this.#platformOf(found.client, reference, parsed.manifest.config.digest, signal)];
      return {
        Descriptor: { mediaType, digest: found.digest, size: found.bytes.length },
        Platforms: platforms.map(platformJson),
      };
    } catch (caught) {
      if (!isTransportError(caught) && !signal.aborted) throw caught;
      const error = ClusterError.from(caught);
      const nowMs = performance.now();
      if (nowMs - askedMs >= WAITED_MS)
        this.#silent.set(reference.domain, { error, untilMs: nowMs + SILENT_MS });
      throw error;
    }
  }

  async #platformOf(
    client: RegistryClient,
    reference: ImageReference,
    digest: string,
    signal: AbortSignal,
  ): Promise<ImagePlatform> {
    const { bytes } = await client.document({
      method: "GET",
      target: `/v2/${reference.path}/blobs/${digest}`,
      scope: pullScope(reference),
      signal,
      accepts: [200],
    });
    if (!hasDigest(bytes, digest)) {
      throw new ClusterError(
        "failed_precondition",
        `Blob must have the digest ${digest}, got ${sha256(bytes)}`,
      );
    }
    return platformOfConfig(bytes);
  }

  /** Docker's answer of /auth: whether the registry takes these credentials. */
  async login(auth: JsonObject): Promise<JsonObject> {
    const server = typeof auth["serveraddress"] === "string" ? auth["serveraddress"] : "";
    const domain = loginDomain(server);
    const credentials = toCredentials(auth);
    let failure: unknown;
    let asked = "";
    for (const endpoint of endpointsOf(domain, this.#config, true)) {
      const client = new RegistryClient(endpoint, credentials, this.#caller, { wantsRefreshToken: true });
      asked = new URL("/v2/", endpoint.url).href;
      try {
        const answer = await client.request({
          method: "GET",
          target: "/v2/",
          scope: "",
          signal: AbortSignal.timeout(QUESTION_TIMEOUT_MS),
          accepts: [200],
          isOnce: true,
        });
        answer.body.resume();
        return { Status: "Login Succeeded", IdentityToken: client.refreshToken };
      } catch (caught) {
        failure = caught;
        if (!isTransportError(caught)) break;
      }
    }
    if (failure instanceof ClusterError && failure.code === "unauthenticated") {
      throw new ClusterError(
        "unauthenticated",
        `login attempt to ${asked} failed with status: 401 Unauthorized: ${failure.message}`,
        {
          cause: failure,
        },
      );
    }
    throw failure;
  }
}

/** The registry of a login's server address, which may be a URL or Docker Hub's old name. */
function loginDomain(server: string): string {
  const host = server.replace(/^https?:\/\//, "").replace(/\/.*$/, "");
  return host === "" || host === "index.docker.io" || host === "registry-1.docker.io" ? DEFAULT_DOMAIN : host;
}

/** Also of artifacts that are no images, whose config may be anything. */
function platformOfConfig(bytes: Buffer): ImagePlatform {
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString("utf8"));
  } catch {
    value = undefined;
  }
  const fields = isObject(value) ? value : {};
  const text = (key: string, fallback: string): string => {
    const field = fields[key];
    return typeof field === "string" ? field : fallback;
  };
  return { os: text("os", "linux"), architecture: text("architecture", ""), variant: text("variant", "") };
}

function platformJson(platform: ImagePlatform): JsonObject {
  const { os, architecture, variant } = platform;
  return { architecture, os, ...(variant === "" ? {} : { variant }) };
}
