/** Every bound and timeout of BuildKit's protocol, with its unit and the reason for it. Read by this folder only. */

/** One message in either direction. Files travel in pieces of 32 KiB; a request with all its options is far below. */
export const MESSAGE_BYTES_MAX: number = 4 * 1024 * 1024;
/** Of one client's connection to /grpc: a build needs about four. */
export const STREAM_COUNT_MAX = 200;
/** Builds at a time, those included that wait for their client. */
export const BUILD_COUNT_MAX = 500;
/** Clients that answer questions: one for each build, and one more that buildx opens to look around. */
export const SESSION_COUNT_MAX = 1000;
/** Services and methods that one client says it has; buildx has about fifteen. */
export const SESSION_METHOD_COUNT_MAX = 1000;
/** A build may be asked for a moment before its session or its first call has come. */
export const ARRIVAL_MS = 5_000;
/** Answers of a client that asks no person: credentials from a helper program, secrets. */
export const ANSWER_MS = 60_000;

/** Files and folders of one context. */
export const FILE_COUNT_MAX = 1_000_000;
/** Their names together. */
export const NAME_BYTES_MAX: number = 256 * 1024 * 1024;
/** Files up to this size are asked for ahead and put together in memory; larger ones pass through one after the other. */
export const BUFFERED_FILE_BYTES_MAX: number = 512 * 1024;
/** Asked for ahead, all together. */
export const AHEAD_BYTES_MAX: number = 8 * 1024 * 1024;
export const AHEAD_COUNT_MAX = 256;
/** What a connection may have on its way before it is read. */
export const WINDOW_BYTES: number = 8 * 1024 * 1024;
/** Pieces in which files are sent to a client. */
export const PIECE_BYTES: number = 32 * 1024;

/** Output of steps that waits for one reader; of what is beyond that, the oldest is dropped. */
export const WAITING_OUTPUT_BYTES_MAX: number = 32 * 1024 * 1024;
/** Output in one message to a reader, a piece more or less: clients take messages of 4 or 16 MiB. */
export const OUTPUT_BYTES_PER_MESSAGE: number = 512 * 1024;
/** After a build, how long its answer waits for readers of its steps: clients hang up on them soon after the answer. */
export const READERS_MS = 60_000;
/** Output that is kept for readers who come later. */
export const KEPT_OUTPUT_BYTES_MAX: number = 2 * 1024 * 1024;

/** A secret, as BuildKit has it. */
export const SECRET_BYTES_MAX: number = 500 * 1024;
