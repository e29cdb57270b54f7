import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import type { Client } from "@grpc/grpc-js";
import { ClusterError } from "../../common/errors.ts";
import { silentLogger } from "../../common/log.ts";
import { SeededRandom } from "../../common/testing/seeded-random.ts";
import type { NodeRole } from "../../model/specs.ts";
import { callUnary, dial, openDuplex } from "../../proto/rpc-client.ts";
import { failStream, fromServiceError } from "../../proto/rpc-errors.ts";
import { LiveIdentity } from "../../proto/rpc-identity.ts";
import { RpcServer, type CallContext } from "../../proto/rpc-server.ts";
import type { Audience, NodeIdentity } from "../../proto/rpc.ts";
import { caService, dispatcherService, nodeService } from "../../proto/services.ts";
import {
  createRequest,
  createRoot,
  issueCertificate,
  type KeyedCertificate,
  openIssuer,
} from "./certificates.ts";

const random = new SeededRandom(1);
const DAY_MS = 24 * 3_600_000;

async function identity(
  root: KeyedCertificate,
  subject: { nodeId: string; role: NodeRole; clusterId: string },
  lifeMs = DAY_MS,
): Promise<NodeIdentity> {
  const { csr, key } = await createRequest();
  const deps = { random, nowMs: Date.now() };
  const { certificate } = await issueCertificate({
    ...deps,
    issuer: await openIssuer(root),
    csr,
    subject,
    lifeMs,
  });
  return { ...subject, certificate, key, rootCa: root.certificate };
}

const root = await createRoot({ random, nowMs: Date.now() });
const manager = await identity(root, { nodeId: "m1", role: "manager", clusterId: "c1" });
const worker = await identity(root, { nodeId: "w1", role: "worker", clusterId: "c1" });

interface Served {
  readonly server: RpcServer;
  readonly address: string;
  readonly calls: CallContext[];
  readonly connect: (
    ...args: Parameters<typeof dial> extends [string, ...infer Rest] ? Rest : never
  ) => Client;
}

async function serve(context: TestContext, audience: Audience, own = manager): Promise<Served> {
  const server = new RpcServer({ identity: own, log: silentLogger });
  const calls: CallContext[] = [];
  const handlers = {
    getRootCertificate: {
      unary: (_request: object, call: CallContext) => {
        calls.push(call);
        return { certificate: server.identity.rootCa };
      },
    },
    issueCertificate: {
      unary: () => {
        throw new ClusterError("out_of_sequence", "update out of sequence", {
          details: { version: 7 },
          retryable: true,
          notLeader: { leaderAddress: "10.0.0.1:2377" },
        });
      },
    },
    renewCertificate: { unary: () => ({}) },
  };
  server.addService(caService, handlers, audience);
  const { port } = await server.listen("127.0.0.1", 0);
  const clients: Client[] = [];
  context.after(async () => {
    for (const client of clients) client.close();
    await server.stop();
  });
  const address = `127.0.0.1:${port}`;
  return {
    server,
    address,
    calls,
    connect: (...args) => {
      const client = dial(address, ...args);
      clients.push(client);
      return client;
    },
  };
}

function ask(client: Client): Promise<unknown> {
  return callUnary(client, caService.getRootCertificate, {}, { deadlineMs: 30_000 });
}

function code(wanted: string): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof ClusterError);
    assert.equal(error.code, wanted, error.message);
    return true;
  };
}

test("RpcServer tells handlers who calls", async (t) => {
  const served = await serve(t, "members");
  await ask(served.connect(worker));
  assert.deepEqual(
    [served.calls[0]?.peer?.nodeId, served.calls[0]?.peer?.role, served.calls[0]?.peer?.clusterId],
    ["w1", "worker", "c1"],
  );
});

test("RpcServer serves anonymous peers only what is for anyone", async (t) => {
  const open = await serve(t, "anyone");
  await ask(open.connect({ unverified: true }));
  await ask(open.connect({ rootCa: root.certificate }, { manager: true }));
  assert.equal(open.calls[0]?.peer, undefined);
  const closed = await serve(t, "members");
  await assert.rejects(ask(closed.connect({ unverified: true })), code("unauthenticated"));
});

test("RpcServer keeps workers out of what is for managers", async (t) => {
  const served = await serve(t, "managers");
  await assert.rejects(ask(served.connect(worker)), code("permission_denied"));
  await ask(served.connect(manager));
  assert.equal(served.calls.length, 1);
});

test("RpcServer takes a certificate of another root or cluster for none", async (t) => {
  const served = await serve(t, "members");
  const otherRoot = await createRoot({ random, nowMs: Date.now() });
  const stranger = await identity(otherRoot, { nodeId: "m1", role: "manager", clusterId: "c1" });
  // It trusts our root, so that its own certificate is what fails.
  await assert.rejects(
    ask(served.connect({ ...stranger, rootCa: root.certificate })),
    code("unauthenticated"),
  );
  const elsewhere = await identity(root, { nodeId: "m1", role: "manager", clusterId: "c2" });
  // Its own check of the server would fail first, so it speaks as our cluster.
  await assert.rejects(ask(served.connect({ ...elsewhere, clusterId: "c1" })), code("unauthenticated"));
});

test("RpcServer refuses an expired certificate", async (t) => {
  const served = await serve(t, "members");
  const expired = await identity(root, { nodeId: "w1", role: "worker", clusterId: "c1" }, -1000);
  await assert.rejects(ask(served.connect(expired)), code("unauthenticated"));
});

test("RpcServer lets an expired certificate of this cluster renew, for a month, and do nothing else", async (t) => {
  const served = await serve(t, "renewing");
  const subject = { nodeId: "w1", role: "worker", clusterId: "c1" } as const;
  await ask(served.connect(await identity(root, subject, -1000)));
  assert.deepEqual([served.calls[0]?.peer?.nodeId, served.calls[0]?.peer?.hasExpired], ["w1", true]);
  await ask(served.connect(worker));
  assert.equal(served.calls[1]?.peer?.hasExpired, undefined);
  const otherRoot = await createRoot({ random, nowMs: Date.now() });
  for (const bad of [
    await identity(root, subject, -31 * DAY_MS),
    await identity(root, { ...subject, clusterId: "c2" }, -1000),
    { ...(await identity(otherRoot, subject, -1000)), rootCa: root.certificate },
  ])
    await assert.rejects(ask(served.connect({ ...bad, clusterId: "c1" })), code("unauthenticated"));
  await assert.rejects(ask(served.connect({ rootCa: root.certificate })), code("unauthenticated"));
});

test("RpcServer ends the connection of an expired certificate, and the next shows the new one", async (t) => {
  const served = await serve(t, "members");
  const live = new LiveIdentity(
    await identity(root, { nodeId: "w1", role: "worker", clusterId: "c1" }, -1000),
  );
  const client = served.connect(live);
  await assert.rejects(ask(client), code("unauthenticated"));
  live.set(worker);
  const deadlineMs = performance.now() + 60_000;
  while (served.calls.length === 0) {
    await ask(client).catch((error: unknown) => assert.ok(performance.now() < deadlineMs, String(error)));
  }
});

test("RpcServer refuses nodes that were removed", async (t) => {
  const served = await serve(t, "members");
  const client = served.connect(worker);
  await ask(client);
  served.server.setStanding(({ nodeId }) => (nodeId === "w1" ? "removed" : undefined));
  await assert.rejects(ask(client), (error) => {
    assert.ok(error instanceof ClusterError);
    return error.code === "permission_denied" && error.details["removed"] === true;
  });
});

test("dial() refuses a server of another cluster, role or node", async (t) => {
  const served = await serve(t, "anyone", worker);
  await ask(served.connect(manager));
  await assert.rejects(ask(served.connect(manager, { manager: true })), code("unavailable"));
  await assert.rejects(ask(served.connect(manager, { nodeId: "w2" })), code("unavailable"));
  await assert.rejects(ask(served.connect({ ...manager, clusterId: "c2" })), code("unavailable"));
  assert.equal(served.calls.length, 1);
});

test("callUnary() gives back the ClusterError that the handler threw", async (t) => {
  const served = await serve(t, "members");
  const call = callUnary(served.connect(worker), caService.issueCertificate, {});
  await assert.rejects(call, (error) => {
    assert.ok(error instanceof ClusterError);
    assert.deepEqual(
      [error.code, error.message, error.details, error.retryable, error.notLeader],
      ["out_of_sequence", "update out of sequence", { version: 7 }, true, { leaderAddress: "10.0.0.1:2377" }],
    );
    return true;
  });
});

test("RpcServer.setIdentity() shows the new certificate to new connections, a LiveIdentity too", async (t) => {
  const served = await serve(t, "members");
  const live = new LiveIdentity(worker);
  const before = served.connect(live);
  await ask(before);
  served.server.setIdentity(await identity(root, { nodeId: "m9", role: "manager", clusterId: "c1" }));
  await ask(served.connect(worker, { nodeId: "m9" }));
  live.set(await identity(root, { nodeId: "w1", role: "manager", clusterId: "c1" }));
  await ask(before);
  assert.equal(served.calls.at(-1)?.peer?.role, "worker", "an open connection keeps its certificate");
  await ask(served.connect(live));
  assert.equal(served.calls.at(-1)?.peer?.role, "manager");
});

test("RpcServer trusts both roots of a bundle during a rotation", async (t) => {
  const second = await createRoot({ random, nowMs: Date.now() });
  const served = await serve(t, "members");
  const rotated = await identity(second, { nodeId: "w2", role: "worker", clusterId: "c1" });
  served.server.setIdentity({ ...manager, rootCa: root.certificate + second.certificate });
  await ask(served.connect({ ...rotated, rootCa: root.certificate + second.certificate }));
  assert.equal(served.calls[0]?.peer?.nodeId, "w2");
});

test("RpcServer adds and removes services while it listens", async (t) => {
  const served = await serve(t, "members");
  const client = served.connect(worker);
  served.server.removeService(caService);
  await assert.rejects(ask(client), code("unimplemented"));
  served.server.addService(
    nodeService,
    {
      resolveImage: { unary: () => ({ imageJson: Buffer.from("{}") }) },
      describeImage: { unary: () => ({ imageJson: Buffer.from("{}") }) },
      fetchBlob: {
        serverStream: async (call) => {
          call.write({ sizeBytes: 5, data: Buffer.from("hello") });
          await Promise.resolve();
          throw new ClusterError("not_found", "No such blob");
        },
      },
      taskLogs: { serverStream: () => Promise.resolve() },
    },
    "members",
  );
  await callUnary(client, nodeService.describeImage, { reference: "x" });
});

test("a duplex handler gets messages in order and ends with its ClusterError", async (t) => {
  const served = await serve(t, "members");
  served.server.addService(
    dispatcherService,
    {
      session: {
        duplex: (call) => {
          let count = 0;
          call.on("data", () => {
            count += 1;
            call.write({ statusAck: { batchId: count } });
            if (count === 3) failStream(call, new ClusterError("conflict", "A newer session began"));
          });
        },
      },
    },
    "members",
  );
  const stream = openDuplex(served.connect(worker), dispatcherService.session);
  const acks: unknown[] = [];
  stream.on("data", (message: { statusAck?: { batchId?: number } }) => acks.push(message.statusAck?.batchId));
  for (let index = 0; index < 3; index += 1) stream.write({ heartbeat: {} });
  const error = await new Promise<ClusterError>((resolve) => {
    stream.on("error", (caught) =>
      resolve(fromServiceError(caught as Parameters<typeof fromServiceError>[0])),
    );
  });
  assert.deepEqual([error.code, error.message], ["conflict", "A newer session began"]);
  assert.deepEqual(acks, [1, 2, 3]);
});

test("no call warns of an IP address as server name", async (t) => {
  const warnings: string[] = [];
  const listener = (warning: Error): number => warnings.push(warning.message);
  process.on("warning", listener);
  t.after(() => process.off("warning", listener));
  const served = await serve(t, "members");
  await ask(served.connect(worker));
  await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(warnings, []);
});
