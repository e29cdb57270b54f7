/** Frames cut at every possible place. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { readFrames } from "./stdcopy.ts";

function frame(stream: number, text: string): Buffer {
  const header = Buffer.alloc(8);
  header[0] = stream;
  header.writeUInt32BE(Buffer.byteLength(text), 4);
  return Buffer.concat([header, Buffer.from(text)]);
}

async function collect(chunks: readonly Buffer[]): Promise<string[]> {
  const found: string[] = [];
  async function* source(): AsyncGenerator<Buffer> {
    yield* chunks;
  }
  for await (const each of readFrames(source())) found.push(`${each.stream}:${each.payload.toString()}`);
  return found;
}

test("readFrames() puts frames together wherever the network cut them", async () => {
  const whole = Buffer.concat([frame(1, "out"), frame(2, ""), frame(2, "error line\n")]);
  for (let size = 1; size <= whole.length; size += 1) {
    const chunks = Array.from({ length: Math.ceil(whole.length / size) }, (_, index) =>
      whole.subarray(index * size, (index + 1) * size),
    );
    assert.deepEqual(await collect(chunks), ["1:out", "2:", "2:error line\n"]);
  }
});

test("readFrames() refuses a stream that is not framed", async () => {
  await assert.rejects(collect([Buffer.from("plain text that is long enough")]), /frame header expected/);
});
