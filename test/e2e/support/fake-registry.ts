/**
 * A registry in memory that a test can spoil: each answer may be replaced, cut, delayed or falsified. Holds images to be
 * pulled and takes uploads as the distribution protocol has them, strictly: what docker-registry refuses it refuses too.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { buildImage, sha256Of, type TestImage } from "../../../runtime/images/testing/archives.ts";

/** True: it has answered (or will), the registry itself shall not. */
export type Spoil = (request: IncomingMessage, response: ServerResponse) => boolean;

const MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json";

/** Bytes of which no two pieces are alike, and which do not compress; the same each time. */
export function noise(bytes: number): Buffer {
  const words = new Uint32Array(bytes / 4);
  for (let index = 0, state = 1; index < words.length; index++) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    words[index] = state;
  }
  return Buffer.from(words.buffer);
}

function digestOf(bytes: Buffer): string {
  return `sha256:${sha256Of(bytes)}`;
}

export function isBlob(request: IncomingMessage): boolean {
  return (request.url ?? "").includes("/blobs/");
}

/** The digest or name at the end of a request's path. */
export function lastPart(request: IncomingMessage): string {
  const path = (request.url ?? "").split("?")[0] ?? "";
  return path.slice(path.lastIndexOf("/") + 1);
}

async function bodyOf(request: IncomingMessage): Promise<Buffer> {
  const pieces: Buffer[] = [];
  for await (const piece of request) pieces.push(piece as Buffer);
  return Buffer.concat(pieces);
}

export class FakeRegistry {
  readonly blobs: Map<string, Buffer> = new Map();
  /** By tag and by digest, the same in every repository. */
  readonly manifests: Map<string, Buffer> = new Map();
  readonly uploads: Map<string, Buffer> = new Map();
  /** "GET /v2/…", in order. */
  readonly requests: string[] = [];
  manifestDigest: string = "";
  spoil: Spoil = () => false;
  host: string = "";
  #server: Server | undefined;
  #uploadCount = 0;

  constructor(image?: TestImage) {
    if (image !== undefined) this.add(image);
  }

  get manifestBytes(): number {
    return this.manifests.get(this.manifestDigest)?.length ?? 0;
  }

  /** A later one becomes that of manifestDigest. */
  add(image: TestImage, tags: readonly string[] = ["1"]): void {
    const built = buildImage(image);
    for (const bytes of [built.configBytes, ...built.blobs]) this.blobs.set(digestOf(bytes), bytes);
    const manifest = Buffer.from(
      JSON.stringify({
        schemaVersion: 2,
        mediaType: MANIFEST_TYPE,
        config: {
          mediaType: "application/vnd.oci.image.config.v1+json",
          digest: built.id,
          size: built.configBytes.length,
        },
        layers: built.blobs.map((blob) => ({
          mediaType: "application/vnd.oci.image.layer.v1.tar",
          digest: digestOf(blob),
          size: blob.length,
        })),
      }),
    );
    this.manifestDigest = digestOf(manifest);
    for (const name of [this.manifestDigest, ...tags]) this.manifests.set(name, manifest);
  }

  /** The first blob of more than `bytes`. */
  largeBlob(bytes: number): { readonly digest: string; readonly bytes: Buffer } {
    for (const [digest, blob] of this.blobs) if (blob.length > bytes) return { digest, bytes: blob };
    throw new Error(`no blob has more than ${bytes} bytes`);
  }

  async start(port = 0): Promise<this> {
    const server = createServer((request, response) => {
      this.requests.push(`${request.method} ${request.url}`);
      if (this.spoil(request, response)) return;
      // A client that goes away in the middle of its body is what tests do.
      this.#answer(request, response).catch(() => response.destroy());
    });
    this.#server = server;
    await new Promise<void>((resolve) => server.listen(port, "127.0.0.1", resolve));
    this.host = `127.0.0.1:${(server.address() as AddressInfo).port}`;
    return this;
  }

  stop(): void {
    this.#server?.close();
    this.#server?.closeAllConnections();
  }

  refuse(response: ServerResponse, status: number, code: string, message = "refused"): void {
    response.writeHead(status, { "Content-Type": "application/json" });
    response.end(JSON.stringify({ errors: [{ code, message }] }));
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? "", `http://${this.host}`);
    const isPut = request.method === "PUT";
    if (url.pathname === "/v2/") response.end("{}");
    else if (url.pathname.includes("/manifests/")) {
      if (isPut) await this.#putManifest(request, response);
      else this.#manifest(lastPart(request), response);
    } else if (url.pathname.endsWith("/tags/list")) this.#tags(url, response);
    else if (url.pathname.includes("/blobs/uploads/")) await this.#upload(request, url, response);
    else this.#blob(request, response);
  }

  #manifest(name: string, response: ServerResponse): void {
    const manifest = this.manifests.get(name);
    if (manifest === undefined) {
      this.refuse(response, 404, "MANIFEST_UNKNOWN", "manifest unknown");
      return;
    }
    response.writeHead(200, { "Content-Type": MANIFEST_TYPE, "Docker-Content-Digest": digestOf(manifest) });
    response.end(manifest);
  }

  async #putManifest(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const manifest = await bodyOf(request);
    this.manifests.set(lastPart(request), manifest).set(digestOf(manifest), manifest);
    response.writeHead(201, { "Docker-Content-Digest": digestOf(manifest) }).end();
  }

  /** In pages of `n`, the next one named by Link. */
  #tags(url: URL, response: ServerResponse): void {
    const all = [...this.manifests.keys()].filter((name) => !name.includes(":")).sort();
    const last = url.searchParams.get("last") ?? "";
    const rest = all.filter((name) => name > last);
    const page = rest.slice(0, Math.min(100, Number(url.searchParams.get("n") ?? "100")));
    const next = `<${url.pathname}?n=${page.length}&last=${page.at(-1) ?? ""}>; rel="next"`;
    response.writeHead(200, rest.length > page.length ? { Link: next } : {});
    response.end(JSON.stringify({ name: "app", tags: page }));
  }

  #blob(request: IncomingMessage, response: ServerResponse): void {
    const blob = this.blobs.get(lastPart(request));
    if (blob === undefined) {
      this.refuse(response, 404, "BLOB_UNKNOWN", "blob unknown to registry");
      return;
    }
    const [, from = "0", to = ""] = /bytes=(\d+)-(\d*)/.exec(request.headers.range ?? "") ?? [];
    const end = Math.min(to === "" ? Infinity : Number(to), blob.length - 1);
    if (request.headers.range === undefined) response.writeHead(200, { "Content-Length": blob.length });
    else response.writeHead(206, { "Content-Range": `bytes ${from}-${end}/${blob.length}` });
    response.end(request.method === "HEAD" ? undefined : blob.subarray(Number(from), end + 1));
  }

  async #upload(request: IncomingMessage, url: URL, response: ServerResponse): Promise<void> {
    const id = lastPart(request);
    const folder = url.pathname.slice(0, url.pathname.lastIndexOf("/") + 1);
    if (request.method === "POST") {
      const mounted = url.searchParams.get("mount");
      if (mounted !== null && this.blobs.has(mounted)) {
        response.writeHead(201).end();
        return;
      }
      const name = `u${++this.#uploadCount}`;
      this.uploads.set(name, Buffer.alloc(0));
      response.writeHead(202, { Location: `${folder}${name}`, Range: "0-0" }).end();
      return;
    }
    const sofar = this.uploads.get(id);
    if (sofar === undefined) {
      request.resume();
      this.refuse(response, 404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry");
      return;
    }
    if (request.method === "DELETE") {
      this.uploads.delete(id);
      response.writeHead(204).end();
      return;
    }
    await this.#write({ id, sofar, location: `${folder}${id}` }, request, response);
  }

  async #write(
    upload: { readonly id: string; readonly sofar: Buffer; readonly location: string },
    request: IncomingMessage,
    response: ServerResponse,
  ): Promise<void> {
    const { id, sofar, location } = upload;
    const rangeOf = (bytes: Buffer): string => `0-${Math.max(0, bytes.length - 1)}`;
    const start = /^(\d+)-/.exec(request.headers["content-range"] ?? "")?.[1];
    if (start !== undefined && Number(start) !== sofar.length) {
      request.resume();
      response.writeHead(416, { Location: location, Range: rangeOf(sofar) }).end();
      return;
    }
    const all = Buffer.concat([sofar, request.method === "GET" ? Buffer.alloc(0) : await bodyOf(request)]);
    if (request.method !== "PUT") {
      this.uploads.set(id, all);
      const status = request.method === "GET" ? 204 : 202;
      response.writeHead(status, { Location: location, Range: rangeOf(all) }).end();
      return;
    }
    this.uploads.delete(id);
    const wanted = new URL(request.url ?? "", "http://x").searchParams.get("digest");
    if (wanted !== digestOf(all)) {
      this.refuse(response, 400, "DIGEST_INVALID", "provided digest did not match uploaded content");
      return;
    }
    this.blobs.set(digestOf(all), all);
    response.writeHead(201, { "Docker-Content-Digest": digestOf(all) }).end();
  }
}
