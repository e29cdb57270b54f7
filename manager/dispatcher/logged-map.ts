/**
 * A map that remembers which keys changed lately, so that many readers, each with its own position, can be told only what
 * is new to them. Bounded: a reader that is too far behind is told so and takes everything.
 */
export class LoggedMap<V> {
  readonly #values = new Map<string, V>();
  readonly #isSame: (left: V, right: V) => boolean;
  readonly #countMax: number;
  readonly #changed: () => void;
  #log: string[] = [];
  /** Position of the first entry of the log. */
  #first = 0;

  /** `changed` is called after each change. */
  constructor(isSame: (left: V, right: V) => boolean, countMax: number, changed: () => void) {
    this.#isSame = isSame;
    this.#countMax = countMax;
    this.#changed = changed;
  }

  get values(): ReadonlyMap<string, V> {
    return this.#values;
  }

  /** Position after the newest change. */
  get end(): number {
    return this.#first + this.#log.length;
  }

  /** A value equal to the present one changes nothing. */
  set(key: string, value: V): void {
    const present = this.#values.get(key);
    if (present !== undefined && this.#isSame(present, value)) return;
    this.#values.set(key, value);
    this.#record(key);
  }

  delete(key: string): void {
    if (this.#values.delete(key)) this.#record(key);
  }

  /** Keys changed or removed since `position`; undefined if that is no longer known. */
  changedSince(position: number): ReadonlySet<string> | undefined {
    if (position < this.#first || position > this.end) return undefined;
    return new Set(this.#log.slice(position - this.#first));
  }

  #record(key: string): void {
    this.#changed();
    this.#log.push(key);
    if (this.#log.length <= this.#countMax) return;
    const dropped = this.#log.length - (this.#countMax >> 1);
    this.#log = this.#log.slice(dropped);
    this.#first += dropped;
  }
}
