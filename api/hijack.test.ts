/** When output may go out on a connection that was taken over. */
import assert from "node:assert/strict";
import { PassThrough } from "node:stream";
import { setImmediate as turn } from "node:timers/promises";
import { test } from "node:test";
import type { Timers } from "../common/env.ts";
import { pumpStreams } from "./hijack.ts";

async function* output(): AsyncGenerator<{ stream: "stdout"; data: Uint8Array }> {
  yield { stream: "stdout", data: Buffer.from("x\n") };
}

for (const needsLateOutput of [true, false]) {
  test(`pumpStreams() ${needsLateOutput ? "holds output back for clients that would lose it" : "sends output at once"}`, async () => {
    const socket = new PassThrough();
    const pending: (() => void)[] = [];
    const timers = {
      after: (_delayMs: number, run: () => void) => {
        pending.push(run);
        return () => {};
      },
    } as unknown as Timers;
    const hijacked = { socket, input: new PassThrough(), needsLateOutput };
    const pumped = pumpStreams(
      hijacked,
      { stdin: undefined, output: output(), isTty: true, close: () => {} } as unknown as Parameters<
        typeof pumpStreams
      >[1],
      timers,
    );
    for (let count = 0; count < 5; count += 1) await turn();
    assert.equal(String(socket.read() ?? ""), needsLateOutput ? "" : "x\n");
    for (const run of pending.splice(0, needsLateOutput ? 1 : 0)) run();
    await pumped;
    assert.equal(String(socket.read() ?? ""), needsLateOutput ? "x\n" : "");
    socket.destroy();
  });
}
