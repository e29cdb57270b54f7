/**
 * The state itself: one sorted table for each kind of object with its secondary index. copy() is O(1), so a view is a
 * copy that nobody changes. Knows no transactions and no log; memory-store.ts decides what is put in.
 * Tables that this version does not know are kept all the same, so that a newer manager's objects survive here.
 */
import type { TableName, TableTypes } from "../../model/objects.ts";
import { TABLE_NAMES } from "../../model/objects.ts";
import type { By, StoreView } from "../../model/store-view.ts";
import type { StoredObject } from "./indexes.ts";
import { indexEntries, indexPrefix, nameOf, nodeEntry, onlyNodeDiffers, sameEntries } from "./indexes.ts";
import { SortedMap } from "./sorted-map.ts";

interface Table {
  readonly objects: SortedMap<StoredObject>;
  /** Index entry to object id. */
  readonly index: SortedMap<string>;
}

const ALL: By = { kind: "all" };

export class Tables implements StoreView {
  /** Raft index of the last transaction in here. */
  version = 0;
  readonly #tables: Map<string, Table>;
  /** Tables that no copy shares: they may be changed in place. */
  readonly #owned = new Set<string>();

  constructor(tables?: Map<string, Table>) {
    this.#tables =
      tables ??
      new Map(TABLE_NAMES.map((name) => [name, { objects: new SortedMap(), index: new SortedMap() }]));
  }

  /** Both share every table until one of them changes it: most transactions change one. */
  copy(): Tables {
    this.#owned.clear();
    const copy = new Tables(new Map(this.#tables));
    copy.version = this.version;
    return copy;
  }

  get<K extends TableName>(table: K, id: string): TableTypes[K] | undefined {
    return this.find(table, id) as TableTypes[K] | undefined;
  }

  list<K extends TableName>(table: K, by: By = ALL): readonly TableTypes[K][] {
    return this.#select(table, by) as unknown as readonly TableTypes[K][];
  }

  find(table: string, id: string): StoredObject | undefined {
    return this.#tables.get(table)?.objects.get(id);
  }

  /** Creates or replaces; returns what was there. */
  put(table: string, object: StoredObject): StoredObject | undefined {
    const { objects, index } = this.#writable(table);
    const previous = objects.get(object.id);
    objects.set(object.id, object);
    if (previous !== undefined && sameEntries(table, previous, object)) return previous;
    if (previous !== undefined && onlyNodeDiffers(table, previous, object)) {
      const [before, after] = [nodeEntry(previous), nodeEntry(object)];
      if (before !== undefined) index.delete(before);
      if (after !== undefined) index.set(after, object.id);
      return previous;
    }
    const before = previous === undefined ? [] : indexEntries(table, previous);
    const after = indexEntries(table, object);
    for (const entry of before) if (!after.includes(entry)) index.delete(entry);
    for (const entry of after) if (!before.includes(entry)) index.set(entry, object.id);
    return previous;
  }

  /** Removes; returns what was there. */
  remove(table: string, id: string): StoredObject | undefined {
    const previous = this.find(table, id);
    if (previous === undefined) return undefined;
    const { objects, index } = this.#writable(table);
    objects.delete(id);
    for (const entry of indexEntries(table, previous)) index.delete(entry);
    return previous;
  }

  /** Id of an object with that name in a table of unique names. */
  idOfName(table: string, name: string): string | undefined {
    return this.#table(table).index.valuesOf(indexPrefix({ kind: "name", name }) ?? "")[0];
  }

  /** Everything, as "table/id" and object, in the order of tables and ids. */
  *entries(): Generator<readonly [key: string, object: StoredObject]> {
    for (const [name, table] of [...this.#tables].sort(([left], [right]) => (left < right ? -1 : 1))) {
      for (const [id, object] of table.objects.entries()) yield [`${name}/${id}`, object];
    }
  }

  #select(name: string, by: By): readonly StoredObject[] {
    const { objects, index } = this.#table(name);
    if (by.kind === "all") return objects.values();
    if (by.kind === "idPrefix") return objects.valuesOf(by.prefix);
    if (name === "task" && (by.kind === "name" || by.kind === "namePrefix")) return tasksByName(objects, by);
    const found: StoredObject[] = [];
    for (const id of index.valuesOf(indexPrefix(by) ?? "")) {
      const object = objects.get(id);
      if (object !== undefined) found.push(object);
    }
    return by.kind === "namePrefix" ? found.sort((left, right) => (left.id < right.id ? -1 : 1)) : found;
  }

  #table(name: string): Table {
    return this.#tables.get(name) ?? this.#writable(name);
  }

  #writable(name: string): Table {
    const shared = this.#tables.get(name);
    if (shared !== undefined && this.#owned.has(name)) return shared;
    const table = {
      objects: shared?.objects.copy() ?? new SortedMap<StoredObject>(),
      index: shared?.index.copy() ?? new SortedMap<string>(),
    };
    this.#tables.set(name, table);
    this.#owned.add(name);
    return table;
  }
}

/** Task names contain the task's id and only people ask by them: a scan is cheaper than an index on every task. */
function tasksByName(
  objects: SortedMap<StoredObject>,
  by: Extract<By, { kind: "name" | "namePrefix" }>,
): readonly StoredObject[] {
  return objects
    .values()
    .filter((task) =>
      by.kind === "name" ? nameOf("task", task) === by.name : nameOf("task", task).startsWith(by.prefix),
    );
}
