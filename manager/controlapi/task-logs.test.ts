import assert from "node:assert/strict";
import { test } from "node:test";
import { silentLogger } from "../../common/log.ts";
import { realEnv } from "../../common/real-env.ts";
import type { Node, Task } from "../../model/objects.ts";
import { TaskState } from "../../model/task-state.ts";
import { LiveIdentity } from "../../proto/rpc-identity.ts";
import { RpcServer } from "../../proto/rpc-server.ts";
import { nodeService } from "../../proto/services.ts";
import { createCluster } from "../ca/new-cluster.ts";
import { PLAIN_CLUSTER } from "../testing/plain-cluster.ts";
import { MemoryStore } from "../store/memory-store.ts";
import { SingleMemberLog } from "../store/testing/single-member-log.ts";
import { readTaskLogs } from "./task-logs.ts";

test("logs of tasks of the own node are read where it listens, not at the address that only others reach", async (t) => {
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
      taskLogs: {
        serverStream: (call) => {
          call.write({ stream: "stdout", timestamp: "", data: Buffer.from(`of ${call.request.taskId}`) });
          return Promise.resolve();
        },
      },
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
  const lines = readTaskLogs(
    { store, identity: new LiveIdentity(identity), selfAddr: `127.0.0.1:${port}`, log: silentLogger },
    {
      selector: { taskIds: ["t1"] },
      options: { follow: false, stdout: true, stderr: true },
      signal: new AbortController().signal,
    },
  );
  const read: string[] = [];
  for await (const line of lines) read.push(Buffer.from(line.data).toString());
  assert.deepEqual(read, ["of t1"]);
});
