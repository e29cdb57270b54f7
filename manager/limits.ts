/**
 * Every bound and time-out of the manager, with its unit and the reason for its size. Each part has a section of its own.
 */

// Store.

/** Events that wait for one slow watcher before it is told to resync. */
export const WATCH_EVENT_COUNT_MAX: number = 65_536;
/** Changes in one transaction of a batch: small enough that other writers get between, large enough to share a sync. */
export const BATCH_CHANGE_COUNT_MAX: number = 512;
/** Encoded bytes in one transaction of a batch, for the same reason. */
export const BATCH_BYTES_MAX: number = 512 * 1024;
/** Transactions of one batch in flight at once. */
export const BATCH_IN_FLIGHT_MAX: number = 8;
/** Encoded bytes in any transaction. A config of 1000 KiB is 1.33 MiB in base64. */
export const TRANSACTION_BYTES_MAX: number = 3 * 1024 * 1024;
/** How often a plan is made anew after losing a race before the caller is told. */
export const PLAN_RETRY_COUNT_MAX: number = 20;
