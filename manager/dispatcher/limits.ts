/** Bounds and times of the dispatcher, with unit and reason. */

/** Changes of one burst travel together; short enough that a scale-up doesn't feel it. */
export const ASSIGNMENT_COALESCE_MS = 4;
/** Documents in one message: a task is about 2 kB, so a message stays far below the 16 MiB limit. */
export const DOCUMENT_COUNT_MAX = 1000;
/** Messages that wait for a slow worker before its session is ended; it comes back and gets a full set. */
export const SESSION_BACKLOG_COUNT_MAX = 256;
/** Statuses of one session that wait to be committed: those of ten thousand tasks. Who has more comes back and says the newest. */
export const SESSION_STATUS_BYTES_MAX: number = 8 * 1024 * 1024;
/** What a node may say before its session is answered: a sound one waits, and describes itself anew at most. */
export const SESSION_EARLY_BYTES_MAX: number = 1024 * 1024;
/** Changes remembered for each network; a session further behind gets the network whole. */
export const CHANGE_LOG_COUNT_MAX = 4096;
/** Statuses of one burst are committed together. */
export const STATUS_COALESCE_MS = 2;
/** Nobody waits longer than this for other nodes to take a draining endpoint out of service (network.md 2.1). */
export const DRAIN_BARRIER_MS = 3_000;
/**
 * Silence after which a node is down and its tasks are replaced. A restarted daemon has to be back before that; a dead
 * machine's tasks run elsewhere in well under ten seconds.
 */
export const NODE_DOWN_MS = 5_000;
/** A new leader gives nodes somewhat longer: they have to notice that the old one is gone before they look for it. */
export const NEW_LEADER_GRACE_MS = 6_500;
/** What nodes are given while more than half of all are silent. */
export const MASS_SILENCE_MS = 30_000;
/** A new leader waits for the rest until for so long none has come: hundreds come at the pace of their handshakes. */
export const ARRIVAL_PAUSE_MS = 3_000;
/** A beat on an open stream costs about 10 us here, so a second is cheap up to a thousand nodes; above it grows in proportion. */
export const HEARTBEAT_MIN_MS = 1_000;
export const HEARTBEATS_PER_SECOND_MAX = 1_000;
/** A beat may be late by as much again before its node counts as down. */
export const HEARTBEAT_MAX_MS: number = NODE_DOWN_MS / 2;
/** How often silence is looked for: the resolution of NODE_DOWN_MS. */
export const SILENCE_CHECK_MS = 250;
/** VXLAN identifier of the mesh; user networks start at 4096. */
export const MESH_VNI = 4095;
/** Networks that one node may ask for beyond those of its tasks. */
export const GUEST_NETWORK_COUNT_MAX = 256;
/** Places of containers outside of services on networks, of one node: about 200 bytes each in the node's object. */
export const GUEST_COUNT_MAX = 1024;
/** Names of one such place. */
export const GUEST_NAME_COUNT_MAX = 32;
/** Names of all of them together: they are in the node's object, which is written as a whole. */
export const GUEST_NAMES_CHARS_MAX: number = 256 * 1024;
/** Names, ids and addresses that a node tells: as long as a DNS name may be. */
export const NAME_CHARS_MAX = 255;
/** What a node tells of one task: about 400 bytes, more where an error quotes a program's words. */
export const STATUS_BYTES_MAX: number = 256 * 1024;
/** Words for people in a status are kept in every replica. */
export const STATUS_TEXT_CHARS_MAX = 4_096;
/** What a node tells of itself: about 1 KiB, more with many labels and certificates of roots. */
export const DESCRIPTION_BYTES_MAX: number = 64 * 1024;
/** Errors of one acknowledgement that the manager writes into its log. */
export const ACK_ERROR_COUNT_MAX = 16;
