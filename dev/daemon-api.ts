/** Small HTTP client for the daemons of a dev cluster: JSON in, JSON out, over their UNIX sockets. */
import { ClusterError } from "../common/errors.ts";
import { bodyOf, requestOverSocket, type SocketAnswer } from "./socket-request.ts";

/** What is used of an answer of /nodes. */
export interface NodeAnswer {
  readonly ID: string;
  readonly Description?: { readonly Hostname?: string };
  readonly Status?: { readonly State?: string };
  readonly ManagerStatus?: { readonly Leader?: boolean; readonly Reachability?: string } | null;
}

/** What is used of an answer of /tasks. */
export interface TaskAnswer {
  readonly NodeID?: string;
  readonly DesiredState: string;
  readonly Status: { readonly State: string };
}

const TIMEOUT_MS = 30_000;

/** Rejects with `unavailable` if nobody answers and with `failed_precondition` and the daemon's words on an error status. */
export async function callDaemon<T>(
  socketPath: string,
  method: string,
  path: string,
  body?: unknown,
): Promise<T> {
  let answer: SocketAnswer;
  try {
    answer = await requestOverSocket(socketPath, { method, path, body, idleTimeoutMs: TIMEOUT_MS });
  } catch (caught) {
    const why = caught instanceof Error ? caught.message : "no answer";
    throw new ClusterError("unavailable", `Cannot reach the daemon at "${socketPath}": ${why}`, {
      cause: caught,
    });
  }
  if (answer.status >= 400) {
    const said = answer.body.toString().trim();
    throw new ClusterError("failed_precondition", `${method} ${path}: ${answer.status}: ${said}`);
  }
  return bodyOf(answer) as T;
}
