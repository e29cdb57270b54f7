import assert from "node:assert/strict";
import { test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { Semaphore } from "./semaphore.ts";

test("Semaphore.run() runs no more than so many at once, in order", async () => {
  const semaphore = new Semaphore(2);
  const running = new Set<number>();
  const order: number[] = [];
  let most = 0;
  const work = (index: number) => async (): Promise<number> => {
    order.push(index);
    running.add(index);
    most = Math.max(most, running.size);
    await turn();
    running.delete(index);
    if (index === 1) throw new Error("one breaks");
    return index;
  };
  const results = await Promise.allSettled([0, 1, 2, 3, 4].map((index) => semaphore.run(work(index))));
  assert.deepEqual(order, [0, 1, 2, 3, 4]);
  assert.equal(most, 2);
  assert.deepEqual(
    results.map((each) => each.status),
    ["fulfilled", "rejected", "fulfilled", "fulfilled", "fulfilled"],
  );
});

test("Semaphore.acquire() gives room back once, however often it is released", async () => {
  const semaphore = new Semaphore(1);
  const release = await semaphore.acquire();
  const entered: string[] = [];
  const second = semaphore.acquire().then((leave) => {
    entered.push("second");
    return leave;
  });
  void semaphore.acquire().then(() => entered.push("third"));
  release();
  release();
  await turn();
  assert.deepEqual(entered, ["second"]);
  (await second)();
  await turn();
  assert.deepEqual(entered, ["second", "third"]);
});

test("Semaphore: whoever is cancelled while it waits takes no place", async () => {
  const semaphore = new Semaphore(1);
  const release = await semaphore.acquire();
  const abort = new AbortController();
  const cancelled = semaphore.run(() => Promise.resolve(), abort.signal);
  abort.abort();
  await assert.rejects(cancelled, { code: "cancelled" });
  await assert.rejects(semaphore.acquire(abort.signal), { code: "cancelled" });
  release();
  assert.equal(await semaphore.run(() => Promise.resolve("in")), "in");
});
