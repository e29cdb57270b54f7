/**
 * The log in memory: entries after a base that was compacted away, and how far they are durable, committed and applied.
 * It knows no roles and sends nothing. Invariants: base <= applied <= commit <= last, and what is committed is never
 * removed.
 */
import { assert } from "../../../common/assert.ts";
import type { Entry } from "./messages.ts";

/** What an entry costs in a message or the log beyond its payload. */
const ENTRY_OVERHEAD_BYTES = 24;

export function entryBytes(entry: Entry): number {
  return entry.payload.byteLength + ENTRY_OVERHEAD_BYTES;
}

export class RaftLog {
  #entries: Entry[];
  #baseIndex: number;
  #baseTerm: number;
  /** Sum of entryBytes over the entries held. */
  #bytes = 0;
  #durableIndex: number;
  /** Entries up to here were handed to the disk (and may be on their way). */
  #handedIndex: number;
  #commitIndex: number;
  #appliedIndex: number;

  /** `entries` follow the base without a gap and are durable. */
  constructor(
    base: { readonly index: number; readonly term: number },
    entries: readonly Entry[],
    known: { readonly commit: number; readonly applied: number },
  ) {
    this.#baseIndex = base.index;
    this.#baseTerm = base.term;
    this.#entries = [...entries];
    for (const entry of entries) this.#bytes += entryBytes(entry);
    this.#durableIndex = this.lastIndex;
    this.#handedIndex = this.lastIndex;
    this.#appliedIndex = known.applied;
    this.#commitIndex = Math.min(Math.max(known.commit, known.applied), this.lastIndex);
    assert(base.index <= known.applied && known.applied <= this.lastIndex, "applied lies within the log");
  }

  get baseIndex(): number {
    return this.#baseIndex;
  }

  get baseTerm(): number {
    return this.#baseTerm;
  }

  get firstIndex(): number {
    return this.#baseIndex + 1;
  }

  get lastIndex(): number {
    return this.#baseIndex + this.#entries.length;
  }

  get lastTerm(): number {
    return this.#entries.at(-1)?.term ?? this.#baseTerm;
  }

  get bytes(): number {
    return this.#bytes;
  }

  get durableIndex(): number {
    return this.#durableIndex;
  }

  get handedIndex(): number {
    return this.#handedIndex;
  }

  get commitIndex(): number {
    return this.#commitIndex;
  }

  get appliedIndex(): number {
    return this.#appliedIndex;
  }

  /** Undefined if the entry is compacted away or not there yet. */
  termAt(index: number): number | undefined {
    if (index === this.#baseIndex) return this.#baseTerm;
    return this.#entries[index - this.#baseIndex - 1]?.term;
  }

  at(index: number): Entry | undefined {
    return this.#entries[index - this.#baseIndex - 1];
  }

  /** Paper 5.4.1: the later term in the last entry wins; with equal terms the longer log. */
  isUpToDate(lastIndex: number, lastTerm: number): boolean {
    return lastTerm > this.lastTerm || (lastTerm === this.lastTerm && lastIndex >= this.lastIndex);
  }

  /** Entries from `from` on, at least one if there is one, and then as many as fit. */
  slice(from: number, limits: { readonly bytesMax: number; readonly countMax: number }): readonly Entry[] {
    const start = from - this.#baseIndex - 1;
    assert(start >= 0, "compacted entries are never read");
    let end = start;
    let bytes = 0;
    while (end < this.#entries.length && end - start < limits.countMax) {
      const entry = this.#entries[end];
      if (entry === undefined) break;
      bytes += entryBytes(entry);
      if (bytes > limits.bytesMax && end > start) break;
      end += 1;
    }
    return this.#entries.slice(start, end);
  }

  /** The leader's own new entries. */
  append(entries: readonly Entry[]): void {
    for (const entry of entries) {
      assert(entry.index === this.lastIndex + 1, "the log has no gaps");
      this.#entries.push(entry);
      this.#bytes += entryBytes(entry);
    }
  }

  /**
   * A leader's entries. Undefined if the entry before them doesn't match. An existing entry is removed only when it
   * conflicts: an old, shorter message must not cut what a newer one brought (paper 5.3, figure 2 step 3).
   * Returns the last index that this message proved equal and the first index that was removed, if any.
   */
  accept(
    prevIndex: number,
    prevTerm: number,
    entries: readonly Entry[],
  ): { readonly lastIndex: number; readonly removedFrom: number | undefined } | undefined {
    if (this.termAt(prevIndex) !== prevTerm) return undefined;
    let removedFrom: number | undefined;
    for (const [position, entry] of entries.entries()) {
      const held = this.termAt(entry.index);
      if (held === entry.term) continue;
      if (held !== undefined) {
        removedFrom = entry.index;
        this.#removeFrom(entry.index);
      }
      this.append(entries.slice(position));
      break;
    }
    return { lastIndex: prevIndex + entries.length, removedFrom };
  }

  /**
   * Highest index at or below `index` whose term is at or below `term`, or 0 if even the base's term is above. Skips a
   * whole term of conflicting entries at once.
   */
  agreeIndex(index: number, term: number): number {
    let candidate = Math.min(index, this.lastIndex);
    while (candidate > this.#baseIndex) {
      const held = this.termAt(candidate);
      if (held !== undefined && held <= term) return candidate;
      candidate -= 1;
    }
    return candidate;
  }

  /** True if it moved. */
  commitTo(index: number): boolean {
    if (index <= this.#commitIndex) return false;
    assert(index <= this.lastIndex, "nothing is committed that is not in the log");
    this.#commitIndex = index;
    return true;
  }

  /** Entries that the disk has not been given yet, bounded. */
  takeUnwritten(limits: { readonly bytesMax: number; readonly countMax: number }): readonly Entry[] {
    if (this.#handedIndex >= this.lastIndex) return [];
    const entries = this.slice(this.#handedIndex + 1, limits);
    this.#handedIndex = entries.at(-1)?.index ?? this.#handedIndex;
    return entries;
  }

  /** A write that ended with this entry is durable. Means nothing if the entry was replaced meanwhile. */
  durableThrough(index: number, term: number): void {
    if (index > this.#durableIndex && this.termAt(index) === term) this.#durableIndex = index;
  }

  /** Whether takeCommitted() has something to give. */
  get hasCommitted(): boolean {
    return Math.min(this.#commitIndex, this.#durableIndex) > this.#appliedIndex;
  }

  /** Committed entries that were not given out yet and are durable here: applying never overtakes the own disk. */
  takeCommitted(limits: { readonly bytesMax: number; readonly countMax: number }): readonly Entry[] {
    const until = Math.min(this.#commitIndex, this.#durableIndex);
    if (until <= this.#appliedIndex) return [];
    const countMax = Math.min(limits.countMax, until - this.#appliedIndex);
    const entries = this.slice(this.#appliedIndex + 1, { bytesMax: limits.bytesMax, countMax });
    this.#appliedIndex = entries.at(-1)?.index ?? this.#appliedIndex;
    return entries;
  }

  /** Forgets entries up to `index`, which must be applied. */
  compact(index: number): void {
    if (index <= this.#baseIndex) return;
    assert(index <= this.#appliedIndex, "only applied entries are compacted");
    const term = this.termAt(index);
    assert(term !== undefined, "the compacted index is in the log");
    const dropped = this.#entries.splice(0, index - this.#baseIndex);
    for (const entry of dropped) this.#bytes -= entryBytes(entry);
    this.#baseIndex = index;
    this.#baseTerm = term;
  }

  /** A snapshot replaces everything. */
  reset(index: number, term: number): void {
    assert(index > this.#commitIndex, "a snapshot only moves forward");
    this.#entries = [];
    this.#bytes = 0;
    this.#baseIndex = index;
    this.#baseTerm = term;
    this.#durableIndex = index;
    this.#handedIndex = index;
    this.#commitIndex = index;
    this.#appliedIndex = index;
  }

  #removeFrom(index: number): void {
    assert(index > this.#commitIndex, "committed entries are never removed");
    const removed = this.#entries.splice(index - this.#baseIndex - 1);
    for (const entry of removed) this.#bytes -= entryBytes(entry);
    this.#durableIndex = Math.min(this.#durableIndex, index - 1);
    this.#handedIndex = Math.min(this.#handedIndex, index - 1);
  }
}
