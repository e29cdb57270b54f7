/** Another member can show what is committed before its leader has applied it: who comes with that version is not refused. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { silentLogger } from "../../common/log.ts";
import { FakeClock } from "../../common/testing/fake-clock.ts";
import type { Config } from "../../model/objects.ts";
import { MemoryStore } from "./memory-store.ts";
import { SingleMemberLog } from "./testing/single-member-log.ts";

const ID = "c1";

async function storeWithConfig(): Promise<{ readonly store: MemoryStore; readonly config: Config }> {
  const clock = new FakeClock();
  const store = new MemoryStore({ clock, timers: clock, log: silentLogger });
  store.attach(new SingleMemberLog({ machine: store }));
  const made = { id: ID, spec: { Name: "settings", Labels: {} } } as unknown as Config;
  await store.update((tx) => tx.create("config", made));
  const config = store.view().get("config", ID);
  assert.ok(config);
  return { store, config };
}

function write(store: MemoryStore, config: Config, version: number): Promise<{ readonly version: number }> {
  return store.update((tx) => tx.update("config", { ...config, version }));
}

test("MemoryStore.update() takes the version that a write in flight will have", async () => {
  const { store, config } = await storeWithConfig();
  const first = write(store, config, config.version);
  const second = write(store, config, config.version + 1);
  assert.equal((await first).version, config.version + 1);
  assert.equal((await second).version, config.version + 2);
});

test("MemoryStore.update() refuses another version than that once the write in flight has landed", async () => {
  const { store, config } = await storeWithConfig();
  const first = write(store, config, config.version);
  const late = write(store, config, config.version);
  const next = write(store, config, config.version + 1);
  await assert.rejects(late, { code: "out_of_sequence" });
  assert.equal((await first).version, config.version + 1);
  assert.equal((await next).version, config.version + 2);
});
