/**
 * Nodes without a session, and how long each is waited for before it counts as down. Pure: times come from the caller, as
 * milliseconds of one monotonic clock. Used by dispatcher.ts.
 *
 * To take a node for down means to replace all that runs there, so it must not be done to many by mistake. A new leader has no
 * session at all, and hundreds of nodes come to it at the pace of their handshakes: it gives up nobody as long as nodes that
 * it found on taking over still come. And while more than half of all are silent, it is rather the manager, or its network, that is in
 * trouble (Kubernetes' node lifecycle controller stops evicting for the same reason).
 */
import { ARRIVAL_PAUSE_MS, MASS_SILENCE_MS, NEW_LEADER_GRACE_MS, NODE_DOWN_MS } from "./limits.ts";

interface Missing {
  /** When it was last heard, or the manager came to lead. */
  sinceMs: number;
  readonly patienceMs: number;
}

export class MissingNodes {
  readonly #missing = new Map<string, Missing>();
  /** Those found on taking over that have not come yet. */
  readonly #awaited = new Set<string>();
  #lastArrivalMs = 0;

  get count(): number {
    return this.#missing.size;
  }

  /** This manager leads from now on, and these nodes were up at last. */
  await(nodeIds: Iterable<string>, nowMs: number): void {
    this.#lastArrivalMs = nowMs;
    for (const nodeId of nodeIds) {
      this.#awaited.add(nodeId);
      this.#missing.set(nodeId, { sinceMs: nowMs, patienceMs: NEW_LEADER_GRACE_MS });
    }
  }

  /** Its session ended. */
  lost(nodeId: string, lastHeardMs: number): void {
    this.#missing.set(nodeId, { sinceMs: lastHeardMs, patienceMs: NODE_DOWN_MS });
  }

  /** It has a session. */
  found(nodeId: string, nowMs: number): void {
    if (this.#awaited.delete(nodeId)) this.#lastArrivalMs = nowMs;
    this.#missing.delete(nodeId);
  }

  /** It is no part of the cluster any more. */
  removed(nodeId: string): void {
    this.#awaited.delete(nodeId);
    this.#missing.delete(nodeId);
  }

  /** Takes out those whose time is over. `connectedCount` nodes have a session. */
  takeOverdue(nowMs: number, connectedCount: number): readonly string[] {
    if (this.#awaited.size > 0 && nowMs < this.#lastArrivalMs + ARRIVAL_PAUSE_MS) return [];
    const leastMs = this.#missing.size > connectedCount ? MASS_SILENCE_MS : 0;
    const overdue: string[] = [];
    for (const [nodeId, { sinceMs, patienceMs }] of this.#missing) {
      if (nowMs >= sinceMs + Math.max(leastMs, patienceMs)) overdue.push(nodeId);
    }
    for (const nodeId of overdue) this.removed(nodeId);
    return overdue;
  }

  /** Nobody could be heard for so long: that time doesn't count. */
  postpone(ms: number): void {
    this.#lastArrivalMs += ms;
    for (const each of this.#missing.values()) each.sinceMs += ms;
  }
}
