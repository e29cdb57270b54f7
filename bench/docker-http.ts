/**
 * A small Docker API client for benches: one JSON request at a time over a UNIX socket, the same for Shoal and for its
 * peer.
 */
import http from "node:http";
import { bodyOf, requestOverSocket } from "../dev/socket-request.ts";

const agent = new http.Agent({ keepAlive: true });

export interface Reply {
  readonly status: number;
  readonly body: unknown;
}

/** One request; rejects on connection errors, not on statuses. */
export async function request(
  socketPath: string,
  method: string,
  path: string,
  body?: Uint8Array | object,
): Promise<Reply> {
  const answer = await requestOverSocket(socketPath, { method, path: `/v1.41${path}`, body, agent });
  return { status: answer.status, body: bodyOf(answer) };
}

/** As request(), but rejects with the server's message unless the status is 2xx. */
export async function ask(
  socketPath: string,
  method: string,
  path: string,
  body?: Uint8Array | object,
): Promise<unknown> {
  const reply = await request(socketPath, method, path, body);
  if (reply.status < 200 || reply.status > 299) {
    throw new Error(`${method} ${path}: ${reply.status} ${JSON.stringify(reply.body)}`);
  }
  return reply.body;
}
