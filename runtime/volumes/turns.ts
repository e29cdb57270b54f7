/** Work on one name goes one after the other, in the order in which it was asked for; names don't wait for each other. */
export class Turns {
  /** The last of each name that has any. */
  readonly #last = new Map<string, Promise<unknown>>();

  async take<T>(name: string, run: () => Promise<T>): Promise<T> {
    const turn = (this.#last.get(name) ?? Promise.resolve()).then(run, run);
    this.#last.set(name, turn);
    try {
      return await turn;
    } finally {
      if (this.#last.get(name) === turn) this.#last.delete(name);
    }
  }
}
