/** Every bound and time-out of the worker, with unit and reason. */

/** Statuses of one burst (a scale-up reports hundreds) travel together; short enough not to be felt. */
export const STATUS_COALESCE_MS = 3;
/** Keeps a batch well below gRPC's 4 MiB message limit: a status is about 400 bytes. */
export const STATUS_BATCH_COUNT_MAX = 1000;
/**
 * How long a manager may take to open a session, and a connection to come up, before the next one is tried. A dead
 * machine answers nothing at all, and the whole search must end well before managers take this node for dead.
 */
export const SESSION_OPEN_TIMEOUT_MS = 1_500;
/**
 * What that grows to, doubled each time that no manager of all opened one: where hundreds of nodes come to one at once, each
 * that gives up and begins anew makes it slower for all.
 */
export const SESSION_OPEN_TIMEOUT_MAX_MS = 12_000;
/** A timer that is later than this shows that the process stood still; what came in meanwhile has not been looked at yet. */
export const STANDSTILL_MS = 250;
/** What keeps a manager from opening a session is logged again after this long, if it is the same still. */
export const TROUBLE_LOG_MS = 60_000;
/** A session in which nothing is heard for this many heartbeat periods is given up; opening another costs little. */
export const SESSION_SILENCE_PERIODS = 2.5;
/** An image that is to be kept for the cluster and did not come is asked for again. */
export const KEPT_IMAGE_RETRY = { firstMs: 500, maxMs: 30_000 } as const;
/** Between looks whether what is kept is all there: a disk may lose it. */
export const KEPT_IMAGE_CHECK_MS = 60_000;
/** Names and digests of images that a node reports; managers take no more than 4,096. */
export const IMAGE_INVENTORY_COUNT_MAX = 4_000;
/** Changes of a pull or a build are reported together. */
export const IMAGE_REPORT_DELAY_MS = 300;
/** Names and digests of images in one report; each is at most 384 bytes. */
export const IMAGE_REPORT_COUNT_MAX = 1000;
export const SESSION_BACKOFF = { firstMs: 50, maxMs: 2_000 } as const;
/** Used until a manager says otherwise. */
export const DEFAULT_HEARTBEAT_MS = 1_000;
/** Tasks that are being prepared at once: more only fight for the disk and the CPUs. */
export const TASK_START_COUNT_MAX = 16;
/** Between looks at a container's health while it starts; reading it is a look into memory. */
export const HEALTH_POLL_MS = 50;
/** Docker's default grace between the stop signal and SIGKILL. */
export const DEFAULT_STOP_GRACE_SECONDS = 10;
/** Retries of a step that failed for a reason that passes by itself (peer away, disk busy). */
export const STEP_RETRY = { countMax: 3, firstMs: 200, maxMs: 2_000 } as const;
/**
 * Between the moment when nobody sends a task new connections any more and its stop signal: packets that were on their way
 * arrive, and what waits in its listen queue is accepted. Swarm sleeps 2 s here.
 */
export const DRAIN_SETTLE_MS = 250;

/** Between two looks at which volume drivers the node has: a plugin that was started gets tasks within this time. */
export const DRIVERS_CHECK_MS = 5_000;
