import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { test, type TestContext } from "node:test";
import { connect as connectTls } from "node:tls";
import { silentLogger } from "../../common/log.ts";
import { realEnv } from "../../common/real-env.ts";
import { until } from "../../dev/until.ts";
import { createCluster } from "../../manager/ca/new-cluster.ts";
import { PLAIN_CLUSTER } from "../../manager/testing/plain-cluster.ts";
import { callUnary, dial } from "../../proto/rpc-client.ts";
import { RpcServer } from "../../proto/rpc-server.ts";
import type { NodeIdentity } from "../../proto/rpc.ts";
import { caService } from "../../proto/services.ts";

const WAIT = { timeoutMs: 120_000, pollMs: 10 };
const FROM_ONE_ADDRESS_MAX = 256;
const OF_ONE_NODE_MAX = 64;

interface Served {
  readonly port: number;
  readonly identity: NodeIdentity;
  readonly ask: () => Promise<unknown>;
}

async function serve(context: TestContext): Promise<Served> {
  const { identity } = await createCluster({ ...PLAIN_CLUSTER, env: realEnv });
  const server = new RpcServer({ identity, log: silentLogger });
  const answer = { unary: () => ({}) };
  server.addService(
    caService,
    { getRootCertificate: answer, issueCertificate: answer, renewCertificate: answer },
    "members",
  );
  const { port } = await server.listen("127.0.0.1", 0);
  const client = dial(`127.0.0.1:${port}`, identity);
  context.after(async () => {
    client.close();
    await server.stop();
  });
  return { port, identity, ask: () => callUnary(client, caService.getRootCertificate, {}) };
}

/** Connections that are open on both sides, as long as nobody ends them. */
async function crowd(open: () => Socket, count: number): Promise<Set<Socket>> {
  const standing = new Set<Socket>();
  const settled: Promise<unknown>[] = [];
  for (let opened = 0; opened < count; opened += 1) {
    const socket = open();
    standing.add(socket);
    socket.on("error", () => undefined);
    socket.on("close", () => standing.delete(socket));
    settled.push(Promise.race([once(socket, "connect"), once(socket, "close")]));
  }
  await Promise.all(settled);
  return standing;
}

test("connections that never begin their handshake are bounded, and whoever was served is served", async (t) => {
  const { port, ask } = await serve(t);
  await ask();
  const standing = await crowd(() => connect(port, "127.0.0.1"), FROM_ONE_ADDRESS_MAX + 100);
  await until("what is too much was ended", WAIT, () =>
    Promise.resolve(standing.size === FROM_ONE_ADDRESS_MAX),
  );
  await ask();
  const elsewhere = connect({ port, host: "127.0.0.1", localAddress: "127.0.0.2" });
  elsewhere.on("error", () => undefined);
  await once(elsewhere, "connect");
  for (const socket of standing) socket.destroy();
  await until("places are free again", WAIT, async () => {
    const socket = connectTls({ port, host: "127.0.0.1", rejectUnauthorized: false, ALPNProtocols: ["h2"] });
    const isAdmitted = await new Promise<boolean>((resolve) => {
      socket.once("secureConnect", () => resolve(true));
      socket.on("error", () => resolve(false));
    });
    socket.destroy();
    return isAdmitted;
  });
  elsewhere.destroy();
});

test("handshakes without a certificate count as long as they stay; those of one node are few too", async (t) => {
  const { port, identity, ask } = await serve(t);
  await ask();
  const anonymous = await crowd(
    () => connectTls({ port, host: "127.0.0.1", rejectUnauthorized: false, ALPNProtocols: ["h2"] }),
    FROM_ONE_ADDRESS_MAX + 40,
  );
  await until("strangers are bounded", WAIT, () => Promise.resolve(anonymous.size <= FROM_ONE_ADDRESS_MAX));
  for (const socket of anonymous) socket.destroy();
  const { certificate: cert, key } = identity;
  const own = await crowd(
    () =>
      connectTls({ port, host: "127.0.0.1", rejectUnauthorized: false, ALPNProtocols: ["h2"], cert, key }),
    OF_ONE_NODE_MAX + 20,
  );
  await until("connections of one node are bounded", WAIT, () =>
    // One of them is the client's.
    Promise.resolve(own.size === OF_ONE_NODE_MAX - 1),
  );
  await ask();
  for (const socket of own) socket.destroy();
});
