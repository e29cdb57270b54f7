/**
 * A transaction as the Raft log holds it. One byte of format, then a small JSON header (so that the proposer can find its
 * own transaction without parsing the rest), then the object changes as JSON, each with the whole new object.
 * Released formats stay readable for ever; a format from a newer release ends the process rather than being misread.
 */
import { assert } from "../../common/assert.ts";
import type { StoredObject } from "./indexes.ts";

const FORMAT = 1;
const HEADER_OFFSET = 5;

export type Operation =
  | {
      readonly action: "create" | "update";
      readonly table: string;
      readonly id: string;
      readonly object: StoredObject;
    }
  | { readonly action: "remove"; readonly table: string; readonly id: string };

export interface PayloadHeader {
  /** Number of the transaction, unique in the proposer's term. */
  readonly sequence: number;
  /** Name ("term.sequence") of the transaction that must be the last accepted one, or "" at the start of time. */
  readonly after: string;
}

/** One change as JSON text. */
export function encodeOperation(operation: Operation): string {
  return operation.action === "remove"
    ? JSON.stringify(["d", operation.table, operation.id])
    : JSON.stringify([operation.action === "create" ? "c" : "u", operation.table, operation.object]);
}

export function encodePayload(header: PayloadHeader, operations: readonly string[]): Uint8Array {
  const head = Buffer.from(JSON.stringify({ s: header.sequence, a: header.after }));
  const body = Buffer.from(`[${operations.join(",")}]`);
  const payload = Buffer.allocUnsafe(HEADER_OFFSET + head.byteLength + body.byteLength);
  payload.writeUInt8(FORMAT, 0);
  payload.writeUInt32BE(head.byteLength, 1);
  head.copy(payload, HEADER_OFFSET);
  body.copy(payload, HEADER_OFFSET + head.byteLength);
  return payload;
}

function asBuffer(payload: Uint8Array): Buffer {
  return Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength);
}

export function decodeHeader(payload: Uint8Array): PayloadHeader {
  const buffer = asBuffer(payload);
  assert(
    buffer.byteLength > HEADER_OFFSET && buffer.readUInt8(0) === FORMAT,
    "transaction format is one this release reads",
  );
  const end = HEADER_OFFSET + buffer.readUInt32BE(1);
  const head = JSON.parse(buffer.toString("utf8", HEADER_OFFSET, end)) as { s: number; a: string };
  return { sequence: head.s, after: head.a };
}

/** `version`: that the objects have from now on. */
export function decodeOperations(payload: Uint8Array, version: number): readonly Operation[] {
  const buffer = asBuffer(payload);
  const start = HEADER_OFFSET + buffer.readUInt32BE(1);
  const list = JSON.parse(buffer.toString("utf8", start)) as [string, string, unknown][];
  return list.map(([code, table, value]): Operation => {
    if (code === "d") return { action: "remove", table, id: value as string };
    (value as { version: number }).version = version;
    const object = value as StoredObject;
    return { action: code === "c" ? "create" : "update", table, id: object.id, object };
  });
}
