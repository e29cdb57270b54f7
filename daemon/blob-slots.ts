/**
 * How many blobs a node sends at once: a hundred nodes that start the same image at one moment are served some at a time,
 * and no node takes all for itself. Who is sent away asks another node, or again.
 */
import { ClusterError } from "../common/errors.ts";

/** Each is a piece of at most 8 MiB to a node that reads it at once: the network is busy with far fewer. */
export const SERVED_COUNT_MAX = 32;
/** A node fetches a few layers at a time, each in two pieces. */
export const SERVED_TO_ONE_COUNT_MAX = 12;

export class BlobSlots {
  readonly #byNode = new Map<string, number>();
  #count = 0;

  /** Takes a slot for `nodeId`; throws resource_exhausted when there is none. Returns what gives it back, once. */
  take(nodeId: string): () => void {
    const own = this.#byNode.get(nodeId) ?? 0;
    if (this.#count >= SERVED_COUNT_MAX || own >= SERVED_TO_ONE_COUNT_MAX) {
      throw new ClusterError("resource_exhausted", "This node sends as many blobs as it can", {
        retryable: true,
        details: { servedCount: this.#count, servedToNode: own },
      });
    }
    this.#count += 1;
    this.#byNode.set(nodeId, own + 1);
    let isTaken = true;
    return () => {
      if (!isTaken) return;
      isTaken = false;
      this.#count -= 1;
      const left = (this.#byNode.get(nodeId) ?? 1) - 1;
      if (left === 0) this.#byNode.delete(nodeId);
      else this.#byNode.set(nodeId, left);
    };
  }
}
