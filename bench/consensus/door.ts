/**
 * A member's door for clients: etcd's Put, Txn and Range over gRPC on cleartext HTTP/2 (node:http2), so that h2load sends
 * the same bytes to both systems. It answers like etcd with headers, a message and trailers.
 */
import * as http2 from "node:http2";
import type { RaftNode } from "../../manager/raft/node.ts";
import type { KvMap } from "./kv-map.ts";
import { fieldsOf, frame } from "./wire.ts";

const RANGE_PATH = "/etcdserverpb.KV/Range";
const FRAME_HEAD_BYTES = 5;
const HEADERS = { ":status": 200, "content-type": "application/grpc" };
const OK = "0";
const UNAVAILABLE = "14";
const EMPTY = frame(Buffer.alloc(0));

function answer(stream: http2.ServerHttp2Stream, status: string, body: Buffer): void {
  if (stream.destroyed) return;
  stream.respond(HEADERS, { waitForTrailers: true });
  stream.on("wantTrailers", () => stream.sendTrailers({ "grpc-status": status }));
  stream.end(body);
}

function isWhole(framed: Buffer): boolean {
  if (framed.byteLength < FRAME_HEAD_BYTES) return false;
  return framed.byteLength - FRAME_HEAD_BYTES === framed.readUInt32BE(1);
}

/** The value of the key that a RangeRequest names. */
function read(state: KvMap, message: Buffer): Buffer {
  for (const { body, number } of fieldsOf(message)) {
    if (number === 1) return frame(Buffer.from(state.map.get(body.toString("latin1")) ?? []));
  }
  return EMPTY;
}

export function serveClients(node: RaftNode, state: KvMap, port: number): void {
  const server = http2.createServer();
  server.on("stream", (stream: http2.ServerHttp2Stream, headers: http2.IncomingHttpHeaders) => {
    const isRead = headers[":path"] === RANGE_PATH;
    let gathered: Buffer | undefined;
    stream.on("error", () => undefined);
    stream.on("data", (chunk: Buffer) => {
      gathered = gathered === undefined ? chunk : Buffer.concat([gathered, chunk]);
      // A message is handled once it is whole, as etcd's server does, not once the client has closed its side.
      if (!isWhole(gathered)) return;
      const message = gathered.subarray(FRAME_HEAD_BYTES);
      const done = isRead
        ? node.readBarrier().then(() => read(state, message))
        : node.propose(message).then(() => EMPTY);
      done.then(
        (body) => answer(stream, OK, body),
        () => answer(stream, UNAVAILABLE, EMPTY),
      );
    });
  });
  server.listen(port, "127.0.0.1");
}
