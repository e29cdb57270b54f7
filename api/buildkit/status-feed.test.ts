import assert from "node:assert/strict";
import { test } from "node:test";
import type { BuildEvent, BuildVertex } from "../../model/build.ts";
import { KEPT_OUTPUT_BYTES_MAX, OUTPUT_BYTES_PER_MESSAGE } from "./limits.ts";
import { StatusFeed, timestamp } from "./status-feed.ts";

const NEVER = new AbortController().signal;

function vertex(digest: string, change: Partial<BuildVertex> = {}): BuildEvent {
  const [startedMs, completedMs] = [1000, undefined];
  const vertex = { digest, name: digest, inputs: [], isCached: false, startedMs, completedMs, error: "" };
  return { kind: "vertex", vertex: { ...vertex, ...change } };
}

function log(text: string): BuildEvent {
  return { kind: "log", vertex: "a", stream: "stderr", content: Buffer.from(text) };
}

test("StatusFeed.read() gives each reader everything, with the newest state of a step only", async () => {
  const feed = new StatusFeed(() => 2500);
  feed.push(vertex("a"));
  feed.push(vertex("b"));
  feed.push(log("out"));
  feed.push(vertex("a", { completedMs: 2000, isCached: true }));
  const early = feed.read(NEVER);
  const { value: first } = await early.next();
  assert.deepEqual(
    first?.vertexes?.map(({ digest, cached }) => [digest, cached]),
    [
      ["b", false],
      ["a", true],
    ],
  );
  assert.deepEqual(first?.logs, [
    { vertex: "a", timestamp: { seconds: 2, nanos: 5e8 }, stream: 2, msg: Buffer.from("out") },
  ]);
  const next = early.next();
  feed.push(vertex("b", { error: "no" }));
  feed.end();
  assert.deepEqual(
    (await next).value?.vertexes?.map(({ error }) => error),
    ["no"],
  );
  assert.equal((await early.next()).done, true);
  const late = feed.read(NEVER);
  assert.equal((await late.next()).value?.vertexes?.length, 2);
  assert.equal((await late.next()).done, true);
});

test("StatusFeed keeps the end of a long output", async () => {
  const feed = new StatusFeed(() => 0);
  feed.push(log("first"));
  const piece = "x".repeat(1000);
  for (let bytes = 0; bytes <= KEPT_OUTPUT_BYTES_MAX; bytes += piece.length) feed.push(log(piece));
  feed.push(log("last"));
  feed.end();
  const kept: string[] = [];
  for await (const { logs } of feed.read(NEVER))
    kept.push(...(logs ?? []).map(({ msg }) => Buffer.from(msg ?? []).toString()));
  assert.ok(kept.join("").length <= KEPT_OUTPUT_BYTES_MAX + piece.length);
  assert.match(kept[0] ?? "", /output clipped/);
  assert.deepEqual([kept[1], kept.at(-1)], [piece, "last"]);
  assert.equal(kept.filter((each) => each.includes("clipped")).length, 1);
});

test("StatusFeed.read() gives a long output in messages that a client takes", async () => {
  const feed = new StatusFeed(() => 0);
  const reading = feed.read(NEVER);
  const first = reading.next();
  const piece = "x".repeat(64 * 1024);
  for (let count = 0; count < 100; count++) feed.push(log(piece));
  feed.end();
  let bytes = 0;
  for (let item = await first; item.done !== true; item = await reading.next()) {
    const own = (item.value.logs ?? []).reduce((sum, { msg }) => sum + (msg?.byteLength ?? 0), 0);
    assert.ok(own <= OUTPUT_BYTES_PER_MESSAGE + piece.length, `${own}`);
    bytes += own;
  }
  assert.equal(bytes, 100 * piece.length);
});

test("StatusFeed.read() ends when its reader leaves", async () => {
  const feed = new StatusFeed(() => 0);
  const controller = new AbortController();
  const reading = feed.read(controller.signal).next();
  controller.abort();
  assert.equal((await reading).done, true);
});

test("timestamp() has nanoseconds of what is not whole", () => {
  assert.deepEqual(timestamp(1_700_000_000_250), { seconds: 1_700_000_000, nanos: 250_000_000 });
});
