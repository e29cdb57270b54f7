/** One HTTP request to a daemon's socket, with what can be said about its fate: answered, refused, or unknown. */
import { hasNodeCode, nodeCodeOf } from "../../common/errors.ts";
import { bodyOf, requestOverSocket } from "../../dev/socket-request.ts";

/** Longer than a change of leader takes; a client that waits longer learns nothing more. */
const ANSWER_MS = 8_000;

export type Reply =
  | { readonly kind: "answered"; readonly status: number; readonly body: unknown }
  /** Never reached the daemon: nothing has happened. */
  | { readonly kind: "refused"; readonly why: string }
  /** May have happened, may happen yet, may never happen. */
  | { readonly kind: "unknown"; readonly why: string };

export async function requestOnce(
  socketPath: string,
  method: string,
  path: string,
  body?: unknown,
): Promise<Reply> {
  const signal = AbortSignal.timeout(ANSWER_MS);
  try {
    const answer = await requestOverSocket(socketPath, { method, path: `/v1.41${path}`, body, signal });
    return { kind: "answered", status: answer.status, body: bodyOf(answer) };
  } catch (caught) {
    if (!(caught instanceof Error)) throw caught;
    const isRefused = hasNodeCode(caught, "ECONNREFUSED", "ENOENT");
    const why = signal.aborted ? "NO_ANSWER" : nodeCodeOf(caught) || caught.message;
    return { kind: isRefused ? "refused" : "unknown", why };
  }
}
