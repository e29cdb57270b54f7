/** One HTTP request to a daemon's socket, with what can be said about its fate: answered, refused, or unknown. */
import { request } from "node:http";

/** Longer than a change of leader takes; a client that waits longer learns nothing more. */
const ANSWER_MS = 8_000;

export type Reply =
  | { readonly kind: "answered"; readonly status: number; readonly body: unknown }
  /** Never reached the daemon: nothing has happened. */
  | { readonly kind: "refused"; readonly why: string }
  /** May have happened, may happen yet, may never happen. */
  | { readonly kind: "unknown"; readonly why: string };

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

export function requestOnce(
  socketPath: string,
  method: string,
  path: string,
  body?: unknown,
): Promise<Reply> {
  const content = body === undefined ? undefined : JSON.stringify(body);
  return new Promise((resolve) => {
    const failed = (caught: Error & { code?: string }): void => {
      const isRefused = caught.code === "ECONNREFUSED" || caught.code === "ENOENT";
      resolve({ kind: isRefused ? "refused" : "unknown", why: caught.code ?? caught.message });
    };
    const call = request(
      {
        socketPath,
        method,
        path: `/v1.41${path}`,
        agent: false,
        headers:
          content === undefined
            ? {}
            : { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(content) },
      },
      (response) => {
        const pieces: Buffer[] = [];
        response.on("data", (piece: Buffer) => pieces.push(piece));
        response.on("error", failed);
        response.on("end", () => {
          clearTimeout(timer);
          const text = Buffer.concat(pieces).toString();
          resolve({ kind: "answered", status: response.statusCode ?? 0, body: parse(text) });
        });
      },
    );
    const timer = setTimeout(
      () => call.destroy(Object.assign(new Error("no answer"), { code: "NO_ANSWER" })),
      ANSWER_MS,
    );
    call.on("error", (caught) => {
      clearTimeout(timer);
      failed(caught);
    });
    call.end(content);
  });
}
