/**
 * The one kind of operating error, with a code from a closed list. Broken invariants are assertion errors instead
 * (assert.ts). This table is the only place where codes meet gRPC and HTTP: edges map, cores never know.
 */

/**
 * HTTP statuses follow the Docker Engine: a failed precondition is 400, a conflict 409, an untyped error 500.
 * gRPC numbers are those of google.rpc.Code.
 */
export const ERROR_CODES = {
  invalid_argument: { grpc: 3, http: 400 },
  failed_precondition: { grpc: 9, http: 400 },
  unauthenticated: { grpc: 16, http: 401 },
  permission_denied: { grpc: 7, http: 403 },
  not_found: { grpc: 5, http: 404 },
  already_exists: { grpc: 6, http: 409 },
  conflict: { grpc: 10, http: 409 },
  /** A stale version in compare-and-set. Docker answers 500 and clients look for "update out of sequence". */
  out_of_sequence: { grpc: 10, http: 500 },
  /** What was asked for is no longer kept; starting afresh helps, asking again doesn't. */
  expired: { grpc: 11, http: 410 },
  resource_exhausted: { grpc: 8, http: 503 },
  internal: { grpc: 13, http: 500 },
  unimplemented: { grpc: 12, http: 501 },
  unavailable: { grpc: 14, http: 503 },
  deadline_exceeded: { grpc: 4, http: 503 },
  cancelled: { grpc: 1, http: 499 },
} as const;

export type ErrorCode = keyof typeof ERROR_CODES;

export type ErrorDetails = Readonly<Record<string, string | number | boolean>>;

export interface ClusterErrorOptions {
  readonly cause?: unknown;
  /** Facts beside the text, for programs: `{ taskId, nodeId }`. */
  readonly details?: ErrorDetails;
  /** The same call may succeed later without change. */
  readonly retryable?: boolean;
  /** Set when only the leader can do it: its address, or "" if none is known. */
  readonly notLeader?: { readonly leaderAddress: string };
}

export class ClusterError extends Error {
  override readonly name = "ClusterError";
  readonly code: ErrorCode;
  readonly details: ErrorDetails;
  readonly retryable: boolean;
  readonly notLeader: { readonly leaderAddress: string } | undefined;

  /** `message`: action, wanted, got; capital letter, quotes, no final period. */
  constructor(code: ErrorCode, message: string, options: ClusterErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.details = options.details ?? {};
    this.retryable = options.retryable ?? false;
    this.notLeader = options.notLeader;
  }

  /**
   * Converts anything caught. A ClusterError comes back as it is; others become `internal` (or by errno) with the cause
   * kept.
   */
  static from(caught: unknown): ClusterError {
    if (caught instanceof ClusterError) return caught;
    if (caught instanceof Error) {
      const errno = nodeCodeOf(caught);
      if (caught.name === "AbortError")
        return new ClusterError("cancelled", caught.message, { cause: caught });
      const code: ErrorCode =
        errno === "ENOENT"
          ? "not_found"
          : errno === "EACCES" || errno === "EPERM"
            ? "permission_denied"
            : errno === "ENOSPC"
              ? "resource_exhausted"
              : errno === "ECONNREFUSED" || errno === "ECONNRESET" || errno === "ETIMEDOUT"
                ? "unavailable"
                : "internal";
      return new ClusterError(code, caught.message, { cause: caught });
    }
    return new ClusterError("internal", String(caught), { cause: caught });
  }
}

/** What Node names the reason of a failure: "ENOENT", "ERR_STREAM_PREMATURE_CLOSE". "" if it names none. */
export function nodeCodeOf(caught: unknown): string {
  return caught instanceof Error && "code" in caught ? String(caught.code) : "";
}

/** True if Node names one of `codes` as the reason of the failure. Our own codes: hasCode(). */
export function hasNodeCode(caught: unknown, ...codes: readonly string[]): boolean {
  return codes.includes(nodeCodeOf(caught));
}

/** True if `caught` is a ClusterError of one of `codes`. Compare by code, never by message. */
export function hasCode(caught: unknown, ...codes: readonly ErrorCode[]): caught is ClusterError {
  return caught instanceof ClusterError && codes.includes(caught.code);
}
