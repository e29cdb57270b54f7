import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import type { Readable } from "node:stream";
import { after, before, test } from "node:test";
import type { Client, MethodDefinition } from "@grpc/grpc-js";
import { ClusterError, type ErrorCode } from "../../common/errors.ts";
import { silentLogger } from "../../common/log.ts";
import { realEnv } from "../../common/real-env.ts";
import { NODE_AUDIENCE, nodeServiceHandlers } from "../../daemon/node-service.ts";
import { joinCluster } from "../../manager/ca/ca-client.ts";
import { createRequest, createRoot, issueCertificate, openIssuer } from "../../manager/ca/certificates.ts";
import { createCluster } from "../../manager/ca/new-cluster.ts";
import { Manager } from "../../manager/manager.ts";
import { PLAIN_CLUSTER } from "../../manager/testing/plain-cluster.ts";
import type { Engine } from "../../model/engine.ts";
import { v1 } from "../../proto/messages.ts";
import { callUnary, dial, openDuplex, openServerStream } from "../../proto/rpc-client.ts";
import { fromServiceError } from "../../proto/rpc-errors.ts";
import { LiveIdentity } from "../../proto/rpc-identity.ts";
import { RpcServer } from "../../proto/rpc-server.ts";
import type { NodeIdentity } from "../../proto/rpc.ts";
import {
  caService,
  controlService,
  dispatcherService,
  nodeService,
  raftService,
} from "../../proto/services.ts";

/** Who calls, by what is shown. */
const CALLERS = ["nobody", "stranger", "expired", "removed", "worker", "demoted", "manager"] as const;
type Caller = (typeof CALLERS)[number];

const MEMBERS: readonly Caller[] = ["worker", "demoted", "manager"];
const MANAGERS: readonly Caller[] = ["manager"];

/** Every method that a node serves, and who may call it. What is not named here fails the test. */
const RIGHTS: Readonly<Record<string, readonly Caller[]>> = {
  "/shoal.v1.Ca/GetRootCertificate": ["nobody", "stranger", "expired", ...MEMBERS],
  // The token decides, so that all are refused here; who is removed does not get so far.
  "/shoal.v1.Ca/IssueCertificate": ["nobody", "stranger", "expired", ...MEMBERS],
  "/shoal.v1.Ca/RenewCertificate": ["expired", ...MEMBERS],
  "/shoal.v1.Dispatcher/Session": MEMBERS,
  "/shoal.v1.Node/ResolveImage": MEMBERS,
  "/shoal.v1.Node/DescribeImage": MEMBERS,
  "/shoal.v1.Node/FetchBlob": MEMBERS,
  "/shoal.v1.Node/TaskLogs": MANAGERS,
  // A replica may be behind: what a demoted manager says is judged message by message.
  "/shoal.v1.Raft/Messages": ["demoted", "manager"],
  "/shoal.v1.Raft/Snapshot": MANAGERS,
  // Asked of the leader, which looks at the node's role itself (control-service.test.ts).
  "/shoal.v1.Control/JoinRaft": ["demoted", "manager"],
};

const SERVICES = [caService, dispatcherService, nodeService, raftService, controlService];
const METHODS = SERVICES.flatMap((service) => Object.values(service)) as readonly MethodDefinition<
  object,
  object
>[];

const server = { value: undefined as RpcServer | undefined };
let folder = "";
let address = "";
let manager: Manager;
const clients = new Map<Caller, Client>();
const nodeIds = new Map<Caller, string>();

async function certified(
  subject: { readonly nodeId: string; readonly clusterId: string; readonly role: "manager" },
  root: { readonly certificate: string; readonly key: string },
  lifeMs: number,
): Promise<NodeIdentity> {
  const { csr, key } = await createRequest();
  const issuer = await openIssuer(root);
  const nowMs = Date.now();
  const issued = await issueCertificate({ random: realEnv.random, nowMs, issuer, csr, subject, lifeMs });
  return { ...subject, certificate: issued.certificate, key, rootCa: root.certificate };
}

/** Nothing is on this node; what is asked of it got past the check of who asks. */
const EMPTY_ENGINE = {
  images: {
    describe: () => undefined,
    openBlob: () => Promise.reject(new ClusterError("not_found", "no such blob")),
  },
  containers: { summaries: () => [] },
} as unknown as Engine;

before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), "shoal-rights-"));
  const { identity, newCluster } = await createCluster({ ...PLAIN_CLUSTER, env: realEnv });
  const rpc = new RpcServer({ identity, log: silentLogger });
  server.value = rpc;
  rpc.addService(
    nodeService,
    nodeServiceHandlers(EMPTY_ENGINE, () => Promise.resolve(undefined)),
    NODE_AUDIENCE,
  );
  address = `127.0.0.1:${(await rpc.listen("127.0.0.1", 0)).port}`;
  const onFatal = (error: unknown): never => assert.fail(String(error));
  manager = new Manager({
    env: realEnv,
    log: silentLogger,
    identity: new LiveIdentity(identity),
    folder,
    server: rpc,
    advertiseAddr: address,
    mode: { kind: "bootstrap", newCluster },
    onFatal,
  });
  await manager.start();
  const [cluster] = (await manager.control.view()).list("cluster");
  assert.ok(cluster);
  const join = (role: "worker" | "manager"): Promise<NodeIdentity> =>
    joinCluster({
      remoteAddrs: [address],
      token: cluster.rootCa.joinTokens[role],
      availability: "active",
      addr: "127.0.0.1",
    });
  const { certificate: rootCa } = cluster.rootCa;
  const { clusterId, nodeId } = identity;
  // It speaks in our manager's name and trusts our root: only its own certificate is another's.
  const otherRoot = await createRoot({ random: realEnv.random, nowMs: Date.now() });
  const stranger = await certified({ nodeId, clusterId, role: "manager" }, otherRoot, 3_600_000);
  const expired = await certified({ nodeId, clusterId, role: "manager" }, cluster.rootCa, -1_000);
  const identities = {
    stranger: { ...stranger, rootCa },
    expired,
    removed: await join("manager"),
    worker: await join("worker"),
    demoted: await join("manager"),
    manager: await join("manager"),
  };
  clients.set("nobody", dial(address, { rootCa }));
  for (const [caller, each] of Object.entries(identities)) {
    clients.set(caller as Caller, dial(address, each));
    nodeIds.set(caller as Caller, each.nodeId);
  }
  await setWorker(identities.removed.nodeId);
  await manager.control.removeNode(identities.removed.nodeId, true);
  await setWorker(identities.demoted.nodeId);
});

after(async () => {
  for (const client of clients.values()) client.close();
  await manager.stop();
  await server.value?.stop();
  await rm(folder, { recursive: true, force: true });
});

async function setWorker(nodeId: string): Promise<void> {
  const node = (await manager.control.view()).get("node", nodeId);
  assert.ok(node);
  await manager.control.updateNode(nodeId, node.version, { ...node.spec, Role: "worker" });
}

function clientOf(caller: Caller): Client {
  const client = clients.get(caller);
  assert.ok(client);
  return client;
}

/** What becomes of a call with an empty message; "ok" also for a stream that stays open. */
async function outcome(caller: Caller, method: MethodDefinition<object, object>): Promise<ErrorCode | "ok"> {
  const client = clientOf(caller);
  if (!method.requestStream && !method.responseStream) {
    return callUnary(client, method, {}).then(
      () => "ok" as const,
      (caught: unknown) => ClusterError.from(caught).code,
    );
  }
  const stream: Readable = method.requestStream
    ? asked(openDuplex(client, method), method)
    : openServerStream(client, method, {});
  return new Promise((resolve) => {
    stream.on("data", () => undefined);
    stream.on("error", (error) => resolve(fromServiceError(error as never).code));
    stream.on("end", () => resolve("ok"));
  });
}

/** The stream with one message sent: what may be said is answered by what its service makes of that. */
function asked(
  stream: ReturnType<typeof openDuplex<object, object>>,
  method: MethodDefinition<object, object>,
): Readable {
  stream.write(method === dispatcherService.session ? { hello: { rpcAddress: "no address" } } : {});
  stream.end();
  return stream;
}

test("every RPC is for those who may call it, and nobody else", async () => {
  for (const method of METHODS) {
    const isControl = method.path.startsWith("/shoal.v1.Control/");
    const allowed = RIGHTS[method.path] ?? (isControl ? MANAGERS : undefined);
    assert.ok(allowed, `${method.path} has no entry in the table of rights`);
    for (const caller of CALLERS) {
      const code = await outcome(caller, method);
      const isRefused = code === "unauthenticated" || code === "permission_denied";
      const what = `${method.path} called by ${caller} gives ${code}`;
      // What passed the check of the certificate may still lack a token; an empty one is of no form.
      assert.equal(isRefused, !allowed.includes(caller), what);
      if (["nobody", "stranger", "expired"].includes(caller) && isRefused)
        assert.equal(code, "unauthenticated", what);
    }
  }
});

test("a node renews its own certificate only, and one that was demoted for nobody else any more", async () => {
  const ask = async (caller: Caller, onBehalfOf: string): Promise<string> => {
    const { csr } = await createRequest();
    return callUnary(clientOf(caller), caService.renewCertificate, { csr, onBehalfOf }).then(
      (issued) => `${issued.nodeId} ${issued.role}`,
      (caught: unknown) => ClusterError.from(caught).code,
    );
  };
  const other = nodeIds.get("manager") ?? "";
  assert.equal(await ask("worker", other), "permission_denied");
  assert.equal(await ask("demoted", other), "permission_denied");
  assert.equal(await ask("worker", ""), `${nodeIds.get("worker")} worker`);
  assert.equal(await ask("manager", nodeIds.get("worker") ?? ""), `${nodeIds.get("worker")} worker`);
});

test("what is sent without a certificate is small: more is refused unread", async () => {
  const token = "x".repeat(100_000);
  await assert.rejects(
    callUnary(clientOf("nobody"), caService.issueCertificate, { token }),
    (caught) => caught instanceof ClusterError && caught.code === "resource_exhausted",
  );
  await assert.rejects(
    callUnary(clientOf("worker"), caService.issueCertificate, { token }),
    (caught) => caught instanceof ClusterError && caught.code === "invalid_argument",
  );
});

test("a demoted manager moves no member of Raft, and a manager speaks for itself only", async () => {
  const term = 1_000_000;
  const self = (await manager.control.view()).list("node").find((node) => node.manager !== undefined);
  assert.ok(self?.manager);
  const { raftId } = self.manager;
  const send = (caller: Caller, from: number, kind: number): Promise<void> => {
    const stream = openDuplex(clientOf(caller), raftService.messages);
    const messages = [v1.RaftMessage.create({ kind, term, index: 1 })];
    return new Promise((resolve) => {
      stream.on("data", () => undefined);
      stream.on("error", () => resolve());
      stream.on("end", () => resolve());
      stream.write({ clusterId: server.value?.identity.clusterId ?? "", from, to: raftId, messages });
      stream.end();
    });
  };
  for (let kind = 1; kind <= 14; kind += 1) {
    await send("demoted", 777, kind);
    await send("manager", raftId, kind);
  }
  assert.equal(manager.isLeader, true);
  assert.ok((await manager.control.view()).version > 0);
  assert.ok((manager.raftFigures?.term ?? term) < term);
});
