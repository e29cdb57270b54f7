/**
 * What the leader's own loops do: transactions of one changed object each through the production store, so many open at
 * a time, and whole batches. Run inside the member that leads, by member.ts.
 */
import type { MemoryStore } from "../../manager/store/memory-store.ts";

const OBJECT_COUNT = 10_000;

export interface StoreLoad {
  /** Transactions open at a time; 0: batches of all objects, one after the other. */
  readonly inflight: number;
  readonly seconds: number;
  readonly valueBytes: number;
}

export interface StoreLoadResult {
  /** Changed objects a second. */
  readonly rate: number;
  readonly p50: number;
  readonly p99: number;
}

function idOf(at: number): string {
  return `config-${at % OBJECT_COUNT}`;
}

async function fill(store: MemoryStore, valueBytes: number): Promise<void> {
  if (store.view().get("config", idOf(0)) !== undefined) return;
  const ids = Array.from({ length: OBJECT_COUNT }, (_, at) => idOf(at));
  const Data = "x".repeat(valueBytes);
  await store.batch(ids, (tx, id) => tx.create("config", { id, spec: { Name: id, Data } }));
}

function change(store: MemoryStore, id: string): Promise<unknown> {
  return store.update((tx) => {
    const config = tx.get("config", id);
    if (config !== undefined) tx.update("config", { ...config, spec: { ...config.spec, Labels: {} } });
  });
}

export async function loadStore(store: MemoryStore, load: StoreLoad): Promise<StoreLoadResult> {
  await fill(store, load.valueBytes);
  const latencies: number[] = [];
  const beganMs = performance.now();
  const endMs = beganMs + load.seconds * 1000;
  let next = 0;
  let changeCount = 0;
  const timed = async (work: () => Promise<unknown>): Promise<void> => {
    const workBeganMs = performance.now();
    await work();
    latencies.push(performance.now() - workBeganMs);
  };
  const lane = async (): Promise<void> => {
    while (performance.now() < endMs) {
      next += 1;
      const id = idOf(next);
      await timed(() => change(store, id));
      changeCount += 1;
    }
  };
  const batches = async (): Promise<void> => {
    const ids = Array.from({ length: OBJECT_COUNT }, (_, at) => idOf(at));
    while (performance.now() < endMs) {
      await timed(async () => {
        changeCount += await store.batch(ids, (tx, id) => {
          const config = tx.get("config", id);
          if (config !== undefined) tx.update("config", { ...config, spec: { ...config.spec, Labels: {} } });
        });
      });
    }
  };
  if (load.inflight === 0) await batches();
  else await Promise.all(Array.from({ length: load.inflight }, lane));
  const tookMs = performance.now() - beganMs;
  latencies.sort((a, b) => a - b);
  const at = (share: number): number => latencies[Math.floor(latencies.length * share)] ?? Number.NaN;
  return { rate: (changeCount * 1000) / tookMs, p50: at(0.5), p99: at(0.99) };
}
