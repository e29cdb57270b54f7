/**
 * Blobs on their way to one repository of a registry: asked for first, sent whole or in chunks, and begun anew where
 * the way broke or the registry lost track. Used by pushes of images and of plugins.
 */
import type { Readable } from "node:stream";
import { ClusterError } from "../../common/errors.ts";
import type { RegistryClient } from "./registry-client.ts";

/** Larger blobs go in chunks. */
const CHUNK_BYTES = 64 * 1024 * 1024;
const CHUNK_ATTEMPTS_MAX = 5;
/** Times that an upload is begun. */
const UPLOAD_ATTEMPTS_MAX = 3;

export interface Upload {
  readonly digest: string;
  readonly sizeBytes: number;
  readonly open: (from: number, length: number) => Readable;
  /** With all bytes sent so far: less than before when some have to be sent again. */
  readonly onProgress: (sentBytes: number) => void;
}

export interface BlobUploadsOptions {
  readonly client: RegistryClient;
  /** Of the repository. */
  readonly path: string;
  readonly scope: string;
  readonly signal: AbortSignal;
  /** For tests: chunks of another size. */
  readonly chunkBytes?: number | undefined;
}

export class BlobUploads {
  readonly #options: BlobUploadsOptions;

  constructor(options: BlobUploadsOptions) {
    this.#options = options;
  }

  async has(digest: string): Promise<boolean> {
    const answer = await this.#options.client.request({
      method: "HEAD",
      target: `/v2/${this.#options.path}/blobs/${digest}`,
      scope: this.#options.scope,
      signal: this.#options.signal,
      accepts: [200, 404],
    });
    answer.body.resume();
    return answer.status === 200;
  }

  /** Sends it unless the repository has it; false: it had. */
  async ensure(upload: Upload): Promise<boolean> {
    if (await this.has(upload.digest)) return false;
    await this.upload(upload);
    return true;
  }

  async upload(upload: Upload): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      try {
        await this.#uploadOnce(upload);
        return;
      } catch (caught) {
        this.#options.signal.throwIfAborted();
        if (attempt >= UPLOAD_ATTEMPTS_MAX || !mayGoBetterAnew(caught)) throw caught;
        // It may have got there all the same.
        if (await this.has(upload.digest)) return;
      }
    }
  }

  async #uploadOnce(upload: Upload): Promise<void> {
    const answer = await this.#options.client.request({
      method: "POST",
      target: `/v2/${this.#options.path}/blobs/uploads/`,
      headers: { "Content-Length": "0" },
      scope: this.#options.scope,
      signal: this.#options.signal,
      accepts: [202],
    });
    answer.body.resume();
    const location = this.#location(answer.headers.location);
    const chunkBytes = this.#options.chunkBytes ?? CHUNK_BYTES;
    if (upload.sizeBytes <= chunkBytes) {
      await this.#finish(location, upload, { from: 0, length: upload.sizeBytes });
      return;
    }
    await this.#chunks(location, upload, chunkBytes);
  }

  #location(location: string | undefined): string {
    if (location === undefined) {
      throw new ClusterError("internal", "Cannot push: registry began an upload without saying where");
    }
    return new URL(location, this.#options.client.endpoint.url).href;
  }

  /** The last request of an upload, with all or the rest of the bytes. */
  async #finish(
    location: string,
    upload: Upload,
    part: { readonly from: number; readonly length: number },
  ): Promise<void> {
    const url = new URL(location);
    url.searchParams.set("digest", upload.digest);
    const answer = await this.#options.client.request({
      method: "PUT",
      target: url.href,
      headers: { "Content-Type": "application/octet-stream", "Content-Length": String(part.length) },
      ...(part.length === 0 ? {} : { openBody: () => counted(upload, part) }),
      scope: this.#options.scope,
      signal: this.#options.signal,
      accepts: [201, 204],
      // What has arrived of it would be there twice.
      isOnce: true,
    });
    answer.body.resume();
  }

  async #chunks(start: string, upload: Upload, chunkBytes: number): Promise<void> {
    let location = start;
    let sent = 0;
    let failures = 0;
    while (sent < upload.sizeBytes) {
      const length = Math.min(chunkBytes, upload.sizeBytes - sent);
      try {
        const answer = await this.#options.client.request({
          method: "PATCH",
          target: location,
          headers: {
            "Content-Type": "application/octet-stream",
            "Content-Length": String(length),
            "Content-Range": `${sent}-${sent + length - 1}`,
          },
          openBody: () => counted(upload, { from: sent, length }),
          scope: this.#options.scope,
          signal: this.#options.signal,
          accepts: [201, 202, 204],
          isOnce: true,
        });
        answer.body.resume();
        location = this.#location(answer.headers.location);
        sent += length;
        failures = 0;
      } catch (caught) {
        this.#options.signal.throwIfAborted();
        if (++failures >= CHUNK_ATTEMPTS_MAX || !mayGoBetterAnew(caught)) throw caught;
        // What arrived before the break counts; where the upload itself is lost, this says so.
        ({ location, sent } = await this.#uploaded(location));
      }
    }
    await this.#finish(location, upload, { from: sent, length: 0 });
  }

  async #uploaded(location: string): Promise<{ readonly location: string; readonly sent: number }> {
    const answer = await this.#options.client.request({
      method: "GET",
      target: location,
      scope: this.#options.scope,
      signal: this.#options.signal,
      accepts: [204],
    });
    answer.body.resume();
    const end = Number(/^(?:bytes=)?0-(\d+)$/.exec(String(answer.headers["range"] ?? ""))?.[1] ?? "0");
    const next = answer.headers.location === undefined ? location : this.#location(answer.headers.location);
    // "0-0" is how registries write that there is nothing yet.
    return { location: next, sent: end === 0 ? 0 : end + 1 };
  }
}

/** A part of the upload's bytes, with progress told while they go out. */
function counted(upload: Upload, part: { readonly from: number; readonly length: number }): Readable {
  const stream = upload.open(part.from, part.length);
  let sent = part.from;
  stream.on("data", (chunk: Buffer) => {
    sent += chunk.length;
    upload.onProgress(sent);
  });
  return stream;
}

/** The way broke, or the registry lost track of the upload: not a "no". */
function mayGoBetterAnew(caught: unknown): boolean {
  if (!(caught instanceof ClusterError)) return false;
  const { httpStatus, registryCode } = caught.details;
  const isLost = ["BLOB_UPLOAD_UNKNOWN", "BLOB_UPLOAD_INVALID", "RANGE_INVALID"].includes(
    String(registryCode),
  );
  return caught.retryable || isLost || httpStatus === 404 || httpStatus === 416;
}
