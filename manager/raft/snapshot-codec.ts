/** A state cut into checksummed pieces, the same pieces each time, so that sending can go on where it broke off. */
import { crc32 } from "node:zlib";
import { ClusterError } from "../../common/errors.ts";
import type { StateEntry } from "./checkpoint-store.ts";

const PIECE_BYTES: number = 256 * 1024;

export interface SnapshotPiece {
  readonly number: number;
  readonly crc: number;
  readonly data: Buffer;
}

export function* snapshotPieces(
  entries: Iterable<StateEntry>,
  pieceBytes: number = PIECE_BYTES,
): Generator<SnapshotPiece, void> {
  let parts: Uint8Array[] = [];
  let bytes = 0;
  let number = 0;
  const piece = (): SnapshotPiece => {
    const data = Buffer.concat(parts);
    return { number, crc: crc32(data), data };
  };
  for (const [key, value] of entries) {
    const name = Buffer.from(key);
    const head = Buffer.allocUnsafe(8);
    head.writeUInt32LE(name.byteLength, 0);
    head.writeUInt32LE(value.byteLength, 4);
    parts.push(head, name, value);
    bytes += 8 + name.byteLength + value.byteLength;
    if (bytes < pieceBytes) continue;
    yield piece();
    parts = [];
    bytes = 0;
    number += 1;
  }
  if (parts.length > 0) yield piece();
}

/** Throws invalid_argument if the checksum or the form is wrong. */
export function readPiece(piece: { readonly crc: number; readonly data: Uint8Array }): readonly StateEntry[] {
  const data = Buffer.from(piece.data.buffer, piece.data.byteOffset, piece.data.byteLength);
  const bad = (got: string): ClusterError =>
    new ClusterError("invalid_argument", `Cannot read a snapshot's piece: want whole entries, got ${got}`);
  if (crc32(data) !== piece.crc) throw bad("a wrong checksum");
  const entries: StateEntry[] = [];
  let offset = 0;
  while (offset < data.byteLength) {
    if (offset + 8 > data.byteLength) throw bad("a cut entry");
    const keyBytes = data.readUInt32LE(offset);
    const valueBytes = data.readUInt32LE(offset + 4);
    const keyAt = offset + 8;
    const valueAt = keyAt + keyBytes;
    offset = valueAt + valueBytes;
    if (offset > data.byteLength) throw bad("a cut entry");
    entries.push([data.toString("utf8", keyAt, valueAt), data.subarray(valueAt, offset)]);
  }
  return entries;
}
