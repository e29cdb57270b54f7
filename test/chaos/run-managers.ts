/**
 * Clients read and write through all managers of a real cluster while managers are killed, cut off and restarted; then the
 * history is checked. Used by main.ts for long runs and by the end-to-end tests for a short one.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { SeededRandom } from "../../common/testing/seeded-random.ts";
import type { DevCluster } from "../../dev/cluster.ts";
import { type FaultKind, ManagerFaults } from "./manager-faults.ts";
import { type HistoryReport, Registers } from "./registers.ts";

export interface ManagerChaosOptions {
  readonly cluster: DevCluster;
  readonly cycles: number;
  readonly seed: number;
  readonly clients: number;
  /** Told after each cycle. */
  readonly onCycle?: (cycle: number, kind: FaultKind, okCount: number) => void;
}

export interface ManagerChaosReport extends HistoryReport {
  readonly faults: ReadonlyMap<FaultKind, number>;
  /** From the start of the last fault's end to the first answer after it. */
  readonly backMs: number;
}

export async function runManagerChaos(options: ManagerChaosOptions): Promise<ManagerChaosReport> {
  const { cluster, cycles, seed, clients, onCycle } = options;
  const random = new SeededRandom(seed);
  const registers = new Registers(cluster.managers, random.fork());
  const faults = new ManagerFaults(cluster, random.fork());
  registers.start(clients);
  try {
    for (let cycle = 1; cycle <= cycles; cycle += 1) {
      const kind = await faults.cycle();
      onCycle?.(cycle, kind, registers.okCount);
    }
    const healedMs = performance.now();
    // The cluster must take up its work by itself; registers.check() would wait for ever otherwise.
    const before = registers.okCount;
    while (registers.okCount < before + clients) {
      if (performance.now() - healedMs > 120_000)
        throw new Error("no answer within 120 s after the last fault");
      await sleep(50);
    }
    const backMs = performance.now() - healedMs;
    await registers.stop();
    await sleep(Math.max(0, registers.settledAtMs - performance.now()));
    return { ...(await registers.check()), faults: faults.counts, backMs };
  } finally {
    await registers.stop();
  }
}

/** Undefined if nothing is wrong. */
export function verdictOf(report: ManagerChaosReport): string | undefined {
  if (report.lost.length > 0) return `acknowledged writes lost: ${report.lost.join("; ")}`;
  if (report.notLinearizable.length > 0) return `not linearizable: ${report.notLinearizable.join("; ")}`;
  if (report.undecided.length > 0) return `undecided: ${report.undecided.join("; ")}`;
  return undefined;
}
