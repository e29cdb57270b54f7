import assert from "node:assert/strict";
import { test } from "node:test";
import { until } from "../../dev/until.ts";
import { call, RawClient, startApi, type Harness, WAIT } from "./api-harness.ts";

async function container(api: Harness, name: string, config: object = {}): Promise<void> {
  const created = await call(api, `POST /containers/create?name=${name}`, {
    body: { Image: "x", ...config },
  });
  assert.equal(created.status, 201);
}

const UPGRADE = ["Host: d", "Connection: Upgrade", "Upgrade: tcp", "Content-Length: 0"];

test("wait sends status and headers before the container ends", async (context) => {
  const api = await startApi(context);
  await container(api, "c1");
  const client = new RawClient(api.socketPath);
  client.send("POST /containers/c1/wait?condition=next-exit HTTP/1.1", "Host: d", "Content-Length: 0");
  const head = await client.until("\r\n\r\n");
  assert.match(head, /^HTTP\/1\.1 200 OK/);
  api.engine.process("c1").end(7);
  assert.match(await client.until("StatusCode"), /\{"StatusCode":7\}/);
  client.socket.destroy();
});

test("attach with Upgrade answers 101 UPGRADED and frames; half-close ends stdin, not the output", async (context) => {
  const api = await startApi(context);
  await container(api, "c1");
  const client = new RawClient(api.socketPath);
  client.send("POST /v1.50/containers/c1/attach?stream=1&stdin=1&stdout=1&stderr=1 HTTP/1.1", ...UPGRADE);
  const head = await client.until("\r\n\r\n");
  assert.match(head, /^HTTP\/1\.1 101 UPGRADED\r\n/);
  assert.match(head, /Content-Type: application\/vnd\.docker\.multiplexed-stream/);
  const process = api.engine.process("c1");
  client.socket.end("typed\n");
  let typed = "";
  for await (const chunk of process.stdin) typed += String(chunk);
  assert.equal(typed, "typed\n");
  process.write("out\n");
  process.write("err\n", "stderr");
  await client.until("\u0002\0\0\0\0\0\0\u0004err\n");
  process.end(0);
  const all = await client.ended();
  assert.ok(all.endsWith("\u0001\0\0\0\0\0\0\u0004out\n\u0002\0\0\0\0\0\0\u0004err\n"));
});

test("attach types: raw-stream for a terminal and below 1.42, bytes of a terminal have no frames", async (context) => {
  const api = await startApi(context);
  await container(api, "tty", { Tty: true });
  await container(api, "old");
  const tty = new RawClient(api.socketPath);
  tty.send("POST /containers/tty/attach?stream=1&stdout=1 HTTP/1.1", ...UPGRADE);
  assert.match(await tty.until("\r\n\r\n"), /vnd\.docker\.raw-stream/);
  api.engine.process("tty").write("plain");
  api.engine.process("tty").end(0);
  assert.ok((await tty.ended()).endsWith("\r\n\r\nplain"));
  const old = new RawClient(api.socketPath);
  old.send("POST /v1.41/containers/old/attach?stream=1&stdout=1 HTTP/1.1", ...UPGRADE);
  assert.match(await old.until("\r\n\r\n"), /vnd\.docker\.raw-stream/);
  old.socket.destroy();
});

test("attach without Upgrade is the bare 200 form, with stdin on the same connection", async (context) => {
  const api = await startApi(context);
  await container(api, "c1");
  const client = new RawClient(api.socketPath);
  client.send(
    "POST /containers/c1/attach?stream=1&stdin=1&stdout=1 HTTP/1.1",
    "Host: d",
    "Content-Length: 0",
  );
  const head = await client.until("\r\n\r\n");
  assert.match(head, /^HTTP\/1\.1 200 OK\r\n/);
  assert.doesNotMatch(head, /transfer-encoding|content-length/i);
  assert.match(head, /Content-Type: application\/vnd\.docker\.raw-stream\r\n/);
  const process = api.engine.process("c1");
  client.socket.end("abc\n");
  let typed = "";
  for await (const chunk of process.stdin) typed += String(chunk);
  assert.equal(typed, "abc\n");
  process.write("out\n");
  process.end(0);
  assert.ok((await client.ended()).endsWith("\u0001\0\0\0\0\0\0\u0004out\n"));
});

test("attach of an unknown container is a plain 404 also with Upgrade", async (context) => {
  const api = await startApi(context);
  const client = new RawClient(api.socketPath);
  client.send("POST /containers/nosuch/attach?stream=1 HTTP/1.1", ...UPGRADE);
  const all = await client.ended();
  assert.match(all, /^HTTP\/1\.1 404 Not Found/);
  assert.match(all, /No such container: nosuch/);
});

test("exec start cuts its body off the connection before stdin begins", async (context) => {
  const api = await startApi(context);
  await container(api, "c1");
  const created = await call(api, "POST /containers/c1/exec", { body: { Cmd: ["sh"], AttachStdin: true } });
  assert.equal(created.status, 201);
  const { Id: id } = JSON.parse(created.text) as { Id: string };
  const client = new RawClient(api.socketPath);
  const body = '{"Detach":false,"Tty":false}';
  client.socket.write(
    [
      `POST /exec/${id}/start HTTP/1.1`,
      "Host: d",
      "Content-Type: application/json",
      "Connection: Upgrade",
      "Upgrade: tcp",
      `Content-Length: ${body.length}`,
      "",
      body.slice(0, 5),
    ].join("\r\n"),
  );
  // The rest of the body comes late, and the first input right behind it.
  await call(api, "GET /_ping");
  client.socket.write(`${body.slice(5)}first `);
  await client.until("101 UPGRADED");
  client.socket.end("second");
  let typed = "";
  for await (const chunk of api.engine.process(id).stdin) typed += String(chunk);
  assert.equal(typed, "first second");
  api.engine.process(id).write("o\n");
  api.engine.process(id).end(6);
  assert.ok((await client.ended()).endsWith("\u0001\0\0\0\0\0\0\u0002o\n"));
});

test("exec start with Detach is an ordinary 200", async (context) => {
  const api = await startApi(context);
  await container(api, "c1");
  const { Id: id } = JSON.parse(
    (await call(api, "POST /containers/c1/exec", { body: { Cmd: ["true"] } })).text,
  ) as {
    Id: string;
  };
  const answer = await call(api, `POST /exec/${id}/start`, { body: { Detach: true } });
  assert.deepEqual([answer.status, answer.text], [200, ""]);
  assert.equal((await call(api, "GET /exec/nosuch/json")).status, 404);
});

test("a client that goes away lets go of the process", async (context) => {
  const api = await startApi(context);
  await container(api, "c1");
  const client = new RawClient(api.socketPath);
  client.send("POST /containers/c1/attach?stream=1&stdout=1 HTTP/1.1", ...UPGRADE);
  await client.until("101 UPGRADED");
  const process = api.engine.process("c1");
  assert.equal(process.readerCount, 1);
  client.socket.destroy();
  const filler = Buffer.alloc(64 * 1024);
  await until("nobody reads", { ...WAIT, pollMs: 0 }, () => {
    process.write(filler);
    return Promise.resolve(process.readerCount === 0);
  });
});

test("back-pressure: a slow reader of much output gets every byte in order", async (context) => {
  const api = await startApi(context);
  await container(api, "c1", { Tty: true });
  const client = new RawClient(api.socketPath);
  client.send("POST /containers/c1/attach?stream=1&stdout=1 HTTP/1.1", ...UPGRADE);
  await client.until("\r\n\r\n");
  const start = client.received.byteLength;
  client.socket.pause();
  const process = api.engine.process("c1");
  for (let index = 0; index < 200; index += 1) process.write(Buffer.alloc(16 * 1024, index));
  process.end(0);
  client.socket.resume();
  await client.ended();
  const bytes = client.received.subarray(start);
  assert.equal(bytes.byteLength, 200 * 16 * 1024);
  assert.ok(bytes.every((byte, index) => byte === Math.floor(index / (16 * 1024))));
});

test("logs frame lines, with time before details before the text", async (context) => {
  const api = await startApi(context);
  await container(api, "c1");
  api.engine.process("c1").write("o\n");
  const none = await call(api, "GET /containers/c1/logs");
  assert.equal(none.status, 400);
  assert.match(none.text, /you must choose at least one stream/);
  const logs = await call(api, "GET /containers/c1/logs?stdout=1&timestamps=1&details=1");
  assert.equal(logs.headers["content-type"], "application/vnd.docker.multiplexed-stream");
  assert.equal(logs.text.slice(8), "1970-01-01T00:00:00.000000000Z a=b%20c o\n");
});

test("events send headers at once, filter, and end at until", async (context) => {
  const api = await startApi(context);
  await api.swarm.init();
  const client = new RawClient(api.socketPath);
  const filters = encodeURIComponent('{"type":["secret"],"event":["create"]}');
  client.send(`GET /events?filters=${filters} HTTP/1.1`, "Host: d");
  await client.until("\r\n\r\n");
  await until("the feed has noticed that this node is a manager", WAIT, () =>
    Promise.resolve(api.swarm.store.watcherCount > 0),
  );
  await call(api, "POST /secrets/create", { body: { Name: "s", Data: "eA==" } });
  const text = await client.until('"secret"');
  assert.match(text, /\{"Type":"secret","Action":"create".*"scope":"swarm".*"timeNano":\d{19}\}\n/);
  client.socket.destroy();
  const past = await call(api, `GET /events?since=1&until=${Date.now() / 1000 + 1}&filters=${filters}`);
  assert.match(past.text, /"Action":"create"/);
  const reversed = await call(api, "GET /events?since=10&until=5");
  assert.match(reversed.text, /`since` time \(10\) cannot be after `until` time \(5\)/);
});
