/**
 * `docker push`: what the registry lacks of an image, then its manifest. Layers it has are found by HEAD, or mounted from
 * another repository of it that we know has them; the rest is uploaded, large ones in chunks that can be gone on with.
 */
import { createReadStream } from "node:fs";
import { Readable } from "node:stream";
import { ClusterError, hasCode } from "../../common/errors.ts";
import type { ProgressLine } from "../../model/engine.ts";
import {
  canonicalForm,
  canonicalName,
  familiarName,
  parseReference,
  type ImageReference,
} from "../../model/image-reference.ts";
import { sha256 } from "../images/content-store.ts";
import { imageEvent } from "../images/image-events.ts";
import { makeManifest } from "../images/image-manifest.ts";
import type { ImageRecord, LayerRecord } from "../images/image-records.ts";
import { holdImage, type ImageStorage } from "../images/image-storage.ts";
import { progressLine, shortId } from "../images/progress.ts";
import { compressLayer, pushedForm, type PushedLayer } from "./compressed-layers.ts";
import { BlobUploads } from "./blob-upload.ts";
import { type HttpAnswer, isTransportError } from "./http-call.ts";
import { RegistryClient, type RegistryRequest } from "./registry-client.ts";
import { endpointsOf } from "./registry-config.ts";
import type { RegistryAccess } from "./registry-pull.ts";

const MOUNT_TRIES_MAX = 3;
const PARALLEL_COUNT = 3;
const PROGRESS_BYTES = 512 * 1024;

export interface RegistryPush {
  /** With a tag. */
  readonly reference: ImageReference;
  readonly record: ImageRecord;
  readonly access: RegistryAccess;
  readonly report: (line: ProgressLine) => void;
  readonly signal: AbortSignal;
  /** For tests: chunks of another size. */
  readonly chunkBytes?: number;
}

class Pusher {
  readonly #storage: ImageStorage;
  readonly #push: RegistryPush;
  readonly #client: RegistryClient;
  readonly #scope: string;
  readonly #uploads: BlobUploads;

  constructor(storage: ImageStorage, push: RegistryPush, client: RegistryClient) {
    this.#storage = storage;
    this.#push = push;
    this.#client = client;
    this.#scope = pushScope(push.reference);
    const { signal, chunkBytes } = push;
    this.#uploads = new BlobUploads({ client, path: this.#path, scope: this.#scope, signal, chunkBytes });
  }

  get #path(): string {
    return this.#push.reference.path;
  }

  #line(layer: LayerRecord, status: string): void {
    this.#push.report({ status, progressDetail: {}, id: shortId(layer.diffId) });
  }

  async run(): Promise<void> {
    const { record, reference, report } = this.#push;
    for (const layer of record.layers) this.#line(layer, "Preparing");
    const pushed = await this.#layers();
    const configBytes = this.#storage.content.readDocument(record.id);
    await this.#uploads.ensure({
      digest: record.id,
      sizeBytes: configBytes.length,
      open: (from, length) => Readable.from([configBytes.subarray(from, from + length)]),
      onProgress: () => {},
    });
    const isAsStored = pushed.every((layer, index) => layer.digest === record.layers[index]?.digest);
    const manifestBytes = isAsStored
      ? this.#storage.content.readDocument(record.manifest.digest)
      : makeManifest(configBytes, pushed);
    const mediaType = isAsStored ? record.manifest.mediaType : "application/vnd.oci.image.manifest.v1+json";
    const answer = await this.#client.request({
      method: "PUT",
      target: `/v2/${this.#path}/manifests/${reference.tag ?? "latest"}`,
      headers: { "Content-Type": mediaType },
      body: manifestBytes,
      scope: this.#scope,
      signal: this.#push.signal,
      accepts: [200, 201, 202],
    });
    answer.body.resume();
    const digest = sha256(manifestBytes);
    await this.#storage.records.addDigest(reference, digest, record.id);
    const tag = reference.tag ?? "latest";
    report({ status: `${tag}: digest: ${digest} size: ${manifestBytes.length}` });
    report({ progressDetail: {}, aux: { Tag: tag, Digest: digest, Size: manifestBytes.length } });
  }

  /** A few at a time, answers in order. */
  async #layers(): Promise<readonly PushedLayer[]> {
    const { layers } = this.#push.record;
    const pushed: PushedLayer[] = [];
    let next = 0;
    const work = async (): Promise<void> => {
      for (let index = next++; index < layers.length; index = next++) {
        const layer = layers[index];
        if (layer !== undefined) pushed[index] = await this.#layer(layer);
      }
    };
    await Promise.all(Array.from({ length: PARALLEL_COUNT }, work));
    return pushed;
  }

  async #layer(layer: LayerRecord): Promise<PushedLayer> {
    const { content, env } = this.#storage;
    const form = await pushedForm(this.#storage, layer);
    let temporary = form.compressedPath;
    try {
      if (await this.#uploads.has(form.digest)) {
        this.#line(layer, "Layer already exists");
        return form;
      }
      const from = await this.#mount(layer, form.digest);
      if (from !== undefined) {
        this.#line(layer, `Mounted from ${from}`);
        return form;
      }
      if (form.digest !== layer.digest && temporary === undefined) {
        const fresh = await compressLayer(this.#storage, layer);
        temporary = fresh.compressedPath;
        // Another version of the compressor: the memory was wrong, what we have now counts.
        if (fresh.digest !== form.digest) return await this.#send(layer, fresh, temporary);
      }
      return await this.#send(layer, form, temporary ?? content.pathOf(form.digest));
    } finally {
      if (temporary !== undefined) await env.disk.remove(temporary);
    }
  }

  async #send(layer: LayerRecord, form: PushedLayer, file: string): Promise<PushedLayer> {
    let told = 0;
    await this.#uploads.upload({
      digest: form.digest,
      sizeBytes: form.sizeBytes,
      open: (from, length) =>
        createReadStream(file, { start: from, end: from + length - 1, highWaterMark: 256 * 1024 }),
      onProgress: (sent) => {
        if (Math.abs(sent - told) < PROGRESS_BYTES && sent !== form.sizeBytes) return;
        told = sent;
        this.#push.report(progressLine(shortId(layer.diffId), "Pushing", sent, form.sizeBytes));
      },
    });
    this.#line(layer, "Pushed");
    return form;
  }

  /** Repositories of the same registry that images here with this layer were pulled from or pushed to. */
  #mountCandidates(layer: LayerRecord): readonly string[] {
    const { records } = this.#storage;
    const candidates = new Set<string>();
    for (const record of records.images()) {
      // By what it holds: it is pushed in another form than it is kept here.
      if (!record.layers.some((each) => each.diffId === layer.diffId)) continue;
      for (const name of records.digestsOf(record.id)) {
        const parsed = parseReference(name);
        const isOther = canonicalName(parsed) !== canonicalName(this.#push.reference);
        if (parsed.domain === this.#push.reference.domain && isOther) candidates.add(parsed.path);
      }
    }
    return [...candidates].slice(0, MOUNT_TRIES_MAX);
  }

  /** Only saves sending the layer, so whatever a registry or its authority says against it is no failure. */
  async #mount(layer: LayerRecord, digest: string): Promise<string | undefined> {
    for (const from of this.#mountCandidates(layer)) {
      const answer = await this.#attempt({
        method: "POST",
        target: `/v2/${this.#path}/blobs/uploads/?mount=${encodeURIComponent(digest)}&from=${encodeURIComponent(from)}`,
        headers: { "Content-Length": "0" },
        scope: `${this.#scope} repository:${from}:pull`,
        accepts: [201, 202],
      });
      if (answer?.status === 201) return from;
      const { location } = answer?.headers ?? {};
      if (location === undefined) continue;
      // An upload that the registry began in place of a mount.
      await this.#attempt({
        method: "DELETE",
        target: location,
        scope: this.#scope,
        accepts: [200, 202, 204],
      });
    }
    return undefined;
  }

  /** One request that may fail. */
  async #attempt(
    request: Pick<RegistryRequest, "method" | "target" | "headers" | "scope" | "accepts">,
  ): Promise<HttpAnswer | undefined> {
    const { signal } = this.#push;
    try {
      const answer = await this.#client.request({ ...request, signal, isOnce: true });
      answer.body.resume();
      return answer;
    } catch {
      signal.throwIfAborted();
      return undefined;
    }
  }
}

export function pushScope(reference: ImageReference): string {
  return `repository:${reference.path}:pull,push`;
}

export async function pushToRegistry(storage: ImageStorage, push: RegistryPush): Promise<void> {
  const { reference, record } = push;
  push.report({ status: `The push refers to repository [${canonicalName(reference)}]` });
  const lease = storage.leases.open();
  try {
    holdImage(record, lease);
    let failure: unknown;
    for (const endpoint of endpointsOf(reference.domain, push.access.config, true)) {
      const client = new RegistryClient(endpoint, push.access.credentials, push.access.caller);
      try {
        await new Pusher(storage, push, client).run();
        imageEvent(storage, "push", record.id, canonicalForm(reference));
        return;
      } catch (caught) {
        failure = caught;
        if (!isTransportError(caught)) break;
      }
    }
    throw pushError(failure, reference);
  } finally {
    lease.release();
  }
}

function pushError(caught: unknown, reference: ImageReference): unknown {
  const isKnown = hasCode(caught, "unauthenticated", "permission_denied");
  if (isKnown && !/^unauthorized|: no basic auth credentials$/.test(caught.message)) {
    return new ClusterError("permission_denied", `denied: requested access to the resource is denied`, {
      cause: caught,
      details: { repository: familiarName(reference) },
    });
  }
  return caught;
}
