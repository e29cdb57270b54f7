/** What a member does beyond its core, with a leader that is played by the test. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { silentLogger } from "../../common/log.ts";
import { FakeClock } from "../../common/testing/fake-clock.ts";
import { FakeDisk } from "../../common/testing/fake-disk.ts";
import { SeededRandom } from "../../common/testing/seeded-random.ts";
import type { CheckpointStore } from "./checkpoint-store.ts";
import type { Message } from "./core/messages.ts";
import { createRaftNode } from "./node.ts";
import type { StateMachine } from "./replicated-log.ts";
import type { RaftTransport, TransportHandler } from "./transport.ts";

const MEMBERS = [1, 2].map((raftId) => {
  return { raftId, nodeId: `n${raftId}`, addr: `h${raftId}:1`, isLearner: false };
});

class Wire implements RaftTransport {
  readonly sent: Message[] = [];
  handler: TransportHandler | undefined;

  start(handler: TransportHandler): void {
    this.handler = handler;
  }

  setPeers(): void {
    // Nobody is dialled.
  }

  send(messages: readonly Message[]): void {
    this.sent.push(...messages);
  }

  sendSnapshot(): Promise<void> {
    return Promise.resolve();
  }

  stop(): Promise<void> {
    return Promise.resolve();
  }
}

const NO_CHECKPOINTS: CheckpointStore = {
  load: () => Promise.resolve(undefined),
  write: () => Promise.resolve(),
  replace: () => Promise.resolve(),
  close: () => Promise.resolve(),
};

const NO_STATE: StateMachine = {
  apply: () => undefined,
  applied: () => undefined,
  takeCheckpoint: () => ({ puts: [], removes: [] }),
  snapshot: () => ({ entries: () => [] }),
  restore: () => undefined,
};

test("RaftNode answers a read once an installed snapshot covers it, though nothing is applied after that", async () => {
  const clock = new FakeClock();
  const random = new SeededRandom(1);
  const wire = new Wire();
  const node = await createRaftNode({
    env: { clock, timers: clock, random, disk: new FakeDisk(clock, random) },
    log: silentLogger,
    raftId: 1,
    nodeId: "n1",
    clusterId: "c",
    folder: "/raft",
    checkpoints: NO_CHECKPOINTS,
    transport: wire,
    stateMachine: NO_STATE,
    mode: { kind: "bootstrap", members: MEMBERS },
    onFatal: (error) => assert.fail(String(error)),
  });
  node.start();
  const head = { from: 2, to: 1, term: 3 };
  wire.handler?.onMessages([
    { type: "heartbeat", ...head, commit: 0, round: 1, lastIndex: 50, incarnation: 0 },
  ]);
  let isAnswered = false;
  const read = node.readBarrier().then(() => {
    isAnswered = true;
  });
  await clock.advanceAsync(10);
  const asked = wire.sent.findLast((message) => message.type === "readRequest");
  assert.ok(asked !== undefined, "the leader was asked");
  wire.handler?.onMessages([{ type: "readReply", ...head, readId: asked.readId, index: 50 }]);
  await clock.advanceAsync(10);
  assert.equal(isAnswered, false);
  const snapshot = { index: 50, term: 3, config: MEMBERS, configIndex: 0 };
  const installed = wire.handler?.onSnapshot({ type: "snapshot", ...head, snapshot }, []);
  await clock.advanceAsync(10);
  await installed;
  assert.equal(node.appliedIndex, 50);
  assert.equal(isAnswered, true);
  await read;
  await node.stop();
});
