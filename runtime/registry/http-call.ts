/**
 * One HTTP request to a registry, with its errors in the words that Docker's users know ("dial tcp …: connect: connection
 * refused"). Redirects are followed by the caller (registry-client.ts), who knows what may be sent where.
 */
import type * as http from "node:http";
import * as https from "node:https";
import { readFileSync } from "node:fs";
import type { Readable } from "node:stream";
import * as tls from "node:tls";
import { ClusterError, hasNodeCode, nodeCodeOf } from "../../common/errors.ts";
import { plainHttp } from "../node-http.ts";
import type { HostTrust } from "./registry-config.ts";

export interface HttpCall {
  readonly method: string;
  readonly url: URL;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: Buffer | Readable;
  readonly trust: HostTrust;
  readonly signal: AbortSignal;
  /** Until the answer's headers are here. */
  readonly headersTimeoutMs: number;
}

export interface HttpAnswer {
  readonly status: number;
  readonly headers: http.IncomingHttpHeaders;
  /** Must be read or destroyed. */
  readonly body: http.IncomingMessage;
  readonly url: URL;
}

/** A connection that stands still so long is dead. */
const SOCKET_IDLE_MS = 60_000;
const TEXT_BYTES_MAX = 8 * 1024 * 1024;

function address(url: URL): string {
  return `${url.hostname}:${url.port === "" ? (url.protocol === "https:" ? "443" : "80") : url.port}`;
}

/** What Go's clients say for the same failure: scripts and people look for these words. */
function describe(error: Error, url: URL): string {
  switch (nodeCodeOf(error)) {
    case "ECONNREFUSED":
      return `dial tcp ${address(url)}: connect: connection refused`;
    case "ENOTFOUND":
    case "EAI_AGAIN":
      return `dial tcp: lookup ${url.hostname}: no such host`;
    case "ETIMEDOUT":
    case "EHOSTUNREACH":
    case "ENETUNREACH":
      return `dial tcp ${address(url)}: connect: ${hasNodeCode(error, "ETIMEDOUT") ? "connection timed out" : "no route to host"}`;
    case "ECONNRESET":
      return "read: connection reset by peer";
    default:
      return error.message;
  }
}

/** May be gone in a moment; a refusal, a wrong certificate or plain HTTP where TLS was tried stay what they are. */
const PASSING_CODES = ["ECONNRESET", "ETIMEDOUT", "EPIPE", "EAI_AGAIN", "ECONNABORTED"];

/** A failure of the way there, not of the registry: another host or time may do better. */
function transportError(method: string, url: URL, caught: unknown): ClusterError {
  const error = caught instanceof Error ? caught : new Error(String(caught));
  const verb = method.charAt(0) + method.slice(1).toLowerCase();
  return new ClusterError("internal", `${verb} "${url.origin}${url.pathname}": ${describe(error, url)}`, {
    cause: error,
    retryable: hasNodeCode(error, ...PASSING_CODES),
    details: { transport: true },
  });
}

export function isTransportError(caught: unknown): caught is ClusterError {
  return caught instanceof ClusterError && caught.details["transport"] === true;
}

/** Where systems keep the authorities that their owner trusts, as Go looks for them. */
const AUTHORITY_FILES: readonly string[] = [
  "/etc/ssl/certs/ca-certificates.crt",
  "/etc/pki/tls/certs/ca-bundle.crt",
  "/etc/ssl/ca-bundle.pem",
  "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
  "/etc/ssl/cert.pem",
];

function machineAuthorities(): readonly string[] {
  const named = process.env["SSL_CERT_FILE"] ?? "";
  for (const file of named === "" ? AUTHORITY_FILES : [named]) {
    try {
      return [readFileSync(file, "utf8")];
    } catch {
      // Another system's place.
      continue;
    }
  }
  return tls.rootCertificates;
}

function secureContextOf(trust: HostTrust): tls.SecureContext {
  const { verifiesTls, authorities, clientCertificates, clientKeys } = trust;
  return tls.createSecureContext({
    ...(verifiesTls ? { ca: [...machineAuthorities(), ...authorities] } : {}),
    ...(clientKeys.length === 0 ? {} : { cert: [...clientCertificates], key: [...clientKeys] }),
  });
}

const AGENT_OPTIONS: http.AgentOptions = { keepAlive: true, maxFreeSockets: 4, timeout: SOCKET_IDLE_MS };

/** HTTP_PROXY, HTTPS_PROXY and NO_PROXY of the daemon count, but never for this machine itself. */
function proxyOptions({ hostname }: URL): http.AgentOptions {
  const isHere = hostname === "localhost" || hostname === "[::1]" || /^127\.\d+\.\d+\.\d+$/.test(hostname);
  return isHere ? AGENT_OPTIONS : { ...AGENT_OPTIONS, proxyEnv: process.env };
}

export class HttpCaller {
  /** By protocol, what they trust, and whether a proxy may be asked. */
  readonly #agents = new Map<string, http.Agent>();

  #agent({ url, trust }: HttpCall): http.Agent {
    const options = proxyOptions(url);
    const isPlain = url.protocol === "http:";
    const key = JSON.stringify([isPlain || trust, options === AGENT_OPTIONS]);
    const known = this.#agents.get(key);
    if (known !== undefined) return known;
    const agent = isPlain
      ? new plainHttp.Agent(options)
      : new https.Agent({
          ...options,
          rejectUnauthorized: trust.verifiesTls,
          // Once for all connections: it takes milliseconds.
          secureContext: secureContextOf(trust),
        });
    this.#agents.set(key, agent);
    return agent;
  }

  send(call: HttpCall): Promise<HttpAnswer> {
    const { method, url, headers, body, signal } = call;
    return new Promise((resolve, reject) => {
      const options = { method, headers, agent: this.#agent(call), signal };
      const module = url.protocol === "http:" ? plainHttp : https;
      const request = module.request(url, options, (response) => {
        clearTimeout(timer);
        resolve({ status: response.statusCode ?? 0, headers: response.headers, body: response, url });
      });
      const timer = setTimeout(
        () => request.destroy(Object.assign(new Error("timed out"), { code: "ETIMEDOUT" })),
        call.headersTimeoutMs,
      );
      request.on("timeout", () =>
        request.destroy(Object.assign(new Error("timed out"), { code: "ETIMEDOUT" })),
      );
      request.on("error", (error) => {
        clearTimeout(timer);
        if (signal.aborted) reject(new ClusterError("cancelled", "context canceled", { cause: error }));
        else reject(transportError(method, url, error));
      });
      if (body === undefined) request.end();
      else if (Buffer.isBuffer(body)) request.end(body);
      else {
        body.on("error", (error) => request.destroy(error));
        body.pipe(request);
      }
    });
  }

  close(): void {
    for (const agent of this.#agents.values()) agent.destroy();
  }
}

/** The whole body of an answer that is known to be small. */
export async function readBody(answer: HttpAnswer): Promise<Buffer> {
  const pieces: Buffer[] = [];
  let bytes = 0;
  try {
    for await (const piece of answer.body) {
      bytes += (piece as Buffer).length;
      if (bytes > TEXT_BYTES_MAX) throw new Error("answer is too large");
      pieces.push(piece as Buffer);
    }
  } catch (caught) {
    throw transportError("GET", answer.url, caught);
  }
  return Buffer.concat(pieces);
}
