/**
 * How a ClusterError travels over gRPC: the status carries code and text for any client, the trailer the whole error, so
 * that ours comes out on the other side with the same code, text and details. Used by rpc-server.ts and rpc-client.ts.
 */
import { Metadata, status, type ServiceError, type StatusObject } from "@grpc/grpc-js";
import {
  ClusterError,
  ERROR_CODES,
  type ClusterErrorOptions,
  type ErrorCode,
  type ErrorDetails,
} from "../common/errors.ts";

const TRAILER = "shoal-error-bin";
/** HTTP/2 peers refuse header blocks beyond 16 KiB; an error must never grow to that. */
const ERROR_JSON_BYTES_MAX = 8 * 1024;
const MESSAGE_CHARS_MAX = 2048;

interface WireError {
  readonly code: string;
  readonly message: string;
  readonly details?: ErrorDetails;
  readonly retryable?: boolean;
  readonly notLeader?: { readonly leaderAddress: string };
}

/** The gRPC status for anything caught in a handler. */
export function toStatus(caught: unknown): Partial<StatusObject> {
  const error = ClusterError.from(caught);
  const message = error.message.slice(0, MESSAGE_CHARS_MAX);
  const wire: WireError = {
    code: error.code,
    message,
    details: error.details,
    retryable: error.retryable,
    ...(error.notLeader === undefined ? {} : { notLeader: error.notLeader }),
  };
  const metadata = new Metadata();
  const json = Buffer.from(JSON.stringify(wire));
  metadata.set(
    TRAILER,
    json.length <= ERROR_JSON_BYTES_MAX ? json : Buffer.from(JSON.stringify({ code: error.code, message })),
  );
  return { code: ERROR_CODES[error.code].grpc, details: message, metadata };
}

/**
 * Ends a server's stream with the error. Emitted and not destroyed: grpc-js sends the status when it sees the event, and
 * a destroyed stream sends nothing.
 */
export function failStream(call: { emit(event: "error", error: Error): boolean }, caught: unknown): void {
  const { code, details, metadata } = toStatus(caught);
  call.emit("error", Object.assign(new Error(details), { code, details, metadata }));
}

function isErrorCode(value: unknown): value is ErrorCode {
  return typeof value === "string" && Object.hasOwn(ERROR_CODES, value);
}

/** What a failed call means here. A peer that can't be reached is `unavailable` and retryable. */
export function fromServiceError(error: ServiceError): ClusterError {
  const carried = error.metadata?.get(TRAILER)[0];
  if (carried instanceof Buffer) {
    const parsed = parseWire(carried);
    if (parsed !== undefined) return new ClusterError(parsed.code, parsed.message, parsed.options);
  }
  const code = codeOfStatus(error.code);
  // A method that nobody serves is one of a node that is just starting or changing its role.
  const retryable = code === "unavailable" || code === "unimplemented";
  return new ClusterError(code, error.details || error.message, { cause: error, retryable });
}

function parseWire(
  json: Buffer,
): { code: ErrorCode; message: string; options: ClusterErrorOptions } | undefined {
  let wire: WireError;
  try {
    wire = JSON.parse(json.toString()) as WireError;
  } catch {
    return undefined;
  }
  if (!isErrorCode(wire.code) || typeof wire.message !== "string") return undefined;
  return {
    code: wire.code,
    message: wire.message,
    options: {
      details: wire.details ?? {},
      retryable: wire.retryable ?? false,
      ...(wire.notLeader === undefined ? {} : { notLeader: wire.notLeader }),
    },
  };
}

function codeOfStatus(code: status): ErrorCode {
  if (code === status.FAILED_PRECONDITION) return "failed_precondition";
  if (code === status.ABORTED) return "conflict";
  if (code === status.OUT_OF_RANGE) return "invalid_argument";
  const found = Object.entries(ERROR_CODES).find(([, numbers]) => numbers.grpc === code);
  return found !== undefined && isErrorCode(found[0]) ? found[0] : "internal";
}
