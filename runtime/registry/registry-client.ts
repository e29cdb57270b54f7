/**
 * The registry protocol (distribution API) on one host: manifests, blobs, uploads, with authorization, redirects and
 * retries. Called by pull and push. What comes is not believed: callers check digests.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Readable } from "node:stream";
import { ClusterError, type ErrorCode } from "../../common/errors.ts";
import { plainHttp } from "../node-http.ts";
import { readBody, type HttpAnswer, type HttpCaller } from "./http-call.ts";
import {
  ANONYMOUS,
  basicHeader,
  parseChallenge,
  parseToken,
  tokenRequest,
  type Challenge,
  type RegistryCredentials,
  type TokenOptions,
} from "./registry-auth.ts";
import type { HostTrust, RegistryEndpoint } from "./registry-config.ts";

const HEADERS_TIMEOUT_MS = 30_000;
const REDIRECTS_MAX = 5;
const ATTEMPTS_MAX = 5;
const RETRY_FIRST_MS = 200;
const RETRY_MAX_MS = 10_000;
/** Waits of one request together; who is told to come back later than that tells the user instead. */
const WAIT_MAX_MS = 60_000;

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
  /** Tokens on their way: many blobs that need one at a time ask once. */
  readonly #asked = new Map<string, Promise<string>>();
  readonly #trusts = new Map<string, HostTrust>();
  readonly #tokenOptions: TokenOptions;
  #challenge: Challenge | undefined;
  #refreshToken = "";

  /** The credentials are for the registry itself; a mirror gets those of its own URL or none. */
  constructor(
    endpoint: RegistryEndpoint,
    credentials: RegistryCredentials,
    caller: HttpCaller,
    tokenOptions: TokenOptions = { wantsRefreshToken: false },
  ) {
    this.endpoint = endpoint;
    this.#credentials =
      endpoint.mirrorOf === undefined ? credentials : { ...ANONYMOUS, ...endpoint.ownCredentials };
    this.#caller = caller;
    this.#tokenOptions = tokenOptions;
  }

  /** What the authority gave to be kept in place of a password; "" if nothing. */
  get refreshToken(): string {
    return this.#refreshToken;
  }

  #isHome(url: URL): boolean {
    return url.origin === new URL(this.endpoint.url).origin;
  }

  #trustOf(url: URL): HostTrust {
    const host = this.#isHome(url) ? this.endpoint.host : url.host;
    const trust = this.#trusts.get(host) ?? this.endpoint.trustOf(host);
    this.#trusts.set(host, trust);
    return trust;
  }

  async #send(request: RegistryRequest, url: URL, authorization: string | undefined): Promise<HttpAnswer> {
    const body = request.body ?? request.openBody?.();
    return this.#caller.send({
      method: request.method,
      url,
      headers: {
        "User-Agent": "shoal",
        ...request.headers,
        // What is for the registry stays there: an upload or blob may live on another host.
        ...(this.#isHome(url) && authorization !== undefined ? { Authorization: authorization } : {}),
      },
      ...(body === undefined ? {} : { body }),
      trust: this.#trustOf(url),
      signal: request.signal,
      headersTimeoutMs: HEADERS_TIMEOUT_MS,
    });
  }

  /** The answer with one of the accepted statuses. Throws what the registry said otherwise. */
  request(request: RegistryRequest): Promise<HttpAnswer> {
    return this.#retried(request, (answer) => Promise.resolve(answer));
  }

  /** As request(), for a small body: asked for again when it breaks off. */
  document(request: RegistryRequest): Promise<{ readonly answer: HttpAnswer; readonly bytes: Buffer }> {
    return this.#retried(request, async (answer) => ({ answer, bytes: await readBody(answer) }));
  }

  async #retried<T>(request: RegistryRequest, use: (answer: HttpAnswer) => Promise<T>): Promise<T> {
    const attemptsMax = request.isOnce === true ? 1 : ATTEMPTS_MAX;
    let waitedMs = 0;
    for (let attempt = 1; ; attempt++) {
      try {
        const answer = await this.#authorized(request);
        if (request.accepts.includes(answer.status)) return await use(answer);
        throw await registryError(answer, this.endpoint.url);
      } catch (caught) {
        const isPassing = caught instanceof ClusterError && caught.retryable;
        if (attempt >= attemptsMax || !isPassing) throw caught;
        const waitMs = waitAfter(caught, attempt);
        if (waitedMs + waitMs > WAIT_MAX_MS) throw caught;
        waitedMs += waitMs;
        await sleep(waitMs, undefined, { signal: request.signal });
      }
    }
  }

  async #authorized(request: RegistryRequest): Promise<HttpAnswer> {
    const known = this.#challenge;
    const first = known === undefined ? this.#given() : await this.#authorization(known, request.scope);
    const answer = await this.#followed(request, first);
    if (answer.status !== 401) return answer;
    const challenge = parseChallenge(String(answer.headers["www-authenticate"] ?? ""));
    if (challenge === undefined) return answer;
    this.#challenge = challenge;
    // Used up before its time, or taken back; unless another request has a new one by now.
    const scope = request.scope === "" ? challenge.scope : request.scope;
    if (this.#tokens.get(scope)?.header === first) this.#tokens.delete(scope);
    const authorization = await this.#authorization(challenge, request.scope);
    answer.body.resume();
    if (authorization === undefined) throw noCredentials(request, this.endpoint.url);
    return this.#followed(request, authorization);
  }

  #given(): string | undefined {
    return this.#credentials.registryToken === "" ? undefined : `Bearer ${this.#credentials.registryToken}`;
  }

  async #authorization(challenge: Challenge, wantedScope: string): Promise<string | undefined> {
    if (challenge.scheme === "basic") {
      return this.#credentials.username === "" ? undefined : basicHeader(this.#credentials);
    }
    const scope = wantedScope === "" ? challenge.scope : wantedScope;
    const known = this.#tokens.get(scope);
    if (known !== undefined && known.untilMs > performance.now()) return known.header;
    const asked =
      this.#asked.get(scope) ??
      this.#askToken(challenge, scope).finally(() => {
        this.#asked.delete(scope);
      });
    this.#asked.set(scope, asked);
    return asked;
  }

  async #askToken(challenge: Challenge, scope: string): Promise<string> {
    const { method, url, headers, body } = tokenRequest(
      challenge,
      scope,
      this.#credentials,
      this.#tokenOptions,
    );
    const authority = new URL(url);
    const isBare = authority.protocol === "http:" && this.endpoint.url.startsWith("https:");
    if (isBare && this.#trustOf(authority).verifiesTls) {
      throw new ClusterError(
        "failed_precondition",
        `Cannot ask ${authority.origin} for a token: want https, as the registry has it`,
      );
    }
    const answer = await this.#caller.send({
      method,
      url: authority,
      headers: { "User-Agent": "shoal", ...headers },
      ...(body === "" ? {} : { body: Buffer.from(body) }),
      trust: this.#trustOf(authority),
      // Not that of who asked first: others may wait for the same token.
      signal: AbortSignal.timeout(HEADERS_TIMEOUT_MS),
      headersTimeoutMs: HEADERS_TIMEOUT_MS,
    });
    if (answer.status !== 200) throw await registryError(answer, url);
    const { token, lifeMs, refreshToken } = parseToken((await readBody(answer)).toString("utf8"));
    this.#refreshToken = refreshToken;
    const header = `Bearer ${token}`;
    this.#tokens.set(scope, { header, untilMs: performance.now() + lifeMs });
    return header;
  }

  async #followed(request: RegistryRequest, authorization: string | undefined): Promise<HttpAnswer> {
    let url = new URL(request.target, this.endpoint.url);
    // A mirror of several registries must know which one is meant.
    if (this.endpoint.mirrorOf !== undefined) url.searchParams.set("ns", this.endpoint.mirrorOf);
    for (let count = 0; count <= REDIRECTS_MAX; count++) {
      const answer = await this.#send(request, url, authorization);
      const location = answer.headers.location;
      const isRedirect = [301, 302, 303, 307, 308].includes(answer.status) && location !== undefined;
      if (!isRedirect || request.accepts.includes(answer.status)) return answer;
      answer.body.resume();
      const next = new URL(location, url);
      if (next.protocol !== "https:" && next.protocol !== "http:") break;
      // A registry over TLS must not send us to plain hosts.
      if (url.protocol === "https:" && next.protocol === "http:" && this.#trustOf(url).verifiesTls) break;
      url = next;
    }
    throw new ClusterError("internal", `Cannot follow registry ${this.endpoint.url}: bad redirect`);
  }
}

/** Statuses that may be gone in a moment. */
function isPassing(status: number): boolean {
  return status === 429 || status === 408 || (status >= 500 && status !== 501);
}

/** Retry-After: seconds or a date. */
function retryAfterMs(answer: HttpAnswer): number | undefined {
  const text = answer.headers["retry-after"];
  if (text === undefined || text === "") return undefined;
  const ms = /^\d+$/.test(text) ? Number(text) * 1000 : Date.parse(text) - Date.now();
  return Number.isNaN(ms) ? undefined : Math.max(0, ms);
}

/** As long as the registry wants, else longer each time. */
function waitAfter(error: ClusterError, attempt: number): number {
  const wanted = error.details["retryAfterMs"];
  return typeof wanted === "number" ? wanted : Math.min(RETRY_MAX_MS, RETRY_FIRST_MS * 2 ** (attempt - 1));
}

interface RegistryMessage {
  readonly code: string;
  readonly message: string;
}

/** What the body says, in the registry's form or in that of Docker Hub's authority. */
function parseMessage(body: string, status: number): RegistryMessage | undefined {
  let value: { readonly errors?: unknown; readonly details?: unknown } | null;
  try {
    value = JSON.parse(body) as typeof value;
  } catch {
    // Some proxies answer in HTML.
    return undefined;
  }
  const [first] = (Array.isArray(value?.errors) ? value.errors : []) as readonly unknown[];
  if (typeof first === "object" && first !== null) {
    const { code, message } = first as { readonly code?: unknown; readonly message?: unknown };
    return {
      code: typeof code === "string" ? code : "UNKNOWN",
      message: typeof message === "string" ? message : "",
    };
  }
  if (typeof value?.details !== "string" || value.details === "") return undefined;
  return { code: status === 429 ? "TOOMANYREQUESTS" : "UNAUTHORIZED", message: value.details };
}

const UNSAID: Readonly<Record<number, RegistryMessage>> = {
  401: { code: "UNAUTHORIZED", message: "authentication required" },
  429: { code: "TOOMANYREQUESTS", message: "too many requests" },
};
const DENIED: RegistryMessage = { code: "DENIED", message: "requested access to the resource is denied" };

/** In Docker's words, by which people find what to do. */
function noCredentials({ method, target }: RegistryRequest, origin: string): ClusterError {
  const verb = `${method.slice(0, 1)}${method.slice(1).toLowerCase()}`;
  return new ClusterError(
    "unauthenticated",
    `${verb} ${JSON.stringify(new URL(target, origin).href)}: no basic auth credentials`,
    { details: { registryCode: "UNAUTHORIZED", httpStatus: 401, origin } },
  );
}

/** What the registry said, in Docker's form: "denied: requested access to the resource is denied". */
async function registryError(answer: HttpAnswer, origin: string): Promise<ClusterError> {
  const { status, headers } = answer;
  const body = await readBody(answer).catch(() => Buffer.alloc(0));
  // A token that is too weak is told in the header, whatever the body says.
  const isTooWeak = parseChallenge(String(headers["www-authenticate"] ?? ""))?.error === "insufficient_scope";
  const said = isTooWeak ? DENIED : (parseMessage(body.toString("utf8"), status) ?? UNSAID[status]);
  const text =
    said === undefined
      ? `received unexpected HTTP status: ${status} ${plainHttp.STATUS_CODES[status] ?? ""}`.trimEnd()
      : `${said.code.toLowerCase().replace(/_/g, " ")}: ${said.message}`;
  const waitMs = retryAfterMs(answer);
  return new ClusterError(isTooWeak ? "permission_denied" : codeOf(status), text, {
    details: {
      registryCode: said?.code ?? "",
      httpStatus: status,
      origin,
      ...(waitMs === undefined ? {} : { retryAfterMs: waitMs }),
    },
    retryable: isPassing(status),
  });
}

function codeOf(status: number): ErrorCode {
  switch (status) {
    case 401:
      return "unauthenticated";
    case 403:
      return "permission_denied";
    case 404:
      return "not_found";
    case 429:
      return "resource_exhausted";
    default:
      return "internal";
  }
}
