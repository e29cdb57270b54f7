/**
 * Managed plugins from and to registries: what one asks for before it is pulled, pull, push. Errors and progress in
 * Docker's words.
 */
import { createReadStream } from "node:fs";
import path from "node:path";
import { ClusterError } from "../../common/errors.ts";
import type { ProgressLine } from "../../model/engine.ts";
import {
  canonicalName,
  familiarForm,
  familiarName,
  type ImageReference,
} from "../../model/image-reference.ts";
import { parseManifestOrIndex, type Manifest } from "../images/image-documents.ts";
import { progressLine, shortId } from "../images/progress.ts";
import { blobPieces } from "../registry/blob-stream.ts";
import { BlobUploads } from "../registry/blob-upload.ts";
import { isTransportError, type HttpCaller } from "../registry/http-call.ts";
import { fetchDocument } from "../registry/image-fetch.ts";
import type { RegistryCredentials } from "../registry/registry-auth.ts";
import { RegistryClient } from "../registry/registry-client.ts";
import { endpointsOf, type RegistryConfig } from "../registry/registry-config.ts";
import { pushScope } from "../registry/registry-push.ts";
import { findManifest, registrySource, type FoundManifest } from "../registry/registry-pull.ts";
import { PLUGIN_CONFIG_TYPE, type PluginBundles, type StagedBundle } from "./plugin-bundles.ts";
import { parsePluginConfig, type PluginConfig } from "./plugin-config.ts";
import type { BlobRecord, PluginRecord } from "./plugin-records.ts";

export interface PluginTransfer {
  readonly reference: ImageReference;
  readonly credentials: RegistryCredentials;
  readonly report: (line: ProgressLine) => void;
  readonly signal: AbortSignal;
}

interface FoundPlugin {
  readonly found: FoundManifest;
  readonly manifest: Manifest;
  readonly configBytes: Buffer;
  readonly config: PluginConfig;
}

export interface PluginRegistryParts {
  readonly config: RegistryConfig;
  readonly caller: HttpCaller;
  readonly bundles: PluginBundles;
}

export class PluginRegistry {
  readonly #parts: PluginRegistryParts;

  constructor(parts: PluginRegistryParts) {
    this.#parts = parts;
  }

  async #find(transfer: PluginTransfer): Promise<FoundPlugin> {
    const { reference, credentials, signal } = transfer;
    const access = { ...this.#parts, credentials };
    const found = await findManifest(access, reference, signal);
    const parsed = parseManifestOrIndex(found.bytes, found.mediaType);
    if (parsed.kind === "index" || parsed.manifest.config.mediaType !== PLUGIN_CONFIG_TYPE) {
      const got = parsed.kind === "index" ? parsed.mediaType : parsed.manifest.config.mediaType;
      throw new ClusterError(
        "invalid_argument",
        `did not find plugin config for specified reference ${familiarForm(reference)}: it is "${got}"`,
      );
    }
    const { manifest } = parsed;
    const source = registrySource(found.client, reference, manifest.config.digest);
    const configBytes = await fetchDocument(manifest.config, () => [source], signal);
    return { found, manifest, configBytes, config: parsePluginConfig(configBytes) };
  }

  async config(transfer: PluginTransfer): Promise<PluginConfig> {
    return (await this.#find(transfer)).config;
  }

  /** Files go to `staging`/rootfs, blobs to the store. `check` may refuse before anything large is fetched. */
  async pull(
    transfer: PluginTransfer,
    staging: string,
    check: (config: PluginConfig) => void,
  ): Promise<StagedBundle> {
    const { reference, report, signal } = transfer;
    const plugin = await this.#find(transfer);
    const { found, manifest, configBytes, config } = plugin;
    report({ status: `Pulling from ${familiarName(reference)}`, id: reference.tag ?? found.digest });
    check(config);
    const [layer] = manifest.layers;
    if (layer === undefined || manifest.layers.length > 1)
      throw new ClusterError(
        "unimplemented",
        `Cannot install plugin ${familiarForm(reference)}: it must have one layer, got ${manifest.layers.length}`,
      );
    const id = shortId(layer.digest);
    report({ status: "Pulling fs layer", progressDetail: {}, id });
    const source = registrySource(found.client, reference, layer.digest);
    let current = 0;
    await this.#parts.bundles.arriving(layer, path.join(staging, "rootfs"), {
      source: blobPieces(() => [source], { ...layer, signal }),
      onProgress: (bytes) => {
        current += bytes;
        report(progressLine(id, "Downloading", current, layer.sizeBytes));
      },
    });
    report({ status: "Download complete", progressDetail: {}, id });
    report({ status: `Digest: ${found.digest}` });
    const { content } = this.#parts.bundles;
    const configDigest = await content.put(configBytes);
    const manifestDigest = await content.put(found.bytes);
    return {
      staging,
      manifest: { digest: manifestDigest, sizeBytes: found.bytes.length },
      configBlob: { digest: configDigest, sizeBytes: configBytes.length },
      layers: [{ digest: layer.digest, sizeBytes: layer.sizeBytes }],
      config,
    };
  }

  async push(record: PluginRecord, transfer: PluginTransfer): Promise<void> {
    const { reference, report, credentials } = transfer;
    report({ status: `The push refers to repository [${canonicalName(reference)}]` });
    let failure: unknown;
    for (const endpoint of endpointsOf(reference.domain, this.#parts.config, true)) {
      const client = new RegistryClient(endpoint, credentials, this.#parts.caller);
      try {
        await this.#pushTo(client, record, transfer);
        return;
      } catch (caught) {
        failure = caught;
        if (!isTransportError(caught)) break;
      }
    }
    throw failure;
  }

  async #pushTo(client: RegistryClient, record: PluginRecord, transfer: PluginTransfer): Promise<void> {
    const { reference, report, signal } = transfer;
    const tag = reference.tag ?? "latest";
    const scope = pushScope(reference);
    const uploads = new BlobUploads({ client, path: reference.path, scope, signal });
    for (const blob of record.layers) await this.#pushBlob(uploads, blob, report);
    await this.#pushBlob(uploads, record.configBlob, () => {});
    const bytes = this.#parts.bundles.content.readDocument(record.manifest.digest);
    const parsed = parseManifestOrIndex(bytes);
    const answer = await client.request({
      method: "PUT",
      target: `/v2/${reference.path}/manifests/${tag}`,
      headers: { "Content-Type": parsed.kind === "manifest" ? parsed.manifest.mediaType : parsed.mediaType },
      body: bytes,
      scope,
      signal,
      accepts: [200, 201, 202],
    });
    answer.body.resume();
    const { digest } = record.manifest;
    report({ status: `${tag}: digest: ${digest} size: ${bytes.length}` });
    report({ progressDetail: {}, aux: { Tag: tag, Digest: digest, Size: bytes.length } });
  }

  async #pushBlob(
    uploads: BlobUploads,
    blob: BlobRecord,
    report: (line: ProgressLine) => void,
  ): Promise<void> {
    const id = shortId(blob.digest);
    report({ status: "Preparing", progressDetail: {}, id });
    const isNew = await uploads.ensure({
      ...blob,
      open: (from, length) =>
        createReadStream(this.#parts.bundles.content.pathOf(blob.digest), {
          start: from,
          end: from + length - 1,
        }),
      onProgress: (sent) => report(progressLine(id, "Pushing", sent, blob.sizeBytes)),
    });
    report({ status: isNew ? "Pushed" : "Layer already exists", progressDetail: {}, id });
  }
}
