/**
 * The CLI's only way to the daemon: HTTP over the UNIX socket or TCP/TLS; node:http is loaded for streams and TLS only. Speaks unprefixed paths (the
 * newest API version), turns Docker's error bodies into ApiError and connection failures into one clear sentence.
 * Used by every command, by dev/ and by tests; never loads gRPC.
 */
import type { ClientRequest, IncomingMessage, RequestOptions } from "node:http";
import type { Socket } from "node:net";
import type { Readable } from "node:stream";
import { ClusterError, hasNodeCode } from "../../common/errors.ts";
import type { Endpoint } from "./endpoint.ts";
import type { PlainAnswer } from "./plain-exchange.ts";
import { plainExchange } from "./plain-exchange.ts";

/** JSON error bodies longer than this are cut. */
const ERROR_BODY_BYTES_MAX = 64 * 1024;

/** An answer of the daemon that is not a success. */
export class ApiError extends Error {
  override readonly name = "ApiError";
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }

  /** Somebody else has changed the object since it was read: read it and try again. */
  get isStale(): boolean {
    return this.message.includes("update out of sequence");
  }
}

/** The daemon could not be reached at all. */
export class ConnectError extends Error {
  override readonly name = "ConnectError";
}

export type QueryValue = string | number | boolean | readonly string[] | undefined;
export type Query = Readonly<Record<string, QueryValue>>;
export type FilterValues = Readonly<Record<string, readonly string[]>>;

export interface CallOptions {
  readonly query?: Query;
  readonly filters?: FilterValues;
  /** Sent as JSON. */
  readonly body?: unknown;
  /** Sent as it is; excludes `body`. */
  readonly raw?: { readonly contentType: string; readonly content: Readable | Uint8Array };
  readonly headers?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal;
}

export interface HijackedStream {
  readonly socket: Socket;
  /** Bytes that came with the head of the answer. */
  readonly head: Buffer;
  readonly contentType: string;
}

/** Docker's encoding of filters: {"key":{"value":true}}. */
function encodeFilters(filters: FilterValues): string {
  const entries = Object.entries(filters).map(([key, values]) => [
    key,
    Object.fromEntries(values.map((value) => [value, true])),
  ]);
  return JSON.stringify(Object.fromEntries(entries));
}

/** An image's name as part of a path: its slashes stay, all else that would mean something there is encoded. */
export function imagePath(name: string): string {
  return name.split("/").map(encodeURIComponent).join("/");
}

function pathWithQuery(path: string, options: CallOptions): string {
  const search = new URLSearchParams();
  for (const [key, value] of Object.entries(options.query ?? {})) {
    if (value === undefined) continue;
    if (typeof value === "object") for (const each of value) search.append(key, each);
    else search.append(key, typeof value === "boolean" ? (value ? "1" : "0") : String(value));
  }
  if (options.filters !== undefined && Object.keys(options.filters).length > 0) {
    search.append("filters", encodeFilters(options.filters));
  }
  const text = search.toString();
  return text === "" ? path : `${path}?${text}`;
}

const NOBODY_THERE = [
  "ENOENT",
  "ECONNREFUSED",
  "ENOTSOCK",
  "EHOSTUNREACH",
  "ENETUNREACH",
  "ENOTFOUND",
  "ETIMEDOUT",
];

function connectError(endpoint: Endpoint, caught: Error): Error {
  if (caught.name === "AbortError") return caught;
  if (hasNodeCode(caught, "EACCES", "EPERM")) {
    return new ConnectError(
      `Permission denied while connecting to the Shoal daemon at ${endpoint.text}. Run as root or join the socket's group.`,
    );
  }
  if (hasNodeCode(caught, ...NOBODY_THERE)) {
    return new ConnectError(`Cannot connect to the Shoal daemon at ${endpoint.text}. Is it running?`);
  }
  if (hasNodeCode(caught, "ECONNRESET", "EPIPE")) {
    return new ConnectError(
      `The connection to the Shoal daemon at ${endpoint.text} was lost: ${caught.message}`,
    );
  }
  return new ConnectError(`Cannot talk to the Shoal daemon at ${endpoint.text}: ${caught.message}`);
}

async function readAll(
  stream: AsyncIterable<Uint8Array>,
  bytesMax = Number.POSITIVE_INFINITY,
): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of stream) {
    bytes += chunk.length;
    if (bytes > bytesMax) break;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

async function errorOf(response: IncomingMessage): Promise<ApiError> {
  return apiError(response.statusCode ?? 0, await readAll(response, ERROR_BODY_BYTES_MAX));
}

function apiError(status: number, body: Buffer): ApiError {
  const text = body.toString("utf8", 0, ERROR_BODY_BYTES_MAX).trim();
  let message = text;
  try {
    const parsed: unknown = JSON.parse(text);
    if (typeof parsed === "object" && parsed !== null && "message" in parsed)
      message = String(parsed.message);
  } catch {
    message = text;
  }
  return new ApiError(status, message === "" ? `HTTP ${status} without a message` : message);
}

function requestHeaders(
  method: string,
  options: CallOptions,
  body: Uint8Array | undefined,
): Record<string, string> {
  const { raw } = options;
  const headers: Record<string, string> = { ...options.headers };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  else if (raw !== undefined) headers["Content-Type"] = raw.contentType;
  if (body !== undefined) headers["Content-Length"] = String(body.length);
  else if (raw === undefined && method !== "GET") headers["Content-Length"] = "0";
  return headers;
}

export class ApiClient {
  readonly endpoint: Endpoint;

  constructor(endpoint: Endpoint) {
    this.endpoint = endpoint;
  }

  /** GET, JSON answer. */
  async get<T>(path: string, options: CallOptions = {}): Promise<T> {
    return await this.#json<T>("GET", path, options);
  }

  /** POST, JSON answer; undefined-like empty answers come back as null. */
  async post<T = unknown>(path: string, options: CallOptions = {}): Promise<T> {
    return await this.#json<T>("POST", path, options);
  }

  async delete<T = unknown>(path: string, options: CallOptions = {}): Promise<T> {
    return await this.#json<T>("DELETE", path, options);
  }

  /** GET that answers undefined on 404. */
  async find<T>(path: string, options: CallOptions = {}): Promise<T | undefined> {
    try {
      return await this.get<T>(path, options);
    } catch (caught) {
      if (caught instanceof ApiError && caught.status === 404) return undefined;
      throw caught;
    }
  }

  /** Any call; the answer's head is a success and its body is unread. */
  async call(method: string, path: string, options: CallOptions = {}): Promise<IncomingMessage> {
    const response = await this.#send(method, path, options);
    const status = response.statusCode ?? 0;
    if (status >= 200 && status < 400) return response;
    throw await errorOf(response);
  }

  /** A stream of JSON objects, one a line (events, pull and load progress). */
  async *jsonLines<T>(
    method: string,
    path: string,
    options: CallOptions = {},
  ): AsyncGenerator<T, void, undefined> {
    const response = await this.call(method, path, options);
    let rest = "";
    response.setEncoding("utf8");
    for await (const chunk of response as AsyncIterable<string>) {
      const lines = (rest + chunk).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) if (line.trim() !== "") yield JSON.parse(line) as T;
    }
    if (rest.trim() !== "") yield JSON.parse(rest) as T;
  }

  /** POST with `Upgrade: tcp`; resolves with the raw connection (attach, exec). */
  async hijack(path: string, options: CallOptions = {}): Promise<HijackedStream> {
    const body = options.body === undefined ? "" : JSON.stringify(options.body);
    const request = await this.#open("POST", pathWithQuery(path, options), {
      Connection: "Upgrade",
      Upgrade: "tcp",
      "Content-Type": options.body === undefined ? "text/plain" : "application/json",
      "Content-Length": String(Buffer.byteLength(body)),
    });
    return await new Promise((resolve, reject) => {
      request.on("error", (caught) => reject(connectError(this.endpoint, caught)));
      request.on("upgrade", (response, socket, head) => {
        resolve({ socket: socket as Socket, head, contentType: response.headers["content-type"] ?? "" });
      });
      request.on("response", (response) => {
        errorOf(response).then(reject, reject);
      });
      request.end(body);
    });
  }

  async #json<T>(method: string, path: string, options: CallOptions): Promise<T> {
    const { status, body } = await this.#exchange(method, path, options);
    const text = body.toString("utf8");
    if (text.trim() === "") return null as T;
    try {
      return JSON.parse(text) as T;
    } catch {
      throw new ApiError(
        status,
        `The daemon's answer to ${method} ${path} is not JSON: "${text.slice(0, 80)}"`,
      );
    }
  }

  /** A successful answer, read to its end. Throws ApiError for the others. */
  async #exchange(method: string, path: string, options: CallOptions): Promise<PlainAnswer> {
    const { endpoint } = this;
    if (options.raw !== undefined || (endpoint.kind === "tcp" && endpoint.tls !== undefined)) {
      const response = await this.call(method, path, options);
      return { status: response.statusCode ?? 0, body: await readAll(response) };
    }
    let answer: PlainAnswer;
    try {
      const body = options.body === undefined ? undefined : Buffer.from(JSON.stringify(options.body));
      answer = await plainExchange(endpoint, {
        method,
        path: pathWithQuery(path, options),
        headers: requestHeaders(method, options, body),
        ...(body === undefined ? {} : { body }),
        ...(options.signal === undefined ? {} : { signal: options.signal }),
      });
    } catch (caught) {
      throw caught instanceof ClusterError ? caught : connectError(endpoint, caught as Error);
    }
    if (answer.status >= 200 && answer.status < 400) return answer;
    throw apiError(answer.status, answer.body);
  }

  async #open(
    method: string,
    path: string,
    headers: Record<string, string>,
    signal?: AbortSignal,
  ): Promise<ClientRequest> {
    const base: RequestOptions = { method, path, headers, ...(signal === undefined ? {} : { signal }) };
    const endpoint = this.endpoint;
    const { request: httpRequest } = await import("node:http");
    if (endpoint.kind === "unix")
      return httpRequest({ ...base, socketPath: endpoint.path, host: "localhost" });
    const target = { ...base, host: endpoint.host, port: endpoint.port };
    if (endpoint.tls === undefined) return httpRequest(target);
    const { request: httpsRequest } = await import("node:https");
    return httpsRequest({
      ...target,
      ...(endpoint.tls.ca === undefined ? {} : { ca: endpoint.tls.ca }),
      ...(endpoint.tls.cert === undefined ? {} : { cert: endpoint.tls.cert }),
      ...(endpoint.tls.key === undefined ? {} : { key: endpoint.tls.key }),
      rejectUnauthorized: endpoint.tls.verify,
    });
  }

  async #send(method: string, path: string, options: CallOptions): Promise<IncomingMessage> {
    const body = options.body === undefined ? undefined : Buffer.from(JSON.stringify(options.body));
    const raw = options.raw;
    const headers = requestHeaders(method, options, body);
    const request = await this.#open(method, pathWithQuery(path, options), headers, options.signal);
    return await new Promise((resolve, reject) => {
      request.on("error", (caught) => reject(connectError(this.endpoint, caught)));
      request.on("response", resolve);
      if (raw === undefined) request.end(body);
      else if (raw.content instanceof Uint8Array) request.end(raw.content);
      else {
        raw.content.on("error", (caught) => request.destroy(caught));
        raw.content.pipe(request);
      }
    });
  }
}
