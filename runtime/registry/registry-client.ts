/**
 * The registry protocol (distribution API) on one host: manifests, blobs, uploads, with authorization, redirects and
 * retries. Called by pull and push. What comes is not believed: callers check digests.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Readable } from "node:stream";
import { ClusterError } from "../../common/errors.ts";
import { isTransportError, readBody, type HttpAnswer, type HttpCaller } from "./http-call.ts";
import {
  basicHeader,
  parseChallenge,
  parseToken,
  tokenRequest,
  type Challenge,
  type RegistryCredentials,
} from "./registry-auth.ts";
import type { RegistryEndpoint } from "./registry-config.ts";

const HEADERS_TIMEOUT_MS = 30_000;
const REDIRECTS_MAX = 5;
const ATTEMPTS_MAX = 5;
const RETRY_FIRST_MS = 200;
const RETRY_MAX_MS = 10_000;
const RETRY_AFTER_MAX_MS = 60_000;

export interface RegistryRequest {
  readonly method: string;
  /** Path with query, or a whole URL that the registry gave. */
  readonly target: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Buffer;
  /** For bodies that are streams: called for each attempt. */
  readonly openBody?: () => Readable;
  /** "repository:NAME:pull" */
  readonly scope: string;
  readonly signal: AbortSignal;
  /** Statuses that are answers, not errors. */
  readonly accepts: readonly number[];
  /** Not tried again: the caller goes on by itself. */
  readonly isOnce?: boolean;
}

interface CachedToken {
  readonly header: string;
  readonly untilMs: number;
}

/** One registry host with one user's credentials. Lives for one pull or push. */
export class RegistryClient {
  readonly endpoint: RegistryEndpoint;
  readonly #credentials: RegistryCredentials;
  readonly #caller: HttpCaller;
  readonly #tokens = new Map<string, CachedToken>();
  #challenge: Challenge | undefined;

  constructor(endpoint: RegistryEndpoint, credentials: RegistryCredentials, caller: HttpCaller) {
    this.endpoint = endpoint;
    this.#credentials = credentials;
    this.#caller = caller;
  }

  async #send(request: RegistryRequest, url: URL, authorization: string | undefined): Promise<HttpAnswer> {
    // What is for the registry stays there: an upload or blob may live on another host.
    const isHome = url.origin === new URL(this.endpoint.url).origin;
    const body = request.body ?? request.openBody?.();
    return this.#caller.send({
      method: request.method,
      url,
      headers: {
        "User-Agent": "shoal",
        ...request.headers,
        ...(isHome && authorization !== undefined ? { Authorization: authorization } : {}),
      },
      ...(body === undefined ? {} : { body }),
      verifiesTls: this.endpoint.verifiesTls,
      certificates: this.endpoint.certificates,
      signal: request.signal,
      headersTimeoutMs: HEADERS_TIMEOUT_MS,
    });
  }

  /** The answer with one of the accepted statuses. Throws what the registry said otherwise. */
  async request(request: RegistryRequest): Promise<HttpAnswer> {
    for (let attempt = 1; ; attempt++) {
      let waitMs = Math.min(RETRY_MAX_MS, RETRY_FIRST_MS * 2 ** (attempt - 1));
      const isLast = attempt >= ATTEMPTS_MAX || request.isOnce === true;
      try {
        const answer = await this.#authorized(request);
        if (request.accepts.includes(answer.status)) return answer;
        const error = await registryError(answer, this.endpoint.url);
        if (isLast || !isPassing(answer.status)) throw error;
        waitMs = retryAfterMs(answer) ?? waitMs;
      } catch (caught) {
        if (isLast || !isTransportError(caught) || !caught.retryable) throw caught;
      }
      await sleep(waitMs, undefined, { signal: request.signal });
    }
  }

  async #authorized(request: RegistryRequest): Promise<HttpAnswer> {
    const known = this.#challenge;
    const first = known === undefined ? this.#given() : await this.#authorization(known, request);
    const answer = await this.#followed(request, first);
    if (answer.status !== 401) return answer;
    const challenge = parseChallenge(String(answer.headers["www-authenticate"] ?? ""));
    if (challenge === undefined) return answer;
    answer.body.resume();
    this.#challenge = challenge;
    this.#tokens.delete(request.scope);
    const authorization = await this.#authorization(challenge, request);
    if (authorization === undefined) return answer;
    return this.#followed(request, authorization);
  }

  #given(): string | undefined {
    return this.#credentials.registryToken === "" ? undefined : `Bearer ${this.#credentials.registryToken}`;
  }

  async #authorization(challenge: Challenge, request: RegistryRequest): Promise<string | undefined> {
    if (challenge.scheme === "basic") {
      return this.#credentials.username === "" ? undefined : basicHeader(this.#credentials);
    }
    const scope = request.scope === "" ? challenge.scope : request.scope;
    const known = this.#tokens.get(scope);
    if (known !== undefined && known.untilMs > performance.now()) return known.header;
    const { method, url, headers, body } = tokenRequest(challenge, scope, this.#credentials);
    const answer = await this.#caller.send({
      method,
      url: new URL(url),
      headers: { "User-Agent": "shoal", ...headers },
      ...(body === "" ? {} : { body: Buffer.from(body) }),
      verifiesTls: this.endpoint.verifiesTls,
      certificates: this.endpoint.certificates,
      signal: request.signal,
      headersTimeoutMs: HEADERS_TIMEOUT_MS,
    });
    if (answer.status !== 200) throw await registryError(answer, url);
    const { token, lifeMs } = parseToken((await readBody(answer)).toString("utf8"));
    const header = `Bearer ${token}`;
    this.#tokens.set(scope, { header, untilMs: performance.now() + lifeMs });
    return header;
  }

  async #followed(request: RegistryRequest, authorization: string | undefined): Promise<HttpAnswer> {
    let url = new URL(request.target, this.endpoint.url);
    for (let count = 0; count <= REDIRECTS_MAX; count++) {
      const answer = await this.#send(request, url, authorization);
      const location = answer.headers.location;
      const isRedirect = [301, 302, 303, 307, 308].includes(answer.status) && location !== undefined;
      if (!isRedirect || request.accepts.includes(answer.status)) return answer;
      answer.body.resume();
      const next = new URL(location, url);
      if (next.protocol !== "https:" && next.protocol !== "http:") break;
      // A registry over TLS must not send us to plain hosts.
      if (url.protocol === "https:" && next.protocol === "http:" && this.endpoint.verifiesTls) break;
      url = next;
    }
    throw new ClusterError("internal", `Cannot follow registry ${this.endpoint.url}: bad redirect`);
  }
}

/** Statuses that may be gone in a moment. */
function isPassing(status: number): boolean {
  return status === 429 || status === 408 || (status >= 500 && status !== 501);
}

function retryAfterMs(answer: HttpAnswer): number | undefined {
  const seconds = Number(answer.headers["retry-after"]);
  return Number.isFinite(seconds) && seconds >= 0 ? Math.min(seconds * 1000, RETRY_AFTER_MAX_MS) : undefined;
}

interface RegistryMessage {
  readonly code: string;
  readonly message: string;
}

function parseErrors(body: string): readonly RegistryMessage[] {
  try {
    const value = JSON.parse(body) as { readonly errors?: unknown; readonly details?: unknown };
    const list = Array.isArray(value.errors) ? value.errors : [];
    return list.map((each: unknown) => {
      const { code, message } = (each ?? {}) as { readonly code?: unknown; readonly message?: unknown };
      return {
        code: typeof code === "string" ? code : "UNKNOWN",
        message: typeof message === "string" ? message : "",
      };
    });
  } catch {
    // Some proxies answer in HTML.
    return [];
  }
}

/** What the registry said, in Docker's form: "denied: requested access to the resource is denied". */
async function registryError(answer: HttpAnswer, origin: string): Promise<ClusterError> {
  const body = await readBody(answer).catch(() => Buffer.alloc(0));
  const [first] = parseErrors(body.toString("utf8"));
  const said =
    first === undefined
      ? `received unexpected HTTP status: ${answer.status}`
      : `${first.code.toLowerCase().replace(/_/g, " ")}: ${first.message}`;
  const details = { registryCode: first?.code ?? "", httpStatus: answer.status, origin };
  switch (answer.status) {
    case 401:
      return new ClusterError(
        "unauthenticated",
        first === undefined ? "unauthorized: authentication required" : said,
        {
          details,
        },
      );
    case 403:
      return new ClusterError("permission_denied", said, { details });
    case 404:
      return new ClusterError("not_found", said, { details });
    case 429:
      return new ClusterError(
        "resource_exhausted",
        first === undefined ? "toomanyrequests: too many requests" : said,
        {
          details,
          retryable: true,
        },
      );
    default:
      return new ClusterError("internal", said, { details, retryable: answer.status >= 500 });
  }
}
