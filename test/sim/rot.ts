/** Where a bit of a member's log may rot such that the member can tell it from a write that was not finished. */
import type { SeededRandom } from "../../common/testing/seeded-random.ts";
import { SEGMENT_HEADER_BYTES } from "../../manager/raft/wal-format.ts";
import type { Machine } from "./machine.ts";

/** A byte of the log that isn't in its last record: that one can't be told from an unfinished write. */
export function rotTarget(
  machine: Machine,
  random: SeededRandom,
): { readonly path: string; readonly offset: number } | undefined {
  const segments = machine.disk.paths().filter((path) => path.endsWith(".wal"));
  const path = segments[random.below(Math.max(1, segments.length))];
  if (path === undefined) return undefined;
  const bytes = Buffer.from(machine.disk.peek(path));
  let offset = SEGMENT_HEADER_BYTES;
  let before = 0;
  // Records chain by checksum; what a recycled file held before doesn't belong to the chain.
  let chain = bytes.readUInt32LE(12);
  while (offset + 16 <= bytes.byteLength && bytes.readUInt32LE(offset) !== 0) {
    if (bytes.readUInt32LE(offset + 8) !== chain) break;
    chain = bytes.readUInt32LE(offset + 4);
    before = offset;
    offset += Math.ceil((16 + bytes.readUInt32LE(offset)) / 8) * 8;
  }
  if (path !== segments.at(-1)) return { path, offset: random.below(bytes.byteLength) };
  return before === 0 ? undefined : { path, offset: random.below(before) };
}
