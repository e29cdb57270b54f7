import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import { hasCode } from "../../common/errors.ts";
import { silentLogger } from "../../common/log.ts";
import { FakeClock, settle } from "../../common/testing/fake-clock.ts";
import type { Secret } from "../../model/objects.ts";
import { MemoryStore } from "./memory-store.ts";
import type { Draft, Transaction, WatchItem } from "./store.ts";
import { SingleMemberLog } from "./testing/single-member-log.ts";

function makeStore(options: { commitDelayMs?: number; inFlightMax?: number } = {}): {
  store: MemoryStore;
  log: SingleMemberLog;
  clock: FakeClock;
} {
  const clock = new FakeClock();
  const store = new MemoryStore({ clock, timers: clock, log: silentLogger });
  const log = new SingleMemberLog({ machine: store, timers: clock, ...options });
  store.attach(log);
  return { store, log, clock };
}

function secret(id: string, labels: Record<string, string> = {}): Draft<"secret"> {
  return { id, spec: { Name: `name-${id}`, Labels: labels, Data: "" } };
}

function relabel(tx: Transaction, id: string, value: string): void {
  const found = tx.get("secret", id);
  assert(found !== undefined);
  tx.update("secret", { ...found, spec: { ...found.spec, Labels: { value } } });
}

describe("MemoryStore", () => {
  it("update() stamps version and times, and the view before it does not change", async () => {
    const { store } = makeStore();
    const before = store.view();
    const { version } = await store.update((tx) => tx.create("secret", secret("a")));
    const found = store.view().get("secret", "a");
    assert.equal(found?.version, version);
    assert.equal(found?.createdAt, "2023-11-14T22:13:20.000000000Z");
    assert.equal(before.get("secret", "a"), undefined);
  });

  it("create() refuses a taken id and a taken name, whatever its case, and writes nothing of that plan", async () => {
    const { store } = makeStore();
    await store.update((tx) => tx.create("secret", secret("a")));
    await assert.rejects(
      store.update((tx) => {
        tx.create("secret", secret("b"));
        tx.create("secret", { id: "c", spec: { Name: "NAME-A" } });
      }),
      (caught) => hasCode(caught, "already_exists"),
    );
    await assert.rejects(
      store.update((tx) => tx.create("secret", { id: "a", spec: { Name: "other" } })),
      (caught) => hasCode(caught, "already_exists"),
    );
    assert.deepEqual(
      store
        .view()
        .list("secret")
        .map((each) => each.id),
      ["a"],
    );
  });

  it("update() with a stale object is out of sequence, also against a transaction in flight", async () => {
    const { store } = makeStore();
    await store.update((tx) => tx.create("secret", secret("a")));
    const read = store.view().get("secret", "a") as Secret;
    const first = store.update((tx) => relabel(tx, "a", "1"));
    const second = store.update((tx) => tx.update("secret", read));
    await first;
    await assert.rejects(
      second,
      (caught) => hasCode(caught, "out_of_sequence") && caught.message === "update out of sequence",
    );
  });

  it("a refusal waits for the transactions in flight that it rests on, and is none if they are lost", async () => {
    const { store, log, clock } = makeStore({ commitDelayMs: 10 });
    const created = store.update((tx) => tx.create("secret", secret("a")));
    await clock.advanceAsync(10);
    await created;
    const read = store.view().get("secret", "a") as Secret;
    const told: string[] = [];
    const first = store.update((tx) => relabel(tx, "a", "1"));
    const second = store.update((tx) => tx.update("secret", read)).catch(() => told.push("refused"));
    const third = store.update((tx) => tx.get("secret", "a")).then(() => told.push("nothing to do"));
    await settle();
    assert.deepEqual(told, [], "nothing is said about a state that may never be");
    await clock.advanceAsync(10);
    await Promise.all([first, second, third]);
    assert.deepEqual(told, ["nothing to do", "refused"]);

    const now = store.view().get("secret", "a") as Secret;
    const lost = assert.rejects(store.update((tx) => relabel(tx, "a", "2")));
    const after = assert.rejects(
      store.update((tx) => tx.update("secret", now)),
      (caught) => hasCode(caught, "unavailable") && caught.notLeader !== undefined,
    );
    log.stepDown();
    await Promise.all([lost, after]);
    assert.equal(store.view().get("secret", "a")?.spec.Labels?.["value"], "1");
  });

  it("a refusal of a member that leads no more is not given", async () => {
    const { store, log } = makeStore();
    await store.update((tx) => tx.create("secret", secret("a")));
    log.stepDown();
    await assert.rejects(
      store.update((tx) => tx.create("secret", secret("a"))),
      (caught) => hasCode(caught, "unavailable") && caught.notLeader !== undefined,
    );
  });

  it("plans on top of its own transactions in flight, without waiting for them", async () => {
    const { store, clock } = makeStore({ commitDelayMs: 10 });
    const all = [
      store.update((tx) => tx.create("secret", secret("a"))),
      store.update((tx) => relabel(tx, "a", "1")),
      store.update((tx) => relabel(tx, "a", "2")),
    ];
    await clock.advanceAsync(10);
    const [, , last] = await Promise.all(all);
    assert.equal(store.view().get("secret", "a")?.spec.Labels?.["value"], "2");
    assert.equal(store.view().get("secret", "a")?.version, last?.version);
  });

  it("refuses and replans what was built on a transaction that was never appended", async () => {
    const { store, clock } = makeStore({ commitDelayMs: 10, inFlightMax: 1 });
    const first = store.update((tx) => tx.create("secret", secret("a")));
    const second = store.update((tx) => relabel(tx, "a", "1"));
    await assert.rejects(second, (caught) => hasCode(caught, "resource_exhausted"));
    const third = store.update((tx) => tx.list("secret").length);
    assert.equal((await third).result, 0);
    await clock.advanceAsync(10);
    await first;
    assert.equal(store.view().get("secret", "a")?.spec.Labels?.["value"], undefined);
    const fourth = store.update((tx) => relabel(tx, "a", "3"));
    await clock.advanceAsync(10);
    await fourth;
    assert.equal(store.view().get("secret", "a")?.spec.Labels?.["value"], "3");
  });

  it("never accepts what was planned on a transaction that the log then refused", async () => {
    const { store, log, clock } = makeStore({ commitDelayMs: 10 });
    const propose = log.propose.bind(log);
    let proposalCount = 0;
    log.propose = (payload) => {
      proposalCount += 1;
      return proposalCount === 2
        ? log.readBarrier().then(() => Promise.reject(new Error("lost")))
        : propose(payload);
    };
    const first = store.update((tx) => tx.create("secret", secret("a")));
    const lost = store.update((tx) => tx.create("secret", secret("b")));
    const onTop = store.update((tx) => {
      const isThere = tx.get("secret", "b") !== undefined;
      if (isThere) tx.create("secret", secret("c"));
      return isThere;
    });
    await assert.rejects(lost);
    await clock.advanceAsync(50);
    await first;
    assert.equal((await onTop).result, false);
    assert.deepEqual(
      store
        .view()
        .list("secret")
        .map((each) => each.id),
      ["a"],
    );
  });

  it("keeps what was committed while leadership was lost, and goes on in the next term", async () => {
    const { store, log, clock } = makeStore({ commitDelayMs: 10 });
    const writes = ["a", "b", "c"].map((id) => store.update((tx) => tx.create("secret", secret(id))));
    const settled = Promise.allSettled(writes);
    await settle();
    log.stepDown(2);
    assert.deepEqual(
      (await settled).map((each) => each.status),
      ["rejected", "rejected", "rejected"],
    );
    assert.deepEqual(
      store
        .view()
        .list("secret")
        .map((each) => each.id),
      ["a", "b"],
    );
    log.lead();
    const next = store.update((tx) => tx.create("secret", secret("c")));
    await clock.advanceAsync(10);
    await next;
    assert.equal(store.view().list("secret").length, 3);
  });

  it("batch() commits what can be planned, reports the rest, and cuts it into bounded transactions", async () => {
    const { store, log } = makeStore();
    const items = Array.from({ length: 2000 }, (_value, index) => index);
    const failed: number[] = [];
    const count = await store.batch(
      items,
      (tx, item) => {
        tx.create("secret", secret(`s${item}`));
        if (item % 500 === 7) throw new Error("not this one");
      },
      { failed: (item) => failed.push(item) },
    );
    assert.equal(count, 1996);
    assert.deepEqual(failed, [7, 507, 1007, 1507]);
    assert.equal(store.view().list("secret").length, 1996);
    assert(log.appliedIndex >= 4 && log.appliedIndex < 20, `transactions: ${log.appliedIndex}`);
  });

  it("batch() finishes although the log refuses when too much is in flight", async () => {
    const { store } = makeStore({ inFlightMax: 2 });
    const items = Array.from({ length: 5000 }, (_value, index) => index);
    const count = await store.batch(items, (tx, item) => tx.create("secret", secret(`s${item}`)));
    assert.equal(count, 5000);
    assert.equal(store.view().list("secret").length, 5000);
  });

  it("viewAndWatch() tells every change after the view once, in order, with a commit after each transaction", async () => {
    const { store, clock } = makeStore();
    await store.update((tx) => tx.create("secret", secret("before")));
    const seen: string[] = [];
    const { view, watch } = store.viewAndWatch({ tables: ["secret"] }, (items) => {
      for (const item of items)
        seen.push(item.kind === "event" ? `${item.event.action} ${item.event.object.id}` : item.kind);
    });
    assert.equal(view.list("secret").length, 1);
    await store.update((tx) => tx.create("secret", secret("a")));
    await store.update((tx) => tx.create("config", { id: "c", spec: { Name: "c" } }));
    await store.update((tx) => tx.remove("secret", "a"));
    assert.deepEqual(seen, []);
    await clock.advanceAsync(0);
    assert.deepEqual(seen, ["create a", "commit", "remove a", "commit"]);
    watch.cancel();
    await store.update((tx) => tx.create("secret", secret("z")));
    await clock.advanceAsync(0);
    assert.equal(seen.length, 4);
  });

  it("a watcher that falls behind is told to resync and then goes on", async () => {
    const { store, clock } = makeStore();
    const seen: WatchItem[] = [];
    store.viewAndWatch({ eventCountMax: 4 }, (items) => seen.push(...items));
    for (const id of ["a", "b", "c", "d"]) await store.update((tx) => tx.create("secret", secret(id)));
    await clock.advanceAsync(0);
    assert.deepEqual(
      seen.map((item) => item.kind),
      ["resync"],
    );
    await store.update((tx) => tx.create("secret", secret("e")));
    await clock.advanceAsync(0);
    assert.deepEqual(
      seen.map((item) => item.kind),
      ["resync", "event", "commit"],
    );
  });

  it("watchAfter() goes on after a version, misses and repeats nothing, and refuses one from before a restored state", async () => {
    const { store, log, clock } = makeStore();
    await store.update((tx) => tx.create("secret", secret("a")));
    const { version } = store.view();
    await store.update((tx) => tx.create("config", { id: "c", spec: { Name: "c" } }));
    await store.update((tx) => relabel(tx, "a", "x"));
    const seen: string[] = [];
    const listen = (items: readonly WatchItem[]): void => {
      for (const item of items)
        seen.push(item.kind === "event" ? `${item.event.action} ${item.event.object.id}` : item.kind);
    };
    const watch = store.watchAfter(version, { tables: ["secret"] }, listen);
    await store.update((tx) => tx.remove("secret", "a"));
    assert.deepEqual(seen, [], "never inside the call");
    await clock.advanceAsync(0);
    assert.deepEqual(seen, ["update a", "commit", "remove a", "commit"]);
    watch?.cancel();

    // A reader that another replica has told more than this one has applied.
    seen.length = 0;
    store.watchAfter(store.view().version + 1, {}, listen);
    await store.update((tx) => tx.create("secret", secret("known")));
    await store.update((tx) => tx.create("secret", secret("new")));
    await clock.advanceAsync(0);
    assert.deepEqual(seen, ["create new", "commit"]);

    store.restore(log.appliedIndex, [...store.snapshot().entries()]);
    assert.equal(store.watchAfter(version, {}, listen), undefined);
    assert.notEqual(store.watchAfter(log.appliedIndex, {}, listen), undefined);
  });

  it("restore() of a snapshot or of checkpoints gives an equal state that accepts the next entries", async () => {
    const { store, log } = makeStore();
    const disk = new Map<string, Uint8Array>();
    const flush = (): void => {
      const { puts, removes } = store.takeCheckpoint();
      for (const key of removes) disk.delete(key);
      for (const [key, value] of puts) disk.set(key, value);
    };
    for (const id of ["a", "b", "c"]) await store.update((tx) => tx.create("secret", secret(id)));
    flush();
    await store.update((tx) => tx.remove("secret", "b"));
    await store.update((tx) => relabel(tx, "a", "x"));
    flush();
    for (const entries of [store.snapshot().entries(), disk]) {
      const { store: copy, clock } = makeStore();
      let resyncs = 0;
      copy.viewAndWatch({}, (items) => {
        resyncs += items.filter((item) => item.kind === "resync").length;
      });
      copy.restore(log.appliedIndex, entries);
      await clock.advanceAsync(0);
      assert.equal(resyncs, 1);
      assert.deepEqual(copy.view().list("secret"), store.view().list("secret"));
      assert.equal(copy.view().version, log.appliedIndex);
      await copy.update((tx) => relabel(tx, "a", "y"));
      assert.equal(copy.view().get("secret", "a")?.spec.Labels?.["value"], "y");
    }
  });

  it("fields and tables of a newer release survive apply, snapshot and checkpoint", async () => {
    const { store, log } = makeStore();
    const { encodeOperation, encodePayload } = await import("./payload.ts");
    const object = {
      id: "x",
      version: 0,
      createdAt: "",
      updatedAt: "",
      spec: { Name: "n", Later: [1] },
      future: { a: 1 },
    };
    const operations = ["secret", "gadget"].map((table) =>
      encodeOperation({ action: "create", table, id: "x", object: object as unknown as Secret }),
    );
    await log.propose(encodePayload({ sequence: 9, after: "" }, operations));
    const { store: copy } = makeStore();
    copy.restore(1, store.snapshot().entries());
    const keys = Array.from(copy.snapshot().entries(), ([key, value]) => [
      key,
      JSON.parse(Buffer.from(value).toString()),
    ]);
    const wanted = { ...object, version: 1 };
    assert.deepEqual(keys, [
      ["meta/lastAccepted", "1.9"],
      ["gadget/x", wanted],
      ["secret/x", wanted],
    ]);
  });

  it("replicas that apply the same entries are equal, whatever was planned, refused or lost", async () => {
    const action = fc.oneof(
      fc.record({
        kind: fc.constant("write" as const),
        id: fc.integer({ min: 0, max: 5 }),
        value: fc.integer({ min: 0, max: 99 }),
      }),
      fc.record({ kind: fc.constant("remove" as const), id: fc.integer({ min: 0, max: 5 }) }),
      fc.record({ kind: fc.constant("advance" as const), ms: fc.integer({ min: 1, max: 15 }) }),
      fc.record({ kind: fc.constant("lose" as const), kept: fc.integer({ min: 0, max: 3 }) }),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(action, { maxLength: 40 }), async (actions) => {
        const clock = new FakeClock();
        const store = new MemoryStore({ clock, timers: clock, log: silentLogger });
        const follower = new MemoryStore({ clock, timers: clock, log: silentLogger });
        const machine = {
          apply: (entry: Parameters<MemoryStore["apply"]>[0]): unknown => {
            const outcome = store.apply(entry);
            assert.deepEqual(follower.apply(entry), outcome);
            return outcome;
          },
          applied: (index: number): void => store.applied(index),
          takeCheckpoint: () => store.takeCheckpoint(),
          snapshot: () => store.snapshot(),
          restore: () => {},
        };
        const log = new SingleMemberLog({ machine, timers: clock, commitDelayMs: 10, inFlightMax: 6 });
        store.attach(log);
        const acknowledged: Promise<unknown>[] = [];
        for (const step of actions) {
          if (step.kind === "advance") await clock.advanceAsync(step.ms);
          else if (step.kind === "lose") {
            log.stepDown(step.kept);
            log.lead();
          } else {
            const id = `s${step.id}`;
            const write = store.update((tx) => {
              const found = tx.get("secret", id);
              if (step.kind === "remove") {
                if (found !== undefined) tx.remove("secret", id);
              } else if (found === undefined) tx.create("secret", secret(id));
              else relabel(tx, id, String(step.value));
            });
            acknowledged.push(write.catch(() => {}));
          }
        }
        await clock.advanceAsync(400);
        await Promise.all(acknowledged);
        assert.deepEqual(follower.view().list("secret"), store.view().list("secret"));
      }),
      { numRuns: 60 },
    );
  });
});
