/** What a batch leaves alone because of a write in flight is planned anew when that write is lost. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ClusterError } from "../../common/errors.ts";
import { silentLogger } from "../../common/log.ts";
import { FakeClock } from "../../common/testing/fake-clock.ts";
import { MemoryStore } from "./memory-store.ts";
import type { Transaction } from "./store.ts";
import { SingleMemberLog } from "./testing/single-member-log.ts";

class Bench {
  readonly clock: FakeClock = new FakeClock();
  readonly store: MemoryStore = new MemoryStore({ clock: this.clock, timers: this.clock, log: silentLogger });
  readonly #log = new SingleMemberLog({ machine: this.store, timers: this.clock, commitDelayMs: 5 });

  constructor() {
    this.store.attach(this.#log);
  }

  async make(...ids: readonly string[]): Promise<void> {
    const made = this.store.update((tx) => {
      for (const id of ids) tx.create("secret", { id, spec: { Name: id, Labels: {}, Data: "" } });
    });
    await this.clock.advanceAsync(10);
    await made;
  }

  /** As if so much were in flight that no more is taken. */
  lose(plan: (tx: Transaction) => void): Promise<unknown> {
    const propose = this.#log.propose.bind(this.#log);
    const error = new ClusterError("resource_exhausted", "too much in flight");
    this.#log.propose = () => Promise.reject(error);
    const lost = assert.rejects(this.store.update(plan), error);
    this.#log.propose = propose;
    return lost;
  }

  relabel(tx: Transaction, id: string): void {
    const found = tx.get("secret", id);
    if (found === undefined) return;
    tx.update("secret", { ...found, spec: { ...found.spec, Labels: { is: "seen" } } });
  }

  isLabelled(id: string): boolean {
    return this.store.view().get("secret", id)?.spec.Labels?.["is"] === "seen";
  }
}

for (const others of [[], ["b"]]) {
  test(`MemoryStore.batch() beside ${others.length} items that are written does what a lost removal had kept it from`, async () => {
    const bench = new Bench();
    await bench.make("a", "b");
    const lost = bench.lose((tx) => tx.remove("secret", "a"));
    const done = bench.store.batch(["a", ...others], (tx, id) => bench.relabel(tx, id));
    await bench.clock.advanceAsync(50);
    await lost;
    assert.equal(await done, 1 + others.length);
    for (const id of ["a", ...others]) assert.ok(bench.isLabelled(id), id);
  });
}

test("MemoryStore.batch() that leaves something alone because of a write in flight ends once that has landed", async () => {
  const bench = new Bench();
  await bench.make("a");
  const removed = bench.store.update((tx) => tx.remove("secret", "a"));
  let isThere: boolean | undefined;
  const done = bench.store
    .batch(["a"], (tx, id) => bench.relabel(tx, id))
    .then((count) => {
      isThere = bench.store.view().get("secret", "a") !== undefined;
      return count;
    });
  await bench.clock.advanceAsync(50);
  await removed;
  assert.equal(await done, 0);
  assert.equal(isThere, false);
});
