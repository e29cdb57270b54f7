/**
 * Every bound and time-out of the manager, with its unit and the reason for its size. Each part has a section of its own.
 */

// Store.

/** Events that wait for one slow watcher before it is told to resync. */
export const WATCH_EVENT_COUNT_MAX: number = 65_536;
/** Newest events that are kept for watchers that come back; at some hundred task changes a second, the last minute or so. */
export const WATCH_HISTORY_EVENT_COUNT_MAX: number = 16_384;
/** What those may take, measured in the log; objects that were replaced come on top. */
export const WATCH_HISTORY_BYTES_MAX: number = 8_388_608;
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

// Loops.

/** A loop whose run failed starts over from a full scan after this, doubling to the maximum. */
export const LOOP_RETRY_FIRST_MS: number = 50;
export const LOOP_RETRY_MAX_MS: number = 5_000;
/** Milliseconds of rest for each of planning, so that a loop takes up a quarter of the processor at most. */
export const LOOP_REST_PER_PLANNING: number = 3;
/** Shorter rests, after plans for some hundred tasks, aren't worth a timer. */
export const LOOP_REST_MIN_MS: number = 5;
/** Nobody shall notice a longer one. */
export const LOOP_REST_MAX_MS: number = 100;

// Orchestrators and updater.

/** Dead tasks kept for each slot where the cluster says nothing. */
export const TASK_HISTORY_COUNT: number = 5;
/** A replacement waits for its predecessor to stop for the grace period and this; then the predecessor counts as lost. */
export const STOP_WAIT_MARGIN_MS: number = 60_000;
/** An updated task that is not running after this counts as failed, so that no update waits for ever. */
export const UPDATE_PROGRESS_DEADLINE_MS: number = 600_000;
/** Actions of one loop that are planned between two looks at the newest state. */
export const ACTION_COUNT_MAX: number = 20_000;

// Allocator.

/** An address, VNI or port is not given to another for this long: DNS answers and connections must have forgotten it. */
export const ADDRESS_QUARANTINE_MS: number = 5_000;
/** First VXLAN network identifier, as in Swarm. */
export const VNI_FIRST: number = 4096;
export const VNI_LAST: number = 2 ** 24 - 1;
export const PUBLISHED_PORT_FIRST: number = 30_000;
export const PUBLISHED_PORT_LAST: number = 32_767;
/** A node's block of the mesh: 510 tasks with published ports or egress. */
export const MESH_BLOCK_PREFIX: number = 23;
/** Used where the cluster object says nothing. */
export const DEFAULT_ADDRESS_POOL: string = "10.0.0.0/8";
export const DEFAULT_SUBNET_PREFIX: number = 24;
export const DEFAULT_MESH_POOL: string = "100.64.0.0/10";

// Scheduler.

/** Wait after the first pending task, so that the rest of its batch is placed with it. */
export const SCHEDULE_DEBOUNCE_MS: number = 2;
/** Tasks placed in one round, so that the event loop gets its turn. */
export const SCHEDULE_ROUND_COUNT_MAX: number = 20_000;
/** A node where a service failed so often lately gets its tasks last. */
export const FAILURE_COUNT_FOR_DEPREFERENCE: number = 5;
export const FAILURE_WINDOW_MS: number = 300_000;

// Images of the cluster.

/** Records of images that were put into the cluster: each is about 500 bytes of replicated state. */
export const CLUSTER_IMAGE_COUNT_MAX: number = 2_000;
/** A node that is gone for longer is replaced as keeper of copies. A reboot takes less, and copying costs traffic. */
export const IMAGE_NODE_PATIENCE_MS: number = 30_000;
/** A node that has not fetched an image after this gets another one beside it: its disk may be full. 30 GB at a gigabit. */
export const IMAGE_FETCH_PATIENCE_MS: number = 300_000;
/** Reports of several nodes are judged together. */
export const IMAGE_KEEP_DEBOUNCE_MS: number = 20;
/** Names and digests that one node may say to have: about 1,000 images. */
export const NODE_IMAGE_COUNT_MAX: number = 4_096;
/** Nodes that one who looks for an image is told of. */
export const IMAGE_SOURCE_COUNT_MAX: number = 16;
/** Longest name of an image: 255 characters of repository, 128 of tag, the colon. */
export const NODE_IMAGE_CHARS_MAX: number = 384;

// Leader link and control API.

/** How long a request waits for a leader: several elections. Docker's own managers give up after 20 s. */
export const LEADER_WAIT_MS: number = 15_000;
/** Pause before the next try while no leader answers. */
export const LEADER_RETRY_MS: number = 50;
/** A joining manager waits so long for its state. */
export const JOIN_WAIT_MS: number = 30_000;
/** A manager that is to join must be reached at its advertise-addr within this. Docker's managers wait as long. */
export const JOIN_REACH_MS: number = 5_000;
/** A manager whose join failed tries for so long to leave Raft again. */
export const WITHDRAW_WAIT_MS: number = 5_000;
/** Pause before the member file is sealed again after a failure, e.g. of a full disk. */
export const AUTOLOCK_RETRY_MS: number = 5_000;
/** Pause before a manager that starts asks again whether it knows all that the cluster does, before it seals anything. */
export const AUTOLOCK_CONFIRM_MS: number = 500;
/** A write that the leader made is waited for here so long before the answer says so. */
export const LOCAL_COPY_WAIT_MS: number = 2_000;
/** A learner has so long to catch up, and may be silent for so long, before it is given up. */
export const LEARNER_WAIT_MS: number = 600_000;
/** How often the leader compares Raft membership, roles and node objects. */
export const ROLE_CHECK_MS: number = 500;
/** Commits that wait for a reader of the control API (event streams) before it is cut off. */
export const CONTROL_WATCH_COUNT_MAX: number = 4_096;
/** A leader that stops waits so long for another one to take over. */
export const LEADER_HANDOVER_MS: number = 1_000;
