/**
 * One HTTP request to a daemon over its UNIX socket, as the dev cluster, benches and tests send them. What a status or a
 * failure means is the caller's affair.
 */
import http from "node:http";

export interface SocketRequest {
  readonly method: string;
  /** With the version of the API. */
  readonly path: string;
  /** Bytes go as a tar, all else as JSON. */
  readonly body?: unknown;
  /** Keeps connections; without one each request has a connection of its own. */
  readonly agent?: http.Agent;
  /** Longest silence, ms. Without it, as long as the daemon lives. */
  readonly idleTimeoutMs?: number;
  readonly signal?: AbortSignal;
}

export interface SocketAnswer {
  readonly status: number;
  readonly body: Buffer;
}

/** Rejects with Node's own error if there is no answer, or only a part of one. */
export function requestOverSocket(socketPath: string, request: SocketRequest): Promise<SocketAnswer> {
  const { body, idleTimeoutMs, signal } = request;
  const isTar = body instanceof Uint8Array;
  const payload = isTar ? body : body === undefined ? undefined : Buffer.from(JSON.stringify(body));
  const type = isTar ? "application/x-tar" : "application/json";
  return new Promise((resolve, reject) => {
    const call = http.request(
      {
        socketPath,
        method: request.method,
        path: request.path,
        agent: request.agent ?? false,
        headers: payload === undefined ? {} : { "Content-Type": type, "Content-Length": payload.byteLength },
        ...(idleTimeoutMs === undefined ? {} : { timeout: idleTimeoutMs }),
        ...(signal === undefined ? {} : { signal }),
      },
      (response) => {
        const pieces: Buffer[] = [];
        response.on("data", (piece: Buffer) => pieces.push(piece));
        response.on("error", reject);
        response.on("end", () => resolve({ status: response.statusCode ?? 0, body: Buffer.concat(pieces) }));
      },
    );
    call.on("timeout", () => call.destroy(new Error("no answer in time")));
    call.on("error", reject);
    call.end(payload);
  });
}

/** What JSON says, or else the text itself. */
export function bodyOf(answer: SocketAnswer): unknown {
  const text = answer.body.toString();
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
