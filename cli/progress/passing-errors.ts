/** Which errors of a request a wait may sit out. Used by what polls the daemon until something has come to its end. */
import { ApiError } from "../client/api-client.ts";

/** Errors that come without a break for longer than this end a wait. */
export const PASSING_ERRORS_MS = 30_000;

/** True where the next reading may go better: an election, a restarting daemon. */
export function isPassing(caught: unknown): boolean {
  if (caught instanceof ApiError) return caught.status >= 500;
  return caught instanceof Error && caught.name === "ConnectError";
}
