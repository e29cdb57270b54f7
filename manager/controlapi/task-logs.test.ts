import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { ClusterError } from "../../common/errors.ts";
import { silentLogger } from "../../common/log.ts";
import { realEnv } from "../../common/real-env.ts";
import type { LogOptions } from "../../model/engine.ts";
import { type Node, NodeState, type Task } from "../../model/objects.ts";
import { TaskState } from "../../model/task-state.ts";
import { LiveIdentity } from "../../proto/rpc-identity.ts";
import { RpcServer, type ServerWritableStream } from "../../proto/rpc-server.ts";
import type { shoal } from "../../proto/messages.ts";
import { nodeService } from "../../proto/services.ts";
import { createCluster } from "../ca/new-cluster.ts";
import { PLAIN_CLUSTER } from "../testing/plain-cluster.ts";
import { MemoryStore } from "../store/memory-store.ts";
import { SingleMemberLog } from "../store/testing/single-member-log.ts";
import { readTaskLogs } from "./task-logs.ts";

type LogCall = ServerWritableStream<shoal.v1.TaskLogsRequest.$Properties, shoal.v1.TaskLogLine.$Properties>;

interface Served {
  readonly store: MemoryStore;
  /** Reads the log of task t1, which runs on a node of which `nodeId` and the address are told. */
  readonly lines: (options: Partial<LogOptions>, signal?: AbortSignal) => ReturnType<typeof readTaskLogs>;
}

/** A node whose logs are what `sendLogs` writes, as the manager's own one or, at the same port, as another. */
async function serve(t: TestContext, sendLogs: (call: LogCall) => Promise<void>): Promise<Served> {
  const { identity } = await createCluster({ ...PLAIN_CLUSTER, env: realEnv });
  const server = new RpcServer({ identity, log: silentLogger });
  t.after(() => server.stop());
  const refuse = (): never => assert.fail("only logs are asked for");
  server.addService(
    nodeService,
    {
      resolveImage: { unary: refuse },
      describeImage: { unary: refuse },
      fetchBlob: { duplex: refuse },
      taskLogs: { serverStream: sendLogs },
    },
    { resolveImage: "members", describeImage: "members", fetchBlob: "members", taskLogs: "managers" },
  );
  const { port } = await server.listen("127.0.0.1", 0);
  const store = new MemoryStore({ clock: realEnv.clock, timers: realEnv.timers, log: silentLogger });
  store.attach(new SingleMemberLog({ machine: store }));
  await store.update((tx) => {
    // Nothing ever listens at port 1.
    tx.create("node", {
      id: identity.nodeId,
      spec: { Labels: {}, Role: "manager", Availability: "active" },
      status: { state: NodeState.ready, message: "", addr: "" },
      rpcAddress: "127.0.0.1:1",
    } as Node);
    tx.create("task", {
      id: "t1",
      serviceId: "s",
      slot: 1,
      networks: [],
      spec: { ContainerSpec: { Image: "i" } },
      nodeId: identity.nodeId,
      desiredState: TaskState.running,
      status: { state: TaskState.running, timestamp: "", message: "", err: "" },
    } as Partial<Task> as Task);
  });
  const deps = {
    store,
    identity: new LiveIdentity(identity),
    selfAddr: `127.0.0.1:${port}`,
    log: silentLogger,
    timers: realEnv.timers,
  };
  const lines: Served["lines"] = (options, signal = new AbortController().signal) =>
    readTaskLogs(deps, {
      selector: { taskIds: ["t1"] },
      options: { follow: false, stdout: true, stderr: true, ...options },
      signal,
    });
  return { store, lines };
}

test("logs of tasks of the own node are read where it listens, not at the address that only others reach", async (t) => {
  const { lines } = await serve(t, (call) => {
    call.write({ stream: "stdout", timestamp: "", data: Buffer.from(`of ${call.request.taskId}`) });
    return Promise.resolve();
  });
  const read: string[] = [];
  for await (const line of lines({})) read.push(Buffer.from(line.data).toString());
  assert.deepEqual(read, ["of t1"]);
});

test("a log that is followed goes on where it was when the stream has broken, no line twice and none left out", async (t) => {
  // Three lines of one moment, of which the first stream brings two.
  const stamps = [1, 2, 2, 2, 3].map((second) => `2026-01-01T00:00:0${second}.000000000Z`);
  const asked: LogOptions[] = [];
  const { lines } = await serve(t, async (call) => {
    asked.push(JSON.parse(Buffer.from(call.request.optionsJson ?? []).toString()) as LogOptions);
    const isFirst = asked.length === 1;
    for (const [index, timestamp] of (isFirst ? stamps.slice(0, 3) : stamps.slice(1)).entries()) {
      const number = isFirst ? index : index + 1;
      call.write({ stream: "stdout", timestamp, data: Buffer.from(`${number}`) });
    }
    if (isFirst) throw new ClusterError("unavailable", "the daemon is updated");
    await new Promise((resolve) => call.on("cancelled", resolve));
  });
  const reading = new AbortController();
  const read: string[] = [];
  for await (const line of lines({ follow: true, tail: 3 }, reading.signal)) {
    read.push(Buffer.from(line.data).toString());
    if (read.length === stamps.length) reading.abort();
  }
  assert.deepEqual(read, ["0", "1", "2", "3", "4"]);
  assert.deepEqual(
    asked.map(({ tail, sinceMs }) => ({ tail, sinceMs })),
    [
      { tail: 3, sinceMs: undefined },
      { tail: undefined, sinceMs: Date.parse("2026-01-01T00:00:02Z") },
    ],
  );
});

test("the log of a task whose node goes down ends with a warning then, not when the network gives it up", async (t) => {
  const { store, lines } = await serve(t, async (call) => {
    call.write({ stream: "stdout", timestamp: "", data: Buffer.from("before") });
    await new Promise((resolve) => call.on("cancelled", resolve));
  });
  const read: string[] = [];
  const reading = (async (): Promise<void> => {
    for await (const line of lines({})) {
      read.push(Buffer.from(line.data).toString());
      await store.update((tx) => {
        const [node] = tx.list("node");
        assert.ok(node);
        tx.update("node", { ...node, status: { ...node.status, state: NodeState.down } });
      });
    }
  })();
  await assert.rejects(reading, /incomplete log stream/);
  assert.deepEqual(read, ["before"]);
});
