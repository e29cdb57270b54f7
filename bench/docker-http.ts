/** A small Docker API client for benches: one JSON request at a time over a UNIX socket, the same for Shoal and for its peer. */
import http from "node:http";

const agent = new http.Agent({ keepAlive: true });

export interface Reply {
  readonly status: number;
  readonly body: unknown;
}

/** One request; rejects on connection errors, not on statuses. */
export function request(
  socketPath: string,
  method: string,
  path: string,
  body?: Uint8Array | object,
): Promise<Reply> {
  const payload =
    body instanceof Uint8Array ? body : body === undefined ? undefined : Buffer.from(JSON.stringify(body));
  const type = body instanceof Uint8Array ? "application/x-tar" : "application/json";
  return new Promise((resolve, reject) => {
    const call = http.request(
      {
        socketPath,
        method,
        path: `/v1.41${path}`,
        agent,
        headers: payload === undefined ? {} : { "Content-Type": type, "Content-Length": payload.byteLength },
      },
      (response) => {
        const pieces: Buffer[] = [];
        response.on("data", (piece: Buffer) => pieces.push(piece));
        response.on("end", () => {
          const text = Buffer.concat(pieces).toString();
          resolve({ status: response.statusCode ?? 0, body: parse(text) });
        });
        response.on("error", reject);
      },
    );
    call.on("error", reject);
    call.end(payload);
  });
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
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
