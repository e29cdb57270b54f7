/**
 * A sorted map from strings (by code unit) with O(1) copies: a thin face over sorted-btree, so that its CommonJS default
 * export and loose types stay in one place. Copies share nodes and copy them when one of the two is changed.
 */
import sortedBtree from "sorted-btree";

type Tree<V> = InstanceType<typeof sortedBtree.default<string, V>>;

/** Greater than every character that occurs in keys. */
const PREFIX_END = "\uffff";

function compareStrings(left: string, right: string): number {
  return left < right ? -1 : left > right ? 1 : 0;
}

export class SortedMap<V> {
  readonly #tree: Tree<V>;

  constructor(tree: Tree<V> = new sortedBtree.default<string, V>(undefined, compareStrings)) {
    this.#tree = tree;
  }

  get size(): number {
    return this.#tree.size;
  }

  get(key: string): V | undefined {
    return this.#tree.get(key);
  }

  set(key: string, value: V): void {
    this.#tree.set(key, value);
  }

  delete(key: string): void {
    this.#tree.delete(key);
  }

  /** A map that holds the same now and changes apart from this one from now on. */
  copy(): SortedMap<V> {
    return new SortedMap<V>(this.#tree.clone());
  }

  values(): V[] {
    return this.#tree.valuesArray();
  }

  /** Values of the keys that start with `prefix`, in key order. */
  valuesOf(prefix: string): V[] {
    const found: V[] = [];
    this.#tree.forRange(prefix, prefix + PREFIX_END, false, (_key, value) => {
      found.push(value);
    });
    return found;
  }

  entries(): IterableIterator<[string, V]> {
    return this.#tree.entries();
  }
}
