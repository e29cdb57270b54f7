import assert from "node:assert/strict";
import { test } from "node:test";
import { silentLogger } from "../common/log.ts";
import { type LoopDeps, ReconcileLoop } from "./reconcile-loop.ts";
import { ModelCluster } from "./testing/model-cluster.ts";

const RUN_COUNT = 3;

/** A loop on a processor that needs `planningMs` for each plan. */
class BusyLoop extends ReconcileLoop {
  readonly startsMs: number[] = [];
  readonly #plan: () => void;

  constructor(deps: LoopDeps, options: { readonly restsAfterPlanning: boolean; readonly plan: () => void }) {
    const { restsAfterPlanning, plan } = options;
    super(deps, { name: "busy", tables: ["task"], restsAfterPlanning });
    this.#plan = plan;
  }

  protected override load(): void {
    // Has nothing to note.
  }

  protected override observe(): boolean {
    return true;
  }

  protected override async reconcile(): Promise<void> {
    this.startsMs.push(this.deps.clock.monotonicMs());
    this.#plan();
    // What it waits for is no work of its own.
    await this.deps.store.update(() => undefined);
    if (this.startsMs.length < RUN_COUNT) this.wake();
  }
}

async function starts(planningMs: number, restsAfterPlanning = true): Promise<readonly number[]> {
  const cluster = new ModelCluster();
  let workedMs = 0;
  const clock = {
    monotonicMs: () => cluster.clock.monotonicMs() + workedMs,
    wallMs: () => cluster.clock.wallMs() + workedMs,
  };
  const { random, store } = cluster;
  const plan = (): void => {
    workedMs += planningMs;
  };
  const deps = { store, clock, timers: cluster.clock, random, log: silentLogger };
  const loop = new BusyLoop(deps, { restsAfterPlanning, plan });
  loop.start();
  while (loop.startsMs.length < RUN_COUNT) await cluster.clock.advanceAsync(1);
  await loop.stop();
  return loop.startsMs.slice(1).map((ms, at) => ms - (loop.startsMs[at] ?? 0));
}

test("ReconcileLoop rests after planning for long, three times as long, but not after short plans nor without end", async () => {
  assert.deepEqual(await starts(20), [80, 80]);
  assert.deepEqual(await starts(1_000), [1_100, 1_100]);
  for (const each of await starts(1)) assert.ok(each < 5, `${each} ms`);
  for (const each of await starts(20, false)) assert.ok(each < 25, `${each} ms`);
});

/** A loop that counts how often it starts over, and whose runs end when they are let. */
class WatchfulLoop extends ReconcileLoop {
  loadCount = 0;
  runCount = 0;
  isRunning = false;
  endRun: () => void = () => {};

  constructor(deps: LoopDeps) {
    super(deps, { name: "watchful", tables: ["task"] });
  }

  protected override load(): void {
    assert.ok(!this.isRunning, "it starts over between runs only");
    this.loadCount += 1;
  }

  protected override observe(): boolean {
    return true;
  }

  protected override async reconcile(): Promise<void> {
    this.runCount += 1;
    this.isRunning = true;
    await new Promise<void>((resolve) => (this.endRun = resolve));
    this.isRunning = false;
  }
}

test("ReconcileLoop whose watch is lost during a run starts over after it, once", async () => {
  const { clock, random, store } = new ModelCluster();
  const listeners: Parameters<typeof store.viewAndWatch>[1][] = [];
  const watched = new Proxy<LoopDeps["store"]>(store, {
    get: (target, name) => {
      const value: unknown = Reflect.get(target, name, target);
      if (name !== "viewAndWatch") return typeof value === "function" ? value.bind(target) : value;
      return (...[options, listener]: Parameters<typeof store.viewAndWatch>) => {
        listeners.push(listener);
        return target.viewAndWatch(options, listener);
      };
    },
  });
  const loop = new WatchfulLoop({ store: watched, clock, timers: clock, random, log: silentLogger });
  loop.start();
  await clock.advanceAsync(1);
  assert.deepEqual([loop.loadCount, loop.runCount], [1, 1]);
  const resync = { kind: "resync", version: store.view().version } as const;
  listeners[0]?.([resync]);
  listeners[0]?.([resync]);
  assert.equal(loop.loadCount, 1);
  loop.endRun();
  await clock.advanceAsync(1);
  assert.deepEqual([loop.loadCount, loop.runCount], [2, 2]);
  listeners[1]?.([resync]);
  const stopped = loop.stop();
  loop.endRun();
  await stopped;
  assert.deepEqual([loop.loadCount, loop.runCount], [2, 2], "not one that was stopped");
});

test("ReconcileLoop that wakes itself while it plans runs again after that run, not beside it", async () => {
  const { clock, random, store } = new ModelCluster();
  class EagerLoop extends WatchfulLoop {
    protected override async reconcile(): Promise<void> {
      assert.ok(!this.isRunning, "one run at a time");
      if (this.runCount === 0) this.wake();
      await super.reconcile();
    }
  }
  const loop = new EagerLoop({ store, clock, timers: clock, random, log: silentLogger });
  loop.start();
  await clock.advanceAsync(5);
  assert.deepEqual([loop.runCount, loop.isRunning], [1, true]);
  loop.endRun();
  await clock.advanceAsync(1);
  assert.deepEqual([loop.runCount, loop.isRunning], [2, true]);
  const stopped = loop.stop();
  loop.endRun();
  await stopped;
});
