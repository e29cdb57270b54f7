/**
 * The newest commits, kept so that a watcher that was cut off goes on where it stood, at this manager or at another
 * one: versions are Raft indexes, the same everywhere. Bounded by events and bytes; what is older is forgotten, and
 * said to be.
 */
import { WATCH_HISTORY_BYTES_MAX, WATCH_HISTORY_EVENT_COUNT_MAX } from "../limits.ts";
import type { StoreEvent } from "../../model/objects.ts";

/** One committed transaction as watchers are told of it. */
export interface CommittedEvents {
  readonly changes: readonly { readonly kind: "event"; readonly event: StoreEvent }[];
  readonly version: number;
  /** Of the entry in the log; stands for what the objects take. */
  readonly bytes: number;
}

export class WatchHistory {
  #commits: CommittedEvents[] = [];
  /** Commits before this place are dropped. */
  #head = 0;
  #eventCount = 0;
  #bytes = 0;
  /** Highest version whose events aren't here. */
  #forgottenVersion = 0;

  push(commit: CommittedEvents): void {
    this.#commits.push(commit);
    this.#eventCount += commit.changes.length;
    this.#bytes += commit.bytes;
    while (this.#eventCount > WATCH_HISTORY_EVENT_COUNT_MAX || this.#bytes > WATCH_HISTORY_BYTES_MAX) {
      this.#dropFirst();
    }
  }

  /** Commits in memory, dropped ones that were not cleared away yet among them. */
  get heldCount(): number {
    return this.#commits.length;
  }

  /** Commits after `version`, oldest first; undefined if some of them are forgotten. */
  after(version: number): readonly CommittedEvents[] | undefined {
    if (version < this.#forgottenVersion) return undefined;
    let low = this.#head;
    let high = this.#commits.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#commits[middle]?.version ?? 0) > version) high = middle;
      else low = middle + 1;
    }
    return this.#commits.slice(low);
  }

  /** The state was replaced by that of `version`: how it came about isn't known here. */
  reset(version: number): void {
    this.#commits = [];
    this.#head = 0;
    this.#eventCount = 0;
    this.#bytes = 0;
    this.#forgottenVersion = version;
  }

  #dropFirst(): void {
    const first = this.#commits[this.#head];
    if (first === undefined) return;
    this.#eventCount -= first.changes.length;
    this.#bytes -= first.bytes;
    this.#forgottenVersion = first.version;
    this.#head += 1;
    // Not one by one, or each would move all the rest; nor at a fixed number: a few hundred may hold megabytes each.
    if (this.#head <= this.#commits.length / 2) return;
    this.#commits = this.#commits.slice(this.#head);
    this.#head = 0;
  }
}
