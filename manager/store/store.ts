/**
 * The replicated store as the manager's loops see it: views, transactions, watch. memory-store.ts implements it over a
 * ReplicatedLog; tests use the same class over a log of one member in memory.
 */
import type { StoreEvent, TableName, TableTypes } from "../../model/objects.ts";
import type { StoreView } from "../../model/store-view.ts";

/** An object as a writer gives it: version and stamps are the store's. */
export type Draft<K extends TableName> = Omit<TableTypes[K], "version" | "createdAt" | "updatedAt">;

/** Reads see this transaction's own writes. Plans must be synchronous and may run more than once. */
export interface Transaction extends StoreView {
  /** RFC 3339: createdAt and updatedAt of what is written here. */
  readonly stamp: string;
  /** Throws already_exists if the id or (for named tables) the name is taken. */
  create<K extends TableName>(table: K, object: Draft<K>): void;
  /**
   * Replaces an object. `object.version` must be the one that was read in this transaction or before it;
   * a different one is refused with out_of_sequence, when planning or when applying.
   */
  update<K extends TableName>(table: K, object: TableTypes[K]): void;
  /** Throws not_found. */
  remove(table: TableName, id: string): void;
}

export interface WatchOptions {
  /** Only these tables; default all. */
  readonly tables?: readonly TableName[];
  /** Most events that wait for a slow reader before it is told to resync. Default in limits.ts. */
  readonly eventCountMax?: number;
}

export type WatchItem =
  | { readonly kind: "event"; readonly event: StoreEvent }
  /** End of one committed transaction's events; a good moment to act. */
  | { readonly kind: "commit"; readonly version: number }
  /** Events were lost (slow reader, snapshot installed): take `store.view()` afresh and start over. */
  | { readonly kind: "resync"; readonly version: number };

export interface Watch {
  /** Calls `listener` in commit order, never inside the transaction that caused it, until cancelled. */
  readonly cancel: () => void;
}

export interface UpdateResult<T> {
  readonly result: T;
  /** Raft index of the commit; the view's version if the plan wrote nothing. */
  readonly version: number;
}

export interface Store {
  /** The newest applied state. */
  view(): StoreView;
  /**
   * Plans against the newest state (with own transactions that are still in flight), proposes, waits for commit and apply.
   * Retries the plan when a concurrent write made it stale, a bounded number of times. A plan that throws writes nothing;
   * its error, like the result of a plan without changes, is given only once what the plan saw is committed and this
   * manager is known to lead still, so that refusals are linearizable too.
   * Leader only: rejects as ReplicatedLog.propose does.
   */
  update<T>(
    plan: (tx: Transaction) => T,
    options?: { readonly signal?: AbortSignal },
  ): Promise<UpdateResult<T>>;
  /**
   * Many independent small changes: `items` are planned in order and cut into transactions of bounded size that are in
   * flight at the same time. Resolves with how many were committed; an item whose plan throws is reported to `failed`
   * and skipped.
   */
  batch<I>(
    items: Iterable<I>,
    plan: (tx: Transaction, item: I) => void,
    options?: { readonly signal?: AbortSignal; readonly failed?: (item: I, error: unknown) => void },
  ): Promise<number>;
  /**
   * Goes on after `version`, which another manager of the cluster may have given: first what was committed since, then
   * what comes. Undefined where that is too long ago: take the view and start over. What this replica has not applied
   * yet comes in its time.
   */
  watchAfter(
    version: number,
    options: WatchOptions,
    listener: (items: readonly WatchItem[]) => void,
  ): Watch | undefined;
  /** View and watch from exactly that view on. */
  viewAndWatch(
    options: WatchOptions,
    listener: (items: readonly WatchItem[]) => void,
  ): { readonly view: StoreView; readonly watch: Watch };
}
