import assert from "node:assert/strict";
import { once } from "node:events";
import * as http2 from "node:http2";
import net, { type AddressInfo } from "node:net";
import { test, type TestContext } from "node:test";
import { GrpcConnection, type UnaryHandler } from "./grpc-connection.ts";
import { fieldsOf, frame } from "./wire.ts";

const HEADERS = { ":method": "POST", ":path": "/echo", "content-type": "application/grpc", te: "trailers" };

interface Answer {
  readonly status: string;
  readonly message: Buffer;
}

/** Answers /echo with what it was sent, /fail not at all. */
const echo: UnaryHandler = (path, message) => {
  if (path === "/fail") return Promise.reject(new Error("no"));
  return path === "/echo" ? Promise.resolve(message) : undefined;
};

async function listen(t: TestContext): Promise<number> {
  const sockets = new Set<net.Socket>();
  const server = net.createServer((socket) => {
    sockets.add(socket);
    return new GrpcConnection(socket, echo);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return (server.address() as AddressInfo).port;
}

async function connect(
  t: TestContext,
  options?: http2.ClientSessionOptions,
): Promise<http2.ClientHttp2Session> {
  const session = http2.connect(`http://127.0.0.1:${await listen(t)}`, options);
  t.after(() => session.destroy());
  return session;
}

async function call(
  session: http2.ClientHttp2Session,
  message: Buffer,
  headers: http2.OutgoingHttpHeaders = {},
): Promise<Answer> {
  const stream = session.request({ ...HEADERS, ...headers });
  stream.end(message);
  let status = "";
  const note = (fields: http2.IncomingHttpHeaders): void => {
    status = String(fields["grpc-status"] ?? status);
  };
  stream.on("response", note);
  stream.on("trailers", note);
  const chunks: Buffer[] = [];
  stream.on("data", (chunk: Buffer) => chunks.push(chunk));
  await once(stream, "close");
  return { status, message: Buffer.concat(chunks) };
}

function sized(bytes: number): Buffer {
  return frame(Buffer.alloc(bytes, "a pattern, so that what is lost or twice shows"));
}

test("a message of any size comes back whole, many at a time", async (t) => {
  const session = await connect(t);
  // Beyond a frame, beyond the client's first windows, and so much that the connection's window is opened again.
  const sizes = [0, 1, 300, 16_379, 16_380, 20_000, 100_000, 3_000_000, 3_000_000, 3_000_000, 3_000_000];
  await Promise.all(
    sizes.map(async (size) => {
      const answer = await call(session, sized(size));
      assert.equal(answer.status, "0");
      assert.ok(answer.message.equals(sized(size)), `${size} bytes`);
    }),
  );
});

test("an answer waits for the window that the client opens", async (t) => {
  const session = await connect(t, { settings: { initialWindowSize: 3 } });
  const answer = await call(session, sized(1_000));
  assert.equal(answer.status, "0");
  assert.ok(answer.message.equals(sized(1_000)));
  const empty = await call(session, sized(0));
  assert.deepEqual(empty, { status: "0", message: sized(0) });
});

test("headers are read whatever way they are packed", async (t) => {
  const session = await connect(t);
  // Every character that a field may have, next to short ones so that the Huffman code is used.
  for (let code = 0x20; code < 0x100; code += 1) {
    if (code === 0x7f) continue;
    const value = `aaaaaaaaaaaaaaaaaaaaaaaaaaaa${String.fromCharCode(code)}e`;
    const answer = await call(session, sized(1), { ":path": "/echo", [`x-${code}`]: value });
    assert.equal(answer.status, "0", `code ${code}`);
  }
  const long = await call(session, sized(1), { "x-long": "y".repeat(40_000) });
  assert.equal(long.status, "0", "headers in several frames");
});

test("what can't be handled is refused by the code for it", async (t) => {
  const session = await connect(t);
  assert.equal((await call(session, sized(1), { ":path": "/fail" })).status, "14");
  assert.equal((await call(session, sized(1), { ":path": "/nothing" })).status, "12");
  assert.equal((await call(session, Buffer.alloc(3))).status, "13", "a cut message");
  assert.equal((await call(session, Buffer.concat([sized(1), sized(1)]))).status, "13", "two messages");
  assert.equal((await call(session, Buffer.from([1, 0, 0, 0, 0]))).status, "12", "a compressed message");
  assert.equal((await call(session, Buffer.from([0, 1, 0, 0, 0]))).status, "8", "16 MiB");
  assert.equal((await call(session, sized(1))).status, "0", "the connection goes on");
});

test("a ping is answered, a call of another kind and another protocol are not taken", async (t) => {
  const session = await connect(t);
  await once(session, "connect");
  await new Promise<void>((resolve, reject) => {
    session.ping((error) => (error === null ? resolve() : reject(error)));
  });
  const stream = session.request({ ":method": "GET", ":path": "/echo" });
  const [headers] = (await once(stream, "response")) as [http2.IncomingHttpHeaders];
  assert.equal(headers[":status"], 415);
  const socket = net.connect(await listen(t), "127.0.0.1");
  socket.end("GET / HTTP/1.1\r\n\r\n");
  socket.resume();
  await once(socket, "close");
});

test("the wire's own fields are read as they were written", () => {
  const fields = [...fieldsOf(Buffer.from([0x0a, 1, 7, 0x12, 0]))].map(({ body, number }) => [
    number,
    ...body,
  ]);
  assert.deepEqual(fields, [[1, 7], [2]]);
});
