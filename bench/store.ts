/**
 * Object changes a second that the store commits for writers inside the leader: 1, 64 and 1024 transactions in flight,
 * one change each, and batches, over a log of one member in memory. What Raft and its disk add is bench/consensus.
 * `node bench/store.ts` (`--help` names its options).
 */
import { realClock, realTimers } from "../common/real-env.ts";
import { silentLogger } from "../common/log.ts";
import { MemoryStore } from "../manager/store/memory-store.ts";
import { count, toolOptions } from "../dev/tool-options.ts";
import { SingleMemberLog } from "../manager/store/testing/single-member-log.ts";

const VALUE_BYTES = 256;
const KEY_COUNT = 10_000;

function makeStore(): MemoryStore {
  const store = new MemoryStore({ clock: realClock, timers: realTimers, log: silentLogger });
  store.attach(new SingleMemberLog({ machine: store }));
  return store;
}

async function fill(store: MemoryStore): Promise<void> {
  const ids = Array.from({ length: KEY_COUNT }, (_each, index) => index);
  const Data = "x".repeat(VALUE_BYTES);
  await store.batch(ids, (tx, id) => tx.create("config", { id: `c${id}`, spec: { Name: `c${id}`, Data } }));
}

interface Result {
  readonly changesPerS: number;
  readonly changesPerCpuS: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

function resultOf(latencies: number[], wallS: number, cpuS: number, changeCount: number): Result {
  const sorted = latencies.sort((left, right) => left - right);
  const at = (share: number): number =>
    sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0;
  return {
    changesPerS: changeCount / wallS,
    changesPerCpuS: changeCount / cpuS,
    p50Ms: at(0.5),
    p99Ms: at(0.99),
  };
}

/** `inFlight` writers, each with one transaction of one change at a time. */
async function writers(inFlight: number, seconds: number): Promise<Result> {
  const store = makeStore();
  await fill(store);
  const latencies: number[] = [];
  const startMs = realClock.monotonicMs();
  const startCpu = process.cpuUsage();
  const endMs = startMs + seconds * 1000;
  let next = 0;
  const write = async (): Promise<void> => {
    while (realClock.monotonicMs() < endMs) {
      const beganMs = realClock.monotonicMs();
      next = (next + 7) % KEY_COUNT;
      const id = `c${next}`;
      await store.update((tx) => {
        const config = tx.get("config", id);
        if (config !== undefined)
          tx.update("config", { ...config, spec: { ...config.spec, Labels: { at: String(beganMs) } } });
      });
      latencies.push(realClock.monotonicMs() - beganMs);
    }
  };
  await Promise.all(Array.from({ length: inFlight }, write));
  const { user, system } = process.cpuUsage(startCpu);
  return resultOf(
    latencies,
    (realClock.monotonicMs() - startMs) / 1000,
    (user + system) / 1e6,
    latencies.length,
  );
}

/** Batches of all keys, as the loops write. */
async function batches(seconds: number): Promise<Result> {
  const store = makeStore();
  await fill(store);
  const ids = Array.from({ length: KEY_COUNT }, (_each, index) => `c${index}`);
  const latencies: number[] = [];
  const startMs = realClock.monotonicMs();
  const startCpu = process.cpuUsage();
  let changeCount = 0;
  while (realClock.monotonicMs() < startMs + seconds * 1000) {
    const beganMs = realClock.monotonicMs();
    changeCount += await store.batch(ids, (tx, id) => {
      const config = tx.get("config", id);
      if (config !== undefined)
        tx.update("config", { ...config, spec: { ...config.spec, Labels: { at: String(beganMs) } } });
    });
    latencies.push(realClock.monotonicMs() - beganMs);
  }
  const { user, system } = process.cpuUsage(startCpu);
  return resultOf(latencies, (realClock.monotonicMs() - startMs) / 1000, (user + system) / 1e6, changeCount);
}

function print(name: string, result: Result): void {
  console.log(
    `${name}: ${Math.round(result.changesPerS)} changes/s, ${Math.round(result.changesPerCpuS)} per CPU-s, ` +
      `p50 ${result.p50Ms.toFixed(3)} ms, p99 ${result.p99Ms.toFixed(3)} ms`,
  );
}

const { seconds } = toolOptions(
  {
    run: "node bench/store.ts",
    about: "Measures the object changes a second that the store commits, without Raft.",
  },
  {
    seconds: count("seconds that each load lasts", { fallback: 3 }),
  },
);
for (const inFlight of [1, 64, 1024])
  print(`${inFlight} transactions in flight`, await writers(inFlight, seconds));
print(`batches of ${KEY_COUNT}`, await batches(seconds));
