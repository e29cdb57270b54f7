/** The API over TCP with TLS: client certificates are demanded and checked; the docker CLI comes in by context. */
import assert from "node:assert/strict";
import { execFile, execFileSync } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { performServerHandshake } from "node:http2";
import { request } from "node:https";
import { connect as connectPlain } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { addAbortSignal } from "node:stream";
import { test, type TestContext } from "node:test";
import { connect, type TLSSocket } from "node:tls";
import { realEnv } from "../../common/real-env.ts";
import { until } from "../../dev/until.ts";
import {
  createRequest,
  createRoot,
  issueCertificate,
  openIssuer,
  type KeyedCertificate,
} from "../../manager/ca/certificates.ts";
import { bk } from "../../proto/buildkit-messages.ts";
import { BuildkitClient, upgradeOn } from "../e2e/support/buildkit-client.ts";
import { call, startApi, type Harness } from "./api-harness.ts";

const DEPS = { random: realEnv.random, nowMs: realEnv.clock.wallMs() };
const HOUR_MS = 3_600_000;
const WAIT_MS = 120_000;

async function issue(root: KeyedCertificate): Promise<KeyedCertificate> {
  const { csr, key } = await createRequest();
  const subject = { nodeId: "localhost", role: "manager", clusterId: "test" } as const;
  const { certificate } = await issueCertificate({
    ...DEPS,
    issuer: await openIssuer(root),
    csr,
    subject,
    lifeMs: HOUR_MS,
  });
  return { certificate, key };
}

interface TlsHarness {
  readonly api: Harness;
  readonly port: number;
  readonly root: KeyedCertificate;
  readonly client: KeyedCertificate;
}

async function startTls(context: TestContext): Promise<TlsHarness> {
  const api = await startApi(context);
  const root = await createRoot(DEPS);
  const [server, client] = [await issue(root), await issue(root)];
  const tls = { cert: server.certificate, key: server.key, ca: root.certificate };
  const port = await api.server.listen({ tcp: { host: "127.0.0.1", port: 0 }, tls });
  return { api, port, root, client };
}

function ping(harness: TlsHarness, client: KeyedCertificate | undefined): Promise<string> {
  const identity = client === undefined ? {} : { cert: client.certificate, key: client.key };
  return new Promise((resolve, reject) => {
    const options = {
      host: "127.0.0.1",
      port: harness.port,
      path: "/_ping",
      servername: "localhost",
      agent: false,
    };
    const sent = request({ ...options, ca: harness.root.certificate, ...identity }, (response) => {
      response.setEncoding("utf8").on("data", resolve).on("error", reject);
    });
    sent.on("error", reject);
    sent.end();
  });
}

test("TLS: a client of the same authority is served, others are not", async (context) => {
  const harness = await startTls(context);
  assert.equal(await ping(harness, harness.client), "OK");
  await assert.rejects(ping(harness, undefined));
  const stranger = await issue(await createRoot(DEPS));
  await assert.rejects(ping(harness, stranger));
  assert.equal(await ping(harness, harness.client), "OK");
});

test("TLS: a request in the clear is told what it is, and holds no connection open", async (context) => {
  const harness = await startTls(context);
  for (const method of ["GET", "POST"]) {
    const socket = connectPlain({ host: "127.0.0.1", port: harness.port, allowHalfOpen: true });
    socket.write(`${method} /_ping HTTP/1.1\r\nHost: d\r\n\r\n`);
    let received = "";
    for await (const chunk of addAbortSignal(AbortSignal.timeout(WAIT_MS), socket)) received += String(chunk);
    socket.destroy();
    assert.equal(
      received,
      "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n",
    );
  }
  assert.equal(await ping(harness, harness.client), "OK");
});

test("TLS: the client's half-close ends stdin of an attach, not its output", async (context) => {
  const { api, ...harness } = await startTls(context);
  await call(api, "POST /containers/create?name=c1", { body: { Image: "x" } });
  const socket = connect({
    host: "127.0.0.1",
    port: harness.port,
    servername: "localhost",
    ca: harness.root.certificate,
    cert: harness.client.certificate,
    key: harness.client.key,
  });
  socket.allowHalfOpen = true;
  socket.write(
    "POST /v1.50/containers/c1/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n",
  );
  const [head] = (await once(socket, "data", { signal: AbortSignal.timeout(WAIT_MS) })) as [Buffer];
  assert.match(head.toString(), /^HTTP\/1\.1 101 UPGRADED/);
  const process = api.engine.process("c1");
  socket.end("typed\n");
  let typed = "";
  for await (const chunk of addAbortSignal(AbortSignal.timeout(WAIT_MS), process.stdin))
    typed += String(chunk);
  assert.equal(typed, "typed\n");
  process.write("out\n");
  process.end(0);
  let received = "";
  for await (const chunk of addAbortSignal(AbortSignal.timeout(WAIT_MS), socket)) received += String(chunk);
  assert.equal(received, "\u0001\0\0\0\0\0\0\u0004out\n");
});

function hasDocker(): boolean {
  try {
    execFileSync("docker", ["--version"], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
}

test("docker context with TLS", { skip: hasDocker() ? false : "no docker CLI on PATH" }, async (context) => {
  const harness = await startTls(context);
  const folder = await mkdtemp(path.join(tmpdir(), "shoal-api-tls-"));
  context.after(() => rm(folder, { recursive: true, force: true }));
  const files = { ca: harness.root.certificate, cert: harness.client.certificate, key: harness.client.key };
  for (const [name, text] of Object.entries(files)) await writeFile(path.join(folder, `${name}.pem`), text);
  const docker = (...args: readonly string[]): Promise<string> =>
    new Promise((resolve, reject) => {
      const env = { PATH: process.env["PATH"] ?? "", HOME: folder };
      execFile("docker", [...args], { env, timeout: WAIT_MS }, (error, stdout, stderr) => {
        if (error === null) resolve(stdout);
        else reject(new Error(stderr));
      });
    });
  const where = `host=tcp://localhost:${harness.port},ca=${folder}/ca.pem,cert=${folder}/cert.pem,key=${folder}/key.pem`;
  await docker("context", "create", "fleet", "--docker", where);
  assert.match(
    await docker("--context", "fleet", "version", "--format", "{{.Server.APIVersion}}"),
    /^1\.50\n$/,
  );
});

test("TLS: connections that never prove a certificate are few, give their places back, and keep no other client out", async (context) => {
  const harness = await startTls(context);
  const crowd = Array.from({ length: 400 }, () => {
    const socket = connectPlain({ host: "127.0.0.1", port: harness.port, localAddress: "127.0.0.9" });
    return socket.on("error", () => undefined);
  });
  const ended = crowd.filter((socket) => !socket.destroyed);
  await until("more than a few from one address are ended", { timeoutMs: WAIT_MS, pollMs: 20 }, () =>
    Promise.resolve(ended.filter((socket) => socket.destroyed).length >= 100),
  );
  assert.equal(await ping(harness, harness.client), "OK");
  // They leave as they came, in silence; ours must not wait for them.
  for (const socket of crowd) socket.end();
  await until("their places are free", { timeoutMs: WAIT_MS, pollMs: 50 }, () =>
    Promise.resolve(crowd.every((socket) => socket.destroyed)),
  );
});

test("BuildKit's protocol is spoken over TLS: calls, and sessions on which the engine calls", async (context) => {
  const harness = await startTls(context);
  const { certificate: cert, key } = harness.client;
  const open = async (): Promise<TLSSocket> => {
    const socket = connect({
      port: harness.port,
      host: "127.0.0.1",
      ca: harness.root.certificate,
      cert,
      key,
      servername: "localhost",
    });
    await once(socket, "secureConnect");
    context.after(() => socket.destroy());
    return socket;
  };
  const client = BuildkitClient.on(await upgradeOn(await open(), "/grpc"));
  context.after(() => client.close());
  for (let count = 0; count < 3; count++) {
    const { messages } = await client.call("/moby.buildkit.v1.Control/ListWorkers", new Uint8Array());
    assert.equal(bk.ListWorkersResponse.decode(messages[0] ?? new Uint8Array()).record.length, 1);
  }
  const session = await upgradeOn(await open(), "/session", [
    "Upgrade: h2c",
    "X-Docker-Expose-Session-Uuid: s1",
  ]);
  const answering = performServerHandshake(session);
  await once(answering, "remoteSettings");
  answering.destroy();
});
