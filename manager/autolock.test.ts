import assert from "node:assert/strict";
import { test } from "node:test";
import { silentLogger } from "../common/log.ts";
import { FakeClock } from "../common/testing/fake-clock.ts";
import type { Cluster } from "../model/objects.ts";
import { Autolock } from "./autolock.ts";
import { AUTOLOCK_CONFIRM_MS, AUTOLOCK_RETRY_MS } from "./limits.ts";
import { MemoryStore } from "./store/memory-store.ts";
import { SingleMemberLog } from "./store/testing/single-member-log.ts";

async function turns(clock: FakeClock, ms: number): Promise<void> {
  clock.advance(ms);
  for (let turn = 0; turn < 20; turn += 1) await Promise.resolve();
}

interface Fixture {
  readonly clock: FakeClock;
  readonly store: MemoryStore;
  readonly autolock: Autolock;
  readonly written: string[];
  isFull: boolean;
  hasQuorum: boolean;
}

function setUp(sealedBy: string, hasQuorum: boolean): Fixture {
  const clock = new FakeClock();
  const store = new MemoryStore({ clock, timers: clock, log: silentLogger });
  store.attach(new SingleMemberLog({ machine: store, timers: clock, commitDelayMs: 1 }));
  const written: string[] = [];
  const autolock = new Autolock({
    store,
    raft: {
      readBarrier: () => (fixture.hasQuorum ? Promise.resolve() : Promise.reject(new Error("no quorum"))),
    },
    file: {
      write: (_member, unlockKey) => {
        if (fixture.isFull) return Promise.reject(new Error("ENOSPC"));
        written.push(unlockKey);
        return Promise.resolve();
      },
    },
    member: { raftId: 1, nodeId: "n1", encryptionKey: new Uint8Array(32) },
    sealedBy,
    timers: clock,
    log: silentLogger,
  });
  const fixture: Fixture = { clock, store, autolock, written, isFull: false, hasQuorum };
  autolock.start();
  return fixture;
}

async function setKey({ clock, store }: Fixture, unlockKey: string): Promise<void> {
  const change = store.update((tx) => {
    const object = { id: "c", unlockKey } as Cluster;
    if (tx.get("cluster", "c") === undefined) tx.create("cluster", object);
    else tx.update("cluster", { ...tx.get("cluster", "c"), ...object });
  });
  await turns(clock, 2);
  await change;
}

test("Autolock seals the member file again and again until the full disk took it", async () => {
  const fixture = setUp("", true);
  const { clock, written, autolock } = fixture;
  await turns(clock, 1);
  fixture.isFull = true;
  await setKey(fixture, "key");
  await turns(clock, AUTOLOCK_RETRY_MS);
  assert.deepEqual(written, []);
  fixture.isFull = false;
  await turns(clock, AUTOLOCK_RETRY_MS);
  assert.deepEqual(written, ["key"]);
  await autolock.stop();
});

test("Autolock doesn't open the file because of a state that is older than its seal", async () => {
  const fixture = setUp("key", false);
  const { clock, written, autolock } = fixture;
  // What a start finds on its disk: from before the cluster was locked.
  await setKey(fixture, "");
  await turns(clock, AUTOLOCK_RETRY_MS);
  await autolock.stop();
  assert.deepEqual(written, []);
});

test("Autolock seals anew once it has heard what the cluster knows", async () => {
  const fixture = setUp("key", false);
  const { clock, written, autolock } = fixture;
  await turns(clock, 1);
  await setKey(fixture, "");
  await setKey(fixture, "next");
  assert.deepEqual(written, []);
  fixture.hasQuorum = true;
  await turns(clock, AUTOLOCK_CONFIRM_MS);
  assert.deepEqual(written, ["next"]);
  await setKey(fixture, "");
  assert.deepEqual(written, ["next", ""]);
  await autolock.stop();
});
