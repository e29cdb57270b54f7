/** Load that a member makes itself, without a client: what the leader's own loops can reach, and a state to begin with. */
import type { RaftNode } from "../../manager/raft/node.ts";
import { putRequest } from "./wire.ts";

export interface InsideLoad {
  /** Proposals open at a time. */
  readonly inflight: number;
  readonly seconds: number;
  readonly valueBytes: number;
}

export interface InsideResult {
  /** Proposals a second. */
  readonly rate: number;
  /** Milliseconds. */
  readonly p50: number;
  readonly p99: number;
  /** Of the leader alone. */
  readonly cpuSeconds: number;
}

const KEY_COUNT = 100;
const FILL_BATCH = 500;

export async function proposeInside(node: RaftNode, load: InsideLoad): Promise<InsideResult> {
  const value = Buffer.alloc(load.valueBytes, 7);
  const latencies: number[] = [];
  const endMs = performance.now() + load.seconds * 1000;
  const cpu = process.cpuUsage();
  const lane = async (number: number): Promise<void> => {
    for (let count = 0; performance.now() < endMs; count += 1) {
      const beganMs = performance.now();
      await node.propose(putRequest(`k${number}.${count % KEY_COUNT}`, value));
      latencies.push(performance.now() - beganMs);
    }
  };
  await Promise.all(Array.from({ length: load.inflight }, (_, number) => lane(number)));
  latencies.sort((a, b) => a - b);
  const at = (share: number): number => latencies[Math.floor(latencies.length * share)] ?? Number.NaN;
  const { system, user } = process.cpuUsage(cpu);
  const rate = latencies.length / load.seconds;
  return { rate, p50: at(0.5), p99: at(0.99), cpuSeconds: (system + user) / 1e6 };
}

/** So many objects, each under a key of its own. */
export async function fill(
  node: RaftNode,
  load: { readonly count: number; readonly valueBytes: number },
): Promise<void> {
  const value = Buffer.alloc(load.valueBytes, 7);
  for (let done = 0; done < load.count; done += FILL_BATCH) {
    const count = Math.min(FILL_BATCH, load.count - done);
    await Promise.all(
      Array.from({ length: count }, (_, at) => node.propose(putRequest(`object-${done + at}`, value))),
    );
  }
}
