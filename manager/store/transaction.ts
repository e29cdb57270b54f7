/**
 * A transaction while it is planned: writes go into the planned state at once (so that later reads and later
 * transactions see them) and are journaled, so that a plan that throws leaves no trace. memory-store.ts makes, seals
 * and proposes it. Versions of objects written here are provisional (negative) until the log has given an index.
 */
import { ClusterError } from "../../common/errors.ts";
import type { TableName, TableTypes } from "../../model/objects.ts";
import type { By } from "../../model/store-view.ts";
import type { StoredObject } from "./indexes.ts";
import { hasUniqueName, nameOf } from "./indexes.ts";
import type { Operation } from "./payload.ts";
import { encodeOperation } from "./payload.ts";
import type { Draft, Transaction } from "./store.ts";
import type { Tables } from "./tables.ts";

interface Change {
  readonly operation: Operation;
  /** Set once measured. */
  json: string | undefined;
}

interface JournalEntry {
  readonly key: string;
  readonly table: string;
  readonly id: string;
  readonly previous: StoredObject | undefined;
  readonly previousChange: Change | undefined;
}

export interface TransactionOptions {
  readonly sequence: number;
  /** RFC 3339 stamp for createdAt and updatedAt. */
  readonly stamp: string;
  /** Called before the first write: the state that may be changed. */
  readonly writable: () => Tables;
}

export class PlannedTransaction implements Transaction {
  readonly #options: TransactionOptions;
  #state: Tables;
  #isWritable = false;
  #isOpen = true;
  readonly #changes = new Map<string, Change>();
  readonly #journal: JournalEntry[] = [];
  #bytes = 0;
  #unmeasured: string[] = [];

  constructor(state: Tables, options: TransactionOptions) {
    this.#state = state;
    this.#options = options;
  }

  get version(): number {
    return this.#state.version;
  }

  get stamp(): string {
    return this.#options.stamp;
  }

  get sequence(): number {
    return this.#options.sequence;
  }

  get changeCount(): number {
    return this.#changes.size;
  }

  get<K extends TableName>(table: K, id: string): TableTypes[K] | undefined {
    return this.#state.get(table, id);
  }

  list<K extends TableName>(table: K, by?: By): readonly TableTypes[K][] {
    return this.#state.list(table, by);
  }

  create<K extends TableName>(table: K, object: Draft<K>): void {
    const { sequence, stamp } = this.#options;
    const whole = {
      ...object,
      version: -sequence,
      createdAt: stamp,
      updatedAt: stamp,
    } as unknown as StoredObject;
    if (this.#state.find(table, whole.id) !== undefined) {
      throw new ClusterError("already_exists", `Create ${table}: id "${whole.id}" already exists`);
    }
    this.#checkName(table, whole);
    this.#write({ action: "create", table, id: whole.id, object: whole });
  }

  update<K extends TableName>(table: K, object: TableTypes[K]): void {
    const current = this.#state.get(table, object.id);
    if (current === undefined) throw notFound(table, object.id);
    if (current.version !== object.version) {
      throw new ClusterError("out_of_sequence", "update out of sequence", {
        details: { table, id: object.id, wanted: current.version, got: object.version },
      });
    }
    const { sequence, stamp } = this.#options;
    const whole = { ...object, version: -sequence, createdAt: current.createdAt, updatedAt: stamp };
    this.#checkName(table, whole);
    this.#write({ action: "update", table, id: object.id, object: whole });
  }

  remove(table: TableName, id: string): void {
    if (this.#state.find(table, id) === undefined) throw notFound(table, id);
    this.#write({ action: "remove", table, id });
  }

  /** A point to which rollback() can return. */
  savepoint(): number {
    return this.#journal.length;
  }

  rollback(savepoint: number): void {
    while (this.#journal.length > savepoint) {
      const entry = this.#journal.pop();
      if (entry === undefined) break;
      if (entry.previous === undefined) this.#state.remove(entry.table, entry.id);
      else this.#state.put(entry.table, entry.previous);
      this.#forgetBytes(this.#changes.get(entry.key));
      if (entry.previousChange === undefined) this.#changes.delete(entry.key);
      else {
        this.#changes.set(entry.key, { operation: entry.previousChange.operation, json: undefined });
        this.#unmeasured.push(entry.key);
      }
    }
  }

  /** Bytes of the changes as they will be in the log, to within the header. */
  measure(): number {
    for (const key of this.#unmeasured) {
      const change = this.#changes.get(key);
      if (change === undefined || change.json !== undefined) continue;
      change.json = encodeOperation(change.operation);
      this.#bytes += change.json.length;
    }
    this.#unmeasured = [];
    return this.#bytes;
  }

  /** Ends planning. Returns the changes and their encoded form. */
  seal(): { readonly operations: readonly Operation[]; readonly encoded: readonly string[] } {
    this.measure();
    this.#isOpen = false;
    const changes = [...this.#changes.values()];
    return {
      operations: changes.map((change) => change.operation),
      encoded: changes.map((change) => change.json ?? encodeOperation(change.operation)),
    };
  }

  #checkName(table: string, object: StoredObject): void {
    if (!hasUniqueName(table)) return;
    const name = nameOf(table, object);
    const holder = this.#state.idOfName(table, name);
    if (holder === undefined || holder === object.id) return;
    throw new ClusterError(
      "already_exists",
      `name conflicts with an existing object: ${table} ${name} already exists`,
      { details: { table, name, id: holder } },
    );
  }

  #write(operation: Operation): void {
    if (!this.#isOpen)
      throw new ClusterError("internal", "Write to a transaction: wanted an open one, got a sealed one");
    if (!this.#isWritable) {
      this.#state = this.#options.writable();
      this.#isWritable = true;
    }
    const { table, id } = operation;
    const key = `${table}/${id}`;
    const previousChange = this.#changes.get(key);
    const previous =
      operation.action === "remove"
        ? this.#state.remove(table, id)
        : this.#state.put(table, operation.object);
    this.#journal.push({ key, table, id, previous, previousChange });
    this.#forgetBytes(previousChange);
    const merged = merge(previousChange?.operation, operation);
    if (merged === undefined) this.#changes.delete(key);
    else {
      this.#changes.set(key, { operation: merged, json: undefined });
      this.#unmeasured.push(key);
    }
  }

  #forgetBytes(change: Change | undefined): void {
    if (change?.json !== undefined) this.#bytes -= change.json.length;
  }
}

/** One change of an object that stands for two after each other; undefined if they cancel out. */
function merge(first: Operation | undefined, second: Operation): Operation | undefined {
  if (first === undefined) return second;
  if (second.action === "remove") return first.action === "create" ? undefined : second;
  if (first.action === "remove") return { ...second, action: "update" };
  return { ...second, action: first.action };
}

function notFound(table: string, id: string): ClusterError {
  return new ClusterError("not_found", `${table} ${id} not found`, { details: { table, id } });
}
