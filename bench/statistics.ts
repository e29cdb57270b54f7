/** Medians and a table for benches, so that every bench prints its figures the same way. */

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2;
}

export interface Comparison {
  readonly what: string;
  readonly ours: readonly number[];
  /** Empty when the peer is not installed. */
  readonly peer: readonly number[];
}

function seconds(values: readonly number[]): string {
  if (values.length === 0) return "-";
  const low = Math.min(...values);
  const high = Math.max(...values);
  return `${median(values).toFixed(3)} s (${low.toFixed(3)}-${high.toFixed(3)}, ${values.length} runs)`;
}

/** One line for each comparison: medians with range and number of runs, and how many times faster ours is. */
export function printComparisons(title: string, peerName: string, rows: readonly Comparison[]): void {
  console.log(`\n${title}`);
  for (const { what, ours, peer } of rows) {
    const ratio =
      peer.length === 0 || ours.length === 0 ? "no peer" : `${(median(peer) / median(ours)).toFixed(1)} x`;
    console.log(`  ${what.padEnd(28)} shoal ${seconds(ours)}   ${peerName} ${seconds(peer)}   ${ratio}`);
  }
}
