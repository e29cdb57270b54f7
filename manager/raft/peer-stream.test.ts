/** The stream to one member whose connection takes nothing any more, on a clock that moves when told. */
import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import { test } from "node:test";
import { FakeClock } from "../../common/testing/fake-clock.ts";
import { SeededRandom } from "../../common/testing/seeded-random.ts";
import { PeerStream, type RaftClient } from "./peer-stream.ts";

class FakeCall extends EventEmitter {
  readonly taken: (() => void)[] = [];

  write(_batch: unknown, taken: () => void): void {
    this.taken.push(taken);
  }

  takeAll(): void {
    for (const taken of this.taken.splice(0)) taken();
  }

  end(): void {}

  cancel(): void {}
}

function setUp(): {
  readonly clock: FakeClock;
  readonly calls: FakeCall[];
  readonly stream: PeerStream;
  readonly unreachable: () => number;
} {
  const clock = new FakeClock();
  const calls: FakeCall[] = [];
  let count = 0;
  const client = {
    close: () => undefined,
    makeBidiStreamRequest: () => {
      const call = new FakeCall();
      calls.push(call);
      return call;
    },
  };
  const stream = new PeerStream({
    connect: () => client as unknown as RaftClient,
    timers: clock,
    random: new SeededRandom(1),
    onAnswer: () => undefined,
    onUnreachable: () => {
      count += 1;
    },
    onRefused: () => assert.fail("nothing was refused"),
  });
  return { clock, calls, stream, unreachable: () => count };
}

test("PeerStream gives up a connection that takes nothing, and opens another", () => {
  const { calls, clock, stream, unreachable } = setUp();
  stream.send({}, 10);
  clock.advance(2_999);
  assert.equal(unreachable(), 0);
  clock.advance(1);
  assert.equal(unreachable(), 1);
  clock.advance(0);
  assert.equal(calls.length, 2);
  stream.stop();
});

test("PeerStream keeps a connection that takes something, however long something waits, and an idle one", () => {
  const { calls, clock, stream, unreachable } = setUp();
  for (let round = 0; round < 10; round += 1) {
    stream.send({}, 10);
    clock.advance(1_000);
    calls[0]?.taken.shift()?.();
    stream.send({}, 10);
    clock.advance(1_000);
    calls[0]?.taken.shift()?.();
    stream.send({}, 10);
  }
  calls[0]?.takeAll();
  clock.advance(60_000);
  assert.equal(unreachable(), 0);
  assert.equal(clock.nextDueMs(), undefined, "no timer without something that waits");
  stream.send({}, 10);
  clock.advance(6_000);
  assert.equal(unreachable(), 1, "and one that stops taking is found after that");
  stream.stop();
});
