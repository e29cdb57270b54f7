import assert from "node:assert/strict";
import { test } from "node:test";
import { type shoal, v1 } from "../../proto/messages.ts";
import { EntryKind, type Message } from "./core/messages.ts";
import { EntryEncoder } from "./entry-codec.ts";
import { encodeBatch, encodeMessage } from "./message-codec.ts";

function append(payloadBytes: number): Message {
  const entries = [{ index: 8, term: 3, kind: EntryKind.normal, payload: Buffer.alloc(payloadBytes, 7) }];
  return { type: "append", from: 1, to: 2, term: 3, prevIndex: 7, prevTerm: 3, commit: 6, entries };
}

test("encodeBatch() gives what the generated encoder gives, whatever the size", () => {
  const heartbeat: Message = {
    type: "heartbeat",
    from: 1,
    to: 2,
    term: 3,
    commit: 6,
    round: 2 ** 40,
    lastIndex: 9,
    incarnation: 0,
  };
  const empty: Message = { ...append(0), type: "append", entries: [] } as Message;
  for (const bytes of [0, 1, 995, 996, 1_000, 16_000, 16_400, 70_000, 3_000_000]) {
    const messages = [heartbeat, append(bytes), empty, append(10), append(bytes)].map((message) =>
      encodeMessage(message, new EntryEncoder()),
    );
    const batch: shoal.v1.IRaftBatch = { clusterId: "cluster", from: 2 ** 52, to: 2, messages };
    assert.ok(encodeBatch(batch).equals(v1.RaftBatch.encode(batch).finish()), `${bytes} bytes`);
  }
  const nothing: shoal.v1.IRaftBatch = { clusterId: "cluster", from: 1, to: 2 };
  assert.ok(encodeBatch(nothing).equals(v1.RaftBatch.encode(nothing).finish()));
});
