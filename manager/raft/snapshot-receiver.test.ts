import assert from "node:assert/strict";
import { Duplex } from "node:stream";
import { test } from "node:test";
import type { ServerDuplexStream } from "@grpc/grpc-js";
import type { shoal } from "../../proto/messages.ts";
import type { StateEntry } from "./checkpoint-store.ts";
import { snapshotPieces } from "./snapshot-codec.ts";
import { SnapshotReceiver } from "./snapshot-receiver.ts";

type Part = shoal.v1.ISnapshotPart;
type Answer = shoal.v1.ISnapshotAnswer;

const STATE: readonly StateEntry[] = ["a", "b", "c", "d"].map((key) => [key, Buffer.from(`value ${key}`)]);
const META = { index: 9, term: 2, configIndex: 1, config: [] };

/** Each entry a piece of its own. */
function pieces(): Part[] {
  return [...snapshotPieces(STATE, 1)].map((piece) => ({ piece }));
}

function offer(snapshotId: string, over: Partial<shoal.v1.ISnapshotOffer> = {}): Part {
  const metaJson = Buffer.from(JSON.stringify(META));
  return { offer: { clusterId: "c", from: 1, to: 2, term: 2, metaJson, snapshotId, ...over } };
}

interface Receiver {
  /** Sends the parts over a new connection, which ends then; what came back, and the error it broke off with. */
  readonly send: (parts: readonly Part[]) => Promise<{ answers: Answer[]; error: string }>;
  readonly installed: readonly (readonly StateEntry[])[];
}

function receiver(): Receiver {
  const installed: (readonly StateEntry[])[] = [];
  const snapshots = new SnapshotReceiver({
    clusterId: "c",
    raftId: 2,
    install: (_message, entries) => {
      installed.push(entries);
      return Promise.resolve();
    },
  });
  const send = (parts: readonly Part[]): Promise<{ answers: Answer[]; error: string }> =>
    new Promise((resolve) => {
      const answers: Answer[] = [];
      const call = new Duplex({
        objectMode: true,
        read: () => undefined,
        write: (answer: Answer, _encoding, done) => {
          answers.push(answer);
          done();
        },
      });
      call.on("error", (error) => resolve({ answers, error: error.message }));
      call.on("finish", () => resolve({ answers, error: "" }));
      snapshots.serve(call as unknown as ServerDuplexStream<Part, Answer>, (raftId) => raftId === 1);
      for (const part of [...parts, null]) call.push(part);
    });
  return { send, installed };
}

test("SnapshotReceiver goes on where the connection broke, and installs the whole state once", async () => {
  const { send, installed } = receiver();
  const [first, second, ...rest] = pieces();
  assert.ok(first !== undefined && second !== undefined);
  const broken = await send([offer("s"), first, second]);
  assert.deepEqual([broken.answers, broken.error], [[{ nextPiece: 0 }], "The snapshot ended early"]);
  const whole = await send([offer("s"), ...rest, { end: { pieceCount: 4 } }]);
  assert.deepEqual([whole.answers, whole.error], [[{ nextPiece: 2 }, { installed: true }], ""]);
  assert.deepEqual(installed, [STATE]);
});

test("SnapshotReceiver keeps nothing of a state when another one is offered", async () => {
  const { send, installed } = receiver();
  await send([offer("old"), ...pieces().slice(0, 3)]);
  const { answers } = await send([offer("new"), ...pieces(), { end: { pieceCount: 4 } }]);
  assert.deepEqual(answers, [{ nextPiece: 0 }, { installed: true }]);
  assert.deepEqual(installed, [STATE]);
});

test("SnapshotReceiver installs nothing that is damaged, incomplete, out of order or meant for another", async () => {
  const [first, second] = pieces();
  assert.ok(first?.piece !== undefined && first.piece !== null && second !== undefined);
  const damaged = { piece: { ...first.piece, crc: 1 } };
  for (const [parts, error] of [
    [[offer("s"), damaged], /a wrong checksum/],
    [[offer("s"), second], /out of order/],
    [[offer("s"), first, first], /out of order/],
    [[offer("s", { from: 3 })], /not from member 3/],
    [[first], /out of order/],
    [[offer("s"), first, { end: { pieceCount: 4 } }], /out of order/],
    [[offer("s", { clusterId: "other" })], /it is for member 2/],
    [[offer("s", { to: 3 })], /it is for member 3/],
    [[offer("s", { metaJson: Buffer.from("{}") })], /want a number as "index"/],
  ] as const) {
    const { send, installed } = receiver();
    assert.match((await send(parts)).error, error);
    assert.deepEqual(installed, []);
  }
});
