/** Small HTTP client for the daemons of a dev cluster: JSON in, JSON out, over their UNIX sockets. */
import { request } from "node:http";
import { ClusterError } from "../common/errors.ts";

const TIMEOUT_MS = 30_000;

/** Rejects with `unavailable` if nobody answers and with `failed_precondition` and the daemon's words on an error status. */
export async function callDaemon<T>(
  socketPath: string,
  method: string,
  path: string,
  body?: unknown,
): Promise<T> {
  const content = body === undefined ? undefined : JSON.stringify(body);
  return await new Promise((resolve, reject) => {
    const fail = (caught: Error): void =>
      reject(
        new ClusterError("unavailable", `Cannot reach the daemon at "${socketPath}": ${caught.message}`, {
          cause: caught,
        }),
      );
    const sent = request(
      {
        socketPath,
        path,
        method,
        agent: false,
        timeout: TIMEOUT_MS,
        headers:
          content === undefined
            ? {}
            : { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(content) },
      },
      (response) => {
        const chunks: Buffer[] = [];
        response.on("data", (chunk: Buffer) => chunks.push(chunk));
        response.on("error", fail);
        response.on("end", () => {
          const text = Buffer.concat(chunks).toString("utf8");
          const status = response.statusCode ?? 0;
          if (status >= 400)
            reject(new ClusterError("failed_precondition", `${method} ${path}: ${status}: ${text.trim()}`));
          else
            resolve(
              (text.trim().startsWith("{") || text.trim().startsWith("[") || text.trim().startsWith('"')
                ? JSON.parse(text)
                : text) as T,
            );
        });
      },
    );
    sent.on("timeout", () => sent.destroy(new Error("no answer in time")));
    sent.on("error", fail);
    sent.end(content);
  });
}
