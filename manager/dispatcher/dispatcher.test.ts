/** What a dispatcher says before a quorum has confirmed that its manager leads: nothing. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ClusterError } from "../../common/errors.ts";
import { silentLogger } from "../../common/log.ts";
import { NodeImages } from "../node-images.ts";
import { ModelCluster } from "../testing/model-cluster.ts";
import { Dispatcher, type FromAgent } from "./dispatcher.ts";

interface Opened {
  readonly cluster: ModelCluster;
  readonly receive: (message: FromAgent) => void;
  /** Kinds of messages that the agent was sent, "end" at the end of the stream. */
  readonly told: readonly string[];
  readonly answer: { readonly resolve: () => void; readonly reject: (error: ClusterError) => void };
  readonly stop: () => Promise<void>;
}

/** A session of a node whose hello and heartbeat have come, while the quorum has not answered yet. */
async function opened(nodeId: string): Promise<Opened> {
  const cluster = new ModelCluster();
  await cluster.addNode();
  const { promise, reject, resolve } = Promise.withResolvers<undefined>();
  const { clock, random, store } = cluster;
  const dispatcher = new Dispatcher({
    store,
    images: new NodeImages(),
    clock,
    timers: clock,
    random,
    log: silentLogger,
    failed: () => undefined,
  });
  dispatcher.start();
  cluster.log.readBarrier = () => promise;
  const told: string[] = [];
  const stream = {
    backlogCount: 0,
    send: (message: object) => {
      told.push(...Object.keys(message));
    },
    end: () => {
      told.push("end");
    },
  };
  const session = dispatcher.open(nodeId, stream, "192.0.2.1");
  session.receive({ hello: { addr: "192.0.2.1" } });
  session.receive({ heartbeat: {} });
  await cluster.advance(1_000);
  assert.deepEqual(told, []);
  const stop = async (): Promise<void> => {
    dispatcher.stop();
    await cluster.stop();
  };
  const { receive } = session;
  return { cluster, receive, told, answer: { resolve: () => resolve(undefined), reject }, stop };
}

test("Dispatcher opens a session once a quorum has confirmed the leader, and answers what came meanwhile", async () => {
  const { answer, cluster, stop, told } = await opened("node0001");
  answer.resolve();
  await cluster.advance(1_000);
  assert.deepEqual(told.slice(0, 2), ["opened", "heartbeat"]);
  assert.ok(told.includes("assignments"));
  await stop();
});

test("Dispatcher of a manager that was replaced ends the session, and tells a node it does not know of nothing", async () => {
  for (const nodeId of ["node0001", "node0099"]) {
    const { answer, cluster, stop, told } = await opened(nodeId);
    answer.reject(new ClusterError("unavailable", "Read: wanted the leader, got a follower"));
    await cluster.advance(1_000);
    assert.deepEqual(told, ["end"]);
    await stop();
  }
});

test("Dispatcher keeps little of what a node says before its session is answered, however long the quorum takes", async () => {
  const { answer, cluster, receive, stop, told } = await opened("node0001");
  const added = Array.from({ length: 1_000 }, (_each, index) => `${index}`.padStart(100, "x"));
  for (let count = 0; count < 5; count += 1) receive({ images: { full: true, added } });
  assert.equal(told.length, 0, "500 kB");
  for (let count = 0; count < 15; count += 1) receive({ images: { full: true, added } });
  assert.ok(told.includes("end"), "2 MB");
  answer.resolve();
  await cluster.advance(1_000);
  await stop();
});
