/** Every bound and timeout of the HTTP API, with its unit and the reason for it. Read by the rest of api/ only. */

/** Newest Docker Engine API version that is spoken. 1.44 and more satisfies the newest CLIs; 1.50 is what CLI 28 asks for. */
export const API_VERSION = "1.50";
/** Oldest version that is accepted; older clients get Docker's words. */
export const MIN_API_VERSION = "1.24";

/** Largest JSON body. A config of 1000 KiB is 1.4 MB in base64; nothing legitimate comes near this. */
export const JSON_BODY_BYTES_MAX: number = 8 * 1024 * 1024;
/** A JSON body must be complete this long after its headers, so that slow senders don't pile up. */
export const JSON_BODY_TIMEOUT_MS: number = 60_000;
/** Nesting of JSON bodies; real ones have about ten levels. */
export const JSON_DEPTH_MAX: number = 64;
/** Some SDKs repeat the whole request body in the query, so heads may be large. */
export const HEAD_BYTES_MAX: number = 256 * 1024;
/** A TLS handshake must be over in this time; Node's own patience is two minutes. */
export const HANDSHAKE_TIMEOUT_MS: number = 10_000;
/** A request's head must be complete in this time. */
export const HEAD_TIMEOUT_MS: number = 30_000;
/** How long an idle connection is kept for the client's next request. */
export const KEEP_ALIVE_MS: number = 120_000;
/** Connections of one listener at a time. An attached client holds one for as long as it looks. */
export const CONNECTION_COUNT_MAX: number = 8192;
/** Streams that are still open this long after stop() are cut. */
export const STOP_GRACE_MS: number = 1_000;

/** Past events kept for `since`, as many as Docker keeps. */
export const EVENT_RING_COUNT: number = 256;
/** Events waiting for one slow reader of /events; a reader that falls further behind is cut off. */
export const EVENT_BACKLOG_COUNT_MAX: number = 4096;
/** How often the event feed looks whether this node has become a manager or stopped being one. */
export const CONTROL_POLL_MS: number = 500;
/** A stream whose `until` lies in the past ends at the latest this long after the past was read. */
export const PAST_EVENTS_GRACE_MS: number = 500;

/** Values of one `filters` query, all keys together. */
export const FILTER_VALUE_COUNT_MAX: number = 10_000;

/** Largest WebSocket message of /attach/ws from a client; terminals send keystrokes and pastes. */
export const WEBSOCKET_MESSAGE_BYTES_MAX: number = 1024 * 1024;
/** After a hijacked stream has ended, how long its client may take to close its side before the connection is cut. */
export const LINGER_MS: number = 2_000;
/** How long the rest of a refused request's body is read and dropped before its connection is cut. */
export const DRAIN_MS: number = 10_000;

/** Objects of a list that are turned into JSON without a break; about a millisecond's work. */
export const LIST_PIECE_COUNT: number = 250;
/** How long past events of the cluster wait for earlier ones of the machine, so that both come in order. */
export const EVENT_MERGE_MS: number = 20;
/** How long clients that need it (hijack.ts) wait for the first output: time enough for them to have read the head alone. */
export const LATE_OUTPUT_MS = 60;
