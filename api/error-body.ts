/**
 * The edge where errors become HTTP: status and Docker's `{"message": …}`. Handlers throw ClusterErrors with Docker's
 * words; anything else that was thrown is an internal error, logged by the server. Never writes to a connection itself.
 */
import { ClusterError, ERROR_CODES } from "../common/errors.ts";

/** CLI 28 parses the message only if the type is exactly this, without a charset. */
export const JSON_TYPE = "application/json";

export interface ErrorReply {
  readonly status: number;
  readonly contentType: string;
  readonly body: string;
}

/** Statuses whose replies have no body. */
function isBodiless(status: number): boolean {
  return status === 304 || status === 204;
}

/** Clients know no status for "the caller went away"; nobody reads the answer anyway. */
const CANCELLED_STATUS = 500;

function httpStatus(error: ClusterError): number {
  return error.code === "cancelled" ? CANCELLED_STATUS : ERROR_CODES[error.code].http;
}

export function errorReply(caught: unknown): ErrorReply {
  const error = ClusterError.from(caught);
  const status = httpStatus(error);
  if (isBodiless(status)) return { status, contentType: JSON_TYPE, body: "" };
  return { status, contentType: JSON_TYPE, body: `${JSON.stringify({ message: error.message })}\n` };
}

export function badParameter(message: string): ClusterError {
  return new ClusterError("invalid_argument", message);
}

export function pageNotFound(): ClusterError {
  return new ClusterError("not_found", "page not found");
}
