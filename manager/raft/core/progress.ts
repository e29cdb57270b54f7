/**
 * What the leader knows of one follower's log, and how much it may send before the next answer.
 *
 * probe: where the logs agree is not known; one message at a time. replicate: it is known; messages are sent ahead,
 * bounded by count and bytes. snapshot: the entries it needs are compacted away; nothing is sent until the snapshot's
 * fate is reported. Owned by leader.ts alone.
 */
import { assert } from "../../../common/assert.ts";

export interface InflightLimits {
  readonly countMax: number;
  readonly bytesMax: number;
}

/** Appends that were sent and not answered, oldest first. Full means: wait. */
export class Inflights {
  readonly #limits: InflightLimits;
  readonly #lastIndexes: number[] = [];
  readonly #bytes: number[] = [];
  #bytesTotal = 0;

  constructor(limits: InflightLimits) {
    this.#limits = limits;
  }

  get count(): number {
    return this.#lastIndexes.length;
  }

  get bytes(): number {
    return this.#bytesTotal;
  }

  /** One message may go over the bytes limit, else an entry larger than it could never be sent. */
  get isFull(): boolean {
    return this.#lastIndexes.length >= this.#limits.countMax || this.#bytesTotal >= this.#limits.bytesMax;
  }

  add(lastIndex: number, bytes: number): void {
    assert(!this.isFull, "nothing is sent when the window is full");
    this.#lastIndexes.push(lastIndex);
    this.#bytes.push(bytes);
    this.#bytesTotal += bytes;
  }

  /** Forgets all messages whose last entry is at or below `index`. */
  freeThrough(index: number): void {
    let freed = 0;
    while (freed < this.#lastIndexes.length && (this.#lastIndexes[freed] ?? 0) <= index) {
      this.#bytesTotal -= this.#bytes[freed] ?? 0;
      freed += 1;
    }
    if (freed === 0) return;
    this.#lastIndexes.splice(0, freed);
    this.#bytes.splice(0, freed);
  }

  /** Opens the window by one message: used when an answer seems lost. */
  freeFirst(): void {
    const first = this.#lastIndexes[0];
    if (first !== undefined) this.freeThrough(first);
  }

  clear(): void {
    this.#lastIndexes.length = 0;
    this.#bytes.length = 0;
    this.#bytesTotal = 0;
  }
}

export type ProgressMode = "probe" | "replicate" | "snapshot";

export class Progress {
  readonly raftId: number;
  readonly inflights: Inflights;
  mode: ProgressMode = "probe";
  /** Highest index known to be durable there and equal to ours. Lowered only by reset(). */
  match = 0;
  /** First index of the next append. Always above match. */
  next: number;
  /** In probe: a message is out and unanswered. */
  isProbeSent = false;
  /** In snapshot: index of the snapshot being sent. */
  snapshotIndex = 0;
  /** Leader's tick at which something was last heard; for CheckQuorum. */
  heardTick: number;
  /** Highest heartbeat round that it answered. */
  ackedRound = 0;
  /** It said that it lost a part of its log: it takes entries but doesn't vote. */
  isRecovering = false;
  /** The number that it gave its present life, while it recovers; 0 otherwise. */
  incarnation = 0;
  /** Commit index that it was last told. */
  sentCommit = 0;

  constructor(raftId: number, next: number, heardTick: number, limits: InflightLimits) {
    this.raftId = raftId;
    this.next = next;
    this.heardTick = heardTick;
    this.inflights = new Inflights(limits);
  }

  get isPaused(): boolean {
    switch (this.mode) {
      case "probe":
        return this.isProbeSent;
      case "replicate":
        return this.inflights.isFull;
      case "snapshot":
        return true;
    }
  }

  becomeProbe(): void {
    const from = this.mode === "snapshot" ? Math.max(this.match, this.snapshotIndex) : this.match;
    this.#enter("probe");
    this.next = from + 1;
  }

  becomeReplicate(): void {
    this.#enter("replicate");
    this.next = this.match + 1;
  }

  becomeSnapshot(index: number): void {
    this.#enter("snapshot");
    this.snapshotIndex = index;
  }

  /** The snapshot did not arrive: start over from what is known. */
  abandonSnapshot(): void {
    this.snapshotIndex = 0;
    this.becomeProbe();
  }

  /** What a message says of the sender's present life. */
  recovers(life: { readonly isRecovering: boolean; readonly incarnation: number }): void {
    this.isRecovering = life.isRecovering;
    this.incarnation = life.incarnation;
  }

  /** The follower lost what it acknowledged: nothing is known of it beyond `lastIndex`. */
  reset(lastIndex: number): void {
    this.match = Math.min(this.match, lastIndex);
    this.snapshotIndex = 0;
    this.#enter("probe");
    this.next = lastIndex + 1;
  }

  /** An append with entries up to `lastIndex` went out. */
  sent(lastIndex: number, entryCount: number, bytes: number): void {
    if (this.mode === "replicate") {
      if (entryCount === 0) return;
      this.next = lastIndex + 1;
      this.inflights.add(lastIndex, bytes);
      return;
    }
    assert(this.mode === "probe", "nothing is appended while a snapshot is on its way");
    this.isProbeSent = true;
  }

  /** True if the acknowledgement says something new. */
  acknowledge(index: number): boolean {
    const isNew = index > this.match;
    if (isNew) {
      this.match = index;
      this.isProbeSent = false;
    }
    this.next = Math.max(this.next, index + 1);
    return isNew;
  }

  /** A refusal: true if it is not a stale one and `next` was moved back to be tried again. */
  reject(rejectedIndex: number, agreeIndex: number): boolean {
    if (this.mode === "replicate") {
      // Already acknowledged beyond it: an old answer that overtook or was repeated.
      if (rejectedIndex <= this.match) return false;
      this.becomeProbe();
      return true;
    }
    // A probe's refusal must be of the probe that is out.
    if (this.mode === "snapshot" || this.next - 1 !== rejectedIndex) return false;
    this.next = Math.max(Math.min(rejectedIndex, agreeIndex + 1), this.match + 1);
    this.isProbeSent = false;
    return true;
  }

  #enter(mode: ProgressMode): void {
    this.mode = mode;
    this.isProbeSent = false;
    this.inflights.clear();
  }
}
