/** One request, one answer, over a plain connection: framing, cut answers, and an abort. */
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:http";
import type { RequestListener } from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { parseAnswer, plainExchange } from "./plain-exchange.ts";
import type { PlainAnswer } from "./plain-exchange.ts";

const answer = (text: string, method = "GET"): PlainAnswer => parseAnswer(Buffer.from(text), method);

test("parseAnswer() reads lengths, chunks, bodies up to the end, and skips 1xx answers", () => {
  assert.deepEqual(answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokXX"), {
    status: 200,
    body: Buffer.from("ok"),
  });
  const chunked = "HTTP/1.1 404 No\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n";
  assert.deepEqual(answer(`HTTP/1.1 100 Continue\r\n\r\n${chunked}`), {
    status: 404,
    body: Buffer.from("abc"),
  });
  assert.deepEqual(answer("HTTP/1.0 200 OK\r\n\r\nall"), { status: 200, body: Buffer.from("all") });
  assert.equal(answer("HTTP/1.1 204 No Content\r\nX: y\r\n\r\n").body.length, 0);
});

test("parseAnswer() refuses answers that end early or are not HTTP", () => {
  for (const text of [
    "",
    "SSH-2.0-x\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
  ]) {
    assert.throws(() => answer(text), { code: "ECONNRESET" }, JSON.stringify(text));
  }
});

async function withServer(handler: RequestListener, run: (socket: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(path.join(tmpdir(), "shoal-exchange-"));
  const socket = path.join(folder, "s");
  const server = createServer(handler);
  await new Promise<void>((resolve) => void server.listen(socket, resolve));
  try {
    await run(socket);
  } finally {
    server.closeAllConnections();
    server.close();
    await rm(folder, { recursive: true });
  }
}

test("plainExchange() sends headers and body and takes the answer", async () => {
  await withServer(
    (request, response) => {
      const chunks: Buffer[] = [];
      request.on("data", (chunk: Buffer) => chunks.push(chunk));
      request.on("end", () =>
        response.end(`${request.method} ${request.url} ${Buffer.concat(chunks).toString()}`),
      );
    },
    async (socket) => {
      const { status, body } = await plainExchange(
        { kind: "unix", path: socket, text: socket },
        { method: "POST", path: "/x?y=1", headers: { "Content-Length": "3" }, body: Buffer.from("abc") },
      );
      assert.deepEqual([status, body.toString()], [200, "POST /x?y=1 abc"]);
    },
  );
});

test("plainExchange() ends with the signal's reason, and refuses a path that would split the request", async () => {
  const aborter = new AbortController();
  await withServer(
    () => aborter.abort(),
    async (path_) => {
      const endpoint = { kind: "unix", path: path_, text: path_ } as const;
      const request = { method: "GET", path: "/", headers: {}, signal: aborter.signal };
      await assert.rejects(plainExchange(endpoint, request), { name: "AbortError" });
      await assert.rejects(plainExchange(endpoint, { ...request, path: "/a b\r\nX: y" }), {
        name: "AbortError",
      });
      const { signal: _, ...free } = request;
      await assert.rejects(plainExchange(endpoint, { ...free, path: "/a b" }), { code: "invalid_argument" });
    },
  );
});

test("plainExchange() says which system call's error kept it from a daemon", async () => {
  const request = { method: "GET", path: "/", headers: {} };
  const missing = "/nonexistent/shoal.sock";
  await assert.rejects(plainExchange({ kind: "unix", path: missing, text: missing }, request), {
    code: "ENOENT",
  });
});
