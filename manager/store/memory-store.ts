/**
 * The replicated store: tables in memory, told by the Raft log what happened. The leader plans transactions against the
 * newest state with its own transactions that are still in flight, so no lock is held during the round trip.
 *
 * Safety: every transaction names the one that was last in the state it was planned on. apply() accepts it only if that
 * one is the last accepted, on every replica alike, so what is accepted is what was planned: transactions are serial.
 * When one is refused or was never appended, those planned on top of it are refused too and planned anew.
 */
import { assert } from "../../common/assert.ts";
import type { Clock, Timers } from "../../common/env.ts";
import { ClusterError, hasCode } from "../../common/errors.ts";
import type { Logger } from "../../common/log.ts";
import { parseRfc3339, rfc3339OfMicros } from "../../common/time.ts";
import type { StoreEvent } from "../../model/objects.ts";
import { TABLE_NAMES } from "../../model/objects.ts";
import type { StoreView } from "../../model/store-view.ts";
import {
  BATCH_BYTES_MAX,
  BATCH_CHANGE_COUNT_MAX,
  BATCH_IN_FLIGHT_MAX,
  PLAN_RETRY_COUNT_MAX,
  TRANSACTION_BYTES_MAX,
} from "../limits.ts";
import type {
  Checkpoint,
  CommittedEntry,
  ReplicatedLog,
  StateMachine,
  StateSnapshot,
} from "../raft/replicated-log.ts";
import type { StoredObject } from "./indexes.ts";
import type { Operation } from "./payload.ts";
import { decodeHeader, decodeOperations, encodePayload } from "./payload.ts";
import type { Store, Transaction, UpdateResult, Watch, WatchItem, WatchOptions } from "./store.ts";
import { Tables } from "./tables.ts";
import { PlannedTransaction } from "./transaction.ts";
import { WatchHub } from "./watch.ts";

export interface MemoryStoreDeps {
  readonly clock: Pick<Clock, "wallMs">;
  readonly timers: Pick<Timers, "soon">;
  readonly log: Logger;
}

/** A transaction that was proposed and not yet applied here. */
interface Flight {
  readonly sequence: number;
  readonly term: number;
  readonly operations: readonly Operation[];
  /** It can't be accepted any more: one that it builds on was lost. */
  isDoomed: boolean;
  /** Told whether it was accepted; mostly nobody asks. */
  watchers: ((isAccepted: boolean) => void)[] | undefined;
}

interface Outcome {
  readonly isAccepted: boolean;
  readonly version: number;
}

/** Where the name of the last accepted transaction lives among the checkpointed keys. */
const LAST_ACCEPTED_KEY = "meta/lastAccepted";
/** A stamp further ahead than this came from a clock that was wrong: it is not followed. */
const STAMP_AHEAD_MICROS_MAX = 86_400_000_000;
const KNOWN_TABLES: ReadonlySet<string> = new Set(TABLE_NAMES);

export class MemoryStore implements Store, StateMachine {
  readonly #clock: Pick<Clock, "wallMs">;
  readonly #hub: WatchHub;
  #raft: ReplicatedLog | undefined;
  /** What was applied. Replicas that applied the same entries hold the same. */
  #applied = new Tables();
  /** Name ("term.sequence") of the last accepted transaction; part of the replicated state. */
  #lastAccepted = "";
  /** An unchanging copy of #applied, made when asked for. */
  #view: Tables | undefined;
  /** #applied plus the flights, while there are any. */
  #planned: Tables | undefined;
  #sequence = 0;
  /** Of the newest stamp given or seen, in microseconds since 1970. */
  #lastStampMicros = 0;
  /** Of the newest change that was not planned here, "" if it is counted already. Only who plans has to read it. */
  #seenStamp = "";
  readonly #flights = new Map<number, Flight>();
  /** Entries applied that were not planned here: after one, what was planned before may have missed it. */
  #foreignCount = 0;
  /** Newest flight that is not doomed. */
  #newest: Flight | undefined;
  /** Keys changed since the last checkpoint. */
  #dirty = new Set<string>();
  /** Committed and not yet told to watchers. */
  #unpublished: { readonly events: StoreEvent[]; readonly version: number; readonly bytes: number }[] = [];

  constructor(deps: MemoryStoreDeps) {
    this.#clock = deps.clock;
    this.#hub = new WatchHub(deps.timers, deps.log);
  }

  /** Gives the log through which writes go. Before it, only reads and StateMachine calls work. */
  attach(log: ReplicatedLog): void {
    assert(this.#raft === undefined, "store is attached to one log");
    this.#raft = log;
  }

  view(): StoreView {
    this.#view ??= this.#applied.copy();
    return this.#view;
  }

  viewAndWatch(
    options: WatchOptions,
    listener: (items: readonly WatchItem[]) => void,
  ): { readonly view: StoreView; readonly watch: Watch } {
    this.#publish();
    return { view: this.view(), watch: this.#hub.add(options, listener) };
  }

  watchAfter(
    version: number,
    options: WatchOptions,
    listener: (items: readonly WatchItem[]) => void,
  ): Watch | undefined {
    this.#publish();
    return this.#hub.addAfter(version, options, listener);
  }

  async update<T>(
    plan: (tx: Transaction) => T,
    options: { readonly signal?: AbortSignal } = {},
  ): Promise<UpdateResult<T>> {
    let hasWaitedForVersion = false;
    for (let attempt = 0; attempt <= PLAN_RETRY_COUNT_MAX; attempt += 1) {
      options.signal?.throwIfAborted();
      const base = this.#newest;
      const tx = this.#begin();
      let result: T;
      try {
        result = plan(tx);
      } catch (caught) {
        tx.rollback(0);
        if (!isAboutState(caught)) throw caught;
        if (!(await this.#isConfirmed(base, options))) continue;
        // Once is enough: what was begun since then is nothing that the caller could have seen.
        if (hasWaitedForVersion || !isOfVersionInFlight(caught)) throw caught;
        hasWaitedForVersion = true;
        continue;
      }
      if (tx.changeCount === 0) {
        if (await this.#isConfirmed(base, options)) return { result, version: tx.version };
        continue;
      }
      const outcome = await abortable(this.#propose(tx), options.signal);
      if (outcome.isAccepted) return { result, version: outcome.version };
    }
    throw lostRaces();
  }

  async batch<I>(
    items: Iterable<I>,
    plan: (tx: Transaction, item: I) => void,
    options: { readonly signal?: AbortSignal; readonly failed?: (item: I, error: unknown) => void } = {},
  ): Promise<number> {
    let committedCount = 0;
    let waiting: Iterable<I> = items;
    for (let attempt = 0; attempt <= PLAN_RETRY_COUNT_MAX; attempt += 1) {
      const round = await this.#batchRound(waiting, plan, options);
      committedCount += round.committedCount;
      if (round.refused.length === 0) return committedCount;
      waiting = round.refused;
    }
    throw lostRaces();
  }

  apply(entry: CommittedEntry): Outcome {
    const header = decodeHeader(entry.payload);
    const flight = this.#flights.get(header.sequence);
    const isOwn = flight !== undefined && flight.term === entry.term;
    if (isOwn) this.#flights.delete(header.sequence);
    else this.#foreignCount += 1;
    if (header.after !== this.#lastAccepted) {
      if (isOwn && !flight.isDoomed) this.#dropPlanned();
      return { isAccepted: false, version: this.#applied.version };
    }
    if (this.#planned !== undefined && !isOwn) this.#dropPlanned();
    this.#lastAccepted = `${entry.term}.${header.sequence}`;
    this.#dirty.add(LAST_ACCEPTED_KEY);
    this.#view = undefined;
    this.#applied.version = entry.index;
    const events: StoreEvent[] = [];
    for (const operation of isOwn ? flight.operations : decodeOperations(entry.payload, entry.index)) {
      this.#applyOperation(operation, entry.index, events);
    }
    if (this.#newest === flight) this.#landed();
    if (!isOwn) this.#seenStamp = events.at(-1)?.object.updatedAt ?? this.#seenStamp;
    this.#unpublished.push({ events, version: entry.index, bytes: entry.payload.byteLength });
    return { isAccepted: true, version: entry.index };
  }

  applied(_index: number): void {
    this.#publish();
  }

  takeCheckpoint(): Checkpoint {
    const puts: [string, Uint8Array][] = [];
    const removes: string[] = [];
    for (const key of this.#dirty) {
      if (key === LAST_ACCEPTED_KEY) {
        puts.push([key, encodeJson(this.#lastAccepted)]);
        continue;
      }
      const [table, id] = splitKey(key);
      const object = this.#applied.find(table, id);
      if (object === undefined) removes.push(key);
      else puts.push([key, encodeJson(object)]);
    }
    this.#dirty = new Set();
    return { puts, removes };
  }

  snapshot(): StateSnapshot {
    const state = this.#applied.copy();
    const lastAccepted = this.#lastAccepted;
    return {
      *entries(): Generator<readonly [string, Uint8Array]> {
        yield [LAST_ACCEPTED_KEY, encodeJson(lastAccepted)];
        for (const [key, object] of state.entries()) yield [key, encodeJson(object)];
      },
    };
  }

  restore(index: number, entries: Iterable<readonly [key: string, value: Uint8Array]>): void {
    const state = new Tables();
    let lastAccepted = "";
    for (const [key, value] of entries) {
      const parsed: unknown = JSON.parse(Buffer.from(value).toString("utf8"));
      if (key === LAST_ACCEPTED_KEY) lastAccepted = parsed as string;
      else state.put(splitKey(key)[0], parsed as StoredObject);
    }
    state.version = index;
    this.#applied = state;
    this.#lastAccepted = lastAccepted;
    this.#view = undefined;
    this.#dirty = new Set();
    this.#unpublished = [];
    this.#foreignCount += 1;
    this.#dropPlanned();
    this.#hub.resync(index);
  }

  #applyOperation(operation: Operation, index: number, events: StoreEvent[]): void {
    const { table, id } = operation;
    this.#dirty.add(`${table}/${id}`);
    if (operation.action === "remove") {
      const previous = this.#applied.remove(table, id);
      if (previous !== undefined)
        pushEvent(events, { table, action: "remove", object: previous, version: index });
      return;
    }
    const { object: planned } = operation;
    // What was read from the log has its version already, and is nobody else's.
    const object: StoredObject = planned.version === index ? planned : { ...planned, version: index };
    const previous = this.#applied.put(table, object);
    if (previous === undefined) pushEvent(events, { table, action: "create", object, version: index });
    else pushEvent(events, { table, action: "update", object, version: index, previous });
    // Later plans must see the version that clients see, unless a later flight has written the object again.
    const state = this.#planned;
    if (state !== undefined && state.find(table, id)?.version === planned.version) state.put(table, object);
  }

  #begin(): PlannedTransaction {
    this.#sequence += 1;
    return new PlannedTransaction(this.#planned ?? this.#applied, {
      sequence: this.#sequence,
      stamp: this.#stamp(),
      writable: () => (this.#planned ??= this.#applied.copy()),
    });
  }

  /**
   * A stamp later than every one before, also than those of earlier leaders whose clock is ahead a little: objects made
   * one after the other can be put in order by createdAt.
   */
  #stamp(): string {
    if (this.#seenStamp !== "") {
      const seenMicros = Math.ceil(parseRfc3339(this.#seenStamp) * 1000);
      if (seenMicros > this.#lastStampMicros) this.#lastStampMicros = seenMicros;
      this.#seenStamp = "";
    }
    const nowMicros = Math.floor(this.#clock.wallMs() * 1000);
    const isAhead = this.#lastStampMicros - nowMicros < STAMP_AHEAD_MICROS_MAX;
    const micros = isAhead ? Math.max(nowMicros, this.#lastStampMicros + 1) : nowMicros;
    this.#lastStampMicros = micros;
    return rfc3339OfMicros(micros);
  }

  async #propose(tx: PlannedTransaction): Promise<Outcome> {
    const raft = this.#raft;
    const bytes = tx.measure();
    if (raft === undefined || bytes > TRANSACTION_BYTES_MAX) {
      tx.rollback(0);
      throw raft === undefined
        ? new ClusterError("unavailable", "Write to the store: wanted a log, got none attached yet")
        : tooLarge(bytes);
    }
    const { operations, encoded } = tx.seal();
    const { sequence } = tx;
    const flight: Flight = { sequence, term: raft.term, operations, isDoomed: false, watchers: undefined };
    const after = this.#newest === undefined ? this.#lastAccepted : nameOfFlight(this.#newest);
    this.#flights.set(flight.sequence, flight);
    this.#newest = flight;
    let isAccepted = false;
    try {
      const outcome = (await raft.propose(encodePayload({ sequence, after }, encoded))) as Outcome;
      isAccepted = outcome.isAccepted;
      return outcome;
    } catch (caught) {
      if (this.#flights.delete(sequence) && !flight.isDoomed) this.#dropPlanned();
      throw caught;
    } finally {
      for (const tell of flight.watchers ?? []) tell(isAccepted);
    }
  }

  /**
   * Whether a plan that wrote nothing may be answered: what it saw must have been the cluster's state at some moment since
   * it began. `base`, the newest flight that it saw, may yet be lost, and a leader that was replaced doesn't know it yet;
   * an answer from either would be of a state that never was, or is no more. False: plan again.
   */
  async #isConfirmed(base: Flight | undefined, options: { readonly signal?: AbortSignal }): Promise<boolean> {
    const raft = this.#raft;
    if (raft === undefined) return true;
    const { term } = raft;
    // A new leader may not have applied yet what the last one left.
    const foreignCount = this.#foreignCount;
    const landing = base === undefined ? Promise.resolve(true) : landingOf(base);
    if (raft.isLeader) await abortable(raft.readBarrier(), options.signal);
    if (!raft.isLeader || raft.term !== term) throw noLongerLeads();
    return (await abortable(landing, options.signal)) && this.#foreignCount === foreignCount;
  }

  /** Forgets the planned state: what is in flight was planned on something that will not be. */
  #dropPlanned(): void {
    this.#planned = undefined;
    this.#newest = undefined;
    for (const flight of this.#flights.values()) flight.isDoomed = true;
  }

  /** The newest flight was applied: the applied state is the planned one. */
  #landed(): void {
    this.#newest = undefined;
    this.#planned = undefined;
  }

  #publish(): void {
    const unpublished = this.#unpublished;
    if (unpublished.length === 0) return;
    this.#unpublished = [];
    for (const { events, version, bytes } of unpublished) this.#hub.publish(events, version, bytes);
  }

  async #batchRound<I>(
    items: Iterable<I>,
    plan: (tx: Transaction, item: I) => void,
    options: { readonly signal?: AbortSignal; readonly failed?: (item: I, error: unknown) => void },
  ): Promise<{ readonly committedCount: number; readonly refused: readonly I[] }> {
    const iterator = items[Symbol.iterator]();
    const inFlight = new Set<Promise<void>>();
    const refused: I[] = [];
    let committedCount = 0;
    let failure: unknown;
    for (;;) {
      options.signal?.throwIfAborted();
      const base = this.#newest;
      const { tx, planned, left, isLast } = this.#fill(iterator, plan, options.failed);
      // What was left alone stands only if the state in which it was to be left alone comes about.
      const refuse = (): void => void refused.push(...planned, ...left);
      let landing: Promise<void> | undefined;
      if (tx.changeCount > 0) {
        landing = this.#propose(tx).then(
          (outcome) => {
            if (outcome.isAccepted) committedCount += planned.length;
            else refuse();
          },
          (caught: unknown) => {
            // Too much in flight: what was refused is tried again once the rest of it has landed.
            if (hasCode(caught, "resource_exhausted") && inFlight.size > 1) refuse();
            else failure ??= caught;
          },
        );
      } else if (left.length > 0 && base !== undefined) {
        landing = landingOf(base).then((isAccepted) => {
          if (!isAccepted) refuse();
        });
      }
      if (landing !== undefined) {
        const flight = landing.finally(() => inFlight.delete(flight));
        inFlight.add(flight);
      }
      if (isLast || failure !== undefined) break;
      if (inFlight.size >= BATCH_IN_FLIGHT_MAX) await abortable(Promise.race(inFlight), options.signal);
    }
    await abortable(Promise.all(inFlight), options.signal);
    if (failure !== undefined) throw failure;
    return { committedCount, refused };
  }

  /** Plans items into one transaction until it is large enough. `left`: those whose plan wrote nothing. */
  #fill<I>(
    iterator: Iterator<I>,
    plan: (tx: Transaction, item: I) => void,
    failed: ((item: I, error: unknown) => void) | undefined,
  ): {
    readonly tx: PlannedTransaction;
    readonly planned: readonly I[];
    readonly left: readonly I[];
    readonly isLast: boolean;
  } {
    const tx = this.#begin();
    const planned: I[] = [];
    const left: I[] = [];
    while (tx.changeCount < BATCH_CHANGE_COUNT_MAX && tx.measure() < BATCH_BYTES_MAX) {
      const next = iterator.next();
      if (next.done === true) return { tx, planned, left, isLast: true };
      const savepoint = tx.savepoint();
      try {
        plan(tx, next.value);
        (tx.savepoint() > savepoint ? planned : left).push(next.value);
      } catch (caught) {
        tx.rollback(savepoint);
        failed?.(next.value, caught);
      }
    }
    return { tx, planned, left, isLast: false };
  }
}

/** Whether a transaction in flight is accepted, once that is known. */
function landingOf(flight: Flight): Promise<boolean> {
  return new Promise((resolve) => (flight.watchers ??= []).push(resolve));
}

function nameOfFlight(flight: Flight): string {
  return `${flight.term}.${flight.sequence}`;
}

function pushEvent(
  events: StoreEvent[],
  event: Omit<StoreEvent, "table"> & { readonly table: string },
): void {
  if (KNOWN_TABLES.has(event.table)) events.push(event as StoreEvent);
}

function splitKey(key: string): readonly [table: string, id: string] {
  const slash = key.indexOf("/");
  return [key.slice(0, slash), key.slice(slash + 1)];
}

function encodeJson(value: unknown): Uint8Array {
  return Buffer.from(JSON.stringify(value));
}

function lostRaces(): ClusterError {
  return new ClusterError(
    "unavailable",
    `Commit a transaction: wanted an unchanged state, got ${PLAN_RETRY_COUNT_MAX} concurrent changes in a row`,
    { retryable: true },
  );
}

/** What a plan refuses because of what it was given is refused whatever the state is. */
function isAboutState(caught: unknown): boolean {
  return caught instanceof ClusterError && caught.code !== "invalid_argument";
}

/**
 * Refused for a version while the object's newest has none yet. It may be the one that the caller has: another member can
 * apply, and show, what is committed before its leader does.
 */
function isOfVersionInFlight(caught: unknown): boolean {
  if (!hasCode(caught, "out_of_sequence") || !(caught instanceof ClusterError)) return false;
  const { wanted } = caught.details;
  return typeof wanted === "number" && wanted < 0;
}

function noLongerLeads(): ClusterError {
  const options = { retryable: true, notLeader: { leaderAddress: "" } };
  return new ClusterError("unavailable", "Cannot write: this manager is not the leader", options);
}

function tooLarge(bytes: number): ClusterError {
  return new ClusterError(
    "invalid_argument",
    `Commit a transaction: wanted at most ${TRANSACTION_BYTES_MAX} bytes, got ${bytes}`,
  );
}

/** Settles as `promise`, or rejects when the signal is aborted; what is in flight may still be committed then. */
async function abortable<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return promise;
  signal.throwIfAborted();
  let abort: (() => void) | undefined;
  const aborted = new Promise<never>((_resolve, reject) => {
    abort = () => reject(signal.reason as Error);
    signal.addEventListener("abort", abort, { once: true });
  });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    if (abort !== undefined) signal.removeEventListener("abort", abort);
  }
}
