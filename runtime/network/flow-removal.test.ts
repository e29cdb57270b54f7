import assert from "node:assert/strict";
import { test } from "node:test";
import { silentLogger } from "../../common/log.ts";
import { FlowRemoval } from "./flow-removal.ts";

/** A kernel that forgets when it is told to. */
function heldKernel(): {
  readonly removal: FlowRemoval;
  readonly batches: (readonly string[])[];
  readonly finish: (error?: Error) => void;
} {
  const batches: (readonly string[])[] = [];
  let settle: ((error?: Error) => void) | undefined;
  const forget = (addresses: readonly string[]): Promise<void> => {
    batches.push(addresses);
    return new Promise((resolve, reject) => {
      settle = (error) => (error === undefined ? resolve() : reject(error));
    });
  };
  const removal = new FlowRemoval({ forget, log: silentLogger });
  return { removal, batches, finish: (error) => settle?.(error) };
}

/** True once `promise` has settled, as far as that needs no more than what happened already. */
async function isSettled(promise: Promise<unknown>): Promise<boolean> {
  let settled = false;
  void promise.then(() => {
    settled = true;
  });
  for (let turn = 0; turn < 20; turn++) await Promise.resolve();
  return settled;
}

test("an address that was given back waits until its connections are forgotten; others don't", async () => {
  const { removal, finish } = heldKernel();
  removal.add("10.0.0.2");
  const settled = removal.settled("10.0.0.2");
  assert.equal(await isSettled(settled), false);
  assert.equal(await isSettled(removal.settled("10.0.0.3")), true);
  finish();
  assert.equal(await isSettled(settled), true);
});

test("what comes while the kernel works goes together in the next batch", async () => {
  const { removal, batches, finish } = heldKernel();
  for (const address of ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.3"]) removal.add(address);
  const third = removal.settled("10.0.0.4");
  finish();
  assert.equal(await isSettled(third), false);
  assert.deepEqual(batches, [["10.0.0.2"], ["10.0.0.3", "10.0.0.4"]]);
  finish();
  assert.equal(await isSettled(third), true);
});

test("an address that is given back again while it is being worked on is done again", async () => {
  const { removal, batches, finish } = heldKernel();
  removal.add("10.0.0.2");
  removal.add("10.0.0.2");
  const settled = removal.settled("10.0.0.2");
  finish();
  assert.equal(await isSettled(settled), false);
  finish();
  assert.equal(await isSettled(settled), true);
  assert.equal(batches.length, 2);
});

test("a kernel that refuses holds nobody up, and closing waits for what is under way", async () => {
  const { removal, finish } = heldKernel();
  removal.add("10.0.0.2");
  const closed = removal.close();
  assert.equal(await isSettled(closed), false);
  finish(new Error("no"));
  assert.equal(await isSettled(closed), true);
  assert.equal(await isSettled(removal.settled("10.0.0.2")), true);
});
