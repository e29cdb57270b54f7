/** Every bound and time-out of the worker's network, with unit and reason. */

/** VXLAN over IPv4: outer Ethernet, IP, UDP and VXLAN headers. */
export const VXLAN_OVERHEAD_BYTES = 50;
/** Where the underlay's MTU can't be found, or is that of loopback. */
export const DEFAULT_UNDERLAY_MTU_BYTES = 1_500;
/** Jumbo frames are worth it; loopback's 64 KiB are not: some peer will have less. */
export const UNDERLAY_MTU_BYTES_MAX = 9_000;
/** After a task's end its addresses answer with a reset for this long, unless somebody else needs them. */
export const QUARANTINE_SECONDS = 60;
/**
 * Addresses of the mesh rest at least so long before the next owner; the longest rested is taken first, so on a node that
 * isn't full they rest for minutes. A block has 253: were it the whole quarantine, a node that starts four tasks a second
 * would run out. Other nodes have dropped an address before its task is stopped, and its flows are deleted.
 */
export const MESH_REST_SECONDS_MIN = 5;
/** A link that outlives its container by this much is deleted: something still holds the container's namespace. */
export const LEFTOVER_LINK_MS = 5_000;
/** Between looks whether the kernel still has what it was told. */
export const AUDIT_INTERVAL_MS = 60_000;
/** Name lookups: virtual addresses stay, endpoints come and go. */
export const VIP_TTL_SECONDS = 30;
export const ENDPOINT_TTL_SECONDS = 2;
/** The last assignment is written for the next daemon at most this often. */
export const SAVE_INTERVAL_MS = 1_000;
/** How long a container's start waits until managers have described a network that this node did not know. */
export const GUEST_NETWORK_WAIT_MS = 2_000;
/** And until they have given it an address: longer than it takes to choose another leader. */
export const GUEST_ADDRESS_WAIT_MS = 10_000;
