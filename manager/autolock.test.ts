import assert from "node:assert/strict";
import { test } from "node:test";
import { silentLogger } from "../common/log.ts";
import { FakeClock } from "../common/testing/fake-clock.ts";
import type { Cluster } from "../model/objects.ts";
import { Autolock } from "./autolock.ts";
import { AUTOLOCK_RETRY_MS } from "./limits.ts";
import { MemoryStore } from "./store/memory-store.ts";
import { SingleMemberLog } from "./store/testing/single-member-log.ts";

async function turns(clock: FakeClock, ms: number): Promise<void> {
  clock.advance(ms);
  for (let turn = 0; turn < 20; turn += 1) await Promise.resolve();
}

test("Autolock seals the member file again and again until the full disk took it", async () => {
  const clock = new FakeClock();
  const store = new MemoryStore({ clock, timers: clock, log: silentLogger });
  store.attach(new SingleMemberLog({ machine: store, timers: clock, commitDelayMs: 1 }));
  let isFull = true;
  const written: string[] = [];
  const autolock = new Autolock({
    store,
    file: {
      write: (_member, unlockKey) => {
        if (isFull) return Promise.reject(new Error("ENOSPC"));
        written.push(unlockKey);
        return Promise.resolve();
      },
    },
    member: { raftId: 1, nodeId: "n1", encryptionKey: new Uint8Array(32) },
    sealedBy: "",
    timers: clock,
    log: silentLogger,
  });
  autolock.start();
  const change = store.update((tx) => tx.create("cluster", { id: "c", unlockKey: "key" } as Cluster));
  await turns(clock, 2);
  await change;
  await turns(clock, AUTOLOCK_RETRY_MS);
  assert.deepEqual(written, []);
  isFull = false;
  await turns(clock, AUTOLOCK_RETRY_MS);
  assert.deepEqual(written, ["key"]);
  await autolock.stop();
});
