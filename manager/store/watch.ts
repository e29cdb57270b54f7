/**
 * Tells watchers what was committed, in order, after the transaction, in a turn of their own. Each watcher has a bounded
 * buffer: one that is too slow loses its events and is told to resync instead of growing the manager's memory. One that was
 * cut off may go on after the version it saw last, as long as the history reaches back.
 */
import type { Timers } from "../../common/env.ts";
import type { Logger } from "../../common/log.ts";
import type { StoreEvent } from "../../model/objects.ts";
import { WATCH_EVENT_COUNT_MAX } from "../limits.ts";
import type { Watch, WatchItem, WatchOptions } from "./store.ts";
import { type CommittedEvents, WatchHistory } from "./watch-history.ts";

type Listener = (items: readonly WatchItem[]) => void;

class Watcher {
  readonly #listener: Listener;
  readonly #tables: ReadonlySet<string> | undefined;
  readonly #countMax: number;
  #items: WatchItem[] = [];
  #isLost = false;
  /** Commits up to it are known to the listener. */
  readonly #seenVersion: number;

  constructor(options: WatchOptions, listener: Listener, seenVersion: number) {
    this.#seenVersion = seenVersion;
    this.#listener = listener;
    this.#tables = options.tables === undefined ? undefined : new Set(options.tables);
    this.#countMax = options.eventCountMax ?? WATCH_EVENT_COUNT_MAX;
  }

  /** `changes`: of one transaction; the items are shared by all watchers. */
  offer({ changes, version }: CommittedEvents): boolean {
    if (version <= this.#seenVersion) return false;
    if (this.#isLost) {
      this.lose(version);
      return true;
    }
    const before = this.#items.length;
    for (const item of changes) {
      const { event } = item;
      if (this.#tables === undefined || this.#tables.has(event.table)) this.#items.push(item);
    }
    if (this.#items.length === before) return false;
    this.#items.push({ kind: "commit", version });
    if (this.#items.length > this.#countMax) this.lose(version);
    return true;
  }

  lose(version: number): void {
    this.#isLost = true;
    this.#items = [{ kind: "resync", version }];
  }

  deliver(): void {
    if (this.#items.length === 0) return;
    const items = this.#items;
    this.#items = [];
    this.#isLost = false;
    this.#listener(items);
  }
}

export class WatchHub {
  readonly #timers: Pick<Timers, "soon">;
  readonly #log: Logger;
  readonly #watchers = new Set<Watcher>();
  readonly #history = new WatchHistory();
  #isScheduled = false;

  constructor(timers: Pick<Timers, "soon">, log: Logger) {
    this.#timers = timers;
    this.#log = log;
  }

  add(options: WatchOptions, listener: Listener): Watch {
    return this.#add(new Watcher(options, listener, 0));
  }

  /** Undefined if commits after `version` are forgotten. */
  addAfter(version: number, options: WatchOptions, listener: Listener): Watch | undefined {
    const missed = this.#history.after(version);
    if (missed === undefined) return undefined;
    const watcher = new Watcher(options, listener, version);
    for (const commit of missed) watcher.offer(commit);
    this.#schedule();
    return this.#add(watcher);
  }

  publish(events: readonly StoreEvent[], version: number, bytes: number): void {
    const commit: CommittedEvents = {
      changes: events.map((event) => ({ kind: "event", event })),
      version,
      bytes,
    };
    this.#history.push(commit);
    let isAnyWaiting = false;
    for (const watcher of this.#watchers) isAnyWaiting = watcher.offer(commit) || isAnyWaiting;
    if (isAnyWaiting) this.#schedule();
  }

  /** The state was replaced: every watcher starts over. */
  resync(version: number): void {
    this.#history.reset(version);
    for (const watcher of this.#watchers) watcher.lose(version);
    if (this.#watchers.size > 0) this.#schedule();
  }

  #add(watcher: Watcher): Watch {
    this.#watchers.add(watcher);
    return { cancel: () => void this.#watchers.delete(watcher) };
  }

  #schedule(): void {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    this.#timers.soon(() => {
      this.#isScheduled = false;
      for (const watcher of this.#watchers) this.#deliver(watcher);
    });
  }

  #deliver(watcher: Watcher): void {
    try {
      watcher.deliver();
    } catch (caught) {
      this.#log.error("store watcher threw", { error: caught });
      throw caught;
    }
  }
}
